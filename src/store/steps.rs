//! The log as people read it: every step of one resource, or of all between two moments.

use std::collections::BTreeMap;

use serde_json::Value;

use super::log::{self, LOG};
use super::record::{Entry, EntryKind, NO_RID, RevRow, Rid, TagsRef};
use super::snapshot::{StoreSnapshot, unknown_at};
use super::{Store, StoreError};
use crate::inventory::{
    Change, ChangeKind, Diff, End, EndCause, FieldChange, Moment, Resource, ResourceKey, Revision, TagSet, Tags,
    Timestamp, Viewer, field_changes,
};

/// Turns entries of the log, oldest first, into the steps that people are told of.
struct Steps<'a> {
    snapshot: &'a StoreSnapshot,
    /// Of each resource, the revision that holds its last document, and its last tags.
    versions: BTreeMap<Rid, (u64, TagsRef)>,
    /// The life that ended last because another began under its id.
    replaced: Option<(u64, Rid)>,
}

impl<'a> Steps<'a> {
    fn new(snapshot: &'a StoreSnapshot) -> Self {
        Self { snapshot, versions: BTreeMap::new(), replaced: None }
    }

    fn step(&mut self, revision: u64, time: Timestamp, entry: &Entry) -> Result<Option<Change>, StoreError> {
        let head = &self.snapshot.state.heads[&entry.rid];
        let resource: ResourceKey = self.snapshot.state.scopes[&head.scope].scope.key(&head.id);
        let before = self.versions.get(&entry.rid).copied();
        let after = entry.kind.version().map(|version| (revision, version.tags));
        self.versions.extend(after.map(|after| (entry.rid, after)));
        let mut change = Change {
            change: ChangeKind::Changed,
            resource,
            revision: Revision(revision),
            time,
            baseline: false,
            replaced: false,
            retracted: false,
            end: None,
            fields: Vec::new(),
        };
        match &entry.kind {
            EntryKind::Appeared { baseline, .. } => {
                change.change = ChangeKind::Appeared;
                change.baseline = *baseline;
                change.replaced = self.replaced == Some((revision, entry.rid));
            }
            EntryKind::Retracted { .. } => {
                change.change = ChangeKind::Appeared;
                change.retracted = true;
                change.fields = self.fields(entry.rid, before, after)?;
            }
            EntryKind::Changed { .. } => change.fields = self.fields(entry.rid, before, after)?,
            EntryKind::Ended { cause, .. } => {
                change.change = ChangeKind::Disappeared;
                change.replaced = *cause == EndCause::Replaced;
                change.end = end_of(revision, time, &entry.kind);
                self.replaced = change.replaced.then_some((revision, entry.rid));
            }
            _ => return Ok(None),
        }
        Ok(Some(change))
    }

    fn fields(
        &self,
        rid: Rid,
        before: Option<(u64, TagsRef)>,
        after: Option<(u64, TagsRef)>,
    ) -> Result<Vec<FieldChange>, StoreError> {
        let (Some(before), Some(after)) = (before, after) else { return Ok(Vec::new()) };
        let version = |(revision, tags)| -> Result<(Value, Tags), StoreError> {
            Ok((self.snapshot.document(revision, rid)?, self.snapshot.tags_of(tags)))
        };
        Ok(fields_between(&version(before)?, &version(after)?))
    }
}

impl StoreSnapshot {
    /// Every step of a resource, newest first, each with what changed in it field by field.
    pub fn history(&self, resource: &Resource) -> Result<Vec<Change>, StoreError> {
        let Some(rid) = self.rid(resource) else { return Ok(Vec::new()) };
        let newest = self.state.heads.get(&rid).map_or(0, |head| head.last_entry);
        let mut steps = Steps::new(self);
        let mut told = Vec::new();
        for (revision, row, entry) in self.entries_of(rid, newest, 0)? {
            told.extend(steps.step(revision, row.time, &entry)?);
        }
        told.reverse();
        Ok(told)
    }

    /// The log entries of one resource after a revision, oldest first: walked back from its newest by
    /// their pointers.
    pub(super) fn entries_of(
        &self,
        rid: Rid,
        newest: u64,
        after: u64,
    ) -> Result<Vec<(u64, RevRow, Entry)>, StoreError> {
        self.walk_back(rid, newest, after, |entry| Some(entry.prev))
    }

    /// As [`StoreSnapshot::entries_of`], along the pointers that `back` reads.
    pub(super) fn walk_back(
        &self,
        rid: Rid,
        newest: u64,
        after: u64,
        back: impl Fn(&Entry) -> Option<u64>,
    ) -> Result<Vec<(u64, RevRow, Entry)>, StoreError> {
        let mut out = Vec::new();
        let log = self.txn.open_table(LOG)?;
        let mut revision = newest;
        while revision > after {
            let log::Slice { row, entries, .. } = log::step(&log, revision, rid)?;
            let here: Vec<Entry> = entries.into_iter().map(|l| l.entry).filter(|e| back(e).is_some()).collect();
            let previous = here.first().and_then(&back).ok_or(StoreError::Damaged { table: "log" })?;
            if previous >= revision {
                return Err(StoreError::Damaged { table: "log" });
            }
            out.extend(here.into_iter().rev().map(|entry| (revision, row.clone(), entry)));
            revision = previous;
        }
        out.reverse();
        Ok(out)
    }
}

impl Store {
    /// Every step between two moments, oldest first: what came and went again, too. Empty when the
    /// first lies after the second.
    pub fn steps(&self, from: Moment, to: Moment, viewer: Option<&Viewer>) -> Result<Diff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        let mut steps = Steps::new(&to);
        let mut changes = Vec::new();
        let range = from.state.revision.0 + 1..=to.state.revision.0;
        log::revisions(&to.txn.open_table(LOG)?, range, |revision, row, entries| {
            for entry in entries {
                let is_seen = |rid| viewer.is_none_or(|v| to.sees(v, rid) || from.sees(v, rid));
                if entry.rid != NO_RID && is_seen(entry.rid) {
                    if let Some(head) = from.state.heads.get(&entry.rid) {
                        steps.versions.entry(entry.rid).or_insert((head.document, head.version.tags));
                    }
                    changes.extend(steps.step(revision.0, row.time, &entry)?);
                }
            }
            Ok(())
        })?;
        let unknown = unknown_at(&from, &to);
        Ok(Diff { from: from.state.revision, to: to.state.revision, changes, unknown })
    }
}

/// The tombstone that an entry of the log tells of.
pub(super) fn end_of(revision: u64, time: Timestamp, kind: &EntryKind) -> Option<End> {
    let EntryKind::Ended { cause, last_seen, first_missed } = kind else { return None };
    Some(End {
        cause: cause.clone(),
        last_seen: *last_seen,
        first_missed: *first_missed,
        concluded: time,
        revision: Revision(revision),
    })
}

/// Attributes by their paths, tags as `Tags.KEY`.
pub(super) fn fields_between(
    (before, tags_before): &(Value, Tags),
    (after, tags_after): &(Value, Tags),
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
