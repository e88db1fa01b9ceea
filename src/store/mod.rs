//! The multi-version store on redb. It knows no Kubernetes and no cloud.
//!
//! - [`log`]: what every revision did, in pages; [`document`]: described objects in it.
//! - [`life`]: what never changes of a life, and the tombstones.
//! - [`record`]: the other tables and records of the file.
//! - [`state`]: state at a revision, the fold of the log; [`heads`]: what lives, in it; [`id_index`] and
//!   [`tag_index`]: by id, by tag.
//! - [`whereabouts`]: ids over all scopes of a type, for what moves.
//! - [`commit`]: a sweep, whole or page by page; [`plan`]: sweep -> delta, pure; [`draft`]: a delta on its way into the file.
//! - [`checkpoint`]: the state at some revisions, so that not all of the log must be folded.
//! - [`mutants`]: faults that the tests must notice.
//! - [`writer`]: the one thread that writes; [`keeper`]: the one that looks after the file beside it.
//! - [`retention`]: what of the past is kept.
//! - [`private`]: files that nobody else reads.
//! - [`ledger`]: runs of sweeps; which moments are known.
//! - [`meters`]: what it measures of itself.
//! - [`lease`]: how long a reader may hold the file.
//! - [`snapshot`]: reading, at any moment.
//! - [`seen`]: what viewers see, and for which times.
//! - [`tenants`]: whose the past is.
//! - [`watch`]: following the log.
//! - [`steps`]: the log as people read it.
//! - [`backup`]: a stream of all rows, and a file from it.
//! - [`export`]: the history as columns.
//! - [`scrub`]: taking out what should never have been kept.
//! - [`care`]: what takes the room of the file, and whether it is sound.
//!
//! A commit is: plan against the current state under the lock of its scope, one durable redb transaction
//! for all that is queued, fold into the state, publish the revision. Nothing is visible before it is
//! durable. Readers work on persistent copies of the state and on redb's own snapshots, so neither they
//! nor the writer wait for the other.

/// Does something with each table of the file.
macro_rules! each_table {
    ($table:ident => $each:expr) => {
        each_table!(@of $table, $each, [
            log::LOG, life::LIFE, life::END, life::KEY, checkpoint::CKPT, checkpoint::CKPT_SHOWN,
            checkpoint::CKPT_REST, record::SCOPE, record::RUN, record::LOOK, record::SUSPECT, record::SYM,
            record::DICT, record::COVER, record::KEPT, record::NOTE, record::META,
        ])
    };
    (@of $table:ident, $each:expr, [$($definition:expr),* $(,)?]) => {$({
        #[allow(unused_imports)] // Each uses one of them.
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
pub use seen::{CoverTimes, SeenScope, Touched};
pub use snapshot::{Line, ScopedDiff, StoreSnapshot};
pub use watch::{Watch, WatchBatch};

use crate::inventory::{Change, Outcome, ResourceType, Revision, Scope, Tags, Timestamp, Viewer};
use document::{Dictionaries, Trainer};
use draft::Draft;
use keeper::Keeper;
use lease::Leases;
use life::{Life, Lives};
use log::LOG;
use record::{
    COVER, CoverRow, DICT, EntryKind, LOOK, LookRow, META, NOTE, RUN, Run, SCHEMA, SCOPE, SUSPECT, SYM, decode,
};
use retention::Kept;
use state::{Beginnings, Moves, Names, State};
use whereabouts::{Turn, Whereabouts};
use writer::{Found, Request, RunKey, Writer};

/// How much of the file redb may hold in memory: its own default of 1 GiB is more than our pod has.
const CACHE_BYTES: usize = 64 << 20;
/// Proof of cover is refreshed in the file at most so often; it is good for a day.
const PROOF_FLUSH: Duration = Duration::from_hours(1);

/// Documents that one revision holds at most, but for a last one: a look at a huge scope is recorded in as
/// many as it takes, so that no transaction grows with an account.
const PIECE_BYTES: usize = if cfg!(test) { 32 << 10 } else { 4 << 20 };

/// Entries of the log that take a tenth of a second to fold when a file is opened.
const MUCH: usize = if cfg!(test) { 500 } else { 10_000 };

/// How long a state of the past is held for who asks for it again.
const PAST_KEPT: Duration = Duration::from_mins(1);

/// So many sweeps of different scopes are planned without waiting for each other by chance.
const SCOPE_LOCKS: usize = 1024;

pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Bytes that are free on the volume; none where that can't be told.
type Room = Box<dyn Fn() -> Option<u64> + Send + Sync>;

fn room_beside(path: &Path) -> Room {
    let path = path.to_owned();
    Box::new(move || {
        let volume = rustix::fs::statvfs(&path).ok()?;
        Some(volume.f_bavail.saturating_mul(volume.f_frsize))
    })
}

pub fn system_clock() -> Clock {
    Arc::new(|| Timestamp::from(jiff::Timestamp::now()))
}

/// What one commit did.
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
    // Dropped in this order: the keeper's last words go through the writer.
    keeper: Keeper,
    writer: Writer,
    /// Held from the plan of a scope's delta until it is published, so that the plan holds. A scope's
    /// lock is found by its hash.
    scopes: Vec<Mutex<()>>,
    /// Held while a group of viewers changes hands.
    tenants: RwLock<()>,
    shared: Arc<Shared>,
}

/// What is durable, as readers take it: a state, and redb's own snapshot of the file that holds just that.
struct Published {
    state: State,
    txn: Arc<ReadTransaction>,
}

/// The same, as it is kept: without the file while that is opened again.
struct Current {
    state: State,
    txn: Option<Arc<ReadTransaction>>,
}

struct Past {
    epoch: u64,
    state: State,
    used: Instant,
}

/// Opens the file, each time that it is asked to.
type Open = Box<dyn Fn(&redb::Builder) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// What the writer and the readers share.
struct Shared {
    /// None while it is opened again.
    db: RwLock<Option<Arc<Database>>>,
    /// After an error of the disk.
    reopen: Open,
    /// Of the file that was opened: another is not gone on with.
    id: [u8; 16],
    /// How often it was opened: what was planned on one opening is not written by another.
    epoch: AtomicU64,
    path: PathBuf,
    clock: Clock,
    room: Room,
    /// The volume had no room for the last commit.
    full: AtomicBool,
    /// What is durable and published. Readers copy it; only the writer replaces it.
    published: RwLock<Current>,
    revisions: tokio::sync::watch::Sender<Revision>,
    leases: Leases,
    /// The state of the past that was asked for last: whoever lists it in pieces asks again.
    past: Mutex<Option<Past>>,
    whereabouts: Whereabouts,
    trainer: Mutex<Trainer>,
    is_checkpoint_due: AtomicBool,
    /// Entries of the log that the newest checkpoint does not know.
    since_checkpoint: AtomicUsize,
    /// Held while a checkpoint is written: each clears away what the one before left unfinished.
    checkpointing: Mutex<()>,
    /// What of the past the keeper keeps: everything, until somebody says so.
    retention: Mutex<Option<Retention>>,
    meters: Meters,
    /// A write failed: what is on disk is not known, so nothing more is written until it was opened again.
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

    fn publish(&self, state: State, turn: &Turn) -> Result<(), StoreError> {
        let revision = state.revision;
        let published = Current { state: state.clone(), txn: Some(Arc::new(self.db()?.begin_read()?)) };
        self.whereabouts.publish(&self.state(), &state, turn, || {
            *self.published.write().unwrap_or_else(PoisonError::into_inner) = published;
        });
        self.revisions.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        Ok(())
    }

    fn last_past(&self) -> MutexGuard<'_, Option<Past>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a revision before the newest, which is kept.
    fn past(&self, txn: &ReadTransaction, newest: &State, revision: Revision) -> Result<State, StoreError> {
        let epoch = self.epoch();
        if let Some(past) = self.last_past().as_mut().filter(|p| (p.epoch, p.state.revision) == (epoch, revision))
        {
            past.used = Instant::now();
            // What is not of the moment is as it is now.
            return Ok(State { kept: newest.kept.clone(), ..past.state.clone() });
        }
        let state = past(txn, newest, revision)?;
        *self.last_past() = Some(Past { epoch, state: state.clone(), used: Instant::now() });
        Ok(state)
    }

    /// Drops the state of the past that nobody asked for lately: at a million resources it takes 100 MB.
    fn forget_past(&self) {
        let mut past = self.last_past();
        if past.as_ref().is_some_and(|past| past.used.elapsed() >= PAST_KEPT) {
            *past = None;
        }
    }

    fn trainer(&self) -> MutexGuard<'_, Trainer> {
        self.trainer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that the volume is full, and once that there is room again.
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

    /// Lets go of a file that answers nothing more: readers are told so.
    fn close(&self) {
        self.published.write().unwrap_or_else(PoisonError::into_inner).txn = None;
        self.leases.end();
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Opens the file again after an error of the disk, and reads what is in it.
    fn open_again(&self) -> Result<Found, StoreError> {
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
    /// redb writes as it closes, and panics where the file makes no sense.
    fn drop(&mut self) {
        let db = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!(store = %self.path.display(), "the file could not be closed well: it is damaged");
        }
    }
}

/// The database of a file; what is wrong with it is told apart.
fn open_db(path: &Path, open: &Open) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let told_apart = |error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Locked { path: path.to_owned(), socket: socket_beside(path) }
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if !matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Io { path: path.to_owned(), source }
        }
        other => StoreError::NotAStore { path: path.to_owned(), source: Box::new(other) },
    };
    unless_damaged(|| open(&builder).map_err(told_apart))
}

/// redb does not verify its pages on plain reads, and panics on some that make no sense.
fn unless_damaged<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.unwrap_or(Err(StoreError::Damaged { table: "of the database itself" }))
}

fn read_db(db: &Database, path: &Path) -> Result<(State, Found), StoreError> {
    unless_damaged(|| {
        check_schema(db, path)?;
        load(db)
    })
}

impl Store {
    /// Opens the store at `path`, or makes it.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|source| StoreError::Io { path: parent.to_owned(), source })?;
        }
        refuse_other_schemas(path)?;
        private::create(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        // Made where there is none; where there was one, nothing takes its place.
        let (file, is_new) = (path.to_owned(), AtomicBool::new(true));
        Self::open_file(path, clock, room_beside(path), move |builder| {
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
        Self::open_file(path, clock, room_beside(path), move |builder| builder.open(&file))
    }

    fn open_file(
        path: &Path,
        clock: Clock,
        room: Room,
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
            whereabouts: Whereabouts::default(),
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

    /// Wakes when a revision has been published.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.inner.shared.revisions.subscribe()
    }

    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    /// The version of the file's layout.
    pub fn schema(&self) -> u32 {
        SCHEMA
    }

    /// Of the file: a restored one has another, and cursors into the old one mean nothing in it.
    pub fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.inner.shared.id))
    }

    /// By how much our clock lies behind the last time in the store.
    pub fn clock_lag(&self) -> Duration {
        self.state().time.since(self.now())
    }

    /// How many resources live in the open scopes of some, and how many of them a look missed, by scope.
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

    /// Number of resources that live in a scope.
    pub fn live_count(&self, scope: &Scope) -> usize {
        let state = self.state();
        state.scope_numbers.get(scope).map_or(0, |number| state.scopes[number].order.len())
    }

    /// The revision of the last change of what lives under an id.
    pub fn changed(&self, scope: &Scope, id: &str) -> Option<Revision> {
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.head(rid).changed)
    }

    /// The tags that a resource is known to have now.
    pub fn known_tags(&self, scope: &Scope, id: &str) -> Option<Tags> {
        // Too short to copy anything for it.
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.tags(state.head(rid).tags))
    }

    /// When a viewer last proved its own credentials on a scope.
    pub fn proven(&self, viewer: &Viewer, scope: &Scope) -> Option<Timestamp> {
        let state = self.state();
        let number = state.scope_numbers.get(scope)?;
        state.scopes[number].covers.get(viewer).map(|cover| cover.proven)
    }

    /// Scopes that are open now.
    pub fn open_scopes(&self) -> Vec<Arc<Scope>> {
        self.state().scopes.values().filter(|s| s.is_open()).map(|s| s.scope.clone()).collect()
    }

    /// Who covers a scope, and when each proved its own credentials on it last.
    pub fn proofs(&self, scope: &Scope) -> Vec<(Viewer, Timestamp)> {
        let state = self.state();
        let Some(number) = state.scope_numbers.get(scope) else { return Vec::new() };
        state.scopes[number].covers.iter().map(|(viewer, cover)| (viewer.clone(), cover.proven)).collect()
    }

    /// Every cover that stands now.
    pub fn covers(&self) -> Vec<(Viewer, Arc<Scope>)> {
        let state = self.state();
        state.scopes.values().flat_map(|s| s.covers.viewers().map(|v| (v.clone(), s.scope.clone()))).collect()
    }

    /// A scope's delta is planned alone.
    fn lock(&self, scope: &Scope) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(scope);
        let number = usize::try_from(hash % SCOPE_LOCKS as u64).expect("there are few locks");
        self.inner.scopes[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: Request) -> Result<Delta, StoreError> {
        self.inner.writer.queue().ask(request)
    }

    /// Stops watching scopes: one revision each, none per resource. Their history stays.
    pub fn close_scopes(&self, scopes: &[Arc<Scope>]) -> Result<(), StoreError> {
        let open = |state: &State, scope: &Scope| {
            let number = *state.scope_numbers.get(scope)?;
            state.scopes[&number].is_open().then_some(number)
        };
        for scope in scopes {
            self.write_scope_entries(scope, |state| {
                let Some(number) = open(state, scope) else { return Vec::new() };
                let lost = state.scopes[&number].covers.viewers();
                let mut kinds: Vec<EntryKind> =
                    lost.map(|v| EntryKind::CoverLost { viewer: v.as_str().into() }).collect();
                kinds.push(EntryKind::ScopeClosed);
                kinds
            })?;
        }
        Ok(())
    }

    /// Closes those of the asked scopes that nobody covers.
    pub fn close_uncovered(&self, among: impl Fn(&Scope) -> bool) -> Result<(), StoreError> {
        let state = self.state();
        let uncovered = state.scopes.values().filter(|s| s.is_open() && s.covers.is_empty() && among(&s.scope));
        self.close_scopes(&uncovered.map(|s| s.scope.clone()).collect::<Vec<_>>())
    }

    /// Takes a viewer's cover of a scope away: from here on it sees nothing of it.
    pub fn drop_cover(&self, viewer: &Viewer, scope: &Scope) -> Result<(), StoreError> {
        self.write_scope_entries(scope, |state| {
            let covered = state
                .scope_numbers
                .get(scope)
                .is_some_and(|number| state.scopes[number].covers.get(viewer).is_some());
            if covered { vec![EntryKind::CoverLost { viewer: viewer.as_str().into() }] } else { Vec::new() }
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
        self.ask(Request::Record(Box::new(draft), epoch)).map(|_| ())
    }

    /// Small durable facts of callers: no revision.
    pub fn write_notes(&self, viewer: &Viewer, notes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        if notes.is_empty() {
            return Ok(());
        }
        self.ask(Request::Notes(viewer.clone(), notes.to_vec())).map(|_| ())
    }

    /// One note of a viewer.
    pub fn note(&self, viewer: &Viewer, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        Ok(table.get((viewer.as_str(), name))?.map(|bytes| bytes.value().to_vec()))
    }

    /// All notes of a viewer whose name begins with `prefix`.
    pub fn notes(&self, viewer: &Viewer, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.first_notes(viewer, prefix, usize::MAX)?.into_iter().collect())
    }

    /// Drops them.
    pub fn drop_notes(&self, viewer: &Viewer, prefix: &str) -> Result<(), StoreError> {
        let notes: Vec<_> = self.notes(viewer, prefix)?.into_keys().map(|name| (name, None)).collect();
        self.write_notes(viewer, &notes)
    }

    /// The first so many of them, in the order of their names.
    pub fn first_notes(
        &self,
        viewer: &Viewer,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut out = Vec::new();
        for row in table.range((viewer.as_str(), prefix)..)?.take(count) {
            let (key, value) = row?;
            let (row_viewer, name) = key.value();
            if row_viewer != viewer.as_str() || !name.starts_with(prefix) {
                break;
            }
            out.push((name.to_owned(), value.value().to_vec()));
        }
        Ok(out)
    }

    /// How many notes of a viewer have a name that begins with `prefix`.
    pub fn count_notes(&self, viewer: &Viewer, prefix: &str) -> Result<usize, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut count = 0;
        for row in table.range((viewer.as_str(), prefix)..)? {
            let (key, _) = row?;
            let (row_viewer, name) = key.value();
            if row_viewer != viewer.as_str() || !name.starts_with(prefix) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Everybody who has notes.
    pub fn note_viewers(&self) -> Result<BTreeSet<Viewer>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut viewers = BTreeSet::new();
        for row in table.iter()? {
            let (key, _) = row?;
            let (viewer, _) = key.value();
            if !viewer.is_empty() {
                viewers.insert(Viewer::from(viewer));
            }
        }
        Ok(viewers)
    }

    /// Drops the notes of all other viewers.
    pub fn retain_notes(&self, viewers: &BTreeSet<Viewer>) -> Result<(), StoreError> {
        for viewer in self.note_viewers()?.difference(viewers) {
            self.drop_notes(viewer, "")?;
        }
        Ok(())
    }

    /// Whether nothing was recorded since it was made from a backup.
    pub fn is_just_restored(&self) -> bool {
        let state = self.inner.shared.state();
        state.kept.gaps.last().is_some_and(|gap| state.revision.0 <= gap.next)
    }

    /// Writes a checkpoint of the newest state, on the caller's thread.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        keeper::checkpoint(&self.inner.shared, self.inner.writer.queue(), &AtomicBool::new(false))
    }

    /// From now on the past is kept so far, in the background.
    pub fn keep(&self, retention: Retention) {
        *self.inner.shared.retention.lock().unwrap_or_else(PoisonError::into_inner) = Some(retention);
        self.inner.keeper.wake();
    }

    /// Drops of the past what is not to be kept, on the caller's thread; others commit in between.
    pub fn retain(&self, retention: Retention) -> Result<RetentionReport, StoreError> {
        retention::retain(&self.inner.shared, self.inner.writer.queue(), retention, || false)
    }

    /// A write failed, and the file could not be opened again yet: nothing more is written or read until then.
    pub fn is_poisoned(&self) -> bool {
        self.inner.shared.is_poisoned()
    }

    /// The volume had no room for the last commit: nothing is recorded until there is, and reads go on.
    pub fn is_full(&self) -> bool {
        self.inner.shared.full.load(Ordering::Acquire)
    }

    /// How many wait for what they record to be durable.
    pub fn waiting(&self) -> i64 {
        self.inner.writer.queue().waiting()
    }

    pub fn meters(&self) -> &Meters {
        &self.inner.shared.meters
    }

    /// Bytes of the file, and bytes that are free on its volume; none where that can't be told.
    pub fn room(&self) -> (Option<u64>, Option<u64>) {
        let file = std::fs::metadata(self.path()).ok().map(|file| file.len());
        (file, (self.inner.shared.room)())
    }

    /// Writes what is only in memory of the ledger, and a checkpoint where opening would have much to fold.
    /// Called before the process ends.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.ask(Request::Flush)?;
        if self.inner.shared.since_checkpoint.load(Ordering::Acquire) < MUCH {
            return Ok(());
        }
        self.checkpoint()
    }

    fn state(&self) -> State {
        self.inner.shared.state()
    }
}

/// The Unix socket of the operator that holds the store at `path`.
pub fn socket_beside(path: &Path) -> PathBuf {
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

/// Looks at a file that is there before it is opened to be written: redb marks a file that it opens.
fn refuse_other_schemas(path: &Path) -> Result<(), StoreError> {
    unless_damaged(|| {
        // What can't be read so (it is new, locked, was not closed well, is no database) is told apart later.
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

/// Makes the tables of a new file; writes nothing to one that is there.
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

/// Random: two stores never share one.
fn new_store_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        // Each has keys of its own from the operating system.
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

/// The state at the newest revision.
fn load(db: &Database) -> Result<(State, Found), StoreError> {
    let txn = db.begin_read()?;
    let mut state = named(&txn)?;
    // All that a checkpoint says is in the log, too.
    if let Err(error) = checkpoint::load_newest(&txn, &mut state) {
        tracing::warn!(%error, "the newest checkpoint is not used: the whole log is read instead");
        state = named(&txn)?;
    }
    let since_checkpoint = fold_until(&txn, &mut state, Revision(u64::MAX))?;
    state.revision = state.kept.newest(state.revision);
    // What is not in the log: counted misses, the last run of each scope, proofs of cover.
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
    for row in txn.open_table(COVER)?.iter()? {
        let (key, bytes) = row?;
        let (viewer, number, from) = key.value();
        let row: CoverRow = decode("cover", bytes.value())?;
        if row.to.is_none()
            && let Some(cover) = state.scope_mut(number).covers.get_mut(&Viewer::new(viewer))
            && cover.from.0 == from
        {
            cover.proven = row.proven;
        }
    }
    let interrupted = interrupted(&txn, &mut state)?;
    Ok((state, Found { since_checkpoint, interrupted }))
}

/// Looks that were cut off before they could conclude anything: from here on the ledger says so.
fn interrupted(txn: &ReadTransaction, state: &mut State) -> Result<BTreeMap<RunKey, Run>, StoreError> {
    let mut runs = BTreeMap::new();
    for row in txn.open_table(LOOK)?.iter()? {
        let (number, bytes) = row?;
        let look: LookRow = decode("look", bytes.value())?;
        let known = state.scopes.get(&number.value()).ok_or(StoreError::Damaged { table: "look" })?;
        let run = ledger::interrupted(known.run.as_ref(), look);
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

/// Nothing but the names that numbers of the file stand for.
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

/// Folds what the log says after the state, up to and including `until`. Returns how many entries.
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
