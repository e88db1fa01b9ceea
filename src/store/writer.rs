//! The one writer: a thread that takes what scopes have to record, commits all that is queued in one
//! durable transaction, then publishes it and answers. Nothing is visible before it is durable, and no
//! lock is held over an fsync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::WriteTransaction;

use super::draft::{Draft, Drafted};
use super::keeper::Bell;
use super::life::{self, END, KEY, LIFE, Life, Tombstone};
use super::log::{LOG, Logged, Pages};
use super::record::{
    COVER, CoverRow, DICT, Entry, EntryKind, LOOK, LookRow, NOTE, RUN, RevRow, Rid, Run, SCOPE, SUSPECT, SYM,
    ScopeNo, encode,
};
use super::state::{State, TagNumbers};
use super::whereabouts::Turn;
use super::{Delta, Shared, StoreError, mutants, scope_number};
use super::{checkpoint, retention};
use crate::inventory::{Outcome, Reason, Suspect, Timestamp, Viewer};

/// Unchanged sweeps are written together at most so often: a crash may lose a minute of "still there".
const LEDGER_FLUSH: Duration = Duration::from_mins(1);
/// How long after one attempt to open a file whose disk failed the next is made.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };
/// Who has more to record waits until some of it is durable.
const QUEUE: usize = 256;
/// A checkpoint is due after so many entries of the log, and more where more lives: to fold them takes
/// about as long as to read one.
const CHECKPOINT: usize = if cfg!(test) { 1_000 } else { 100_000 };
/// A transaction takes no more requests beyond so many bytes.
const BATCH_BYTES: usize = 4 << 20;

/// A scope, and the end of the first sweep.
pub(super) type RunKey = (ScopeNo, Timestamp);

/// What a caller asks for.
pub(super) enum Request {
    /// With the epoch of the file that it was planned on.
    Record(Box<Draft>, u64),
    Notes(Viewer, Vec<(String, Option<Vec<u8>>)>),
    Checkpoint(Box<checkpoint::Slice>),
    Retain(Box<retention::Step>),
    /// Write what is only in memory of the ledger.
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
pub(super) struct Queue {
    requests: SyncSender<Queued>,
    waiting: Arc<AtomicI64>,
}

impl Queue {
    /// Returns once it is durable and published.
    pub fn ask(&self, request: Request) -> Result<Delta, StoreError> {
        let (answer, answered) = sync_channel(1);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.requests.send(Queued { request, answer });
        let answer = sent.ok().and_then(|()| answered.recv().ok());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // A writer that is gone will write nothing more.
        answer.unwrap_or(Err(StoreError::Poisoned))
    }

    /// How many wait for what they record to be durable.
    pub fn waiting(&self) -> i64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The writer's thread. It ends when this and every queue are dropped, and has then written everything.
pub(super) struct Writer {
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Rings after every so many entries of the log.
    pub fn start(shared: Arc<Shared>, bell: Bell, found: Found) -> Result<Self, std::io::Error> {
        let (sender, requests) = sync_channel(QUEUE);
        let flushed = (shared.clock)();
        let numbers = TagNumbers::new(&shared.state());
        let Found { since_checkpoint, interrupted } = found;
        let open_looks = interrupted.keys().map(|(number, _)| *number).collect();
        shared.since_checkpoint.store(since_checkpoint, Ordering::Release);
        let gone = Gone(shared.clone());
        let mut worker = Worker {
            shared,
            bell,
            since_checkpoint,
            numbers,
            dirty_runs: interrupted,
            open_looks,
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

/// Without a writer nothing is recorded any more, however it went.
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
            // A writer that panicked has poisoned the store, and there is nobody left to tell.
            drop(thread.join());
        }
    }
}

/// Free bytes without which a commit is not begun: what it copies on the way, several times over, and as
/// much again as redb keeps in memory before it writes.
fn needed(bytes: usize) -> u64 {
    (16 << 20) + 4 * bytes as u64
}

/// What was found in the file besides its state.
pub(super) struct Found {
    /// Entries of the log that no checkpoint knows.
    pub since_checkpoint: usize,
    /// Looks that were cut off, as the runs that say so.
    pub interrupted: BTreeMap<RunKey, Run>,
}

struct Worker {
    shared: Arc<Shared>,
    bell: Bell,
    /// Entries of the log that the last checkpoint does not know.
    since_checkpoint: usize,
    numbers: TagNumbers,
    /// Runs that were lengthened in memory only.
    dirty_runs: BTreeMap<RunKey, Run>,
    /// Scopes with a look of which only some is recorded.
    open_looks: BTreeSet<ScopeNo>,
    flushed: Timestamp,
    /// When the file was last opened, or tried to be.
    tried: Instant,
}

impl Worker {
    fn run(&mut self, requests: &Receiver<Queued>) {
        loop {
            let first = match requests.recv_timeout(RETRY) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.try_to_recover();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut bytes = first.request.bytes();
            let mut queued = vec![first];
            while bytes < BATCH_BYTES
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.request.bytes();
                queued.push(next);
            }
            self.commit(queued);
        }
        // The last chance to keep the minute of "still there" that is only in memory. Nothing is lost but
        // that minute if it fails.
        if !self.shared.is_poisoned() && self.shared.check_room(needed(0)).is_ok() {
            let mut batch = Batch::default();
            self.take_runs(&mut batch);
            let state = self.shared.state();
            drop(self.write(batch, &state, &state));
        }
    }

    fn commit(&mut self, queued: Vec<Queued>) {
        self.try_to_recover();
        if self.shared.is_poisoned() {
            for Queued { answer, .. } in queued {
                drop(answer.send(Err(StoreError::Poisoned)));
            }
            return;
        }
        let bytes: usize = queued.iter().map(|queued| queued.request.bytes()).sum();
        if let Err(full) = self.shared.check_room(needed(bytes)) {
            // redb is not touched: after a write that fails it would answer no more reads.
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
        let mut is_due = now.since(self.flushed) >= LEDGER_FLUSH;
        for Queued { request, answer } in queued {
            let delta = match request {
                // What it rests on may not be in the file that was opened since.
                Request::Record(_, planned_on) if planned_on != epoch => {
                    drop(answer.send(Err(StoreError::NotWritten(Arc::new(StoreError::Poisoned)))));
                    continue;
                }
                Request::Record(draft, _) => self.record(&mut next, &mut batch, *draft, now),
                Request::Notes(viewer, notes) => {
                    batch.notes.push((viewer, notes));
                    Delta { revision: next.revision, changes: Vec::new() }
                }
                Request::Checkpoint(slice) => {
                    if slice.is_last() {
                        self.since_checkpoint = 0;
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
        // Every document that is queued rests on one of these.
        next.dictionaries = self.shared.trainer().dictionaries();
        if is_due {
            self.flushed = now;
            self.take_runs(&mut batch);
        }
        let is_checkpoint_due = self.since_checkpoint >= CHECKPOINT.max(next.heads.len() / 4);
        self.shared.since_checkpoint.store(self.since_checkpoint, Ordering::Release);
        let turn = batch.turn();
        if mutants::is_awake("published before it is durable") {
            drop(self.shared.publish(next.clone(), &Turn::default()));
        }
        let written = self.write(batch, &current, &next);
        match written.and_then(|()| self.shared.publish(next, &turn)) {
            Ok(()) => {
                if is_checkpoint_due {
                    self.shared.is_checkpoint_due.store(true, Ordering::Release);
                    self.bell.ring();
                }
                for (answer, delta) in answers {
                    // Who no longer waits has no need of it.
                    drop(answer.send(Ok(delta)));
                }
            }
            Err(error) => {
                // A commit that failed is indeterminate: only a reopened file tells what is in it.
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

    /// Where that is due.
    fn try_to_recover(&mut self) {
        if self.shared.is_poisoned() && self.tried.elapsed() >= RETRY {
            self.recover();
        }
    }

    /// After an error of the disk redb answers nothing more of what it does not hold in memory: readers are told,
    /// and the file is opened again. What it holds then is what goes on; whoever planned before plans again.
    fn recover(&mut self) {
        self.tried = Instant::now();
        let store = self.shared.path.display().to_string();
        match self.shared.open_again() {
            Ok(Found { since_checkpoint, interrupted }) => {
                self.since_checkpoint = since_checkpoint;
                self.shared.since_checkpoint.store(since_checkpoint, Ordering::Release);
                self.numbers = TagNumbers::new(&self.shared.state());
                self.open_looks = interrupted.keys().map(|(number, _)| *number).collect();
                // A minute of "still there" may be lost, as in a crash.
                self.dirty_runs = interrupted;
                tracing::info!(store, revision = self.shared.state().revision.0, "the store is open again");
            }
            Err(error) => tracing::warn!(store, %error, "the store can't be opened again yet"),
        }
    }

    /// Folds a draft into the next state and adds what must be written of it.
    fn record(&mut self, next: &mut State, batch: &mut Batch, mut draft: Draft, now: Timestamp) -> Delta {
        let number = scope_number(next, &draft.scope);
        let time = now.max(next.time);
        // The end of a look of which pages are in the file goes there, too, whatever it says.
        let must_write = draft.must_write() || (draft.run.is_some() && self.open_looks.contains(&number));
        let (run, proof) = (draft.run.take(), draft.proof.take());
        let look = draft.look;
        let mut drafted = Drafted::number(draft, number, time, next, &mut self.numbers);
        let logged = std::mem::take(&mut drafted.logged);
        if !logged.is_empty() {
            let entries: Vec<Entry> = logged.iter().map(|logged| logged.entry.clone()).collect();
            let count = u32::try_from(entries.len()).expect("a delta has fewer than 2^32 entries");
            let row = RevRow { time, scope: number, entries: count };
            let revision = next.revision.next();
            self.since_checkpoint += entries.len();
            batch.covers(next, number, revision.0, time, &logged);
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
            && let Some(viewer) = proof
            && let Some(cover) = next.scope_mut(number).covers.get_mut(&viewer)
        {
            cover.proven = time;
            batch.covers.insert((viewer, number, cover.from.0), CoverRow { to: None, proven: time });
        }
        if must_write {
            // With what is only in memory of the runs before it: a look that was cut off once is told of before
            // the next of its scope begins.
            let of_scope = |(key, _): &(&RunKey, &Run)| key.0 == number;
            let known = self.dirty_runs.range((number, Timestamp::MIN)..).take_while(of_scope);
            let known: Vec<RunKey> = known.map(|(key, _)| *key).collect();
            batch.runs.extend(known.into_iter().filter_map(|key| self.dirty_runs.remove_entry(&key)));
        }
        if look.is_some() || (run.is_some() && self.open_looks.contains(&number)) {
            batch.looks.insert(number, look);
            if look.is_some() {
                self.open_looks.insert(number)
            } else {
                self.open_looks.remove(&number)
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

    /// What is only in memory of the ledger.
    fn take_runs(&mut self, batch: &mut Batch) {
        for (key, run) in std::mem::take(&mut self.dirty_runs) {
            if run.outcome == Outcome::Partial(Reason::Interrupted) && self.open_looks.remove(&key.0) {
                batch.looks.entry(key.0).or_insert(None);
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

/// What one transaction writes.
#[derive(Default)]
struct Batch {
    pages: Pages,
    /// They follow each other.
    lives: BTreeMap<Rid, Life>,
    ended: BTreeMap<(u64, Rid), Tombstone>,
    retracted: BTreeMap<(u64, Rid), Tombstone>,
    runs: BTreeMap<RunKey, Run>,
    looks: BTreeMap<ScopeNo, Option<LookRow>>,
    /// What becomes of the suspect rows.
    suspects: BTreeMap<Rid, Option<Suspect>>,
    covers: BTreeMap<(Viewer, ScopeNo, u64), CoverRow>,
    notes: Vec<(Viewer, Vec<(String, Option<Vec<u8>>)>)>,
    checkpoint: Vec<checkpoint::Slice>,
    retained: Vec<retention::Step>,
}

impl Batch {
    /// New scopes, sets, identities and dictionaries come with pages.
    fn is_empty(&self) -> bool {
        self.pages.is_empty()
            && self.runs.is_empty()
            && self.suspects.is_empty()
            && self.looks.is_empty()
            && self.covers.is_empty()
            && self.notes.is_empty()
            && self.checkpoint.is_empty()
            && self.retained.is_empty()
    }

    fn turn(&self) -> Turn {
        let life = |((_, rid), tombstone): (&(u64, Rid), &Tombstone)| (*rid, tombstone.life.clone());
        let new = self.lives.iter().map(|(rid, life)| (*rid, life.clone()));
        let begun = new.chain(self.retracted.iter().map(life)).collect();
        Turn { ended: self.ended.iter().map(life).collect(), begun }
    }

    fn covers(&mut self, before: &State, scope: ScopeNo, revision: u64, time: Timestamp, logged: &[Logged]) {
        for Logged { entry, .. } in logged {
            match &entry.kind {
                EntryKind::CoverGained { viewer } => {
                    let key = (Viewer::new(viewer.clone()), scope, revision);
                    self.covers.insert(key, CoverRow { to: None, proven: time });
                }
                EntryKind::CoverLost { viewer } => {
                    let viewer = Viewer::new(viewer.clone());
                    let held = before.scopes[&scope].covers.get(&viewer).expect("what is lost was held");
                    let row = CoverRow { to: Some(revision), proven: held.proven };
                    self.covers.insert((viewer, scope, held.from.0), row);
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
            life::append(&mut txn.open_table(LIFE)?, *first, &lives)?;
        }
        let mut ends = txn.open_table(END)?;
        let mut keys = txn.open_table(KEY)?;
        let hash = |life: &Life| life::key_hash(&next.scopes[&life.scope].scope, &life.id);
        for (key, tombstone) in &self.ended {
            ends.insert(key, life::seal_tombstone(*key, tombstone).as_slice())?;
            keys.insert(hash(&tombstone.life), (key.1, key.0))?;
        }
        for (key, tombstone) in &self.retracted {
            ends.insert(key, life::seal_tombstone(*key, tombstone).as_slice())?;
            keys.remove(hash(&tombstone.life))?;
        }
        // Of the dead only.
        for life in self.lives.values().filter(|life| life.before.is_some()) {
            keys.remove(hash(life))?;
        }
        let mut runs = txn.open_table(RUN)?;
        for ((number, first_ended), run) in &self.runs {
            runs.insert((*number, first_ended.as_millis()), encode(run).as_slice())?;
        }
        let mut looks = txn.open_table(LOOK)?;
        for (number, look) in &self.looks {
            match look {
                Some(look) => looks.insert(number, encode(look).as_slice())?,
                None => looks.remove(number)?,
            };
        }
        let mut suspects = txn.open_table(SUSPECT)?;
        for (rid, suspect) in &self.suspects {
            match suspect {
                Some(suspect) => suspects.insert(rid, encode(suspect).as_slice())?,
                None => suspects.remove(rid)?,
            };
        }
        let mut covers = txn.open_table(COVER)?;
        for ((viewer, scope, from), row) in &self.covers {
            covers.insert((viewer.as_str(), *scope, *from), encode(row).as_slice())?;
        }
        for slice in &self.checkpoint {
            slice.write(txn)?;
        }
        let mut notes = txn.open_table(NOTE)?;
        for (viewer, named) in &self.notes {
            for (name, bytes) in named {
                let key = (viewer.as_str(), name.as_str());
                match bytes {
                    Some(bytes) => notes.insert(key, bytes.as_slice())?,
                    None => notes.remove(key)?,
                };
            }
        }
        Ok(())
    }
}
