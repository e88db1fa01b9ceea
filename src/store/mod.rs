//! The multi-version store on redb. It depends on neither Kubernetes nor a cloud.
//!
//! - [`log`]: the entries of all revisions, in pages; [`document`]: the encoding of described objects in it.
//! - [`life`]: the immutable part of each life, and the tombstones.
//! - [`record`]: the other tables and records of the file.
//! - [`state`]: the state at a revision, a fold of the log; [`heads`]: its live resources; [`id_index`] and
//!   [`tag_index`]: its indexes by id and by tag.
//! - [`whereabouts`]: an index of ids over all scopes of a type, to detect moves.
//! - [`commit`]: commits a sweep, whole or page by page; [`plan`]: computes the delta of a sweep, without I/O;
//!   [`draft`]: a delta before it is written.
//! - [`checkpoint`]: stored states at some revisions, so that the whole log need not be folded.
//! - [`mutants`]: faults that the tests must detect.
//! - [`writer`]: the only thread that writes; [`keeper`]: the maintenance thread beside it.
//! - [`retention`]: which revisions are kept, and how the others are dropped.
//! - [`private`]: files that only their owner can read.
//! - [`ledger`]: runs of sweeps, and the status of a scope at a moment.
//! - [`meters`]: metrics of the store.
//! - [`lease`]: limits how long a reader may hold the file.
//! - [`snapshot`]: reads at any moment.
//! - [`seen`]: what subscribers can see, and in which revisions.
//! - [`tenants`]: which tenant owns the recorded past.
//! - [`watch`]: following the log.
//! - [`steps`]: the log as changes for readers.
//! - [`backup`]: a stream of all rows, and restoring a file from it.
//! - [`export`]: the history as columns.
//! - [`scrub`]: removes content that must not be kept.
//! - [`care`]: statistics of the file, and an integrity check.
//!
//! A commit plans against the current state under the lock of its scope, writes everything that is queued in one
//! durable redb transaction, folds it into the state, and publishes the revision. Nothing is visible before it is
//! durable. Readers use persistent copies of the state and redb's own snapshots, so readers and the writer never
//! wait for each other.

/// Evaluates an expression for each table of the file.
macro_rules! each_table {
    ($table:ident => $each:expr) => {
        each_table!(@of $table, $each, [
            log::LOG, life::LIFE, life::END, life::KEY, checkpoint::CKPT, checkpoint::CKPT_SHOWN,
            checkpoint::CKPT_REST, record::SCOPE, record::RUN, record::OPEN_SWEEP, record::SUSPECT, record::SYM,
            record::DICT, record::VISIBILITY, record::KEPT, record::NOTE, record::META,
        ])
    };
    (@of $table:ident, $each:expr, [$($definition:expr),* $(,)?]) => {$({
        #[allow(unused_imports)] // Each use needs one of them.
        use $crate::store::{checkpoint, life, log, record};
        let $table = $definition;
        $each;
    })*};
}

mod backup;
mod care;
mod checkpoint;
mod commit;
mod document;
mod draft;
mod error;
mod export;
#[cfg(test)]
mod faults;
mod heads;
mod id_index;
mod keeper;
mod lease;
mod ledger;
mod life;
mod log;
mod meters;
mod mutants;
mod plan;
mod private;
mod record;
mod retention;
mod scrub;
mod seen;
mod snapshot;
mod state;
mod steps;
mod tag_index;
mod tenants;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
mod whereabouts;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

pub use backup::BackupReport;
pub use care::{CheckReport, Flaw, StoreStats, TableStats};
pub use commit::{Missed, Recorded};
pub use error::{FileOp, StoreError};
pub use export::{ExportFormat, ExportTable};
pub use meters::Meters;
pub use private::{PrivateFile, clear_unfinished};
pub use record::{Rid, ScopeNo};
pub use retention::{Retention, RetentionReport};
pub use scrub::Cleaning;
pub use seen::{ChangedSince, VisibilityIntervals, VisibleScope};
pub use snapshot::{Line, ScopedDiff, StoreSnapshot};
pub use watch::{Watch, WatchBatch};

use crate::inventory::{Change, Outcome, ResourceType, Revision, Scope, Subscriber, Tags, Timestamp};
use document::{Dictionaries, Trainer};
use draft::Draft;
use keeper::Keeper;
use lease::Leases;
use life::{Life, Lives};
use log::LOG;
use record::{
    DICT, EntryKind, META, NOTE, OPEN_SWEEP, OpenSweepRow, RUN, Run, SCHEMA, SCOPE, SUSPECT, SYM, VISIBILITY,
    VisibilityRow, decode,
};
use retention::Kept;
use state::{Beginnings, Moves, Names, State};
use whereabouts::{CrossScopeIndex, LifeDelta};
use writer::{Recovered, Request, RunKey, Writer};

/// How much of the file redb may hold in memory: its default of 1 GiB is more than our pod has.
const PAGE_CACHE_MAX_BYTES: usize = 64 << 20;
/// Minimum interval between writes of a visibility proof to the file. A proof is valid for a day.
const PROOF_FLUSH_INTERVAL: Duration = Duration::from_hours(1);

/// Maximum bytes of documents in one revision; the last document may exceed it. A sweep of a huge scope is
/// recorded in several revisions, so that no transaction grows with an account.
const LARGE_SWEEP_PIECE_MAX_BYTES: usize = if cfg!(test) { 32 << 10 } else { 4 << 20 };

/// Folding this many log entries when a file is opened takes a tenth of a second.
const FLUSH_CHECKPOINT_MIN_ENTRIES: usize = if cfg!(test) { 500 } else { 10_000 };

/// How long a past state stays in memory after its last use.
const PAST_STATE_TTL: Duration = Duration::from_mins(1);

/// Number of locks that scopes share by hash: enough that sweeps of different scopes rarely wait for each other.
const SCOPE_LOCKS: usize = 1024;

pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Free bytes on the volume; `None` if that is unknown.
type FreeSpaceFn = Box<dyn Fn() -> Option<u64> + Send + Sync>;

fn free_space_fn(path: &Path) -> FreeSpaceFn {
    let path = path.to_owned();
    Box::new(move || {
        let volume = rustix::fs::statvfs(&path).ok()?;
        Some(volume.f_bavail.saturating_mul(volume.f_frsize))
    })
}

pub fn system_clock() -> Clock {
    Arc::new(|| Timestamp::from(jiff::Timestamp::now()))
}

/// The result of one commit.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The newest revision after it.
    pub revision: Revision,
    pub changes: Vec<Change>,
}

#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    // Dropped in this order: the keeper's last requests go through the writer.
    keeper: Keeper,
    writer: Writer,
    /// Held from planning a scope's delta until it is published, so that the plan stays valid. A scope's lock is
    /// chosen by its hash.
    scopes: Vec<Mutex<()>>,
    /// Write-locked while a group of subscribers changes its owner.
    tenants: RwLock<()>,
    shared: Arc<Shared>,
}

/// The durable state for readers, with a redb read transaction that holds exactly that state.
struct Published {
    state: State,
    txn: Arc<ReadTransaction>,
}

/// As [`Published`], but without the transaction while the file is being reopened.
struct Current {
    state: State,
    txn: Option<Arc<ReadTransaction>>,
}

struct Past {
    epoch: u64,
    state: State,
    used: Instant,
}

/// Opens the file. Called each time it is opened or reopened.
type Open = Box<dyn Fn(&redb::Builder) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// Shared by the writer and the readers.
struct Shared {
    /// `None` while the file is being reopened.
    db: RwLock<Option<Arc<Database>>>,
    /// Reopens the file after a disk error.
    reopen: Open,
    /// Id of the file that was opened. A reopened file with another id is refused.
    id: [u8; 16],
    /// How often the file was reopened. What was planned in one epoch is not written in another.
    epoch: AtomicU64,
    path: PathBuf,
    clock: Clock,
    room: FreeSpaceFn,
    /// The volume had no space for the last commit.
    full: AtomicBool,
    /// The durable and published state. Readers copy it; only the writer replaces it.
    published: RwLock<Current>,
    revisions: tokio::sync::watch::Sender<Revision>,
    leases: Leases,
    /// The past state that was requested last: a client that lists it page by page requests it again.
    past: Mutex<Option<Past>>,
    whereabouts: CrossScopeIndex,
    trainer: Mutex<Trainer>,
    is_checkpoint_due: AtomicBool,
    /// Log entries that are not in the newest checkpoint.
    since_checkpoint: AtomicUsize,
    /// Held while a checkpoint is written: each one first removes what an unfinished one left.
    checkpointing: Mutex<()>,
    /// The retention that the keeper applies. Until it is set, everything is kept.
    retention: Mutex<Option<Retention>>,
    meters: Meters,
    /// A write failed: the content of the file is unknown, so nothing more is written until it is reopened.
    poisoned: AtomicBool,
}

impl Shared {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> Result<Published, StoreError> {
        let current = self.current();
        let txn = current.txn.clone().ok_or(StoreError::Poisoned)?;
        Ok(Published { state: current.state.clone(), txn })
    }

    fn state(&self) -> State {
        self.current().state.clone()
    }

    fn db(&self) -> Result<Arc<Database>, StoreError> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Poisoned)
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn publish(&self, state: State, life_delta: &LifeDelta) -> Result<(), StoreError> {
        let revision = state.revision;
        let published = Current { state: state.clone(), txn: Some(Arc::new(self.db()?.begin_read()?)) };
        self.whereabouts.publish(&self.state(), &state, life_delta, || {
            *self.published.write().unwrap_or_else(PoisonError::into_inner) = published;
        });
        self.revisions.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        Ok(())
    }

    fn last_past(&self) -> MutexGuard<'_, Option<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a kept revision before the newest.
    fn past(&self, txn: &ReadTransaction, newest: &State, revision: Revision) -> Result<State, StoreError> {
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
    fn expire_past_state(&self) {
        let mut past = self.last_past();
        if past.as_ref().is_some_and(|past| past.used.elapsed() >= PAST_STATE_TTL) {
            *past = None;
        }
    }

    fn trainer(&self) -> MutexGuard<'_, Trainer> {
        self.trainer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs once when the volume is full, and once when it has space again.
    fn check_room(&self, needed: u64) -> Result<(), StoreError> {
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

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Releases a file that can't be read any more. Readers get an error.
    fn close(&self) {
        self.published.write().unwrap_or_else(PoisonError::into_inner).txn = None;
        self.leases.end();
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reopens the file after a disk error, and reads its content.
    fn open_again(&self) -> Result<Recovered, StoreError> {
        self.close();
        let db = open_db(&self.path, &self.reopen)?;
        let (state, found) = read_db(&db, &self.path)?;
        let txn = db.begin_read()?;
        let known = self.state().revision;
        if store_id(&txn)? != self.id || state.revision < known {
            return Err(StoreError::OtherFile { path: self.path.clone(), known, found: state.revision });
        }
        *self.trainer() = Trainer::new(state.dictionaries.clone());
        self.whereabouts.forget();
        let revision = state.revision;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(db));
        *self.published.write().unwrap_or_else(PoisonError::into_inner) =
            Current { state, txn: Some(Arc::new(txn)) };
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

/// Opens the database of a file. Each kind of failure has its own error.
fn open_db(path: &Path, open: &Open) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(PAGE_CACHE_MAX_BYTES);
    let distinguished = |error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Locked { path: path.to_owned(), socket: socket_path(path) }
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if !matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Io { path: path.to_owned(), source }
        }
        other => StoreError::NotAStore { path: path.to_owned(), source: Box::new(other) },
    };
    catch_damage(|| open(&builder).map_err(distinguished))
}

/// Turns a panic into [`StoreError::Damaged`]: redb does not verify its pages on plain reads, and panics on some
/// invalid ones.
fn catch_damage<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.unwrap_or(Err(StoreError::Damaged { table: "of the database itself" }))
}

fn read_db(db: &Database, path: &Path) -> Result<(State, Recovered), StoreError> {
    catch_damage(|| {
        check_schema(db, path)?;
        load(db)
    })
}

impl Store {
    /// Opens the store at `path`, or creates it.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|source| StoreError::Io { path: parent.to_owned(), source })?;
        }
        refuse_other_schemas(path)?;
        private::create(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        // Created if there is no file. If there was one, a reopen never replaces it.
        let (file, is_new) = (path.to_owned(), AtomicBool::new(true));
        Self::open_file(path, clock, free_space_fn(path), move |builder| {
            if is_new.swap(false, Ordering::AcqRel) { builder.create(&file) } else { builder.open(&file) }
        })
    }

    /// Opens the store at `path`, which must exist.
    pub fn open_existing(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        refuse_other_schemas(path)?;
        let file = path.to_owned();
        Self::open_file(path, clock, free_space_fn(path), move |builder| builder.open(&file))
    }

    fn open_file(
        path: &Path,
        clock: Clock,
        room: FreeSpaceFn,
        open: impl Fn(&redb::Builder) -> Result<Database, redb::DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let reopen: Open = Box::new(open);
        let db = open_db(path, &reopen)?;
        let (state, found) = read_db(&db, path)?;
        let (revisions, _) = tokio::sync::watch::channel(state.revision);
        let txn = Arc::new(db.begin_read()?);
        let id = store_id(&txn)?;
        let shared = Arc::new(Shared {
            db: RwLock::new(Some(Arc::new(db))),
            reopen,
            id,
            epoch: AtomicU64::new(0),
            path: path.to_owned(),
            clock,
            room,
            full: AtomicBool::new(false),
            trainer: Mutex::new(Trainer::new(state.dictionaries.clone())),
            published: RwLock::new(Current { state, txn: Some(txn) }),
            revisions,
            leases: Leases::default(),
            past: Mutex::default(),
            whereabouts: CrossScopeIndex::default(),
            is_checkpoint_due: AtomicBool::new(false),
            since_checkpoint: AtomicUsize::new(0),
            checkpointing: Mutex::default(),
            retention: Mutex::new(None),
            meters: Meters::default(),
            poisoned: AtomicBool::new(false),
        });
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        let (bell, heard) = keeper::bell();
        let writer = Writer::start(shared.clone(), bell.clone(), found).map_err(io)?;
        let keeper = Keeper::start(shared.clone(), writer.queue().clone(), bell, heard).map_err(io)?;
        let scopes = (0..SCOPE_LOCKS).map(|_| Mutex::new(())).collect();
        Ok(Self { inner: Arc::new(Inner { keeper, writer, scopes, tenants: RwLock::default(), shared }) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.shared.path
    }

    pub fn now(&self) -> Timestamp {
        self.inner.shared.now()
    }

    /// Notified when a revision has been published.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.inner.shared.revisions.subscribe()
    }

    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    /// The schema version of the file.
    pub fn schema(&self) -> u32 {
        SCHEMA
    }

    /// Id of the file. A restored file has another id, and cursors into the old one are not valid in it.
    pub fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.inner.shared.id))
    }

    /// How far our clock is behind the newest time in the store.
    pub fn clock_lag(&self) -> Duration {
        self.state().time.since(self.now())
    }

    /// The number of live resources in the open scopes that `is_among` selects, and for each scope the number of
    /// those that a sweep missed.
    pub fn lives_among(&self, is_among: impl Fn(&Scope) -> bool) -> (usize, BTreeMap<Arc<Scope>, usize>) {
        let state = self.state();
        let among = state.scopes.values().filter(|scope| scope.is_open() && is_among(&scope.scope));
        let mut missed = BTreeMap::new();
        for rid in state.suspects.keys() {
            let scope = &state.scopes[&state.head(*rid).scope];
            if scope.is_open() && is_among(&scope.scope) {
                *missed.entry(scope.scope.clone()).or_default() += 1;
            }
        }
        (among.map(|scope| scope.order.len()).sum(), missed)
    }

    /// Number of live resources in a scope.
    pub fn live_count(&self, scope: &Scope) -> usize {
        let state = self.state();
        state.scope_numbers.get(scope).map_or(0, |number| state.scopes[number].order.len())
    }

    /// The revision of the last change of the live resource with this id.
    pub fn changed(&self, scope: &Scope, id: &str) -> Option<Revision> {
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.head(rid).changed)
    }

    /// The tags that a live resource is known to have now.
    pub fn known_tags(&self, scope: &Scope, id: &str) -> Option<Tags> {
        // Read under the lock: too short to be worth a copy.
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.tags(state.head(rid).tags))
    }

    /// When a subscriber last proved a scope with its own credentials.
    pub fn proven(&self, subscriber: &Subscriber, scope: &Scope) -> Option<Timestamp> {
        let state = self.state();
        let number = state.scope_numbers.get(scope)?;
        state.scopes[number].visibilities.get(subscriber).map(|visibility| visibility.proven)
    }

    /// Scopes that are open now.
    pub fn open_scopes(&self) -> Vec<Arc<Scope>> {
        self.state().scopes.values().filter(|s| s.is_open()).map(|s| s.scope.clone()).collect()
    }

    /// The subscribers that can see a scope, and when each last proved it with its own credentials.
    pub fn proofs(&self, scope: &Scope) -> Vec<(Subscriber, Timestamp)> {
        let state = self.state();
        let Some(number) = state.scope_numbers.get(scope) else { return Vec::new() };
        state.scopes[number]
            .visibilities
            .iter()
            .map(|(subscriber, visibility)| (subscriber.clone(), visibility.proven))
            .collect()
    }

    /// All current visibilities.
    pub fn visibilities(&self) -> Vec<(Subscriber, Arc<Scope>)> {
        let state = self.state();
        state
            .scopes
            .values()
            .flat_map(|s| s.visibilities.subscribers().map(|v| (v.clone(), s.scope.clone())))
            .collect()
    }

    /// Locks a scope: only one delta of it is planned at a time.
    fn lock(&self, scope: &Scope) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(scope);
        let number = usize::try_from(hash % SCOPE_LOCKS as u64).expect("there are few locks");
        self.inner.scopes[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, request: Request) -> Result<Delta, StoreError> {
        self.inner.writer.queue().submit(request)
    }

    /// Stops watching scopes: one revision per scope, no entry per resource. Their history stays.
    pub fn close_scopes(&self, scopes: &[Arc<Scope>]) -> Result<(), StoreError> {
        let open = |state: &State, scope: &Scope| {
            let number = *state.scope_numbers.get(scope)?;
            state.scopes[&number].is_open().then_some(number)
        };
        for scope in scopes {
            self.write_scope_entries(scope, |state| {
                let Some(number) = open(state, scope) else { return Vec::new() };
                let lost = state.scopes[&number].visibilities.subscribers();
                let mut kinds: Vec<EntryKind> =
                    lost.map(|v| EntryKind::VisibilityLost { subscriber: v.as_str().into() }).collect();
                kinds.push(EntryKind::ScopeClosed);
                kinds
            })?;
        }
        Ok(())
    }

    /// Closes the open scopes that `among` selects and that no subscriber can see.
    pub fn close_invisible_scopes(&self, among: impl Fn(&Scope) -> bool) -> Result<(), StoreError> {
        let state = self.state();
        let uncovered =
            state.scopes.values().filter(|s| s.is_open() && s.visibilities.is_empty() && among(&s.scope));
        self.close_scopes(&uncovered.map(|s| s.scope.clone()).collect::<Vec<_>>())
    }

    /// Revokes a subscriber's visibility of a scope: from here on it sees nothing of it.
    pub fn revoke_visibility(&self, subscriber: &Subscriber, scope: &Scope) -> Result<(), StoreError> {
        self.write_scope_entries(scope, |state| {
            let visible = state
                .scope_numbers
                .get(scope)
                .is_some_and(|number| state.scopes[number].visibilities.get(subscriber).is_some());
            if visible {
                vec![EntryKind::VisibilityLost { subscriber: subscriber.as_str().into() }]
            } else {
                Vec::new()
            }
        })
    }

    fn write_scope_entries(
        &self,
        scope: &Scope,
        kinds: impl FnOnce(&State) -> Vec<EntryKind>,
    ) -> Result<(), StoreError> {
        let _alone = self.lock(scope);
        let epoch = self.inner.shared.epoch();
        let entries = kinds(&self.state());
        if entries.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let mut draft = Draft::new(scope.clone(), now);
        draft.entries = entries;
        self.submit(Request::Record(Box::new(draft), epoch)).map(|_| ())
    }

    /// Writes small durable values of a subscriber. Takes no revision.
    pub fn write_notes(
        &self,
        subscriber: &Subscriber,
        notes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StoreError> {
        if notes.is_empty() {
            return Ok(());
        }
        self.submit(Request::Notes(subscriber.clone(), notes.to_vec())).map(|_| ())
    }

    /// One note of a subscriber.
    pub fn note(&self, subscriber: &Subscriber, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        Ok(table.get((subscriber.as_str(), name))?.map(|bytes| bytes.value().to_vec()))
    }

    /// All notes of a subscriber whose names begin with `prefix`.
    pub fn notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.first_notes(subscriber, prefix, usize::MAX)?.into_iter().collect())
    }

    /// Deletes the notes of a subscriber whose names begin with `prefix`.
    pub fn drop_notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<(), StoreError> {
        let notes: Vec<_> = self.notes(subscriber, prefix)?.into_keys().map(|name| (name, None)).collect();
        self.write_notes(subscriber, &notes)
    }

    /// The first `count` of these notes, in the order of their names.
    pub fn first_notes(
        &self,
        subscriber: &Subscriber,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut out = Vec::new();
        for row in table.range((subscriber.as_str(), prefix)..)?.take(count) {
            let (key, value) = row?;
            let (row_subscriber, name) = key.value();
            if row_subscriber != subscriber.as_str() || !name.starts_with(prefix) {
                break;
            }
            out.push((name.to_owned(), value.value().to_vec()));
        }
        Ok(out)
    }

    /// Number of notes of a subscriber whose names begin with `prefix`.
    pub fn count_notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<usize, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut count = 0;
        for row in table.range((subscriber.as_str(), prefix)..)? {
            let (key, _) = row?;
            let (row_subscriber, name) = key.value();
            if row_subscriber != subscriber.as_str() || !name.starts_with(prefix) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// All subscribers that have notes.
    pub fn subscribers_with_notes(&self) -> Result<BTreeSet<Subscriber>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut subscribers = BTreeSet::new();
        for row in table.iter()? {
            let (key, _) = row?;
            let (subscriber, _) = key.value();
            if !subscriber.is_empty() {
                subscribers.insert(Subscriber::from(subscriber));
            }
        }
        Ok(subscribers)
    }

    /// Deletes the notes of all other subscribers.
    pub fn retain_notes(&self, subscribers: &BTreeSet<Subscriber>) -> Result<(), StoreError> {
        for subscriber in self.subscribers_with_notes()?.difference(subscribers) {
            self.drop_notes(subscriber, "")?;
        }
        Ok(())
    }

    /// Whether nothing was recorded since the store was restored from a backup.
    pub fn is_just_restored(&self) -> bool {
        let state = self.inner.shared.state();
        state.kept.gaps.last().is_some_and(|gap| state.revision.0 <= gap.next)
    }

    /// Writes a checkpoint of the newest state, on the caller's thread.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        keeper::checkpoint(&self.inner.shared, self.inner.writer.queue(), &AtomicBool::new(false))
    }

    /// Sets the retention that is applied in the background from now on.
    pub fn keep(&self, retention: Retention) {
        *self.inner.shared.retention.lock().unwrap_or_else(PoisonError::into_inner) = Some(retention);
        self.inner.keeper.wake();
    }

    /// Applies a retention, on the caller's thread. Other commits can run in between.
    pub fn retain(&self, retention: Retention) -> Result<RetentionReport, StoreError> {
        retention::retain(&self.inner.shared, self.inner.writer.queue(), retention, || false)
    }

    /// A write failed, and the file could not be reopened yet: nothing is written or read until then.
    pub fn is_poisoned(&self) -> bool {
        self.inner.shared.is_poisoned()
    }

    /// The volume had no space for the last commit: nothing is recorded until it has space. Reads still work.
    pub fn is_full(&self) -> bool {
        self.inner.shared.full.load(Ordering::Acquire)
    }

    /// Number of callers that wait for their records to become durable.
    pub fn waiting(&self) -> i64 {
        self.inner.writer.queue().waiting()
    }

    pub fn meters(&self) -> &Meters {
        &self.inner.shared.meters
    }

    /// Size of the file, and free bytes on its volume; `None` if unknown.
    pub fn room(&self) -> (Option<u64>, Option<u64>) {
        let file = std::fs::metadata(self.path()).ok().map(|file| file.len());
        (file, (self.inner.shared.room)())
    }

    /// Writes the part of the ledger that is only in memory, and a checkpoint if the next open would have much to
    /// fold. Called before the process ends.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.submit(Request::Flush)?;
        if self.inner.shared.since_checkpoint.load(Ordering::Acquire) < FLUSH_CHECKPOINT_MIN_ENTRIES {
            return Ok(());
        }
        self.checkpoint()
    }

    fn state(&self) -> State {
        self.inner.shared.state()
    }
}

/// The Unix socket of the operator that holds the store at `path`.
pub fn socket_path(path: &Path) -> PathBuf {
    path.with_extension("sock")
}

fn scope_number(state: &mut State, scope: &Scope) -> ScopeNo {
    if let Some(number) = state.scope_numbers.get(scope) {
        return *number;
    }
    let number = ScopeNo::try_from(state.scopes.len()).expect("fewer than 2^32 scopes");
    state.add_scope(number, Arc::new(scope.clone()));
    number
}

/// Checks the schema of an existing file before it is opened for writing: redb marks a file that it opens.
fn refuse_other_schemas(path: &Path) -> Result<(), StoreError> {
    catch_damage(|| {
        // A file that can't be read here (new, locked, not closed cleanly, no database) gets its error later.
        let Ok(db) = Database::builder().set_cache_size(1 << 20).open_read_only(path) else { return Ok(()) };
        let txn = db.begin_read()?;
        if txn.list_tables()?.next().is_none() { Ok(()) } else { refuse_other_schema(&txn, path) }
    })
}

fn refuse_other_schema(txn: &ReadTransaction, path: &Path) -> Result<(), StoreError> {
    let found = match txn.open_table(META) {
        Ok(meta) => meta.get("schema")?.map(|v| v.value().to_vec()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match found.as_deref().map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) if u32::from_be_bytes(bytes) == SCHEMA => Ok(()),
        Some(Ok(bytes)) => {
            let found = u32::from_be_bytes(bytes);
            Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA })
        }
        _ => {
            let source = "it holds no schema version".into();
            Err(StoreError::NotAStore { path: path.to_owned(), source })
        }
    }
}

/// Creates the tables of a new file. Writes nothing to an existing one.
fn check_schema(db: &Database, path: &Path) -> Result<(), StoreError> {
    let txn = db.begin_read()?;
    if txn.list_tables()?.next().is_none() {
        return make_tables(db);
    }
    refuse_other_schema(&txn, path)
}

fn make_tables(db: &Database) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    // All tables exist from here on, so that readers need no special case for a new file.
    each_table!(table => txn.open_table(table)?);
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("schema", SCHEMA.to_be_bytes().as_slice())?;
        meta.insert("id", new_store_id().as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

/// Random: no two stores share an id.
fn new_store_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        // Each `RandomState` has its own keys from the operating system.
        half.copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes());
    }
    id
}

fn store_id(txn: &ReadTransaction) -> Result<[u8; 16], StoreError> {
    let meta = txn.open_table(META)?;
    let id = meta.get("id")?.ok_or(StoreError::Damaged { table: "meta" })?;
    id.value().try_into().map_err(|_| StoreError::Damaged { table: "meta" })
}

impl Beginnings for Lives {
    fn life(&mut self, rid: Rid) -> Result<Life, StoreError> {
        self.get(rid).cloned()
    }
}

/// Loads the state at the newest revision.
fn load(db: &Database) -> Result<(State, Recovered), StoreError> {
    let txn = db.begin_read()?;
    let mut state = named(&txn)?;
    // The log contains everything that a checkpoint contains.
    if let Err(error) = checkpoint::load_newest(&txn, &mut state) {
        tracing::warn!(%error, "the newest checkpoint is not used: the whole log is read instead");
        state = named(&txn)?;
    }
    let since_checkpoint = fold_until(&txn, &mut state, Revision(u64::MAX))?;
    state.revision = state.kept.newest(state.revision);
    // Not in the log: counted misses, the last run of each scope, visibility proofs.
    for row in txn.open_table(SUSPECT)?.iter()? {
        let (rid, bytes) = row?;
        if state.heads.get(rid.value()).is_none() {
            return Err(StoreError::Damaged { table: "suspect" });
        }
        state.suspects.insert(rid.value(), decode("suspect", bytes.value())?);
    }
    if mutants::is_awake("suspects are lost on restart") {
        state.suspects = imbl::OrdMap::new();
    }
    let runs = txn.open_table(RUN)?;
    let numbers: Vec<ScopeNo> = state.scopes.keys().copied().collect();
    for number in numbers {
        let mut last = None;
        let mut last_complete = None;
        for row in runs.range((number, i64::MIN)..=(number, i64::MAX))?.rev() {
            let run: Run = decode("run", row?.1.value())?;
            if run.outcome == Outcome::Complete {
                last_complete = Some(run.last_ended);
            }
            last.get_or_insert(run);
            if last_complete.is_some() {
                break;
            }
        }
        let scope = state.scope_mut(number);
        scope.run = last;
        scope.last_complete = last_complete;
    }
    for row in txn.open_table(VISIBILITY)?.iter()? {
        let (key, bytes) = row?;
        let (subscriber, number, from) = key.value();
        let row: VisibilityRow = decode("cover", bytes.value())?;
        if row.to.is_none()
            && let Some(visibility) = state.scope_mut(number).visibilities.get_mut(&Subscriber::new(subscriber))
            && visibility.from.0 == from
        {
            visibility.proven = row.proven;
        }
    }
    let interrupted = interrupted(&txn, &mut state)?;
    Ok((state, Recovered { since_checkpoint, interrupted }))
}

/// Sweeps that were cut off before they could conclude anything: from here on the ledger records that.
fn interrupted(txn: &ReadTransaction, state: &mut State) -> Result<BTreeMap<RunKey, Run>, StoreError> {
    let mut runs = BTreeMap::new();
    for row in txn.open_table(OPEN_SWEEP)?.iter()? {
        let (number, bytes) = row?;
        let sweep: OpenSweepRow = decode("look", bytes.value())?;
        let known = state.scopes.get(&number.value()).ok_or(StoreError::Damaged { table: "look" })?;
        let run = ledger::interrupted(known.run.as_ref(), sweep);
        state.scope_mut(number.value()).run = Some(run.clone());
        runs.insert((number.value(), run.first_ended), run);
    }
    Ok(runs)
}

/// The state at a revision before the newest.
fn past(txn: &ReadTransaction, newest: &State, until: Revision) -> Result<State, StoreError> {
    let mut state = newest.names();
    checkpoint::load_past(txn, &mut state, newest, until)?;
    fold_until(txn, &mut state, until)?;
    Ok(state)
}

/// A state with only the names that numbers in the file refer to.
fn named(txn: &ReadTransaction) -> Result<State, StoreError> {
    let mut state = State::default();
    let mut dictionaries = Dictionaries::default();
    for row in txn.open_table(DICT)?.iter()? {
        let (resource_type, bytes): (ResourceType, Vec<u8>) = decode("dict", row?.1.value())?;
        dictionaries.add(resource_type, bytes);
    }
    state.dictionaries = Arc::new(dictionaries);
    state.kept = Arc::new(Kept::load(txn)?);
    for row in txn.open_table(SYM)?.iter()? {
        state.tag_sets.push_back(decode("sym", row?.1.value())?);
    }
    let mut names = Names::default();
    for row in txn.open_table(SCOPE)?.iter()? {
        let (number, bytes) = row?;
        state.add_scope(number.value(), Arc::new(names.share(decode("scope", bytes.value())?)));
    }
    Ok(state)
}

/// Folds the log after the state, up to and including `until`. Returns the number of entries.
fn fold_until(txn: &ReadTransaction, state: &mut State, until: Revision) -> Result<usize, StoreError> {
    let mut lives = Lives::open(txn)?;
    let mut folded = 0;
    let mut moves = Moves::default();
    let after = state.revision.0 + 1;
    log::revisions(&txn.open_table(LOG)?, after..=until.0, |revision, row, entries| {
        folded += entries.len();
        state.fold(revision, row, &entries, &mut lives, &mut moves)
    })?;
    state.reorder(moves);
    Ok(folded)
}
