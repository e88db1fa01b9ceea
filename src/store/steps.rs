//! The log as changes for readers: every step of one resource, or of all between two moments.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::document::Documents;
use super::life::{self, END, Lives};
use super::log::{self, LOG, Logged};
use super::record::{Entry, EntryKind, NO_RID, RevisionRow, Rid, TagsRef};
use super::snapshot::{StoreSnapshot, unknown_at};
use super::{Store, StoreError};
use crate::inventory::{
    Change, ChangeKind, Diff, FieldChange, Moment, Resource, Revision, Subscriber, TagSet, Tags, field_changes,
};

/// Turns entries of the log, oldest first, into the steps that are reported.
pub(super) struct Steps<'a> {
    snapshot: &'a StoreSnapshot,
    lives: Lives,
    documents: Documents,
    /// For each life, the revision that holds its last document, and its last tags.
    pub versions: BTreeMap<Rid, VersionAt>,
}

/// The revision that holds a document, or [`NO_DOCUMENT`]; and tags.
pub(super) type VersionAt = (u64, TagsRef);

/// The document was thinned.
pub(super) const NO_DOCUMENT: u64 = 0;

impl<'a> Steps<'a> {
    pub fn new(snapshot: &'a StoreSnapshot) -> Result<Self, StoreError> {
        let txn = snapshot.txn()?;
        let documents = Documents::new(txn.open_table(LOG)?, snapshot.state.dictionaries.clone());
        Ok(Self { snapshot, lives: Lives::open(&txn)?, documents, versions: BTreeMap::new() })
    }

    pub fn step(&mut self, revision: u64, row: &RevisionRow, entry: &Entry) -> Result<Option<Change>, StoreError> {
        let before = self.versions.get(&entry.rid).copied();
        if let Some(version) = entry.kind.version() {
            let tags = version.tags.or(before.map(|(_, tags)| tags)).unwrap_or(TagsRef::UNKNOWN);
            // Thinned: the next kept version reports what changed besides its tags.
            let thinned = before.map_or(NO_DOCUMENT, |(document, _)| document);
            let document = if entry.has_document { revision } else { thinned };
            self.versions.insert(entry.rid, (document, tags));
        }
        let after = self.versions.get(&entry.rid).copied();
        let is_reported = matches!(
            entry.kind,
            EntryKind::Appeared { .. }
                | EntryKind::Changed { .. }
                | EntryKind::Ended
                | EntryKind::Retracted { .. }
        );
        if !is_reported {
            return Ok(None);
        }
        let life = self.lives.get(entry.rid)?.clone();
        let resource = self.snapshot.state.scopes[&life.scope].scope.key(&life.id);
        let mut change = Change::new(ChangeKind::Changed, resource, Revision(revision), row.time);
        match &entry.kind {
            EntryKind::Appeared { .. } => {
                change.change = ChangeKind::Appeared;
                change.baseline = life.baseline;
                change.replaced = life.before.is_some_and(|(_, ended)| ended == revision);
                let txn = self.snapshot.txn()?;
                change.moved_from = life::moved_from(&txn, &mut self.lives, &self.snapshot.state, entry.rid)?;
                change.moved = change.moved_from.is_some();
            }
            EntryKind::Ended => {
                let tombstone = life::tombstone(&self.snapshot.txn()?.open_table(END)?, revision, entry.rid)?;
                change.change = ChangeKind::Disappeared;
                change = change.ended(tombstone.end(revision));
            }
            EntryKind::Retracted { .. } => {
                change.change = ChangeKind::Appeared;
                change.retracted = true;
                change.fields = self.fields(entry.rid, before, after)?;
            }
            _ => change.fields = self.fields(entry.rid, before, after)?,
        }
        Ok(Some(change))
    }

    fn fields(
        &mut self,
        rid: Rid,
        before: Option<(u64, TagsRef)>,
        after: Option<(u64, TagsRef)>,
    ) -> Result<Vec<FieldChange>, StoreError> {
        let (Some(before), Some(after)) = (before, after) else { return Ok(Vec::new()) };
        // If one of the two is not kept any more, it is unknown what else changed.
        let is_kept = before.0 != NO_DOCUMENT && after.0 != NO_DOCUMENT;
        let mut version = |(revision, tags)| -> Result<(Arc<Value>, Tags), StoreError> {
            let document = if is_kept { self.documents.get(revision, rid)? } else { Arc::default() };
            Ok((document, self.snapshot.tags_of(tags)))
        };
        let (before, after) = (version(before)?, version(after)?);
        Ok(fields_between((&before.0, &before.1), (&after.0, &after.1)))
    }
}

impl StoreSnapshot {
    /// Every step of a resource, newest first, each with its changed fields. The lives before under its id are
    /// included.
    pub fn history(&self, resource: &Resource) -> Result<Vec<Change>, StoreError> {
        let mut steps = Steps::new(self)?;
        let mut reported = Vec::new();
        let mut life = self.life_of(resource)?;
        while let Some((rid, newest)) = life {
            let mut of_it = Vec::new();
            let walked = self.walk_back(rid, newest, 0, |entry| Some(entry.prev))?;
            for (revision, row, Logged { entry, document }) in walked {
                steps.documents.found(revision, rid, document);
                of_it.extend(steps.step(revision, &row, &entry)?);
            }
            reported.extend(of_it.into_iter().rev());
            life = steps.lives.get(rid)?.before;
        }
        Ok(reported)
    }

    /// The log entries of one resource after a revision, oldest first: walked back from its newest along their
    /// pointers.
    pub(super) fn entries_of(
        &self,
        rid: Rid,
        newest: u64,
        after: u64,
    ) -> Result<Vec<(u64, RevisionRow, Entry)>, StoreError> {
        let walked = self.walk_back(rid, newest, after, |entry| Some(entry.prev))?;
        Ok(walked.into_iter().map(|(revision, row, logged)| (revision, row, logged.entry)).collect())
    }

    /// The revision of the newest milestone at or before an entry of a life.
    pub(super) fn last_milestone(&self, rid: Rid, newest: u64) -> Result<u64, StoreError> {
        let log = self.txn()?.open_table(LOG)?;
        let mut revision = newest;
        while revision > 0 {
            let entries = log::step(&log, revision, rid)?.entries;
            if entries.iter().any(|logged| logged.entry.milestone.is_some()) {
                break;
            }
            let before = entries.first().map_or(0, |logged| logged.entry.prev);
            if before >= revision {
                return Err(StoreError::Damaged { table: "log" });
            }
            revision = before;
        }
        Ok(revision)
    }

    /// As [`StoreSnapshot::entries_of`], along the pointers that `back` returns.
    pub(super) fn walk_back(
        &self,
        rid: Rid,
        newest: u64,
        after: u64,
        back: impl Fn(&Entry) -> Option<u64>,
    ) -> Result<Vec<(u64, RevisionRow, Logged)>, StoreError> {
        let mut out = Vec::new();
        let log = self.txn()?.open_table(LOG)?;
        let mut revision = newest;
        while revision > after {
            let log::Slice { row, entries, .. } = log::step(&log, revision, rid)?;
            let here: Vec<Logged> = entries.into_iter().filter(|l| back(&l.entry).is_some()).collect();
            let previous =
                here.first().and_then(|l| back(&l.entry)).ok_or(StoreError::Damaged { table: "log" })?;
            if previous >= revision {
                return Err(StoreError::Damaged { table: "log" });
            }
            out.extend(here.into_iter().rev().map(|logged| (revision, row.clone(), logged)));
            revision = previous;
        }
        out.reverse();
        Ok(out)
    }
}

impl Store {
    /// Every step between two moments, oldest first, including resources that came and went in between. Empty if
    /// the first moment lies after the second.
    pub fn steps(&self, from: Moment, to: Moment, subscriber: Option<&Subscriber>) -> Result<Diff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        to.state.kept.check_raw(from.state.revision)?;
        let mut changes = Vec::new();
        each(&from, &to, subscriber, |change| {
            changes.push(change);
            Ok(())
        })?;
        let unknown = unknown_at(&from, &to);
        Ok(Diff { from: from.state.revision, to: to.state.revision, changes, unknown })
    }
}

/// Passes every kept step between two moments to `report`, oldest first.
pub(super) fn each(
    from: &StoreSnapshot,
    to: &StoreSnapshot,
    subscriber: Option<&Subscriber>,
    mut report: impl FnMut(Change) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut steps = Steps::new(to)?;
    let range = from.state.revision.0 + 1..=to.state.revision.0;
    log::revisions(&to.txn()?.open_table(LOG)?, range, |revision, row, entries| {
        if subscriber.is_some_and(|v| !to.sees(v, row.scope) && !from.sees(v, row.scope)) {
            return Ok(());
        }
        for entry in entries.iter().filter(|entry| entry.rid != NO_RID) {
            if !steps.versions.contains_key(&entry.rid) {
                steps.versions.extend(version_at(from, entry)?.map(|version| (entry.rid, version)));
            }
            if let Some(change) = steps.step(revision.0, row, entry)? {
                report(change)?;
            }
        }
        Ok(())
    })
}

/// The version that a life had at a moment, before a later entry.
fn version_at(from: &StoreSnapshot, entry: &Entry) -> Result<Option<VersionAt>, StoreError> {
    if let Some(head) = from.state.heads.get(entry.rid) {
        return Ok(Some((head.document, head.tags)));
    }
    if !matches!(entry.kind, EntryKind::Retracted { .. }) {
        return Ok(None);
    }
    // It had ended by then.
    let tombstone = life::tombstone(&from.txn()?.open_table(END)?, entry.prev, entry.rid)?;
    Ok(Some((tombstone.document, tombstone.tags)))
}

/// Attributes by their paths, tags as `Tags.KEY`.
pub(super) fn fields_between(
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
