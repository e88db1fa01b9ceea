//! The differences between two moments, and between two versions of a resource.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::inventory::{
    Change, ChangeKind, Diff, FieldChange, Moment, Revision, Scope, ScopeStatus, ScopeView, Snapshot, Subscriber,
    TagSet, Tags, field_changes,
};
use crate::store::file::lives::{self, END, Lives};
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::{EntryKind, NO_RID, Rid, ScopeNo};
use crate::store::read::moment::{revision_at, time_of};
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::state::locator;
use crate::store::state::shared::Published;
use crate::store::{Store, StoreError};

impl Store {
    /// Resources that ended after one moment and until another, and whose end was not retracted by then, newest
    /// first: read from the tombstones alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`], [`StoreError::TooEarly`] or [`StoreError::NotKept`] if one of the moments can't be
    /// queried; [`StoreError::ReaderExpired`] if it takes longer than a snapshot may be open;
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn disappeared(
        &self,
        from: Moment,
        to: Moment,
        subscriber: Option<&Subscriber>,
    ) -> Result<Vec<Change>, StoreError> {
        let to = self.snapshot(to)?;
        let Published { state: newest, txn } = self.inner.shared.published()?;
        let from = revision_at(&txn, &newest, from, self.now())?.0;
        let mut ended = Vec::new();
        lives::tombstones_back(&*to.txn()?, to.state.revision, to.state.ends, |revision, _, tombstone| {
            let is_within = revision > from.0;
            let is_seen = subscriber.is_none_or(|subscriber| to.sees(subscriber, tombstone.life.scope));
            if is_within && is_seen && tombstone.stands_at(to.state.revision) {
                let resource = to.state.scopes[&tombstone.life.scope].scope.key(&tombstone.life.id);
                let change =
                    Change::new(ChangeKind::Disappeared, resource, Revision(revision), tombstone.concluded);
                ended.push(change.ended(tombstone.end(revision)));
            }
            is_within
        })?;
        Ok(ended)
    }

    /// The net difference between two moments, and the scopes that were not current at one of them; with a
    /// subscriber, only changes that are visible to it at one of them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`], [`StoreError::TooEarly`] or [`StoreError::NotKept`] if one of the moments can't be
    /// queried; [`StoreError::ReaderExpired`] if it takes longer than a snapshot may be open;
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn diff(&self, from: Moment, to: Moment, subscriber: Option<&Subscriber>) -> Result<Diff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        let sees = |scope| subscriber.is_none_or(|v| to.sees(v, scope) || from.sees(v, scope));
        let changes = net_changes(&from, &to, &sees)?.into_iter().map(|(_, change)| change).collect();
        let unknown = unknown_at(&from, &to);
        Ok(Diff { from: from.state.revision, to: to.state.revision, changes, unknown })
    }

    /// As [`Store::diff`], of the scopes that `sees` accepts, each change with its scope.
    ///
    /// # Errors
    ///
    /// As [`Store::diff`].
    pub fn diff_of(
        &self,
        from: Moment,
        to: Moment,
        sees: &dyn Fn(ScopeNo) -> bool,
    ) -> Result<ScopedDiff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        Ok(ScopedDiff { changes: net_changes(&from, &to, sees)?, unknown: unknown_at(&from, &to) })
    }
}

/// The difference between two moments, with the scope of each change, and the scopes that were not current at one
/// of them.
#[derive(Clone, Debug)]
pub struct ScopedDiff {
    /// The net differences, sorted by key, each with its scope.
    pub changes: Vec<(ScopeNo, Change)>,
    /// The scopes that were not current at one of the moments, whether they were selected or not.
    pub unknown: Vec<ScopeView>,
}

fn net_changes(
    from: &StoreSnapshot,
    to: &StoreSnapshot,
    sees: &dyn Fn(ScopeNo) -> bool,
) -> Result<Vec<(ScopeNo, Change)>, StoreError> {
    // For each life with entries between the two: its scope, and its last end.
    let mut touched: BTreeMap<Rid, (ScopeNo, Option<u64>)> = BTreeMap::new();
    let range = from.state.revision.0 + 1..=to.state.revision.0;
    log::revisions(&to.txn()?.open_table(LOG)?, range, |revision, row, entries| {
        if sees(row.scope) {
            for entry in entries.iter().filter(|entry| entry.rid != NO_RID) {
                let of_it = touched.entry(entry.rid).or_insert((row.scope, None));
                if matches!(entry.kind, EntryKind::Ended) {
                    of_it.1 = Some(revision.0);
                }
            }
        }
        Ok(())
    })?;
    let mut changes = Vec::new();
    for (rid, (scope, ended)) in touched {
        changes.extend(to.net_change(from, rid, scope, ended)?.map(|change| (scope, change)));
    }
    changes.sort_by(|(_, a), (_, b)| (&a.resource, b.change).cmp(&(&b.resource, a.change)));
    Ok(changes)
}

/// The scopes that were not current at one of two moments, without those that were watched at neither: what was closed
/// long before is missing from no difference.
pub(in crate::store) fn unknown_at(from: &StoreSnapshot, to: &StoreSnapshot) -> Vec<ScopeView> {
    let watched = |snapshot: &StoreSnapshot| -> BTreeSet<Scope> {
        let views = snapshot.scopes().into_iter();
        views.filter(|view| view.status != ScopeStatus::NotWatched).map(|view| view.scope).collect()
    };
    let watched: BTreeSet<Scope> = watched(from).into_iter().chain(watched(to)).collect();
    let mut unknown: BTreeMap<Scope, ScopeView> = BTreeMap::new();
    for view in from.scopes().into_iter().chain(to.scopes()) {
        if view.status != ScopeStatus::Current && watched.contains(&view.scope) {
            unknown.entry(view.scope.clone()).or_insert(view);
        }
    }
    unknown.into_values().collect()
}

impl StoreSnapshot {
    /// How one life here differs from its state in `from`.
    pub(super) fn net_change(
        &self,
        from: &StoreSnapshot,
        rid: Rid,
        number: ScopeNo,
        ended: Option<u64>,
    ) -> Result<Option<Change>, StoreError> {
        let scope = &self.state.scopes[&number];
        // A scope that is no longer watched gives no information on what became of its resources.
        if !scope.is_open() {
            return Ok(None);
        }
        let change = |change, id: &str, revision| -> Result<Change, StoreError> {
            Ok(Change::new(change, scope.scope.key(id), revision, time_of(&*self.txn()?, revision)?))
        };
        Ok(match (from.state.heads.get(rid), self.state.heads.get(rid)) {
            (None, Some(now)) => {
                let id = self.state.id(rid);
                let appeared = change(ChangeKind::Appeared, id, now.changed)?;
                let replaced = from.state.rid(number, id).is_some();
                let txn = self.txn()?;
                let moved_from = locator::moved_from(&txn, &mut Lives::open(&txn)?, &self.state, rid)?;
                let moved = moved_from.is_some();
                Some(Change { baseline: now.baseline, replaced, moved, moved_from, ..appeared })
            }
            (Some(_), None) => {
                let revision = ended.ok_or(StoreError::Damaged { table: "log" })?;
                let tombstone = lives::tombstone(&self.txn()?.open_table(END)?, revision, rid)?;
                let disappeared = change(ChangeKind::Disappeared, from.state.id(rid), Revision(revision))?;
                Some(disappeared.ended(tombstone.end(revision)))
            }
            (Some(then), Some(now)) if then.changed != now.changed => {
                let before = (from.document(then.document, rid)?, from.tags_of(then.tags));
                let after = (self.document(now.document, rid)?, self.tags_of(now.tags));
                let fields = fields_between((&before.0, &before.1), (&after.0, &after.1));
                let changed = change(ChangeKind::Changed, self.state.id(rid), now.changed)?;
                (!fields.is_empty()).then_some(Change { fields, ..changed })
            }
            (None, None) | (Some(_), Some(_)) => None,
        })
    }
}

/// Attributes by their paths, tags as `Tags.KEY`.
pub(in crate::store) fn fields_between(
    (before, tags_before): (&Value, &Tags),
    (after, tags_after): (&Value, &Tags),
) -> Vec<FieldChange> {
    let mut fields = field_changes(before, after);
    if let (Some(b), Some(a)) = (tags_before.known(), tags_after.known()) {
        let value = |set: &TagSet| serde_json::to_value(set).unwrap_or_default();
        fields.extend(field_changes(&value(b), &value(a)).into_iter().map(|mut field| {
            field.path = format!("Tags.{}", field.path);
            field
        }));
    }
    fields
}
