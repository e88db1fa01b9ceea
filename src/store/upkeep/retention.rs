//! Retention: which revisions are kept, and how the others are removed from the file.
//!
//! ```text
//!  <- horizon ->|<- the last revision of each day (UTC) ->|<- detail: every revision -> now
//! ```
//!
//! Milestones, the newest version of each life and the last one before each end are always kept. A kept moment
//! gives the same answers as before. Revisions between two kept moments are thinned, and a request for one gets an
//! error that names the nearest kept moments.
//!
//! First the moments to drop are removed from the kept ones, durably. Then the pages of the log are rewritten,
//! from the newest down, one slice per commit. An entry is rewritten to point past dropped entries before those
//! are removed, so the file is consistent after each slice. A run that was cut off starts again and gets the same
//! result.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redb::ReadTransaction;
use serde::{Deserialize, Serialize};

use crate::inventory::{Revision, Timestamp};
use crate::store::StoreError;
use crate::store::file::documents;
use crate::store::file::log::{self, LOG, Logged, Pages, Stretch};
use crate::store::file::tables::{Entry, EntryKind, KeptRow, NO_RID, RUN, Rid, Run, ScopeNo, Version, decode};
use crate::store::mutants;
use crate::store::state::State;
use crate::store::state::checkpoint;
use crate::store::state::kept::{Kept, MomentChange, Retention};
use crate::store::state::shared::Published;
use crate::store::state::shared::Shared;
use crate::store::write::retain::RetentionStep;
use crate::store::write::writer::{Queue, Request};

/// Bytes of log pages that one commit rewrites: a few milliseconds, for which other commits wait.
const COMMIT_LOG_MAX_BYTES: usize = if cfg!(test) { 1 << 12 } else { 128 << 10 };
/// Rows of the ledger that one commit drops.
const COMMIT_LEDGER_MAX_ROWS: usize = 4_096;
/// The log below the horizon is rewritten when it has grown by this fraction of the horizon. Doing so every day
/// would rewrite all of it every day.
const HORIZON_FRACTION_DENOMINATOR: u32 = 16;
const DAY: Duration = Duration::from_hours(24);

/// The result of a run of retention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionReport {
    /// Days of which only the end is kept from now on.
    pub days_thinned: u32,
    /// Ends of days that passed the horizon.
    pub days_dropped: u32,
    /// Entries of the log that were removed.
    pub entries_dropped: u64,
    /// Documents of removed entries, and documents of entries that stay without them.
    pub documents_dropped: u64,
    /// Runs of the ledger that no kept moment needs.
    pub runs_dropped: u64,
    /// Checkpoints between two kept moments. The last one before each kept moment stays.
    pub checkpoints_dropped: u64,
    /// By how much the log got smaller; the file keeps the space and reuses it.
    pub bytes_freed: u64,
}

/// Which entries of a range stay, decided from the newest down.
struct RetentionDecisions {
    /// By row number: what was found in later entries.
    found: Vec<u8>,
    /// Full documents that kept differences are based on.
    bases: HashSet<(Rid, u64)>,
}

const ENTRY: u8 = 1;
const VERSION: u8 = 2;
const CHANGE: u8 = 4;

/// How much of an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Gone,
    WithoutDocument,
    Whole,
}

impl RetentionDecisions {
    fn new(state: &State) -> Self {
        Self { found: vec![0; state.next_rid as usize], bases: HashSet::new() }
    }

    fn verdict_of(&self, revision: u64, entry: &Entry) -> Verdict {
        let found = self.found.get(entry.rid as usize).copied().unwrap_or_default();
        if entry.rid == NO_RID {
            return Verdict::Whole;
        }
        let is_version = entry.kind.version().is_some();
        let is_newest =
            is_version && found & VERSION == 0 && !mutants::is_awake("the newest below the floor is dropped");
        if is_newest || (entry.has_document && self.bases.contains(&(entry.rid, revision))) {
            return Verdict::Whole;
        }
        let is_newest_change = matches!(entry.kind, EntryKind::Changed { .. }) && found & CHANGE == 0;
        if entry.kind.is_milestone() || found & ENTRY == 0 || is_newest_change {
            Verdict::WithoutDocument
        } else {
            Verdict::Gone
        }
    }

    fn decide(&mut self, revision: u64, entry: &Entry, document: &[u8]) -> Result<Verdict, StoreError> {
        let verdict = self.verdict_of(revision, entry);
        if verdict == Verdict::Gone || entry.rid == NO_RID {
            return Ok(verdict);
        }
        let found = self.found.get_mut(entry.rid as usize).ok_or(StoreError::Damaged { table: "log" })?;
        *found |= ENTRY;
        if entry.kind.version().is_some() {
            *found |= VERSION;
        }
        match entry.kind {
            EntryKind::Changed { .. } => *found |= CHANGE,
            // The last version before it is kept, too.
            EntryKind::Ended => *found = ENTRY | CHANGE,
            _ => {}
        }
        if verdict == Verdict::Whole && entry.has_document {
            self.bases.remove(&(entry.rid, revision));
            if let Some(base) = documents::base_of(document)? {
                self.bases.insert((entry.rid, base));
            }
        }
        Ok(verdict)
    }
}

/// Rewrites a range of the log.
struct LogCompaction<'a> {
    log: &'a redb::ReadOnlyTable<(u64, Rid), &'static [u8]>,
    /// Revisions above this one.
    above: u64,
    until: u64,
    verdicts: RetentionDecisions,
    report: RetentionReport,
}

impl LogCompaction<'_> {
    /// The rewritten stretch; `None` if nothing changes.
    fn rewrite(&mut self, stretch: Stretch) -> Result<Option<RetentionStep>, StoreError> {
        let mut kept: Vec<(u64, crate::store::file::tables::RevisionRow, Vec<Logged>)> = Vec::new();
        let mut has_changed = false;
        for mut slice in stretch.slices.into_iter().rev() {
            if slice.revision > self.above && slice.revision <= self.until {
                let mut entries = Vec::with_capacity(slice.entries.len());
                for logged in slice.entries.into_iter().rev() {
                    match self.verdicts.decide(slice.revision, &logged.entry, &logged.document)? {
                        Verdict::Gone => {
                            has_changed = true;
                            self.report.entries_dropped += 1;
                            self.report.documents_dropped += u64::from(logged.entry.has_document);
                        }
                        verdict => {
                            let (relinked, is_other) = self.relinked(slice.revision, logged, verdict)?;
                            has_changed |= is_other;
                            entries.push(relinked);
                        }
                    }
                }
                entries.reverse();
                if entries.is_empty() {
                    continue;
                }
                slice.row.entries = u32::try_from(entries.len()).expect("they were fewer than 2^32 before");
                slice.entries = entries;
            }
            kept.push((slice.revision, slice.row, slice.entries));
        }
        if !has_changed {
            return Ok(None);
        }
        let mut pages = Pages::default();
        for (revision, row, entries) in kept.into_iter().rev() {
            pages.add(Revision(revision), &row, entries);
        }
        let after = pages.bytes();
        self.report.bytes_freed += stretch.bytes.saturating_sub(after) as u64;
        Ok(Some(RetentionStep { old_pages: stretch.keys, new_pages: pages, ..RetentionStep::default() }))
    }

    /// An entry that stays, pointing past dropped entries, and whether it has changed.
    fn relinked(
        &mut self,
        revision: u64,
        mut logged: Logged,
        verdict: Verdict,
    ) -> Result<(Logged, bool), StoreError> {
        let mut is_other = false;
        if verdict == Verdict::WithoutDocument && logged.entry.has_document {
            self.report.documents_dropped += 1;
            logged.entry.has_document = false;
            logged.document = Vec::new();
            is_other = true;
        }
        let rid = logged.entry.rid;
        // The next version that stays takes over the fields of dropped versions.
        let mut inherited = Version { fingerprint: [0; 8], tags: None, birth: None, shape: None };
        while rid != NO_RID && logged.entry.prev > self.above {
            let previous = logged.entry.prev;
            if previous >= revision {
                return Err(StoreError::Damaged { table: "log" });
            }
            let step = log::step(self.log, previous, rid)?;
            if step.entries.iter().any(|l| self.verdicts.verdict_of(previous, &l.entry) != Verdict::Gone) {
                break;
            }
            for version in step.entries.iter().rev().filter_map(|l| l.entry.kind.version()) {
                inherited.birth = inherited.birth.or(version.birth);
                inherited.shape = inherited.shape.or(version.shape);
            }
            logged.entry.prev = step.entries.first().ok_or(StoreError::Damaged { table: "log" })?.entry.prev;
            is_other = true;
        }
        if let Some(version) = logged.entry.kind.version_mut() {
            version.birth = version.birth.or(inherited.birth);
            version.shape = version.shape.or(inherited.shape);
        }
        Ok((logged, is_other))
    }
}

/// Applies the retention to the file, on the caller's thread, in slices between which other commits can run.
pub(in crate::store) fn retain(
    shared: &Shared,
    queue: &Queue,
    retention: Retention,
    is_stopped: impl Fn() -> bool,
) -> Result<RetentionReport, StoreError> {
    let mut report = RetentionReport::default();
    while !is_stopped() {
        let published = shared.published()?;
        let kept = published.state.kept.clone();
        if let Some((revision, _)) = kept.rows().find(|(_, row)| !row.is_thinned) {
            thin(&published, &kept, revision, queue, &mut report, &is_stopped)?;
        } else if let Some(moments) = next_horizon(&kept, shared.now(), retention) {
            let before = kept.rows.len();
            submit(queue, RetentionStep { moments, ..RetentionStep::default() })?;
            let dropped = before - shared.state().kept.rows.len();
            report.days_dropped += u32::try_from(dropped).unwrap_or(u32::MAX);
        } else if let Some(moments) = next_floor(&published, shared.now(), retention)? {
            submit(queue, RetentionStep { moments, ..RetentionStep::default() })?;
            report.days_thinned += 1;
        } else {
            break;
        }
    }
    Ok(report)
}

fn submit(queue: &Queue, step: RetentionStep) -> Result<(), StoreError> {
    queue.submit(Request::Retain(Box::new(step))).map(|_| ())
}

fn midnight_after(time: Timestamp) -> Timestamp {
    let day = i64::try_from(DAY.as_millis()).expect("a day is short");
    Timestamp::from_millis((time.as_millis().div_euclid(day) + 1).saturating_mul(day))
}

/// The next whole day that lies before `detail`.
fn next_floor(
    published: &Published,
    now: Timestamp,
    retention: Retention,
) -> Result<Option<MomentChange>, StoreError> {
    let Published { state, txn } = published;
    let floor = state.kept.floor();
    let newest = state.kept.logged(state.revision.0);
    if floor.0 >= newest {
        return Ok(None);
    }
    let log = txn.open_table(LOG)?;
    let first = state.kept.after(floor.0);
    let until = midnight_after(log::time_of(&log, first)?);
    if until > now.minus(retention.detail) {
        return Ok(None);
    }
    let just_before = Timestamp::from_millis(until.as_millis() - 1);
    let revision = crate::store::read::moment::last_between(&log, &state.kept, first..=newest, just_before)?;
    let time = log::time_of(&log, revision.0)?;
    Ok(Some(MomentChange::Floor(revision.0, KeptRow { time, until, is_thinned: false })))
}

/// The newest kept moment that lies before the horizon, once enough of them do.
fn next_horizon(kept: &Kept, now: Timestamp, retention: Retention) -> Option<MomentChange> {
    let passed = now.minus(retention.horizon.max(retention.detail));
    let (first, first_row) = kept.rows().next()?;
    let (last, last_row) = kept.rows().rev().find(|(_, row)| row.until <= passed)?;
    let is_due = last_row.until.since(first_row.until) >= retention.horizon / HORIZON_FRACTION_DENOMINATOR;
    (last > first && is_due).then_some(MomentChange::Horizon(last))
}

fn thin(
    published: &Published,
    kept: &Kept,
    until: u64,
    queue: &Queue,
    report: &mut RetentionReport,
    is_stopped: &impl Fn() -> bool,
) -> Result<(), StoreError> {
    let Published { state, txn } = published;
    let (above, since) = kept.range_of(until);
    let row = kept.rows[&until];
    let log = txn.open_table(LOG)?;
    let mut thinning = LogCompaction {
        log: &log,
        above,
        until,
        verdicts: RetentionDecisions::new(state),
        report: std::mem::take(report),
    };
    let mut is_cut_off = false;
    log::stretches_back(&log, above + 1..=until, COMMIT_LOG_MAX_BYTES, |stretch| {
        is_cut_off |= is_stopped();
        if is_cut_off {
            return Ok(());
        }
        match thinning.rewrite(stretch)? {
            Some(step) => submit(queue, step),
            None => Ok(()),
        }
    })?;
    *report = thinning.report;
    if is_cut_off {
        return Ok(());
    }
    let runs = droppable_runs(txn, state, since, row.time)?;
    report.runs_dropped += runs.len() as u64;
    for runs in runs.chunks(COMMIT_LEDGER_MAX_ROWS) {
        submit(queue, RetentionStep { runs: runs.to_vec(), ..RetentionStep::default() })?;
    }
    // The last checkpoint of a range is enough to begin from.
    let mut checkpoints = checkpoint::revisions(txn, above + 1..=until)?;
    checkpoints.pop();
    report.checkpoints_dropped += checkpoints.len() as u64;
    submit(queue, RetentionStep { moments: MomentChange::Thinned(until), checkpoints, ..RetentionStep::default() })
}

/// Runs that began in a thinned range and that no kept moment needs: neither the last nor the last complete one
/// before its end.
fn droppable_runs(
    txn: &ReadTransaction,
    state: &State,
    since: Timestamp,
    until: Timestamp,
) -> Result<Vec<(ScopeNo, i64)>, StoreError> {
    let table = txn.open_table(RUN)?;
    let mut stale = Vec::new();
    for number in state.scopes.keys() {
        let mut has_last = false;
        let mut has_complete = false;
        for row in table.range((*number, since.as_millis())..=(*number, until.as_millis()))?.rev() {
            let (key, bytes) = row?;
            let run: Run = decode("run", bytes.value())?;
            // A run that continues after the end is needed for times after it.
            if run.last_ended < until && has_last && (has_complete || !run.outcome.is_complete()) {
                stale.push(key.value());
            }
            has_last = true;
            has_complete |= run.outcome.is_complete();
        }
    }
    Ok(stale)
}

impl State {
    pub(in crate::store) fn retained(&mut self, step: &RetentionStep) {
        if !matches!(step.moments, MomentChange::AsBefore) {
            Arc::make_mut(&mut self.kept).apply(&step.moments);
        }
    }
}
