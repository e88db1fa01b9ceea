//! Committing a look: whole, or, where a scope is huge, page by page as the cloud answers.
//!
//! What a page adds and changes is recorded as it comes, a revision a page; of what it showed only the row numbers
//! are held, four bytes a resource, so that memory does not grow with an account. Ends from absence, the run
//! of the ledger and the proof of cover come with the rest, once the listing is over, whatever came of it. A row of
//! the file says that a look is under way: one that is found when the file is opened was cut off.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use redb::ReadTransaction;

use super::draft::Draft;
use super::log::{self, LOG};
use super::plan::{self, Beyond, Ended};
use super::record::{EntryKind, LookRow, MAX_DOCUMENT_BYTES, MAX_ID_BYTES, Rid, ScopeNo};
use super::state::State;
use super::writer::Request;
use super::{Delta, PIECE_BYTES, PROOF_FLUSH, Published, Store, StoreError, document, ledger, life, scope_number};
use crate::inventory::{Change, Sweep, Timestamp, Viewer};

/// What of a look is recorded already, page by page.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// What it showed and lives.
    lives: HashSet<Rid>,
    shown: usize,
    changes: Vec<Change>,
}

impl Recorded {
    /// How many resources the pages showed; one on two pages counts twice.
    pub fn shown(&self) -> usize {
        self.shown
    }

    /// What the pages changed, since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

/// One that lives in a scope and that a look did not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub id: Arc<str>,
    /// It was missed before.
    pub is_suspect: bool,
    /// The mass-loss breaker holds it from before.
    pub is_held: bool,
}

/// The sweep as it follows the last of its scope. One that began before that ended is refused, unless the clock was
/// set back meanwhile: then it is dated no earlier, and no more precisely than by how much.
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
    /// What lives in the sweep's scope and neither the sweep nor what is recorded of it showed.
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

    /// Commits a sweep. `prover` is the viewer whose credentials made it: a complete one proves its cover.
    ///
    /// Returns once everything is durable. An unchanged sweep writes no row per resource: it lengthens
    /// a run of the ledger, in the file at most once a minute.
    pub fn commit(&self, sweep: &Sweep, prover: Option<&Viewer>) -> Result<Delta, StoreError> {
        self.commit_rest(sweep, &Recorded::default(), prover)
    }

    /// Commits the end of a sweep of which some pages are recorded: `sweep.observations` are those that are not.
    pub fn commit_rest(
        &self,
        sweep: &Sweep,
        recorded: &Recorded,
        prover: Option<&Viewer>,
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
        let proven = draft.proof.as_ref().map(|viewer| scope.covers.get(viewer).map(|cover| cover.proven));
        open_scope(&mut seen, number, sweep, &mut draft);
        match (&draft.proof, proven.flatten()) {
            (Some(viewer), None) => {
                draft.entries.push(EntryKind::CoverGained { viewer: viewer.as_str().into() });
            }
            (Some(_), Some(proven)) => draft.is_proof_due = self.now().since(proven) >= PROOF_FLUSH,
            (None, _) => {}
        }
        let (last_ended, elsewhere) = self.beyond(&txn, &seen, number, sweep);
        let beyond = Beyond { last_ended: &last_ended, elsewhere: &elsewhere };
        draft.plan = plan::plan(&seen, number, sweep, &recorded.lives, &beyond)?;
        self.encode_documents(&txn, &seen, &mut draft)?;
        self.write(draft.pieces(PIECE_BYTES, look_row(sweep)), epoch)
    }

    /// Records what a page of a look that goes on showed. It concludes nothing from what it did not.
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
            let mut pieces = draft.pieces(PIECE_BYTES, look_row(page));
            for piece in &mut pieces {
                piece.look = Some(look_row(page));
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

    /// What the planner asks of beyond the lives of the scope: the last life of an id that does not live, and the
    /// life that an id has in another scope.
    #[allow(clippy::type_complexity)] // two closures over the same things
    fn beyond<'a>(
        &'a self,
        txn: &'a ReadTransaction,
        seen: &'a State,
        number: ScopeNo,
        sweep: &'a Sweep,
    ) -> (impl Fn(&str) -> Result<Option<Ended>, StoreError> + 'a, impl Fn(&str) -> Option<Rid> + 'a) {
        let last_ended = move |id: &str| {
            let found = life::last_ended(txn, (number, &sweep.scope), id)?;
            Ok(found.map(|(rid, revision, tombstone)| Ended { rid, revision, tombstone }))
        };
        let shared = &self.inner.shared;
        let elsewhere = move |id: &str| shared.whereabouts.elsewhere(seen, || shared.state(), &sweep.scope, id);
        (last_ended, elsewhere)
    }

    fn write(&self, pieces: Vec<Draft>, epoch: u64) -> Result<Delta, StoreError> {
        let mut all = Delta { revision: self.revision(), changes: Vec::new() };
        for piece in pieces {
            let delta = self.ask(Request::Record(Box::new(piece), epoch))?;
            all.revision = delta.revision;
            all.changes.extend(delta.changes);
        }
        Ok(all)
    }

    /// Compresses what the plan has to say, on the caller's thread.
    fn encode_documents(&self, txn: &ReadTransaction, seen: &State, draft: &mut Draft) -> Result<(), StoreError> {
        let attributes =
            || draft.plan.steps.iter().filter_map(|s| Some(s.action.version()?.attributes.as_bytes()));
        if attributes().next().is_none() {
            return Ok(());
        }
        // Before anything is written: one document that is too large must not stop the writer.
        if let Some(actual) = attributes().map(<[u8]>::len).find(|l| *l > MAX_DOCUMENT_BYTES) {
            let what = format!("the document of a resource of {}", draft.scope);
            return Err(StoreError::TooLarge { what, actual, bound: MAX_DOCUMENT_BYTES });
        }
        let resource_type = &draft.scope.resource_type;
        let dictionaries = self.inner.shared.trainer().sample(resource_type, attributes());
        let log = txn.open_table(LOG)?;
        let mut encoder = document::Encoder::new(resource_type, &dictionaries);
        for planned in &mut draft.plan.steps {
            let is_new = matches!(planned.action, plan::Action::Appear { .. });
            let held = match &planned.before {
                plan::Before::Life(rid) if !is_new => Some((*rid, seen.head(*rid).document)),
                plan::Before::Ended(ended) if !is_new => Some((ended.rid, ended.tombstone.document)),
                _ => None,
            };
            if let Some(version) = planned.action.version_mut() {
                // One that can't be read is no reason not to write: this one is then written in full.
                let base = held.and_then(|(rid, held)| {
                    document::full(held, &dictionaries, |revision| log::document(&log, revision, rid)).ok()
                });
                version.document = encoder.encode(version.attributes.as_bytes(), base);
            }
        }
        Ok(())
    }
}

fn look_row(sweep: &Sweep) -> LookRow {
    let cadence_seconds = sweep.cadence.map(|cadence| cadence.as_secs());
    LookRow { started: sweep.started, ended: sweep.ended, cadence_seconds }
}

/// The planner must see it as open: what is new to a re-opened scope is baseline.
fn open_scope(seen: &mut State, number: ScopeNo, sweep: &Sweep, draft: &mut Draft) {
    if !seen.scopes[&number].is_open() {
        draft.entries.push(EntryKind::ScopeOpened { started: sweep.started });
        seen.scope_mut(number).intervals.push((sweep.started, None));
    }
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
