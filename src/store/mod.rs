//! The multi-version store on redb. It depends on neither Kubernetes nor a cloud.
//!
//! - [`file`]: the layout of the file.
//! - [`state`]: the state at a revision, a fold of the log, with its indexes and checkpoints.
//! - [`write`]: from a sweep to a durable revision.
//! - [`read`]: queries of the present and the past.
//! - [`upkeep`]: checkpoints, retention, checks, backups, exports and scrubbing.
//! - [`notes`]: small durable values of a subscriber; [`tenants`]: which tenant owns the recorded past.
//! - [`meters`]: metrics of the store; [`mutants`]: faults that the tests must detect.
//!
//! `state` uses `file`; `write` and `read` use both, and not each other; `upkeep` uses all. tests/house.rs checks it.
//!
//! A commit plans against the current state under the lock of its scope, writes everything that is queued in one
//! durable redb transaction, folds it into the state, and publishes the revision. Nothing is visible before it is
//! durable. Readers use persistent copies of the state and redb's own snapshots, so readers and the writer never
//! wait for each other.

/// Evaluates an expression for each table of the file.
macro_rules! each_table {
    ($table:ident => $each:expr) => {
        each_table!(@of $table, $each, [
            log::LOG, lives::LIFE, lives::END, lives::KEY, checkpoint::CKPT, checkpoint::CKPT_SHOWN,
            checkpoint::CKPT_REST, tables::SCOPE, tables::RUN, tables::OPEN_SWEEP, tables::SUSPECT, tables::SYM,
            tables::DICT, tables::VISIBILITY, tables::KEPT, tables::NOTE, tables::META,
        ])
    };
    (@of $table:ident, $each:expr, [$($definition:expr),* $(,)?]) => {$({
        #[allow(unused_imports)] // Each use needs one of them.
        use $crate::store::{file::{lives, log, tables}, state::checkpoint};
        let $table = $definition;
        $each;
    })*};
}

mod error;
#[cfg(test)]
mod faults;
mod file;
mod meters;
mod mutants;
mod notes;
mod read;
mod state;
mod tenants;
#[cfg(test)]
pub(crate) mod tests;
mod upkeep;
mod write;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use redb::{Database, ReadableDatabase};

pub use error::{FileOp, StoreError};
pub use file::open::socket_path;
pub use file::private::{PrivateFile, clear_unfinished};
pub use file::tables::{Rid, ScopeNo};
pub use meters::Meters;
pub use read::diff::ScopedDiff;
pub use read::snapshot::{Line, StoreSnapshot};
pub use read::visibility::{ChangedSince, VisibilityIntervals, VisibleScope};
pub use read::watch::{Watch, WatchBatch};
pub use state::kept::Retention;
pub use upkeep::backup::BackupReport;
pub use upkeep::check::{CheckReport, Flaw, StoreStats, TableStats};
pub use upkeep::export::{ExportFormat, ExportTable};
pub use upkeep::retention::RetentionReport;
pub use upkeep::scrub::Cleaning;
pub use write::commit::{Missed, Recorded};

use crate::inventory::{Change, Revision, Scope, Subscriber, Tags, Timestamp};
use file::documents::Trainer;
use file::open::{FreeSpaceFn, Open, free_space_fn, open_db, refuse_other_schemas, store_id};
use file::private;
use file::tables::{EntryKind, SCHEMA};
use state::State;
use state::lease::Leases;
use state::load::read_db;
use state::locator::CrossScopeIndex;
use state::shared::{Current, Shared};
use upkeep::maintenance::{self, Keeper};
use upkeep::retention;
use write::draft::Draft;
use write::waker;
use write::writer::{Request, Writer};

/// Minimum interval between writes of a visibility proof to the file. A proof is valid for a day.
const PROOF_FLUSH_INTERVAL: Duration = Duration::from_hours(1);

/// Maximum bytes of documents in one revision; the last document may exceed it. A sweep of a huge scope is
/// recorded in several revisions, so that no transaction grows with an account.
const LARGE_SWEEP_PIECE_MAX_BYTES: usize = if cfg!(test) { 32 << 10 } else { 4 << 20 };

/// Folding this many log entries when a file is opened takes a tenth of a second.
const FLUSH_CHECKPOINT_MIN_ENTRIES: usize = if cfg!(test) { 500 } else { 10_000 };

/// Number of locks that scopes share by hash: enough that sweeps of different scopes rarely wait for each other.
const SCOPE_LOCKS: usize = 1024;

/// The source of the current time. It may step back: a revision never has an earlier time than the one before it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of the operating system, with milliseconds.
pub fn system_clock() -> Clock {
    Arc::new(|| Timestamp::from(jiff::Timestamp::now()))
}

/// The result of one commit.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The newest revision after it.
    pub revision: Revision,
    /// The changes, in the order in which they were recorded. Empty if the sweep changed nothing that is reported.
    pub changes: Vec<Change>,
}

/// The store of one file. A copy is another handle of the same store, and all may be used concurrently.
///
/// A commit returns once its changes are durable. When the last handle is dropped, the part of the ledger that is
/// only in memory is written, and the file is closed.
///
/// # Examples
///
/// A sweep is committed, and read back from a snapshot:
///
/// ```
/// use std::collections::BTreeMap;
/// use std::time::Duration;
///
/// use elava::inventory::{
///     AccountId, Confirmation, Filter, IdReuse, Moment, Observation, Outcome, Presence, Region, ResourceType, Scope,
///     Snapshot, Sweep, Tags,
/// };
/// use elava::store::{Store, system_clock};
/// use serde_json::json;
///
/// let folder = tempfile::tempdir()?;
/// let store = Store::open(&folder.path().join("elava.redb"), system_clock())?;
///
/// let volume = json!({"VolumeId": "vol-1", "Size": 8});
/// let ended = store.now();
/// let sweep = Sweep {
///     scope: Scope {
///         provider: "aws".into(),
///         partition: "aws".into(),
///         endpoint: "".into(),
///         account: AccountId::new("111122223333"),
///         region: Region::new("eu-west-1"),
///         resource_type: ResourceType::new("AWS::EC2::Volume"),
///     },
///     started: ended.minus(Duration::from_secs(1)),
///     ended,
///     cadence: Some(Duration::from_mins(5)),
///     shape: 1,
///     ids: IdReuse::Unique,
///     confirmation: Confirmation::ReadById,
///     outcome: Outcome::Complete,
///     observations: vec![Observation {
///         tags: Tags::Known([("owner", "team-a")].into_iter().collect()),
///         attributes: (&volume).into(),
///         ..Observation::unread("vol-1")
///     }],
///     absences: BTreeMap::new(),
///     held: false,
///     skew_millis: 0,
/// };
/// let delta = store.commit(&sweep, None)?;
/// assert_eq!(delta.changes.len(), 1);
///
/// let snapshot = store.snapshot(Moment::Now)?;
/// assert_eq!(snapshot.revision(), delta.revision);
/// let resources = snapshot.resources(&Filter::default())?;
/// assert_eq!(resources.len(), 1);
/// assert_eq!(resources[0].key.to_string(), "aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-1");
/// assert_eq!(resources[0].presence, Presence::Present);
/// assert_eq!(snapshot.attributes(&resources[0])?, volume);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

impl Store {
    /// Runs work that reads or writes the file on a thread that may block. If it panics, the error is
    /// [`StoreError::Panicked`].
    ///
    /// # Errors
    ///
    /// The error of the work, or [`StoreError::Panicked`] if it panics.
    pub async fn run_blocking<T, E>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|_| Err(StoreError::Panicked.into()))
    }

    /// Opens the store at `path`, or creates it.
    ///
    /// Folders on the path are created as well. Only one process can have a file open.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`], [`StoreError::Schema`] or [`StoreError::NotAStore`] if there is a file that can't
    /// be used, [`StoreError::Damaged`] if its content is invalid, [`StoreError::Io`] if the file or its folder
    /// can't be created or opened, [`StoreError::Database`] if it can't be read or written.
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
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] if there is no file, otherwise as [`Store::open`].
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
        let (bell, heard) = waker::bell();
        let writer = Writer::start(shared.clone(), bell.clone(), found).map_err(io)?;
        let keeper = Keeper::start(shared.clone(), writer.queue().clone(), bell, heard).map_err(io)?;
        let scopes = (0..SCOPE_LOCKS).map(|_| Mutex::new(())).collect();
        Ok(Self { inner: Arc::new(Inner { keeper, writer, scopes, tenants: RwLock::default(), shared }) })
    }

    /// The path of the file, as it was given when the store was opened.
    pub fn path(&self) -> &Path {
        &self.inner.shared.path
    }

    /// The current time by the clock of the store. It may lie before the time of the newest revision: see
    /// [`Store::clock_lag`].
    pub fn now(&self) -> Timestamp {
        self.inner.shared.now()
    }

    /// Notified when a revision has been published.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.inner.shared.revisions.subscribe()
    }

    /// The newest revision, which is durable; [`Revision::ZERO`] if nothing was recorded.
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

    /// How far our clock is behind the newest time in the store; zero if it is not.
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

    /// Number of live resources in a scope, watched or not; zero if nothing of the scope was recorded.
    pub fn live_count(&self, scope: &Scope) -> usize {
        let state = self.state();
        state.scope_numbers.get(scope).map_or(0, |number| state.scopes[number].order.len())
    }

    /// The revision of the last change of the live resource with this id; `None` if no resource with this id is
    /// live.
    pub fn changed(&self, scope: &Scope, id: &str) -> Option<Revision> {
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.head(rid).changed)
    }

    /// The tags that a live resource is known to have now; `None` if no resource with this id is live.
    pub fn known_tags(&self, scope: &Scope, id: &str) -> Option<Tags> {
        // Read under the lock: too short to be worth a copy.
        let state = &self.inner.shared.current().state;
        let rid = state.rid(*state.scope_numbers.get(scope)?, id)?;
        Some(state.tags(state.head(rid).tags))
    }

    /// When a subscriber last proved a scope with its own credentials; `None` if it can't see the scope.
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

    /// All current visibilities: each subscriber with each scope that it can see, in the order of the scopes'
    /// numbers.
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
    ///
    /// The subscribers that can see a scope lose it. Scopes that are not open are skipped.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. Scopes before the one that failed stay closed.
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
    ///
    /// # Errors
    ///
    /// As [`Store::close_scopes`].
    pub fn close_invisible_scopes(&self, among: impl Fn(&Scope) -> bool) -> Result<(), StoreError> {
        let state = self.state();
        let uncovered =
            state.scopes.values().filter(|s| s.is_open() && s.visibilities.is_empty() && among(&s.scope));
        self.close_scopes(&uncovered.map(|s| s.scope.clone()).collect::<Vec<_>>())
    }

    /// Revokes a subscriber's visibility of a scope: from here on it sees nothing of it.
    ///
    /// Does nothing if the subscriber can't see the scope.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again.
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

    /// Whether nothing was recorded since the store was restored from a backup.
    pub fn is_just_restored(&self) -> bool {
        let state = self.inner.shared.state();
        state.kept.gaps.last().is_some_and(|gap| state.revision.0 <= gap.next)
    }

    /// Writes a checkpoint of the newest state, on the caller's thread.
    ///
    /// Does nothing if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. [`StoreError::Database`] if the file can't be read.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        maintenance::checkpoint(&self.inner.shared, self.inner.writer.queue(), &AtomicBool::new(false))
    }

    /// Sets the retention that is applied in the background from now on.
    pub fn keep(&self, retention: Retention) {
        *self.inner.shared.retention.lock().unwrap_or_else(PoisonError::into_inner) = Some(retention);
        self.inner.keeper.wake();
    }

    /// Applies a retention, on the caller's thread. Other commits can run in between.
    ///
    /// An interrupted run leaves a consistent file, and the next one continues.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. [`StoreError::Database`] or [`StoreError::Damaged`] if the file can't be
    /// read.
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

    /// The metrics of the store, which are updated as long as it is open.
    pub fn meters(&self) -> &Meters {
        &self.inner.shared.meters
    }

    /// Size of the file, and free bytes on its volume; each is `None` if unknown.
    pub fn room(&self) -> (Option<u64>, Option<u64>) {
        let file = std::fs::metadata(self.path()).ok().map(|file| file.len());
        (file, (self.inner.shared.room)())
    }

    /// Writes the part of the ledger that is only in memory, and a checkpoint if the next open would have much to
    /// fold. Called before the process ends.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. [`StoreError::Database`] if the file can't be read.
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
