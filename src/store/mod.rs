//! The multi-version store on redb. It knows no Kubernetes and no cloud.
//!
//! - [`log`]: what every revision did, in pages; [`document`]: described objects in it.
//! - [`record`]: the other tables and records of the file.
//! - [`state`]: state at a revision, the fold of the log.
//! - [`plan`]: sweep -> delta, pure.
//! - [`ledger`]: runs of sweeps; which moments are known.
//! - [`snapshot`]: reading, at any moment.
//! - [`steps`]: the log as people read it.
//!
//! A commit is: plan against the current state, one durable redb transaction, fold into the state,
//! publish the revision. Nothing is visible before it is durable. One writer (a mutex); readers work
//! on persistent copies of the state and on redb's own snapshots, so neither waits for the other.

mod document;
mod error;
#[cfg(test)]
mod faults;
mod ledger;
mod log;
mod plan;
mod record;
mod snapshot;
mod state;
mod steps;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

pub use error::StoreError;
pub use snapshot::StoreSnapshot;

use crate::inventory::{
    Change, ChangeKind, End, EndCause, Outcome, ResourceType, Revision, Scope, Suspect, Sweep, Tags, Timestamp,
    Viewer,
};
use document::Dictionaries;
use log::{LOG, Logged, Pages};
use plan::{Action, NewVersion, Plan};
use record::{
    COVER, CoverRow, DICT, Entry, EntryKind, IDENT, Ident, KEY, MAX_DOCUMENT_BYTES, MAX_ID_BYTES, META, NO_RID,
    NOTE, RUN, RevRow, Rid, Run, SCHEMA, SCOPE, SUSPECT, SYM, ScopeNo, Version, decode, encode,
};
use state::{Identities, State};

/// How much of the file redb may hold in memory: its own default of 1 GiB is more than our pod has.
const CACHE_BYTES: usize = 64 << 20;
/// Unchanged sweeps are written together at most so often: a crash may lose a minute of "still there".
const LEDGER_FLUSH: Duration = Duration::from_mins(1);
/// Proof of cover is refreshed in the file at most so often; it is good for a day.
const PROOF_FLUSH: Duration = Duration::from_hours(1);

pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

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
    path: PathBuf,
    db: Database,
    clock: Clock,
    /// What is durable and published. Readers copy it; only the writer replaces it.
    published: RwLock<State>,
    writer: Mutex<Writer>,
    revisions: tokio::sync::watch::Sender<Revision>,
}

struct Writer {
    /// Runs that were lengthened in memory only.
    dirty_runs: BTreeMap<ScopeNo, Run>,
    flushed: Timestamp,
    /// A write failed: what is on disk is not known, so nothing more is written.
    poisoned: bool,
    /// Documents of types that have no dictionary yet; none once it was tried.
    samples: BTreeMap<ResourceType, Option<Vec<Vec<u8>>>>,
}

impl Writer {
    /// Trains the dictionary of a type as soon as enough of its documents were seen.
    fn sample(&mut self, next: &mut State, resource_type: &ResourceType, draft: &Draft) {
        if draft.documents.is_empty() || next.dictionaries.has(resource_type) {
            return;
        }
        let samples = self.samples.entry(resource_type.clone()).or_insert_with(|| Some(Vec::new()));
        let Some(collected) = samples else { return };
        let room = document::SAMPLES.saturating_sub(collected.len());
        collected.extend(draft.documents.values().take(room).cloned());
        if collected.len() >= document::SAMPLES {
            if let Some(dictionary) = document::train(collected) {
                Arc::make_mut(&mut next.dictionaries).add(resource_type.clone(), dictionary.into());
            }
            *samples = None;
        }
    }
}

impl Store {
    /// Opens the store at `path`, or makes it.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|source| StoreError::Io { path: parent.to_owned(), source })?;
        }
        Self::open_file(path, clock, |builder| builder.create(path))
    }

    /// Opens the store at `path`, which must exist.
    pub fn open_existing(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        Self::open_file(path, clock, |builder| builder.open(path))
    }

    fn open_file(
        path: &Path,
        clock: Clock,
        open: impl FnOnce(&redb::Builder) -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let db = open(&builder).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                StoreError::Locked { path: path.to_owned(), socket: socket_beside(path) }
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(source))
                if !matches!(
                    source.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                StoreError::Io { path: path.to_owned(), source }
            }
            other => StoreError::NotAStore { path: path.to_owned(), source: Box::new(other) },
        })?;
        // redb does not verify its pages on plain reads, and panics on some that make no sense.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check_schema(&db, path)?;
            load(&db)
        }));
        let state = loaded.unwrap_or(Err(StoreError::Damaged { table: "of the database itself" }))?;
        let flushed = clock();
        let (revisions, _) = tokio::sync::watch::channel(state.revision);
        let inner = Inner {
            path: path.to_owned(),
            db,
            clock,
            published: RwLock::new(state),
            writer: Mutex::new(Writer {
                dirty_runs: BTreeMap::new(),
                flushed,
                poisoned: false,
                samples: BTreeMap::new(),
            }),
            revisions,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    pub fn now(&self) -> Timestamp {
        (self.inner.clock)()
    }

    /// Wakes when a revision has been published.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.inner.revisions.subscribe()
    }

    pub fn revision(&self) -> Revision {
        self.state().revision
    }

    /// Ids that live in the sweep's scope and that the sweep did not show, with whether each was
    /// missed before.
    pub fn missed_by(&self, sweep: &Sweep) -> Vec<(Arc<str>, bool)> {
        let state = self.state();
        let Some(number) = state.scope_numbers.get(&sweep.scope) else { return Vec::new() };
        let seen: BTreeSet<&str> = sweep.observations.iter().map(|o| o.id.as_str()).collect();
        state
            .live_in(*number)
            .filter(|(_, head)| !seen.contains(&*head.id))
            .map(|(_, head)| (head.id.clone(), head.suspect.is_some()))
            .collect()
    }

    /// Number of resources that live in a scope.
    pub fn live_count(&self, scope: &Scope) -> usize {
        let state = self.state();
        state.scope_numbers.get(scope).map_or(0, |number| state.live_in(*number).count())
    }

    /// The tags that a resource is known to have now.
    pub fn known_tags(&self, scope: &Scope, id: &str) -> Option<Tags> {
        let state = self.state();
        let head = &state.heads[&state.rid(*state.scope_numbers.get(scope)?, id)?];
        head.end.is_none().then(|| state.tags(head.version.tags))
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

    /// Every cover that stands now.
    pub fn covers(&self) -> Vec<(Viewer, Arc<Scope>)> {
        let state = self.state();
        state.scopes.values().flat_map(|s| s.covers.keys().map(|v| (v.clone(), s.scope.clone()))).collect()
    }

    /// Commits a sweep. `prover` is the viewer whose credentials made it: a complete one proves its cover.
    ///
    /// Returns once everything is durable. An unchanged sweep writes no row per resource: it lengthens
    /// a run of the ledger, in the file at most once a minute.
    pub fn commit(&self, sweep: &Sweep, prover: Option<&Viewer>) -> Result<Delta, StoreError> {
        check_bounds(sweep)?;
        let mut writer = self.writer()?;
        let current = self.state();
        let mut next = current.clone();
        let number = scope_number(&mut next, &sweep.scope);
        let scope = &next.scopes[&number];
        if let Some(run) = &scope.run
            && sweep.started < run.last_ended
        {
            return Err(StoreError::Overlapping {
                scope: Box::new(sweep.scope.clone()),
                started: sweep.started,
                last_ended: run.last_ended,
            });
        }

        let mut draft = Draft::new(number, sweep.started, sweep.ended);
        if !scope.is_open() {
            draft.scope_entry(EntryKind::ScopeOpened);
            // The planner must see it as open: what is new to a re-opened scope is baseline.
            next.scope_mut(number).intervals.push((sweep.started, None));
        }
        let plan = plan::plan(&next, number, sweep);
        let proves = prover.filter(|_| sweep.outcome.is_complete());
        if let Some(viewer) = proves.filter(|v| !next.scopes[&number].covers.contains_key(*v)) {
            draft.scope_entry(EntryKind::CoverGained { viewer: viewer.as_str().into() });
        }
        if draft.has_opened() {
            next.scope_mut(number).intervals.pop();
        }
        let run = ledger::record(next.scopes[&number].run.as_ref(), sweep);
        draft.add(&mut next, plan);
        draft.check_bounds(&sweep.scope)?;
        writer.sample(&mut next, &sweep.scope.resource_type, &draft);

        let proof_due = proves.is_some_and(|v| {
            next.scopes[&number].covers.get(v).is_some_and(|c| self.now().since(c.proven) >= PROOF_FLUSH)
        });
        let written = !draft.is_empty() || proof_due;
        if written {
            let txn = self.begin(&mut writer)?;
            let result = self.write_delta(&txn, &current, &mut next, &draft, Some((number, &run)), proves);
            self.finish(&mut writer, txn, result)?;
            writer.dirty_runs.remove(&number);
        } else {
            writer.dirty_runs.insert(number, run.clone());
        }
        let scope = next.scope_mut(number);
        if run.outcome == Outcome::Complete {
            scope.last_complete = Some(run.last_ended);
        }
        scope.run = Some(run);
        let changes = draft.changes(&sweep.scope, next.revision, next.time);
        let revision = self.publish(next);
        self.flush_if_due(&mut writer)?;
        Ok(Delta { revision, changes })
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
                let lost = state.scopes[&number].covers.keys();
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
                .is_some_and(|number| state.scopes[number].covers.contains_key(viewer));
            if covered { vec![EntryKind::CoverLost { viewer: viewer.as_str().into() }] } else { Vec::new() }
        })
    }

    fn write_scope_entries(
        &self,
        scope: &Scope,
        kinds: impl FnOnce(&State) -> Vec<EntryKind>,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        let current = self.state();
        let kinds = kinds(&current);
        let (false, Some(number)) = (kinds.is_empty(), current.scope_numbers.get(scope).copied()) else {
            return Ok(());
        };
        let now = self.now().max(current.time);
        let mut draft = Draft::new(number, now, now);
        for kind in kinds {
            draft.scope_entry(kind);
        }
        let mut next = current.clone();
        let txn = self.begin(&mut writer)?;
        let result = self.write_delta(&txn, &current, &mut next, &draft, None, None);
        self.finish(&mut writer, txn, result)?;
        self.publish(next);
        Ok(())
    }

    /// Small durable facts of callers: no revision.
    pub fn write_notes(&self, viewer: &Viewer, notes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        if notes.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer()?;
        let txn = self.begin(&mut writer)?;
        let result = (|| {
            let mut table = txn.open_table(NOTE)?;
            for (name, bytes) in notes {
                let key = (viewer.as_str(), name.as_str());
                match bytes {
                    Some(bytes) => table.insert(key, bytes.as_slice())?,
                    None => table.remove(key)?,
                };
            }
            Ok(())
        })();
        self.finish(&mut writer, txn, result)
    }

    /// All notes of a viewer whose name begins with `prefix`.
    pub fn notes(&self, viewer: &Viewer, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let txn = self.inner.db.begin_read()?;
        let table = txn.open_table(NOTE)?;
        let mut out = BTreeMap::new();
        for row in table.range((viewer.as_str(), prefix)..)? {
            let (key, value) = row?;
            let (row_viewer, name) = key.value();
            if row_viewer != viewer.as_str() || !name.starts_with(prefix) {
                break;
            }
            out.insert(name.to_owned(), value.value().to_vec());
        }
        Ok(out)
    }

    /// Everybody who has notes.
    pub fn note_viewers(&self) -> Result<BTreeSet<Viewer>, StoreError> {
        let txn = self.inner.db.begin_read()?;
        let table = txn.open_table(NOTE)?;
        let mut viewers = BTreeSet::new();
        for row in table.iter()? {
            viewers.insert(Viewer::from(row?.0.value().0));
        }
        Ok(viewers)
    }

    /// Drops the notes of all other viewers.
    pub fn retain_notes(&self, viewers: &BTreeSet<Viewer>) -> Result<(), StoreError> {
        for viewer in self.note_viewers()?.difference(viewers) {
            let notes: Vec<_> = self.notes(viewer, "")?.into_keys().map(|name| (name, None)).collect();
            self.write_notes(viewer, &notes)?;
        }
        Ok(())
    }

    /// A write failed and nothing more is written until the store is opened again.
    pub fn is_poisoned(&self) -> bool {
        self.inner.writer.lock().map_or(true, |writer| writer.poisoned)
    }

    /// Writes what is only in memory of the ledger. Called before the process ends.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        self.flush_ledger(&mut writer)
    }

    fn flush_if_due(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if self.now().since(writer.flushed) >= LEDGER_FLUSH { self.flush_ledger(writer) } else { Ok(()) }
    }

    fn flush_ledger(&self, writer: &mut Writer) -> Result<(), StoreError> {
        writer.flushed = self.now();
        if writer.dirty_runs.is_empty() {
            return Ok(());
        }
        let txn = self.begin(writer)?;
        let result = (|| {
            let mut table = txn.open_table(RUN)?;
            for (number, run) in &writer.dirty_runs {
                table.insert((*number, run.first_ended.as_millis()), encode(run).as_slice())?;
            }
            Ok(())
        })();
        self.finish(writer, txn, result)?;
        writer.dirty_runs.clear();
        Ok(())
    }

    fn state(&self) -> State {
        self.inner.published.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn publish(&self, next: State) -> Revision {
        let revision = next.revision;
        *self.inner.published.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        self.inner.revisions.send_if_modified(|r| std::mem::replace(r, revision) != revision);
        revision
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let guard = self.inner.writer.lock().map_err(|_| StoreError::Poisoned)?;
        if guard.poisoned { Err(StoreError::Poisoned) } else { Ok(guard) }
    }

    fn begin(&self, writer: &mut Writer) -> Result<WriteTransaction, StoreError> {
        self.inner.db.begin_write().map_err(|error| {
            writer.poisoned = true;
            error.into()
        })
    }

    /// Commits durably, or gives the transaction up. A commit that failed is indeterminate, so the
    /// writer stops: only a reopened file tells what is in it.
    fn finish(
        &self,
        writer: &mut Writer,
        txn: WriteTransaction,
        result: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let result = result.and_then(|()| txn.commit().map_err(StoreError::from));
        writer.poisoned |= result.is_err();
        result
    }

    fn write_delta(
        &self,
        txn: &WriteTransaction,
        current: &State,
        next: &mut State,
        draft: &Draft,
        run: Option<(ScopeNo, &Run)>,
        proves: Option<&Viewer>,
    ) -> Result<(), StoreError> {
        let number = draft.scope;
        let time = self.now().max(current.time);
        if !current.scopes.contains_key(&number) {
            txn.open_table(SCOPE)?.insert(number, encode(&*next.scopes[&number].scope).as_slice())?;
        }
        if let Some((number, run)) = run {
            txn.open_table(RUN)?.insert((number, run.first_ended.as_millis()), encode(run).as_slice())?;
        }
        draft.write_suspects(txn)?;
        let revision = current.revision.next();
        if !draft.entries.is_empty() {
            let asks = |e: &Entry| matches!(e.kind, EntryKind::Appeared { .. } | EntryKind::ScopeOpened);
            let is_asked = draft.entries.iter().any(asks);
            let row = RevRow {
                time,
                scope: number,
                started: if is_asked { draft.started } else { time },
                ended: if is_asked { draft.ended } else { time },
                entries: u32::try_from(draft.entries.len()).expect("a delta has fewer than 2^32 entries"),
            };
            draft.write(txn, current, next, revision, &row)?;
            next.apply(revision, &row, &draft.entries, draft);
        }
        draft.count_misses(next);
        if let Some(viewer) = proves
            && let Some(cover) = next.scope_mut(number).covers.get_mut(viewer)
        {
            cover.proven = time;
            let row = CoverRow { to: None, proven: time };
            txn.open_table(COVER)?.insert((viewer.as_str(), number, cover.from.0), encode(&row).as_slice())?;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last chance to keep the minute of "still there" that is only in memory. Nothing is lost
        // but that minute if it fails, and there is nobody left to tell.
        if let Ok(writer) = self.writer.get_mut()
            && !writer.poisoned
            && !writer.dirty_runs.is_empty()
            && let Ok(txn) = self.db.begin_write()
        {
            let written = txn.open_table(RUN).is_ok_and(|mut table| {
                writer.dirty_runs.iter().all(|(number, run)| {
                    table.insert((*number, run.first_ended.as_millis()), encode(run).as_slice()).is_ok()
                })
            });
            if written {
                drop(txn.commit());
            }
        }
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

fn check_bounds(sweep: &Sweep) -> Result<(), StoreError> {
    for observation in &sweep.observations {
        if observation.id.len() > MAX_ID_BYTES {
            let what = format!("an id of {}", sweep.scope);
            return Err(StoreError::TooLarge { what, actual: observation.id.len(), bound: MAX_ID_BYTES });
        }
    }
    Ok(())
}

/// One delta on its way into the file.
struct Draft {
    scope: ScopeNo,
    started: Timestamp,
    ended: Timestamp,
    entries: Vec<Entry>,
    /// Each as its canonical text.
    documents: BTreeMap<Rid, Vec<u8>>,
    idents: BTreeMap<Rid, Ident>,
    counted: Vec<(Rid, Suspect)>,
    /// What becomes of the suspect rows.
    suspects: BTreeMap<Rid, Option<Suspect>>,
    changes: Vec<(ChangeKind, Arc<str>, ChangeFlags, Option<End>)>,
}

#[derive(Clone, Copy, Default)]
struct ChangeFlags {
    baseline: bool,
    replaced: bool,
    retracted: bool,
}

impl Draft {
    fn new(scope: ScopeNo, started: Timestamp, ended: Timestamp) -> Self {
        Self {
            scope,
            started,
            ended,
            entries: Vec::new(),
            documents: BTreeMap::new(),
            idents: BTreeMap::new(),
            counted: Vec::new(),
            suspects: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.counted.is_empty()
    }

    fn has_opened(&self) -> bool {
        self.entries.iter().any(|e| matches!(e.kind, EntryKind::ScopeOpened))
    }

    fn scope_entry(&mut self, kind: EntryKind) {
        self.entries.push(Entry { rid: NO_RID, prev: 0, milestone: None, kind });
    }

    fn add(&mut self, next: &mut State, plan: Plan) {
        for planned in plan.steps {
            let rid = planned.rid.or_else(|| next.rid(self.scope, &planned.id)).unwrap_or_else(|| {
                let rid = next.next_rid;
                next.next_rid += 1;
                self.idents.insert(rid, Ident { scope: self.scope, id: planned.id.clone() });
                rid
            });
            let head = next.heads.get(&rid).cloned();
            let kind = self.translate(next, rid, &planned.id, planned.action);
            let is_milestone = kind.is_milestone(head.as_ref().map(|head| head.version.tags));
            let milestone = is_milestone.then(|| head.as_ref().map_or(0, |head| head.milestone));
            self.entries.push(Entry { rid, prev: head.map_or(0, |head| head.last_entry), milestone, kind });
        }
        for (rid, suspect) in plan.counted {
            self.suspects.insert(rid, Some(suspect.clone()));
            self.counted.push((rid, suspect));
        }
    }

    fn translate(&mut self, next: &mut State, rid: Rid, id: &Arc<str>, action: Action) -> EntryKind {
        let mut change = |kind, flags, end| self.changes.push((kind, id.clone(), flags, end));
        match action {
            Action::Appear { baseline, replaced, version } => {
                change(ChangeKind::Appeared, ChangeFlags { baseline, replaced, ..ChangeFlags::default() }, None);
                EntryKind::Appeared { baseline, version: self.version(next, rid, version) }
            }
            Action::Change { version } => {
                change(ChangeKind::Changed, ChangeFlags::default(), None);
                EntryKind::Changed { version: self.version(next, rid, version) }
            }
            Action::Rebase { version } => EntryKind::Rebased { version: self.version(next, rid, version) },
            Action::End { cause, last_seen, first_missed } => {
                let end = End {
                    cause: cause.clone(),
                    last_seen,
                    first_missed,
                    concluded: Timestamp::default(),
                    revision: Revision::ZERO,
                };
                let replaced = cause == EndCause::Replaced;
                change(ChangeKind::Disappeared, ChangeFlags { replaced, ..ChangeFlags::default() }, Some(end));
                self.suspects.insert(rid, None);
                EntryKind::Ended { cause, last_seen, first_missed }
            }
            Action::Retract { version } => {
                let flags = ChangeFlags { retracted: true, ..ChangeFlags::default() };
                change(ChangeKind::Appeared, flags, None);
                EntryKind::Retracted { version: self.version(next, rid, version) }
            }
            Action::Suspect(suspect) => {
                self.suspects.insert(rid, Some(suspect.clone()));
                let Suspect { last_seen, first_missed, misses, held } = suspect;
                EntryKind::Suspected { last_seen, first_missed, misses, held }
            }
            Action::Clear => {
                self.suspects.insert(rid, None);
                EntryKind::Cleared
            }
        }
    }

    fn version(&mut self, next: &mut State, rid: Rid, new: NewVersion) -> Version {
        self.documents.insert(rid, document::text(&new.attributes));
        let NewVersion { fingerprint, tags, birth, shape, .. } = new;
        Version { fingerprint, tags: next.intern(&tags), birth, shape }
    }

    /// What people are told of this delta.
    fn changes(&self, scope: &Scope, revision: Revision, time: Timestamp) -> Vec<Change> {
        let told = |(change, id, flags, end): &(ChangeKind, Arc<str>, ChangeFlags, Option<End>)| Change {
            change: *change,
            resource: scope.key(id),
            revision,
            time,
            baseline: flags.baseline,
            replaced: flags.replaced,
            retracted: flags.retracted,
            end: end.clone().map(|end| End { concluded: time, revision, ..end }),
            fields: Vec::new(),
        };
        self.changes.iter().map(told).collect()
    }

    fn write_suspects(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut table = txn.open_table(SUSPECT)?;
        for (rid, suspect) in &self.suspects {
            match suspect {
                Some(suspect) => table.insert(rid, encode(suspect).as_slice())?,
                None => table.remove(rid)?,
            };
        }
        Ok(())
    }

    /// Before anything is written: one document that is too large must not stop the writer.
    fn check_bounds(&self, scope: &Scope) -> Result<(), StoreError> {
        match self.documents.values().map(Vec::len).find(|length| *length > MAX_DOCUMENT_BYTES) {
            None => Ok(()),
            Some(actual) => {
                let what = format!("the document of a resource of {scope}");
                Err(StoreError::TooLarge { what, actual, bound: MAX_DOCUMENT_BYTES })
            }
        }
    }

    /// The document of a resource as this revision writes it.
    fn document(
        &self,
        log: &redb::Table<'_, (u64, Rid), &'static [u8]>,
        current: &State,
        next: &State,
        rid: Rid,
    ) -> Vec<u8> {
        let base = current.heads.get(&rid).and_then(|head| {
            let read = |revision| log::document(log, revision, rid);
            // One that can't be read is no reason not to write: this one is then written in full.
            document::full(head.document, &next.dictionaries, read).ok()
        });
        let resource_type = &next.scopes[&self.scope].scope.resource_type;
        document::encode(&self.documents[&rid], resource_type, &next.dictionaries, base)
    }

    fn count_misses(&self, next: &mut State) {
        for (rid, suspect) in &self.counted {
            let head = next.heads.get_mut(rid).expect("only live resources are missed");
            Arc::make_mut(head).suspect = Some(suspect.clone());
        }
    }

    fn write(
        &self,
        txn: &WriteTransaction,
        current: &State,
        next: &State,
        revision: Revision,
        row: &RevRow,
    ) -> Result<(), StoreError> {
        let mut dictionaries = txn.open_table(DICT)?;
        for (number, resource_type, bytes) in next.dictionaries.from(current.dictionaries.len()) {
            dictionaries.insert(number, encode(&(resource_type, &**bytes)).as_slice())?;
        }
        let mut log = txn.open_table(LOG)?;
        let logged = |entry: &Entry| {
            let has_document = entry.kind.version().is_some();
            let document = if has_document { self.document(&log, current, next, entry.rid) } else { Vec::new() };
            Logged { entry: entry.clone(), document }
        };
        let mut pages = Pages::default();
        pages.add(revision, row, self.entries.iter().map(logged).collect());
        pages.write(&mut log)?;
        let mut sets = txn.open_table(SYM)?;
        for number in current.tag_sets.len()..next.tag_sets.len() {
            let key = u32::try_from(number).expect("interned under a u32");
            sets.insert(key, encode(&*next.tag_sets[number]).as_slice())?;
        }
        let mut idents = txn.open_table(IDENT)?;
        let mut keys = txn.open_table(KEY)?;
        for (rid, ident) in &self.idents {
            idents.insert(rid, encode(ident).as_slice())?;
            keys.insert(key_hash(&next.scopes[&ident.scope].scope, &ident.id), rid)?;
        }
        let mut covers = txn.open_table(COVER)?;
        for entry in &self.entries {
            match &entry.kind {
                EntryKind::CoverGained { viewer } => {
                    let row = CoverRow { to: None, proven: row.time };
                    covers.insert((&**viewer, self.scope, revision.0), encode(&row).as_slice())?;
                }
                EntryKind::CoverLost { viewer } => {
                    let held = current.scopes[&self.scope].covers.get(&Viewer::new(viewer.clone()));
                    let held = held.expect("only a cover that stands is lost");
                    let row = CoverRow { to: Some(revision.0), proven: held.proven };
                    covers.insert((&**viewer, self.scope, held.from.0), encode(&row).as_slice())?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Identities for Draft {
    fn ident(&self, rid: Rid) -> Option<(ScopeNo, Arc<str>)> {
        self.idents.get(&rid).map(|ident| (ident.scope, ident.id.clone()))
    }
}

fn key_hash(scope: &Scope, id: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&encode(&(scope, id))).as_bytes()[..16]);
    out
}

fn check_schema(db: &Database, path: &Path) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    {
        let fresh = txn.list_tables()?.next().is_none();
        let mut meta = txn.open_table(META)?;
        let found = meta.get("schema")?.map(|v| v.value().to_vec());
        match found.as_deref().map(<[u8; 4]>::try_from) {
            Some(Ok(bytes)) if u32::from_be_bytes(bytes) == SCHEMA => {}
            Some(Ok(bytes)) => {
                let found = u32::from_be_bytes(bytes);
                return Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA });
            }
            None if fresh => {
                meta.insert("schema", SCHEMA.to_be_bytes().as_slice())?;
            }
            _ => {
                let source = "it holds no schema version".into();
                return Err(StoreError::NotAStore { path: path.to_owned(), source });
            }
        }
    }
    // All tables exist from here on, so that readers need no special case for a new file.
    txn.open_table(LOG)?;
    txn.open_table(DICT)?;
    txn.open_table(KEY)?;
    txn.open_table(IDENT)?;
    txn.open_table(SCOPE)?;
    txn.open_table(RUN)?;
    txn.open_table(SUSPECT)?;
    txn.open_table(SYM)?;
    txn.open_table(COVER)?;
    txn.open_table(NOTE)?;
    txn.commit()?;
    Ok(())
}

struct FileIdentities(BTreeMap<Rid, Ident>);

impl Identities for FileIdentities {
    fn ident(&self, rid: Rid) -> Option<(ScopeNo, Arc<str>)> {
        self.0.get(&rid).map(|ident| (ident.scope, ident.id.clone()))
    }
}

/// The state at the newest revision.
fn load(db: &Database) -> Result<State, StoreError> {
    let txn = db.begin_read()?;
    let mut state = fold(&txn, Revision(u64::MAX))?;
    // What is not in the log: counted misses, the last run of each scope, proofs of cover.
    for row in txn.open_table(SUSPECT)?.iter()? {
        let (rid, bytes) = row?;
        let head = state.heads.get_mut(&rid.value()).ok_or(StoreError::Damaged { table: "suspect" })?;
        Arc::make_mut(head).suspect = Some(decode("suspect", bytes.value())?);
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
    Ok(state)
}

/// The fold of the log up to and including `until`.
fn fold(txn: &redb::ReadTransaction, until: Revision) -> Result<State, StoreError> {
    let mut state = State::default();
    let mut dictionaries = Dictionaries::default();
    for row in txn.open_table(DICT)?.iter()? {
        let (resource_type, bytes): (ResourceType, Vec<u8>) = decode("dict", row?.1.value())?;
        dictionaries.add(resource_type, bytes.into());
    }
    state.dictionaries = Arc::new(dictionaries);
    for row in txn.open_table(SYM)?.iter()? {
        state.add_tag_set(Arc::new(decode("sym", row?.1.value())?));
    }
    for row in txn.open_table(SCOPE)?.iter()? {
        let (number, bytes) = row?;
        state.add_scope(number.value(), Arc::new(decode("scope", bytes.value())?));
    }
    let mut identities = FileIdentities(BTreeMap::new());
    for row in txn.open_table(IDENT)?.iter()? {
        let (rid, bytes) = row?;
        identities.0.insert(rid.value(), decode("ident", bytes.value())?);
    }
    log::revisions(&txn.open_table(LOG)?, 1..=until.0, |revision, row, entries| {
        state.apply(revision, row, &entries, &identities);
        Ok(())
    })?;
    Ok(state)
}
