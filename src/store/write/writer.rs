//! The only writer: a thread that takes records from scopes, commits everything that is queued in one durable
//! transaction, then publishes it and replies. Nothing is visible before it is durable, and no lock is held during
//! an fsync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::WriteTransaction;

use crate::inventory::{Outcome, Reason, Subscriber, Suspect, Timestamp};
use crate::store::file::lives::{self, END, KEY, LIFE, Life, Tombstone};
use crate::store::file::log::{LOG, Logged, Pages};
use crate::store::file::tables::{
    DICT, Entry, EntryKind, NOTE, OPEN_SWEEP, OpenSweepRow, RUN, RevisionRow, Rid, Run, SCOPE, SUSPECT, SYM,
    ScopeNo, VISIBILITY, VisibilityRow, encode,
};
use crate::store::mutants;
use crate::store::state::checkpoint;
use crate::store::state::load::scope_number;
use crate::store::state::load::{Recovered, RunKey};
use crate::store::state::locator::LifeDelta;
use crate::store::state::shared::Shared;
use crate::store::state::{State, TagNumbers};
use crate::store::write::draft::{Draft, Drafted};
use crate::store::write::retain::RetentionStep;
use crate::store::write::waker::KeeperWaker;
use crate::store::{Delta, StoreError};

/// Minimum interval between writes of unchanged sweeps: a crash may lose a minute of "still there".
const LEDGER_FLUSH_INTERVAL: Duration = Duration::from_mins(1);
/// Interval between attempts to reopen a file after a disk error.
const REOPEN_INTERVAL: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };
/// Maximum number of queued requests. Further callers wait.
const QUEUE_MAX_REQUESTS: usize = 256;
/// A checkpoint is due after this many log entries, and more if more resources are live: folding them takes about
/// as long as reading a checkpoint.
const CHECKPOINT_MIN_ENTRIES: usize = if cfg!(test) { 1_000 } else { 100_000 };
/// A transaction takes no more requests beyond this many bytes.
const BATCH_MAX_BYTES: usize = 4 << 20;

/// A request of a caller.
pub(in crate::store) enum Request {
    /// With the epoch of the file in which it was planned.
    Record(Box<Draft>, u64),
    Notes(Subscriber, Vec<(String, Option<Vec<u8>>)>),
    Checkpoint(Box<checkpoint::Slice>),
    Retain(Box<RetentionStep>),
    /// Write the part of the ledger that is only in memory.
    Flush,
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Record(draft, _) => draft.bytes(),
            Request::Notes(_, notes) => notes.iter().filter_map(|(_, bytes)| bytes.as_ref()).map(Vec::len).sum(),
            Request::Checkpoint(slice) => slice.bytes(),
            Request::Retain(step) => step.bytes(),
            Request::Flush => 0,
        }
    }
}

struct Queued {
    request: Request,
    answer: SyncSender<Result<Delta, StoreError>>,
}

/// The callers' end of the writer's queue.
#[derive(Clone)]
pub(in crate::store) struct Queue {
    requests: SyncSender<Queued>,
    waiting: Arc<AtomicI64>,
}

impl Queue {
    /// Returns once the request is durable and published.
    pub fn submit(&self, request: Request) -> Result<Delta, StoreError> {
        let (answer, answered) = sync_channel(1);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.requests.send(Queued { request, answer });
        let answer = sent.ok().and_then(|()| answered.recv().ok());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // A writer that has ended will write nothing more.
        answer.unwrap_or(Err(StoreError::Poisoned))
    }

    /// Number of callers that wait for their records to become durable.
    pub fn waiting(&self) -> i64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The writer's thread. It ends when this and every queue are dropped, and has then written everything.
pub(in crate::store) struct Writer {
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// The bell rings each time a checkpoint is due.
    pub fn start(shared: Arc<Shared>, bell: KeeperWaker, found: Recovered) -> Result<Self, std::io::Error> {
        let (sender, requests) = sync_channel(QUEUE_MAX_REQUESTS);
        let flushed = (shared.clock)();
        let numbers = TagNumbers::new(&shared.state());
        let Recovered { interrupted } = found;
        let open_sweeps = interrupted.keys().map(|(number, _)| *number).collect();
        shared.since_checkpoint.store(shared.state().folded, Ordering::Release);
        let gone = Gone(shared.clone());
        let mut worker = Worker {
            shared,
            bell,
            checkpointed: 0,
            numbers,
            dirty_runs: interrupted,
            open_sweeps,
            flushed,
            tried: Instant::now(),
        };
        let write = move || {
            let _gone = gone;
            worker.run(&requests);
        };
        let thread = std::thread::Builder::new().name("store writer".to_owned()).spawn(write)?;
        let queue = Queue { requests: sender, waiting: Arc::default() };
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub fn queue(&self) -> &Queue {
        self.queue.as_ref().expect("it is taken only when this is dropped")
    }
}

/// Poisons the store when the writer ends, for whatever reason: nothing is recorded any more.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.poison();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has poisoned the store, and no caller is left.
            drop(thread.join());
        }
    }
}

/// Free bytes that a commit requires: several times its own bytes, for what it copies, and as much as redb keeps
/// in memory before it writes.
fn needed(bytes: usize) -> u64 {
    (16 << 20) + 4 * bytes as u64
}

struct Worker {
    shared: Arc<Shared>,
    bell: KeeperWaker,
    /// [`State::folded`] of the state in the newest checkpoint.
    checkpointed: usize,
    numbers: TagNumbers,
    /// Runs that were extended in memory only.
    dirty_runs: BTreeMap<RunKey, Run>,
    /// Scopes with a sweep that is only partly recorded.
    open_sweeps: BTreeSet<ScopeNo>,
    flushed: Timestamp,
    /// When the file was last opened, or an attempt was made.
    tried: Instant,
}

impl Worker {
    fn run(&mut self, requests: &Receiver<Queued>) {
        loop {
            let first = match requests.recv_timeout(REOPEN_INTERVAL) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.recover_if_due();
                    // Nothing but what is due: the ledger.
                    if !self.dirty_runs.is_empty() && self.is_flush_due() {
                        self.commit(Vec::new());
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut bytes = first.request.bytes();
            let mut queued = vec![first];
            while bytes < BATCH_MAX_BYTES
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.request.bytes();
                queued.push(next);
            }
            self.commit(queued);
        }
        // The last chance to write the minute of "still there" that is only in memory. If it fails, nothing but
        // that minute is lost.
        if !self.shared.is_poisoned() && self.shared.check_room(needed(0)).is_ok() {
            let mut batch = Batch::default();
            self.take_runs(&mut batch);
            let state = self.shared.state();
            drop(self.write(batch, &state, &state));
        }
    }

    fn is_flush_due(&self) -> bool {
        self.shared.now().since(self.flushed) >= LEDGER_FLUSH_INTERVAL
    }

    fn commit(&mut self, queued: Vec<Queued>) {
        self.recover_if_due();
        if self.shared.is_poisoned() {
            for Queued { answer, .. } in queued {
                drop(answer.send(Err(StoreError::Poisoned)));
            }
            return;
        }
        let bytes: usize = queued.iter().map(|queued| queued.request.bytes()).sum();
        if let Err(full) = self.shared.check_room(needed(bytes)) {
            // redb is not called: after a failed write it would fail all reads.
            let full = Arc::new(full);
            for Queued { answer, .. } in queued {
                drop(answer.send(Err(StoreError::NotWritten(full.clone()))));
            }
            return;
        }
        let current = self.shared.state();
        let mut next = current.clone();
        let mut batch = Batch::default();
        let mut answers = Vec::with_capacity(queued.len());
        let epoch = self.shared.epoch();
        let now = self.shared.now();
        let mut is_due = self.is_flush_due();
        for Queued { request, answer } in queued {
            let delta = match request {
                // What it is based on may not be in the file that was reopened since.
                Request::Record(_, planned_on) if planned_on != epoch => {
                    drop(answer.send(Err(StoreError::NotWritten(Arc::new(StoreError::Poisoned)))));
                    continue;
                }
                Request::Record(draft, _) => self.record(&mut next, &mut batch, *draft, now),
                Request::Notes(subscriber, notes) => {
                    batch.notes.push((subscriber, notes));
                    Delta { revision: next.revision, changes: Vec::new() }
                }
                Request::Checkpoint(slice) => {
                    if slice.is_last() {
                        self.checkpointed = slice.folded;
                    }
                    batch.checkpoint.push(*slice);
                    Delta { revision: next.revision, changes: Vec::new() }
                }
                Request::Retain(step) => {
                    next.retained(&step);
                    batch.retained.push(*step);
                    Delta { revision: next.revision, changes: Vec::new() }
                }
                Request::Flush => {
                    is_due = true;
                    Delta { revision: next.revision, changes: Vec::new() }
                }
            };
            answers.push((answer, delta));
        }
        // Contains every dictionary that a queued document needs.
        next.dictionaries = self.shared.trainer().dictionaries();
        if is_due {
            self.flushed = now;
            self.take_runs(&mut batch);
        }
        let since_checkpoint = next.folded - self.checkpointed;
        let is_checkpoint_due = since_checkpoint >= CHECKPOINT_MIN_ENTRIES.max(next.heads.len() / 4);
        self.shared.since_checkpoint.store(since_checkpoint, Ordering::Release);
        let life_delta = batch.life_delta();
        if mutants::is_awake("published before it is durable") {
            drop(self.shared.publish(next.clone(), &LifeDelta::default()));
        }
        let written = self.write(batch, &current, &next);
        match written.and_then(|()| self.shared.publish(next, &life_delta)) {
            Ok(()) => {
                if is_checkpoint_due {
                    self.shared.is_checkpoint_due.store(true, Ordering::Release);
                    self.bell.ring();
                }
                for (answer, delta) in answers {
                    // A caller that no longer waits does not need it.
                    drop(answer.send(Ok(delta)));
                }
            }
            Err(error) => {
                // A commit that failed is indeterminate: only a reopened file shows what is in it.
                self.shared.poison();
                tracing::error!(store = %self.shared.path.display(), %error, "the disk failed: the store is opened again");
                let error = Arc::new(error);
                for (answer, _) in answers {
                    drop(answer.send(Err(StoreError::NotWritten(error.clone()))));
                }
                self.recover();
            }
        }
    }

    /// Reopens the file if that is due.
    fn recover_if_due(&mut self) {
        if self.shared.is_poisoned() && self.tried.elapsed() >= REOPEN_INTERVAL {
            self.recover();
        }
    }

    /// After a disk error redb can only read what it holds in memory: readers get an error, and the file is
    /// reopened. The store continues with its content; callers that planned before plan again.
    fn recover(&mut self) {
        self.tried = Instant::now();
        let store = self.shared.path.display().to_string();
        match self.shared.open_again() {
            Ok(Recovered { interrupted }) => {
                self.checkpointed = 0;
                self.shared.since_checkpoint.store(self.shared.state().folded, Ordering::Release);
                self.numbers = TagNumbers::new(&self.shared.state());
                self.open_sweeps = interrupted.keys().map(|(number, _)| *number).collect();
                // A minute of "still there" may be lost, as in a crash.
                self.dirty_runs = interrupted;
                tracing::info!(store, revision = self.shared.state().revision.0, "the store is open again");
            }
            Err(error) => tracing::warn!(store, %error, "the store can't be opened again yet"),
        }
    }

    /// Folds a draft into the next state and adds its records to the batch.
    fn record(&mut self, next: &mut State, batch: &mut Batch, mut draft: Draft, now: Timestamp) -> Delta {
        let number = scope_number(next, &draft.scope);
        let time = now.max(next.time);
        // If pages of a sweep are in the file, its end is written too, whatever it contains.
        let must_write = draft.must_write() || (draft.run.is_some() && self.open_sweeps.contains(&number));
        let (run, proof) = (draft.run.take(), draft.proof.take());
        let open_sweep = draft.open_sweep;
        let mut drafted = Drafted::number(draft, number, time, next, &mut self.numbers);
        let logged = std::mem::take(&mut drafted.logged);
        if !logged.is_empty() {
            let entries: Vec<Entry> = logged.iter().map(|logged| logged.entry.clone()).collect();
            let count = u32::try_from(entries.len()).expect("a delta has fewer than 2^32 entries");
            let row = RevisionRow { time, scope: number, entries: count };
            let revision = next.revision.next();
            batch.visibilities(next, number, revision.0, time, &logged);
            next.apply(revision, &row, &entries, &mut drafted).expect("every life is in the draft");
            batch.pages.add(revision, &row, logged);
            batch.ended.extend(drafted.ended.into_iter().map(|(rid, tombstone)| ((revision.0, rid), tombstone)));
        }
        for (rid, suspect) in &drafted.suspects {
            if let Some(suspect) = suspect {
                next.suspects.insert(*rid, suspect.clone());
            }
        }
        if must_write
            && let Some(subscriber) = proof
            && let Some(visibility) = next.scope_mut(number).visibilities.get_mut(&subscriber)
        {
            visibility.proven = time;
            batch
                .visibilities
                .insert((subscriber, number, visibility.from.0), VisibilityRow { to: None, proven: time });
        }
        if must_write {
            // With earlier runs of the scope that are only in memory: a sweep that was cut off is recorded before
            // the next one of its scope.
            let of_scope = |(key, _): &(&RunKey, &Run)| key.0 == number;
            let known = self.dirty_runs.range((number, Timestamp::MIN)..).take_while(of_scope);
            let known: Vec<RunKey> = known.map(|(key, _)| *key).collect();
            batch.runs.extend(known.into_iter().filter_map(|key| self.dirty_runs.remove_entry(&key)));
        }
        if open_sweep.is_some() || (run.is_some() && self.open_sweeps.contains(&number)) {
            batch.unfinished_sweeps.insert(number, open_sweep);
            if open_sweep.is_some() {
                self.open_sweeps.insert(number)
            } else {
                self.open_sweeps.remove(&number)
            };
        }
        if let Some(run) = run {
            let scope = next.scope_mut(number);
            if run.outcome == Outcome::Complete {
                scope.last_complete = Some(run.last_ended);
            }
            scope.run = Some(run.clone());
            let key = (number, run.first_ended);
            if must_write {
                batch.runs.insert(key, run);
            } else {
                self.dirty_runs.insert(key, run);
            }
        }
        batch.lives.extend(drafted.lives);
        batch.retracted.extend(drafted.retracted);
        batch.suspects.extend(drafted.suspects);
        Delta { revision: next.revision, changes: drafted.changes }
    }

    /// Moves the runs that are only in memory into the batch.
    fn take_runs(&mut self, batch: &mut Batch) {
        for (key, run) in std::mem::take(&mut self.dirty_runs) {
            if run.outcome == Outcome::Partial(Reason::Interrupted) && self.open_sweeps.remove(&key.0) {
                batch.unfinished_sweeps.entry(key.0).or_insert(None);
            }
            batch.runs.entry(key).or_insert(run);
        }
    }

    fn write(&self, batch: Batch, current: &State, next: &State) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut txn = self.shared.db()?.begin_write()?;
        if mutants::is_awake("the sync is skipped") {
            txn.set_durability(redb::Durability::None).expect("it is a new transaction");
        }
        let began = Instant::now();
        batch.write(&txn, current, next)?;
        txn.commit()?;
        self.shared.meters.commit_seconds.observe(began.elapsed().as_secs_f64());
        Ok(())
    }
}

/// The content of one transaction.
#[derive(Default)]
struct Batch {
    pages: Pages,
    /// With consecutive row numbers.
    lives: BTreeMap<Rid, Life>,
    ended: BTreeMap<(u64, Rid), Tombstone>,
    retracted: BTreeMap<(u64, Rid), Tombstone>,
    runs: BTreeMap<RunKey, Run>,
    unfinished_sweeps: BTreeMap<ScopeNo, Option<OpenSweepRow>>,
    /// Changes of the suspect rows; `None` removes one.
    suspects: BTreeMap<Rid, Option<Suspect>>,
    visibilities: BTreeMap<(Subscriber, ScopeNo, u64), VisibilityRow>,
    notes: Vec<(Subscriber, Vec<(String, Option<Vec<u8>>)>)>,
    checkpoint: Vec<checkpoint::Slice>,
    retained: Vec<RetentionStep>,
}

impl Batch {
    /// New scopes, sets, identities and dictionaries come with pages.
    fn is_empty(&self) -> bool {
        self.pages.is_empty()
            && self.runs.is_empty()
            && self.suspects.is_empty()
            && self.unfinished_sweeps.is_empty()
            && self.visibilities.is_empty()
            && self.notes.is_empty()
            && self.checkpoint.is_empty()
            && self.retained.is_empty()
    }

    fn life_delta(&self) -> LifeDelta {
        let life = |((_, rid), tombstone): (&(u64, Rid), &Tombstone)| (*rid, tombstone.life.clone());
        let new = self.lives.iter().map(|(rid, life)| (*rid, life.clone()));
        let begun = new.chain(self.retracted.iter().map(life)).collect();
        LifeDelta { ended: self.ended.iter().map(life).collect(), begun }
    }

    fn visibilities(&mut self, before: &State, scope: ScopeNo, revision: u64, time: Timestamp, logged: &[Logged]) {
        for Logged { entry, .. } in logged {
            match &entry.kind {
                EntryKind::VisibilityGained { subscriber } => {
                    let key = (Subscriber::new(subscriber.clone()), scope, revision);
                    self.visibilities.insert(key, VisibilityRow { to: None, proven: time });
                }
                EntryKind::VisibilityLost { subscriber } => {
                    let subscriber = Subscriber::new(subscriber.clone());
                    let held = before.scopes[&scope].visibilities.get(&subscriber).expect("what is lost was held");
                    let row = VisibilityRow { to: Some(revision), proven: held.proven };
                    self.visibilities.insert((subscriber, scope, held.from.0), row);
                }
                _ => {}
            }
        }
    }

    fn write(self, txn: &WriteTransaction, current: &State, next: &State) -> Result<(), StoreError> {
        let mut dictionaries = txn.open_table(DICT)?;
        for (number, resource_type, bytes) in next.dictionaries.from(current.dictionaries.len()) {
            dictionaries.insert(number, encode(&(resource_type, bytes)).as_slice())?;
        }
        let mut scopes = txn.open_table(SCOPE)?;
        for number in current.scopes.len()..next.scopes.len() {
            let number = ScopeNo::try_from(number).expect("numbered under a u32");
            scopes.insert(number, encode(&*next.scopes[&number].scope).as_slice())?;
        }
        for step in self.retained {
            step.write(txn, &next.kept)?;
        }
        self.pages.write(&mut txn.open_table(LOG)?)?;
        let mut sets = txn.open_table(SYM)?;
        for number in current.tag_sets.len()..next.tag_sets.len() {
            let key = u32::try_from(number).expect("interned under a u32");
            sets.insert(key, encode(&next.tag_sets[number]).as_slice())?;
        }
        if let Some(first) = self.lives.keys().next() {
            let lives: Vec<Life> = self.lives.values().cloned().collect();
            lives::append(&mut txn.open_table(LIFE)?, *first, &lives)?;
        }
        let mut ends = txn.open_table(END)?;
        let mut keys = txn.open_table(KEY)?;
        let hash = |life: &Life| lives::key_hash(&next.scopes[&life.scope].scope, &life.id);
        for (key, tombstone) in &self.ended {
            ends.insert(key, lives::seal_tombstone(*key, tombstone).as_slice())?;
            keys.insert(hash(&tombstone.life), (key.1, key.0))?;
        }
        for (key, tombstone) in &self.retracted {
            ends.insert(key, lives::seal_tombstone(*key, tombstone).as_slice())?;
            keys.remove(hash(&tombstone.life))?;
        }
        // The table holds only ids that are not live.
        for life in self.lives.values().filter(|life| life.before.is_some()) {
            keys.remove(hash(life))?;
        }
        let mut runs = txn.open_table(RUN)?;
        for ((number, first_ended), run) in &self.runs {
            runs.insert((*number, first_ended.as_millis()), encode(run).as_slice())?;
        }
        let mut unfinished_sweeps = txn.open_table(OPEN_SWEEP)?;
        for (number, open_sweep) in &self.unfinished_sweeps {
            match open_sweep {
                Some(open_sweep) => unfinished_sweeps.insert(number, encode(open_sweep).as_slice())?,
                None => unfinished_sweeps.remove(number)?,
            };
        }
        let mut suspects = txn.open_table(SUSPECT)?;
        for (rid, suspect) in &self.suspects {
            match suspect {
                Some(suspect) => suspects.insert(rid, encode(suspect).as_slice())?,
                None => suspects.remove(rid)?,
            };
        }
        let mut visibilities = txn.open_table(VISIBILITY)?;
        for ((subscriber, scope, from), row) in &self.visibilities {
            visibilities.insert((subscriber.as_str(), *scope, *from), encode(row).as_slice())?;
        }
        for slice in &self.checkpoint {
            slice.write(txn)?;
        }
        let mut notes = txn.open_table(NOTE)?;
        for (subscriber, named) in &self.notes {
            for (name, bytes) in named {
                let key = (subscriber.as_str(), name.as_str());
                match bytes {
                    Some(bytes) => notes.insert(key, bytes.as_slice())?,
                    None => notes.remove(key)?,
                };
            }
        }
        Ok(())
    }
}
