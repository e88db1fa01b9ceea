//! Following the log: every step from a revision on, as it is recorded.
//!
//! Nothing is queued for a watcher: it reads the log at its own pace, so a slow one holds up nobody. One
//! that retention overtakes is told that single changes are not kept any more, and never sees a gap.

use super::log::{self, LOG};
use super::record::{NO_RID, Rid, ScopeNo};
use super::snapshot::StoreSnapshot;
use super::steps::{Steps, VersionAt};
use super::{Store, StoreError};
use crate::inventory::{Change, Moment, Revision, Viewer};

/// Revisions and changes that one batch holds; of changes it holds more where one revision has more.
const BATCH: u64 = if cfg!(test) { 8 } else { 1_000 };
const CHANGES: usize = 10_000;

/// What was recorded since the batch before.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to it has been told: a watch goes on from here.
    pub revision: Revision,
    /// Oldest first; none where what happened concerns nobody who watches.
    pub changes: Vec<Change>,
}

pub struct Watch {
    store: Store,
    viewer: Option<Viewer>,
    pub(super) told: Revision,
    published: tokio::sync::watch::Receiver<Revision>,
}

impl Store {
    /// Follows what is recorded after a revision; with a viewer, what it covers.
    pub fn watch(&self, after: Revision, viewer: Option<Viewer>) -> Result<Watch, StoreError> {
        let published = self.subscribe();
        let state = self.state();
        if after > state.revision {
            return Err(StoreError::Future { asked: after, newest: state.revision });
        }
        state.kept.check_raw(after)?;
        Ok(Watch { store: self.clone(), viewer, told: after, published })
    }
}

impl Watch {
    /// Waits until there is more.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            let newest = *self.published.borrow_and_update();
            if newest > self.told {
                let (store, viewer, told) = (self.store.clone(), self.viewer.clone(), self.told);
                let read = move || {
                    let now = store.snapshot(Moment::Now)?;
                    let sees = |scope, _| viewer.as_ref().is_none_or(|viewer| now.sees(viewer, scope));
                    let (revision, steps) = now.steps_after(told, now.state.revision, &sees)?;
                    Ok(WatchBatch { revision, changes: steps.into_iter().map(|(_, change)| change).collect() })
                };
                let read = tokio::task::spawn_blocking(read).await;
                let batch = read.unwrap_or(Err(StoreError::Damaged { table: "log" }))?;
                self.told = batch.revision;
                return Ok(batch);
            }
            // The store is closed only when everybody has let go of it, and this watch has not.
            if self.published.changed().await.is_err() {
                return Err(StoreError::Poisoned);
            }
        }
    }
}

impl StoreSnapshot {
    /// Steps that were recorded after a revision, of the scopes that `sees` lets through, oldest first, and up to
    /// which revision: not until `until` where they are many. A revision is told whole or not at all.
    pub fn steps_after(
        &self,
        told: Revision,
        until: Revision,
        sees: &dyn Fn(ScopeNo, Revision) -> bool,
    ) -> Result<(Revision, Vec<(ScopeNo, Change)>), StoreError> {
        let kept = &self.state.kept;
        kept.check_raw(told)?;
        let first = kept.after(told.0);
        let until = until.min(self.state.revision);
        let last = kept.real(until.0.min(first.saturating_add(BATCH - 1)));
        let mut steps = Steps::new(self)?;
        let mut changes = Vec::new();
        let mut told = last;
        log::revisions(&self.txn()?.open_table(LOG)?, first..=last, |revision, row, entries| {
            if told < revision.0 {
                return Ok(());
            }
            if changes.len() + entries.len() > CHANGES && !changes.is_empty() {
                told = revision.0 - 1;
                return Ok(());
            }
            if !sees(row.scope, revision) {
                return Ok(());
            }
            for entry in entries.iter().filter(|entry| entry.rid != NO_RID) {
                if !steps.versions.contains_key(&entry.rid) {
                    let before = version_before(self, entry.rid, entry.prev)?;
                    steps.versions.extend(before.map(|version| (entry.rid, version)));
                }
                changes.extend(steps.step(revision.0, row, entry)?.map(|change| (row.scope, change)));
            }
            Ok(())
        })?;
        Ok((Revision(kept.real(told)), changes))
    }
}

/// The document and the tags of a life as of one of its entries: walked back until both are found.
fn version_before(now: &StoreSnapshot, rid: Rid, newest: u64) -> Result<Option<VersionAt>, StoreError> {
    let log = now.txn()?.open_table(LOG)?;
    let (mut document, mut tags) = (None, None);
    let mut revision = newest;
    while revision > 0 && (document.is_none() || tags.is_none()) {
        let entries = log::step(&log, revision, rid)?.entries;
        for logged in entries.iter().rev() {
            if logged.entry.has_document {
                document.get_or_insert(revision);
            }
            if let Some(known) = logged.entry.kind.version().and_then(|version| version.tags) {
                tags.get_or_insert(known);
            }
        }
        let previous = entries.first().ok_or(StoreError::Damaged { table: "log" })?.entry.prev;
        if previous >= revision {
            return Err(StoreError::Damaged { table: "log" });
        }
        // As long as nothing of its tags changed since, memory knows them.
        if let (Some(_), None, Some(head)) = (document, tags, now.state.heads.get(rid))
            && head.milestone != 0
            && head.milestone <= previous
        {
            tags = Some(head.tags);
        }
        revision = previous;
    }
    Ok(document.zip(tags))
}
