//! The log as changes for readers: every step of one resource, or of all between two moments.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::inventory::{
    Change, ChangeKind, Diff, FieldChange, History, Milestone, MilestoneKind, Moment, Resource, Revision,
    Subscriber, Tags, Version,
};
use crate::store::file::documents::Documents;
use crate::store::file::lives::{self, END, Lives};
use crate::store::file::log::{self, LOG, Logged};
use crate::store::file::tables::{Entry, EntryKind, NO_RID, RevisionRow, Rid, TagsRef};
use crate::store::read::diff::{fields_between, unknown_at};
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::state::locator;
use crate::store::{Store, StoreError};

/// Turns entries of the log, oldest first, into the steps that are reported.
pub(in crate::store) struct Steps<'a> {
    snapshot: &'a StoreSnapshot,
    lives: Lives,
    documents: Documents,
    /// For each life, the revision that holds its last document, and its last tags.
    pub versions: BTreeMap<Rid, VersionAt>,
}

/// The revision that holds a document, or [`NO_DOCUMENT`]; and tags.
pub(in crate::store) type VersionAt = (u64, TagsRef);

/// The document was thinned.
pub(in crate::store) const NO_DOCUMENT: u64 = 0;

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
                change.moved_from = locator::moved_from(&txn, &mut self.lives, &self.snapshot.state, entry.rid)?;
                change.moved = change.moved_from.is_some();
            }
            EntryKind::Ended => {
                let tombstone = lives::tombstone(&self.snapshot.txn()?.open_table(END)?, revision, entry.rid)?;
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
    ///
    /// # Errors
    ///
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
    pub fn history(&self, resource: &Resource) -> Result<Vec<Change>, StoreError> {
        let mut steps = Steps::new(self)?;
        let mut changes = Vec::new();
        let mut life = self.life_of(resource)?;
        while let Some((rid, newest)) = life {
            let mut of_it = Vec::new();
            let walked = self.walk_back(rid, newest, 0, |entry| Some(entry.prev))?;
            for (revision, row, Logged { entry, document }) in walked {
                steps.documents.found(revision, rid, document);
                of_it.extend(steps.step(revision, &row, &entry)?);
            }
            changes.extend(of_it.into_iter().rev());
            life = steps.lives.get(rid)?.before;
        }
        Ok(changes)
    }

    /// The log entries of one resource after a revision, oldest first: walked back from its newest along their
    /// pointers.
    pub(in crate::store) fn entries_of(
        &self,
        rid: Rid,
        newest: u64,
        after: u64,
    ) -> Result<Vec<(u64, RevisionRow, Entry)>, StoreError> {
        let walked = self.walk_back(rid, newest, after, |entry| Some(entry.prev))?;
        Ok(walked.into_iter().map(|(revision, row, logged)| (revision, row, logged.entry)).collect())
    }

    /// The revision of the newest milestone at or before an entry of a life.
    pub(in crate::store) fn last_milestone(&self, rid: Rid, newest: u64) -> Result<u64, StoreError> {
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
    pub(in crate::store) fn walk_back(
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
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`], [`StoreError::TooEarly`] or [`StoreError::NotKept`] if one of the moments can't be
    /// queried; [`StoreError::Compacted`] if single steps after the first moment are not kept any more;
    /// [`StoreError::ReaderExpired`] if it takes longer than a snapshot may be open; [`StoreError::Poisoned`]
    /// while the file waits to be opened again; [`StoreError::Database`] or [`StoreError::Damaged`] if it can't be
    /// read.
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
pub(in crate::store) fn each(
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
    let tombstone = lives::tombstone(&from.txn()?.open_table(END)?, entry.prev, entry.rid)?;
    Ok(Some((tombstone.document, tombstone.tags)))
}

impl History for StoreSnapshot {
    type Error = StoreError;

    fn milestones(&self, resource: &Resource) -> Result<Vec<Milestone>, StoreError> {
        let Some((rid, newest)) = self.life_of(resource)? else { return Ok(Vec::new()) };
        let newest = match self.state.heads.get(rid) {
            // A head from an older checkpoint has no milestone.
            Some(head) if head.milestone == 0 => self.last_milestone(rid, head.last_entry)?,
            Some(head) => head.milestone,
            None => newest,
        };
        let mut before = None;
        let mut reported = Vec::new();
        for (revision, row, Logged { entry, .. }) in self.walk_back(rid, newest, 0, |entry| entry.milestone)? {
            let after = entry.kind.version().and_then(|version| version.tags).or(before);
            let tags = after.map_or(Tags::Unknown, |tags| self.tags_of(tags));
            let mut report = |kind| {
                reported.push(Milestone {
                    revision: Revision(revision),
                    time: row.time,
                    kind,
                    tags: tags.clone(),
                });
            };
            match &entry.kind {
                EntryKind::Appeared { .. } => report(MilestoneKind::Appeared { baseline: resource.baseline }),
                EntryKind::Ended => report(MilestoneKind::Ended),
                EntryKind::Retracted { .. } => report(MilestoneKind::Retracted),
                _ => {}
            }
            let is_new = matches!(entry.kind, EntryKind::Changed { .. } | EntryKind::Retracted { .. });
            if let (true, true, Some(before)) = (is_new, before != after, before) {
                report(MilestoneKind::TagsChanged { before: self.tags_of(before), after: tags.clone() });
            }
            before = after;
        }
        Ok(reported)
    }

    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool) -> Result<(), StoreError> {
        let Some((rid, newest)) = self.life_of(resource)? else { return Ok(()) };
        for (revision, row, entry) in self.entries_of(rid, newest, 0)?.into_iter().rev() {
            if !entry.has_document || entry.kind.version().is_none() {
                continue;
            }
            let attributes = self.document(revision, rid)?;
            if !more(Version { revision: Revision(revision), time: row.time, attributes }) {
                break;
            }
        }
        Ok(())
    }
}
