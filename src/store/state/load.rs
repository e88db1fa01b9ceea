//! Loading a state from the file: the newest one when it is opened, past ones on request.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::fold::{Beginnings, Moves, Names, State};
use super::kept::Kept;
use super::{checkpoint, ledger};
use crate::inventory::{Outcome, ResourceType, Revision, Scope, Subscriber, Timestamp};
use crate::store::file::documents::Dictionaries;
use crate::store::file::lives::{Life, Lives};
use crate::store::file::log::{self, LOG};
use crate::store::file::open::{catch_damage, check_schema};
use crate::store::file::tables::{
    DICT, OPEN_SWEEP, OpenSweepRow, RUN, Rid, Run, SCOPE, SUSPECT, SYM, ScopeNo, VISIBILITY, VisibilityRow, decode,
};
use crate::store::{StoreError, mutants};

/// A run of sweeps: its scope, and when its first sweep ended.
pub(in crate::store) type RunKey = (ScopeNo, Timestamp);

/// What was found in the file besides its state.
pub(in crate::store) struct Recovered {
    /// Sweeps that were cut off, as the runs that record that.
    pub interrupted: BTreeMap<RunKey, Run>,
}

impl Beginnings for Lives {
    fn life(&mut self, rid: Rid) -> Result<Life, StoreError> {
        self.get(rid).cloned()
    }
}

pub(in crate::store) fn read_db(db: &Database, path: &Path) -> Result<(State, Recovered), StoreError> {
    catch_damage(|| {
        check_schema(db, path)?;
        load(db)
    })
}

/// Loads the state at the newest revision.
pub(in crate::store) fn load(db: &Database) -> Result<(State, Recovered), StoreError> {
    let txn = db.begin_read()?;
    let mut state = named(&txn)?;
    // The log contains everything that a checkpoint contains.
    if let Err(error) = checkpoint::load_newest(&txn, &mut state) {
        tracing::warn!(%error, "the newest checkpoint is not used: the whole log is read instead");
        state = named(&txn)?;
    }
    fold_until(&txn, &mut state, Revision(u64::MAX))?;
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
    Ok((state, Recovered { interrupted }))
}

/// Sweeps that were cut off before they could conclude anything: from here on the ledger records that.
pub(in crate::store) fn interrupted(
    txn: &ReadTransaction,
    state: &mut State,
) -> Result<BTreeMap<RunKey, Run>, StoreError> {
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
pub(in crate::store) fn past(txn: &ReadTransaction, newest: &State, until: Revision) -> Result<State, StoreError> {
    let mut state = newest.names();
    checkpoint::load_past(txn, &mut state, newest, until)?;
    fold_until(txn, &mut state, until)?;
    Ok(state)
}

/// A state with only the names that numbers in the file refer to.
pub(in crate::store) fn named(txn: &ReadTransaction) -> Result<State, StoreError> {
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
pub(in crate::store) fn fold_until(
    txn: &ReadTransaction,
    state: &mut State,
    until: Revision,
) -> Result<usize, StoreError> {
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

pub(in crate::store) fn scope_number(state: &mut State, scope: &Scope) -> ScopeNo {
    if let Some(number) = state.scope_numbers.get(scope) {
        return *number;
    }
    let number = ScopeNo::try_from(state.scopes.len()).expect("fewer than 2^32 scopes");
    state.add_scope(number, Arc::new(scope.clone()));
    number
}
