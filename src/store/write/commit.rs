//! Commits sweeps: whole, or, if a scope is huge, page by page as the cloud returns them.
//!
//! The additions and changes of a page are recorded as they arrive, one revision per page. Of the resources that
//! it showed only the row numbers are held, four bytes each, so that memory does not grow with an account. Ends
//! from absence, the run of the ledger and the visibility proof are recorded with the rest, once the listing is
//! over, whatever its outcome. A row of the file marks a sweep that is in progress: one that is found when the
//! file is opened was cut off.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use redb::ReadTransaction;

use crate::inventory::{Change, Subscriber, Sweep, Timestamp};
use crate::store::file::documents;
use crate::store::file::lives;
use crate::store::file::lives::Ended;
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::{DOCUMENT_MAX_BYTES, EntryKind, ID_MAX_BYTES, OpenSweepRow, Rid, ScopeNo};
use crate::store::state::State;
use crate::store::state::ledger;
use crate::store::state::load::scope_number;
use crate::store::state::shared::Published;
use crate::store::write::draft::Draft;
use crate::store::write::plan::{self, Beyond};
use crate::store::write::writer::Request;
use crate::store::{Delta, LARGE_SWEEP_PIECE_MAX_BYTES, PROOF_FLUSH_INTERVAL, Store, StoreError};

/// The part of a sweep that is recorded already, page by page.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The live resources that it showed.
    lives: HashSet<Rid>,
    shown: usize,
    changes: Vec<Change>,
}

impl Recorded {
    /// How many resources the pages showed. A resource on two pages counts twice.
    pub fn shown(&self) -> usize {
        self.shown
    }

    /// The changes of the pages since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

/// A live resource of a scope that a sweep did not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Its id within the scope.
    pub id: Arc<str>,
    /// It was missed before.
    pub is_suspect: bool,
    /// The mass-loss breaker has held it since before.
    pub is_held: bool,
}

/// The sweep, ordered after the last one of its scope. A sweep that began before that one ended is refused, unless
/// the clock was set back meanwhile. Then it is dated no earlier than that end, and its precision is reduced by as
/// much as it was moved.
fn in_order(sweep: &Sweep, last_ended: Timestamp, now: Timestamp) -> Result<Cow<'_, Sweep>, StoreError> {
    if sweep.started >= last_ended {
        return Ok(Cow::Borrowed(sweep));
    }
    if now >= last_ended {
        let scope = Box::new(sweep.scope.clone());
        return Err(StoreError::Overlapping { scope, started: sweep.started, last_ended });
    }
    let ended = sweep.ended.max(last_ended);
    let moved = i64::try_from(ended.since(sweep.ended).as_millis()).unwrap_or(i64::MAX);
    let skew_millis = sweep.skew_millis.saturating_sub(moved);
    Ok(Cow::Owned(Sweep { started: last_ended, ended, skew_millis, ..sweep.clone() }))
}

impl Store {
    /// The live resources of the sweep's scope that neither the sweep nor its recorded pages showed.
    pub fn missed_by(&self, sweep: &Sweep, recorded: &Recorded) -> Vec<Missed> {
        let state = self.state();
        let Some(number) = state.scope_numbers.get(&sweep.scope) else { return Vec::new() };
        let seen: HashSet<&str> = sweep.observations.iter().map(|o| o.id.as_str()).collect();
        let lives = state.scopes[number].order.iter().filter(|rid| !recorded.lives.contains(rid));
        lives
            .map(|rid| (*rid, state.id(*rid)))
            .filter(|(_, id)| !seen.contains(id))
            .map(|(rid, id)| {
                let suspect = state.suspects.get(&rid);
                Missed { id: id.into(), is_suspect: suspect.is_some(), is_held: suspect.is_some_and(|s| s.held) }
            })
            .collect()
    }

    /// Commits a sweep. `prover` is the subscriber whose credentials made it: a complete sweep proves its
    /// visibility.
    ///
    /// Returns once everything is durable. An unchanged sweep writes no row per resource: it extends a run of the
    /// ledger, which is written to the file at most once a minute.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLarge`] if an id or a document is too long, [`StoreError::Overlapping`] if the last sweep
    /// of the scope ended after this one began. [`StoreError::NotWritten`] if the transaction fails or the volume
    /// is full, [`StoreError::Poisoned`] while the file waits to be opened again. [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read. Of a huge sweep the first revisions may be recorded by
    /// then.
    pub fn commit(&self, sweep: &Sweep, prover: Option<&Subscriber>) -> Result<Delta, StoreError> {
        self.commit_rest(sweep, &Recorded::default(), prover)
    }

    /// Commits the end of a sweep with recorded pages: `sweep.observations` are those that are not recorded yet.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`].
    pub fn commit_rest(
        &self,
        sweep: &Sweep,
        recorded: &Recorded,
        prover: Option<&Subscriber>,
    ) -> Result<Delta, StoreError> {
        check_bounds(sweep)?;
        let _alone = self.lock(&sweep.scope);
        let epoch = self.inner.shared.epoch();
        let Published { state: mut seen, txn } = self.inner.shared.published()?;
        let number = scope_number(&mut seen, &sweep.scope);
        let scope = &seen.scopes[&number];
        let last_ended = scope.run.as_ref().map_or(Timestamp::MIN, |run| run.last_ended);
        let sweep = &*in_order(sweep, last_ended, self.now())?;

        let mut draft = Draft::new(sweep.scope.clone(), sweep.ended);
        draft.run = Some(ledger::record(scope.run.as_ref(), sweep));
        draft.proof = prover.filter(|_| sweep.outcome.is_complete()).cloned();
        let proven = draft
            .proof
            .as_ref()
            .map(|subscriber| scope.visibilities.get(subscriber).map(|visibility| visibility.proven));
        open_scope(&mut seen, number, sweep, &mut draft);
        match (&draft.proof, proven.flatten()) {
            (Some(subscriber), None) => {
                draft.entries.push(EntryKind::VisibilityGained { subscriber: subscriber.as_str().into() });
            }
            (Some(_), Some(proven)) => draft.is_proof_due = self.now().since(proven) >= PROOF_FLUSH_INTERVAL,
            (None, _) => {}
        }
        let (last_ended, elsewhere) = self.beyond(&txn, &seen, number, sweep);
        let beyond = Beyond { last_ended: &last_ended, elsewhere: &elsewhere };
        draft.plan = plan::plan(&seen, number, sweep, &recorded.lives, &beyond)?;
        self.encode_documents(&txn, &seen, &mut draft)?;
        self.write(draft.pieces(LARGE_SWEEP_PIECE_MAX_BYTES, open_sweep_row(sweep)), epoch)
    }

    /// Records a page of a sweep that is in progress. It concludes nothing from what the page did not show.
    ///
    /// # Errors
    ///
    /// As [`Store::commit`]. Nothing of the page is then added to `recorded`.
    pub fn record_page(&self, page: &Sweep, recorded: &mut Recorded) -> Result<(), StoreError> {
        check_bounds(page)?;
        let _alone = self.lock(&page.scope);
        let epoch = self.inner.shared.epoch();
        let Published { state: mut seen, txn } = self.inner.shared.published()?;
        let number = scope_number(&mut seen, &page.scope);
        let last_ended = seen.scopes[&number].run.as_ref().map_or(Timestamp::MIN, |run| run.last_ended);
        let page = &*in_order(page, last_ended, self.now())?;
        let mut draft = Draft::new(page.scope.clone(), page.ended);
        open_scope(&mut seen, number, page, &mut draft);
        let (last_ended, elsewhere) = self.beyond(&txn, &seen, number, page);
        let beyond = Beyond { last_ended: &last_ended, elsewhere: &elsewhere };
        draft.plan = plan::page(&seen, number, page, &beyond)?;
        if draft.must_write() {
            self.encode_documents(&txn, &seen, &mut draft)?;
            let mut pieces = draft.pieces(LARGE_SWEEP_PIECE_MAX_BYTES, open_sweep_row(page));
            for piece in &mut pieces {
                piece.open_sweep = Some(open_sweep_row(page));
            }
            recorded.changes.extend(self.write(pieces, epoch)?.changes);
        }
        let state = self.state();
        if let Some(number) = state.scope_numbers.get(&page.scope) {
            recorded.lives.extend(page.observations.iter().filter_map(|o| state.find(*number, &o.id)));
        }
        recorded.shown += page.observations.len();
        Ok(())
    }

    /// What the planner reads beyond the live resources of the scope: the last life of an id that is not live, and
    /// the life of an id in another scope.
    #[allow(clippy::type_complexity)] // two closures over the same values
    fn beyond<'a>(
        &'a self,
        txn: &'a ReadTransaction,
        seen: &'a State,
        number: ScopeNo,
        sweep: &'a Sweep,
    ) -> (impl Fn(&str) -> Result<Option<Ended>, StoreError> + 'a, impl Fn(&str) -> Option<Rid> + 'a) {
        let last_ended = move |id: &str| {
            let found = lives::last_ended(txn, (number, &sweep.scope), id)?;
            Ok(found.map(|(rid, revision, tombstone)| Ended { rid, revision, tombstone }))
        };
        let shared = &self.inner.shared;
        let elsewhere = move |id: &str| shared.whereabouts.elsewhere(seen, || shared.state(), &sweep.scope, id);
        (last_ended, elsewhere)
    }

    fn write(&self, pieces: Vec<Draft>, epoch: u64) -> Result<Delta, StoreError> {
        let mut all = Delta { revision: self.revision(), changes: Vec::new() };
        for piece in pieces {
            let delta = self.submit(Request::Record(Box::new(piece), epoch))?;
            all.revision = delta.revision;
            all.changes.extend(delta.changes);
        }
        Ok(all)
    }

    /// Compresses the documents of the plan, on the caller's thread.
    fn encode_documents(&self, txn: &ReadTransaction, seen: &State, draft: &mut Draft) -> Result<(), StoreError> {
        let attributes =
            || draft.plan.steps.iter().filter_map(|s| Some(s.action.version()?.attributes.as_bytes()));
        if attributes().next().is_none() {
            return Ok(());
        }
        // Before anything is written: a document that is too large must not stop the writer.
        if let Some(actual) = attributes().map(<[u8]>::len).find(|l| *l > DOCUMENT_MAX_BYTES) {
            let what = format!("the document of a resource of {}", draft.scope);
            return Err(StoreError::TooLarge { what, actual, bound: DOCUMENT_MAX_BYTES });
        }
        let resource_type = &draft.scope.resource_type;
        let dictionaries = self.inner.shared.trainer().sample(resource_type, attributes());
        let log = txn.open_table(LOG)?;
        let mut encoder = documents::Encoder::new(resource_type, &dictionaries);
        for planned in &mut draft.plan.steps {
            let is_new = matches!(planned.action, plan::Action::Appear { .. });
            let held = match &planned.before {
                plan::Before::Life(rid) if !is_new => Some((*rid, seen.head(*rid).document)),
                plan::Before::Ended(ended) if !is_new => Some((ended.rid, ended.tombstone.document)),
                _ => None,
            };
            if let Some(version) = planned.action.version_mut() {
                // An unreadable base does not prevent the write: the document is then written in full.
                let base = held.and_then(|(rid, held)| {
                    documents::full(held, &dictionaries, |revision| log::document(&log, revision, rid)).ok()
                });
                version.document = encoder.encode(version.attributes.as_bytes(), base);
            }
        }
        Ok(())
    }
}

fn open_sweep_row(sweep: &Sweep) -> OpenSweepRow {
    let cadence_seconds = sweep.cadence.map(|cadence| cadence.as_secs());
    OpenSweepRow { started: sweep.started, ended: sweep.ended, cadence_seconds }
}

/// The planner must see the scope as open: what is new to a reopened scope is baseline.
fn open_scope(seen: &mut State, number: ScopeNo, sweep: &Sweep, draft: &mut Draft) {
    if !seen.scopes[&number].is_open() {
        draft.entries.push(EntryKind::ScopeOpened { started: sweep.started });
        seen.scope_mut(number).intervals.push((sweep.started, None));
    }
}

fn check_bounds(sweep: &Sweep) -> Result<(), StoreError> {
    for observation in &sweep.observations {
        if observation.id.len() > ID_MAX_BYTES {
            let what = format!("an id of {}", sweep.scope);
            return Err(StoreError::TooLarge { what, actual: observation.id.len(), bound: ID_MAX_BYTES });
        }
    }
    Ok(())
}
