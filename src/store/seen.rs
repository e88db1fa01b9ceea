//! What viewers see: scopes with whoever covers them, a page of one, what of it was touched, and for which
//! times a scope's past is whose.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadableTable;
use serde_json::Value;

use super::log::{self, LOG};
use super::record::{COVER, CoverRow, NO_RID, Rid, ScopeNo, decode};
use super::snapshot::StoreSnapshot;
use super::{Store, StoreError};
use crate::inventory::{Moment, Resource, Revision, Scope, ScopeStatus, ScopeView, Timestamp, Viewer};

/// A scope that is watched, as of a moment.
#[derive(Clone, Debug)]
pub struct SeenScope<'a> {
    pub number: ScopeNo,
    pub scope: &'a Arc<Scope>,
    pub viewers: Vec<&'a Viewer>,
}

/// Of what anything was recorded after a revision, each with the last one that did.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub lives: BTreeMap<Rid, (ScopeNo, Revision)>,
    /// Opened, closed, or covered by others.
    pub scopes: BTreeMap<ScopeNo, Revision>,
}

/// From which revision to before which one some viewers covered each scope.
#[derive(Clone, Debug, Default)]
pub struct CoverTimes(BTreeMap<ScopeNo, Vec<(Revision, Option<Revision>)>>);

impl CoverTimes {
    /// Whether one of them covered the scope in a revision.
    pub fn has(&self, scope: ScopeNo, revision: Revision) -> bool {
        let covers = self.0.get(&scope).into_iter().flatten();
        covers.into_iter().any(|(from, to)| *from <= revision && to.is_none_or(|to| revision < to))
    }

    pub fn scopes(&self) -> impl Iterator<Item = ScopeNo> {
        self.0.keys().copied()
    }
}

impl StoreSnapshot {
    /// Every scope that is watched and covered by anybody, in the order of the numbers.
    pub fn seen_scopes(&self) -> impl Iterator<Item = SeenScope<'_>> {
        self.state.scopes.iter().filter(|(_, scope)| scope.is_open() && !scope.covers.is_empty()).map(
            |(number, scope)| SeenScope {
                number: *number,
                scope: &scope.scope,
                viewers: scope.covers.viewers().collect(),
            },
        )
    }

    /// One of them; none where it is not watched, or nobody covers it.
    pub fn seen_scope(&self, number: ScopeNo) -> Option<SeenScope<'_>> {
        let scope = self.state.scopes.get(&number).filter(|scope| scope.is_open() && !scope.covers.is_empty())?;
        Some(SeenScope { number, scope: &scope.scope, viewers: scope.covers.viewers().collect() })
    }

    /// Lets go of the file: what memory knows goes on to be answered, documents and history are not.
    pub fn let_go_of_the_file(&self) {
        self.lease.end();
    }

    pub fn scope_number(&self, scope: &Scope) -> Option<ScopeNo> {
        self.state.scope_numbers.get(scope).copied()
    }

    /// How current a scope was at the moment.
    pub fn view_of(&self, number: ScopeNo) -> ScopeView {
        self.scope_view(number)
    }

    pub fn scope_name(&self, number: ScopeNo) -> Option<&Arc<Scope>> {
        self.state.scopes.get(&number).map(|scope| &scope.scope)
    }

    /// What lives in a scope, in the order of the ids and behind one of them, for as long as `tell` wants more.
    /// Nothing is copied but what is told.
    pub fn page<E: From<StoreError>>(
        &self,
        number: ScopeNo,
        behind: Option<&str>,
        tell: &mut dyn FnMut(Rid, Resource) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let Some(scope) = self.state.scopes.get(&number) else { return Ok(true) };
        let from = behind.map_or(0, |behind| scope.order.partition_point(|rid| self.state.id(*rid) <= behind));
        let status = self.scope_view(number).status;
        for life in self.state.heads.each(&scope.order[from..]) {
            if !tell(life.rid, self.resource_of(&life, status))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What lives under an id in a scope.
    pub fn lookup(&self, number: ScopeNo, id: &str) -> Option<(Rid, Resource)> {
        let rid = self.state.rid(number, id)?;
        Some((rid, self.resource(rid, self.scope_view(number).status)))
    }

    /// A life, where it goes on, in a scope that is as current as is said.
    pub fn living(&self, rid: Rid, status: ScopeStatus) -> Option<Resource> {
        self.state.heads.get(rid)?;
        Some(self.resource(rid, status))
    }

    /// What lives in a scope.
    pub fn lives_of(&self, number: ScopeNo) -> &[Rid] {
        self.state.scopes.get(&number).map_or(&[], |scope| &scope.order)
    }

    /// The described object of a life that goes on.
    pub fn described(&self, rid: Rid) -> Result<Value, StoreError> {
        let head = self.state.heads.get(rid).ok_or(StoreError::Damaged { table: "heads" })?;
        self.document(head.document, rid)
    }

    /// What was touched after a revision and until this moment.
    pub fn touched_since(&self, after: Revision) -> Result<Touched, StoreError> {
        self.state.kept.check_raw(after)?;
        let mut touched = Touched::default();
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

    /// The times for which viewers covered scopes, until now, by what `group` makes of each viewer and of the revision
    /// from which it did; none leaves it out.
    pub fn cover_times<G: Ord>(
        &self,
        group: impl Fn(&str, Revision) -> Option<G>,
    ) -> Result<BTreeMap<G, CoverTimes>, StoreError> {
        let mut times: BTreeMap<G, CoverTimes> = BTreeMap::new();
        for row in self.txn()?.open_table(COVER)?.iter()? {
            let (key, bytes) = row?;
            let (viewer, scope, from) = key.value();
            if let Some(group) = group(viewer, Revision(from)) {
                let cover: CoverRow = decode("cover", bytes.value())?;
                let covers = times.entry(group).or_default().0.entry(scope).or_default();
                covers.push((Revision(from), cover.to.map(Revision)));
            }
        }
        Ok(times)
    }
}

impl Store {
    /// The revision that answers for a moment, and its time.
    pub fn revision_at(&self, moment: Moment) -> Result<(Revision, Timestamp), StoreError> {
        let published = self.inner.shared.published()?;
        super::snapshot::revision_at(&published.txn, &published.state, moment, self.now())
    }
}
