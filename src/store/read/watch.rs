//! Following the log: every step after a revision, as it is recorded.
//!
//! Nothing is queued for a watcher: it reads the log at its own pace, so a slow one delays no other. A watcher
//! that retention overtakes gets an error that single changes are not kept any more; it never misses one silently.

use crate::inventory::{Change, Moment, Revision, Subscriber};
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::{NO_RID, Rid, ScopeNo};
use crate::store::read::history::{Steps, VersionAt};
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::{Store, StoreError};

/// Maximum revisions and changes of one batch. It has more changes if a single revision has more.
const BATCH_MAX_REVISIONS: u64 = if cfg!(test) { 8 } else { 1_000 };
const BATCH_MAX_CHANGES: usize = 10_000;

/// What was recorded since the batch before.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to it has been reported: a watch continues from here.
    pub revision: Revision,
    /// Oldest first; empty if nothing is visible to the watcher.
    pub changes: Vec<Change>,
}

/// Follows the log from a revision on: [`Store::watch`] creates it. It queues nothing, and between two batches it
/// holds no snapshot of the file.
pub struct Watch {
    store: Store,
    subscriber: Option<Subscriber>,
    pub(in crate::store) reached: Revision,
    published: tokio::sync::watch::Receiver<Revision>,
}

impl Store {
    /// Follows what is recorded after a revision; with a subscriber, only what is visible to it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`] if the revision was not recorded yet, [`StoreError::Compacted`] if single changes
    /// after it are not kept any more.
    pub fn watch(&self, after: Revision, subscriber: Option<Subscriber>) -> Result<Watch, StoreError> {
        let published = self.subscribe();
        let state = self.state();
        if after > state.revision {
            return Err(StoreError::Future { requested: after, newest: state.revision });
        }
        state.kept.check_raw(after)?;
        Ok(Watch { store: self.clone(), subscriber, reached: after, published })
    }
}

impl Watch {
    /// Waits until there is more, and returns it. If the future is dropped, nothing is lost: the next call
    /// continues from the same revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if retention has overtaken the watch; [`StoreError::Poisoned`] while the file
    /// waits to be opened again; [`StoreError::Database`] or [`StoreError::Damaged`] if it can't be read.
    pub async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            let newest = *self.published.borrow_and_update();
            if newest > self.reached {
                let (subscriber, reached) = (self.subscriber.clone(), self.reached);
                let read = move |store: &Store| {
                    let now = store.snapshot(Moment::Now)?;
                    let sees = |scope, _| subscriber.as_ref().is_none_or(|subscriber| now.sees(subscriber, scope));
                    let (revision, steps) = now.steps_after(reached, now.state.revision, &sees)?;
                    Ok::<_, StoreError>(WatchBatch {
                        revision,
                        changes: steps.into_iter().map(|(_, change)| change).collect(),
                    })
                };
                let batch = self.store.run_blocking(read).await?;
                self.reached = batch.revision;
                return Ok(batch);
            }
            // The store closes only when all its handles are dropped, and this watch holds one.
            if self.published.changed().await.is_err() {
                return Err(StoreError::Poisoned);
            }
        }
    }
}

impl StoreSnapshot {
    /// Steps that were recorded after a revision in the scopes that `sees` accepts, oldest first, and the revision
    /// that they reach: before `until` if they are many. A revision is returned whole or not at all.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] if single changes after `reached` are not kept any more.
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
    pub fn steps_after(
        &self,
        reached: Revision,
        until: Revision,
        sees: &dyn Fn(ScopeNo, Revision) -> bool,
    ) -> Result<(Revision, Vec<(ScopeNo, Change)>), StoreError> {
        let kept = &self.state.kept;
        kept.check_raw(reached)?;
        let first = kept.after(reached.0);
        let until = until.min(self.state.revision);
        let last = kept.real(until.0.min(first.saturating_add(BATCH_MAX_REVISIONS - 1)));
        let mut steps = Steps::new(self)?;
        let mut changes = Vec::new();
        let mut reached = last;
        log::revisions(&self.txn()?.open_table(LOG)?, first..=last, |revision, row, entries| {
            if reached < revision.0 {
                return Ok(());
            }
            if changes.len() + entries.len() > BATCH_MAX_CHANGES && !changes.is_empty() {
                reached = revision.0 - 1;
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
        Ok((Revision(kept.real(reached)), changes))
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
        // If its tags have not changed since, they are in memory.
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
