//! What subscribers can see: scopes with their subscribers, a page of a scope, what was touched in it, and the
//! revisions in which a scope was visible.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadableTable;
use serde_json::Value;

use crate::inventory::{Moment, Resource, Revision, Scope, ScopeStatus, ScopeView, Subscriber, Timestamp};
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::{NO_RID, Rid, ScopeNo, VISIBILITY, VisibilityRow, decode};
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::{Store, StoreError};

/// A watched scope, as of a moment.
#[derive(Clone, Debug)]
pub struct VisibleScope<'a> {
    /// The number of the scope.
    pub number: ScopeNo,
    /// The scope itself.
    pub scope: &'a Arc<Scope>,
    /// The subscribers that can see it, sorted; at least one.
    pub subscribers: Vec<&'a Subscriber>,
}

/// What was recorded after a revision: lives and scopes, each with the last revision that touched it.
#[derive(Clone, Debug, Default)]
pub struct ChangedSince {
    /// By life: its scope, and the last revision with an entry of it.
    pub lives: BTreeMap<Rid, (ScopeNo, Revision)>,
    /// Scopes that were opened or closed, or whose visibilities changed, with the last such revision.
    pub scopes: BTreeMap<ScopeNo, Revision>,
}

/// From which revision to before which one some subscribers could see each scope.
#[derive(Clone, Debug, Default)]
pub struct VisibilityIntervals(BTreeMap<ScopeNo, Vec<(Revision, Option<Revision>)>>);

impl VisibilityIntervals {
    /// Whether one of them could see the scope in a revision.
    pub fn has(&self, scope: ScopeNo, revision: Revision) -> bool {
        let visibilities = self.0.get(&scope).into_iter().flatten();
        visibilities.into_iter().any(|(from, to)| *from <= revision && to.is_none_or(|to| revision < to))
    }

    /// The scopes that one of them could see in any revision, in the order of the numbers.
    pub fn scopes(&self) -> impl Iterator<Item = ScopeNo> {
        self.0.keys().copied()
    }
}

impl StoreSnapshot {
    /// Every watched scope that any subscriber can see, in the order of the numbers.
    pub fn visible_scopes(&self) -> impl Iterator<Item = VisibleScope<'_>> {
        self.state.scopes.iter().filter(|(_, scope)| scope.is_open() && !scope.visibilities.is_empty()).map(
            |(number, scope)| VisibleScope {
                number: *number,
                scope: &scope.scope,
                subscribers: scope.visibilities.subscribers().collect(),
            },
        )
    }

    /// One of them; `None` if it is not watched, or no subscriber can see it.
    pub fn visible_scope(&self, number: ScopeNo) -> Option<VisibleScope<'_>> {
        let scope =
            self.state.scopes.get(&number).filter(|scope| scope.is_open() && !scope.visibilities.is_empty())?;
        Some(VisibleScope { number, scope: &scope.scope, subscribers: scope.visibilities.subscribers().collect() })
    }

    /// Releases the file: what is in memory can still be read, documents and history can't.
    pub fn release_file(&self) {
        self.lease.end();
    }

    /// The number of a scope; `None` if nothing of it was ever recorded.
    pub fn scope_number(&self, scope: &Scope) -> Option<ScopeNo> {
        self.state.scope_numbers.get(scope).copied()
    }

    /// How current a scope was at the moment.
    ///
    /// # Panics
    ///
    /// Panics if there is no scope with this number.
    pub fn view_of(&self, number: ScopeNo) -> ScopeView {
        self.scope_view(number)
    }

    /// The scope with this number; `None` if there is none.
    pub fn scope_name(&self, number: ScopeNo) -> Option<&Arc<Scope>> {
        self.state.scopes.get(&number).map(|scope| &scope.scope)
    }

    /// Passes the live resources of a scope to `report`, in the order of the ids and after `behind`, until it
    /// returns false. Only what is reported is copied.
    ///
    /// Returns whether it reached the end of the scope.
    ///
    /// # Errors
    ///
    /// The first error of `report`.
    pub fn page<E: From<StoreError>>(
        &self,
        number: ScopeNo,
        behind: Option<&str>,
        report: &mut dyn FnMut(Rid, Resource) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let Some(scope) = self.state.scopes.get(&number) else { return Ok(true) };
        let from = behind.map_or(0, |behind| scope.order.partition_point(|rid| self.state.id(*rid) <= behind));
        let status = self.scope_view(number).status;
        for life in self.state.heads.each(&scope.order[from..]) {
            if !report(life.rid, self.resource_of(&life, status))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The live resource with an id in a scope; `None` if no resource with this id is live.
    pub fn lookup(&self, number: ScopeNo, id: &str) -> Option<(Rid, Resource)> {
        let rid = self.state.rid(number, id)?;
        Some((rid, self.resource(rid, self.scope_view(number).status)))
    }

    /// A life as a resource in a scope with the given status; `None` if it is not live at the moment.
    pub fn living(&self, rid: Rid, status: ScopeStatus) -> Option<Resource> {
        self.state.heads.get(rid)?;
        Some(self.resource(rid, status))
    }

    /// The live resources of a scope, in the order of the ids; empty if there is no such scope.
    pub fn lives_of(&self, number: ScopeNo) -> &[Rid] {
        self.state.scopes.get(&number).map_or(&[], |scope| &scope.order)
    }

    /// The described object of a live resource.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if the life is not live at the moment. [`StoreError::ReaderExpired`] if the
    /// snapshot is too old to read the file, [`StoreError::Database`] or [`StoreError::Damaged`] if the file can't
    /// be read.
    pub fn described(&self, rid: Rid) -> Result<Value, StoreError> {
        let head = self.state.heads.get(rid).ok_or(StoreError::Damaged { table: "heads" })?;
        self.document(head.document, rid)
    }

    /// What was touched after a revision and until this moment.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if single changes after that revision are not kept any more.
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
    pub fn touched_since(&self, after: Revision) -> Result<ChangedSince, StoreError> {
        self.state.kept.check_raw(after)?;
        let mut touched = ChangedSince::default();
        let first = self.state.kept.after(after.0);
        log::revisions(&self.txn()?.open_table(LOG)?, first..=self.state.revision.0, |revision, row, entries| {
            for entry in entries {
                if entry.rid == NO_RID {
                    touched.scopes.insert(row.scope, revision);
                } else {
                    touched.lives.insert(entry.rid, (row.scope, revision));
                }
            }
            Ok(())
        })?;
        Ok(touched)
    }

    /// The revisions in which subscribers could see scopes, until now, grouped by `group`. It gets each subscriber
    /// and the first revision of its visibility; `None` leaves it out.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
    pub fn visibility_intervals<G: Ord>(
        &self,
        group: impl Fn(&str, Revision) -> Option<G>,
    ) -> Result<BTreeMap<G, VisibilityIntervals>, StoreError> {
        let mut intervals: BTreeMap<G, VisibilityIntervals> = BTreeMap::new();
        for row in self.txn()?.open_table(VISIBILITY)?.iter()? {
            let (key, bytes) = row?;
            let (subscriber, scope, from) = key.value();
            if let Some(group) = group(subscriber, Revision(from)) {
                let visibility: VisibilityRow = decode("cover", bytes.value())?;
                let visibilities = intervals.entry(group).or_default().0.entry(scope).or_default();
                visibilities.push((Revision(from), visibility.to.map(Revision)));
            }
        }
        Ok(intervals)
    }
}

impl Store {
    /// The revision of a moment, and its time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`], [`StoreError::TooEarly`] or [`StoreError::NotKept`] if the moment can't be queried;
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn revision_at(&self, moment: Moment) -> Result<(Revision, Timestamp), StoreError> {
        let published = self.inner.shared.published()?;
        crate::store::read::moment::revision_at(&published.txn, &published.state, moment, self.now())
    }
}
