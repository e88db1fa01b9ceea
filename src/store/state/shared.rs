//! The published state, shared by the writer, the readers and the maintenance.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::fold::State;
use super::kept::Retention;
use super::lease::Leases;
use super::load::{Recovered, past, read_db};
use super::locator::{CrossScopeIndex, LifeDelta};
use crate::inventory::{Revision, Timestamp};
use crate::store::file::documents::Trainer;
use crate::store::file::open::{FreeSpaceFn, Open, open_db, store_id};
use crate::store::{Clock, Meters, StoreError};

/// How long a past state stays in memory after its last use.
pub(in crate::store) const PAST_STATE_TTL: Duration = Duration::from_mins(1);

/// The durable state for readers, with a redb read transaction that holds exactly that state.
pub(in crate::store) struct Published {
    pub state: State,
    pub txn: Arc<ReadTransaction>,
}

/// As [`Published`], but without the transaction while the file is being reopened.
pub(in crate::store) struct Current {
    pub state: State,
    pub txn: Option<Arc<ReadTransaction>>,
}

pub(in crate::store) struct Past {
    epoch: u64,
    state: State,
    used: Instant,
}

/// Shared by the writer and the readers.
pub(in crate::store) struct Shared {
    /// `None` while the file is being reopened.
    pub db: RwLock<Option<Arc<Database>>>,
    /// Reopens the file after a disk error.
    pub reopen: Open,
    /// Id of the file that was opened. A reopened file with another id is refused.
    pub id: [u8; 16],
    /// How often the file was reopened. What was planned in one epoch is not written in another.
    pub epoch: AtomicU64,
    pub path: PathBuf,
    pub clock: Clock,
    pub room: FreeSpaceFn,
    /// The volume had no space for the last commit.
    pub full: AtomicBool,
    /// The durable and published state. Readers copy it; only the writer replaces it.
    pub published: RwLock<Current>,
    pub revisions: tokio::sync::watch::Sender<Revision>,
    pub leases: Leases,
    /// The past state that was requested last: a client that lists it page by page requests it again.
    pub past: Mutex<Option<Past>>,
    pub whereabouts: CrossScopeIndex,
    pub trainer: Mutex<Trainer>,
    pub is_checkpoint_due: AtomicBool,
    /// Log entries that are not in the newest checkpoint.
    pub since_checkpoint: AtomicUsize,
    /// Held while a checkpoint is written: each one first removes what an unfinished one left.
    pub checkpointing: Mutex<()>,
    /// The retention that the keeper applies. Until it is set, everything is kept.
    pub retention: Mutex<Option<Retention>>,
    pub meters: Meters,
    /// A write failed: the content of the file is unknown, so nothing more is written until it is reopened.
    pub poisoned: AtomicBool,
}

impl Shared {
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn published(&self) -> Result<Published, StoreError> {
        let current = self.current();
        let txn = current.txn.clone().ok_or(StoreError::Poisoned)?;
        Ok(Published { state: current.state.clone(), txn })
    }

    pub fn state(&self) -> State {
        self.current().state.clone()
    }

    pub fn db(&self) -> Result<Arc<Database>, StoreError> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Poisoned)
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn publish(&self, state: State, life_delta: &LifeDelta) -> Result<(), StoreError> {
        let revision = state.revision;
        let published = Current { state: state.clone(), txn: Some(Arc::new(self.db()?.begin_read()?)) };
        self.whereabouts.publish(&self.state(), &state, life_delta, || {
            *self.published.write().unwrap_or_else(PoisonError::into_inner) = published;
        });
        self.revisions.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        Ok(())
    }

    pub fn last_past(&self) -> MutexGuard<'_, Option<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a kept revision before the newest.
    pub fn past(&self, txn: &ReadTransaction, newest: &State, revision: Revision) -> Result<State, StoreError> {
        let epoch = self.epoch();
        if let Some(past) = self.last_past().as_mut().filter(|p| (p.epoch, p.state.revision) == (epoch, revision))
        {
            past.used = Instant::now();
            // `kept` does not depend on the revision: it is taken from the newest state.
            return Ok(State { kept: newest.kept.clone(), ..past.state.clone() });
        }
        let state = past(txn, newest, revision)?;
        *self.last_past() = Some(Past { epoch, state: state.clone(), used: Instant::now() });
        Ok(state)
    }

    /// Drops the past state if it was not requested recently: at a million resources it takes 100 MB.
    pub fn expire_past_state(&self) {
        let mut past = self.last_past();
        if past.as_ref().is_some_and(|past| past.used.elapsed() >= PAST_STATE_TTL) {
            *past = None;
        }
    }

    pub fn trainer(&self) -> MutexGuard<'_, Trainer> {
        self.trainer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs once when the volume is full, and once when it has space again.
    pub fn check_room(&self, needed: u64) -> Result<(), StoreError> {
        let free = (self.room)().unwrap_or(u64::MAX);
        let is_full = free < needed;
        if self.full.swap(is_full, Ordering::AcqRel) != is_full {
            let store = self.path.display();
            if is_full {
                tracing::error!(%store, free, needed, "the volume is full: nothing is recorded until there is room");
            } else {
                tracing::info!(%store, free, "there is room on the volume again: recording goes on");
            }
        }
        if is_full { Err(StoreError::DiskFull { path: self.path.clone(), free, needed }) } else { Ok(()) }
    }

    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Releases a file that can't be read any more. Readers get an error.
    pub fn close(&self) {
        self.published.write().unwrap_or_else(PoisonError::into_inner).txn = None;
        self.leases.end();
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reopens the file after a disk error, and reads its content.
    pub fn open_again(&self) -> Result<Recovered, StoreError> {
        self.close();
        let db = open_db(&self.path, &self.reopen)?;
        let (state, found) = read_db(&db, &self.path)?;
        let txn = db.begin_read()?;
        let known = self.state().revision;
        if store_id(&txn)? != self.id || state.revision < known {
            return Err(StoreError::OtherFile { path: self.path.clone(), known, found: state.revision });
        }
        *self.trainer() = Trainer::new(state.dictionaries.clone());
        let revision = state.revision;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(db));
        self.whereabouts.publish_anew(|| {
            *self.published.write().unwrap_or_else(PoisonError::into_inner) =
                Current { state, txn: Some(Arc::new(txn)) };
        });
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.poisoned.store(false, Ordering::Release);
        self.revisions.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        Ok(found)
    }
}

impl Drop for Shared {
    /// redb writes when it closes, and panics if the file is inconsistent.
    fn drop(&mut self) {
        let db = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!(store = %self.path.display(), "the file could not be closed well: it is damaged");
        }
    }
}
