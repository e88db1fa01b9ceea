//! Reads: the state at any moment, and the net difference between two.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use redb::ReadTransaction;
use serde_json::Value;

use super::heads::Living;
use super::lease::Lease;
use super::life::{self, END, KEY, Lives, Tombstone};
use super::log::{self, LOG, Logged};
use super::plan::Ended;
use super::record::{EntryKind, NO_RID, RUN, Rid, Run, ScopeNo, TagsRef, decode};
use super::retention::Kept;
use super::state::State;
use super::steps::fields_between;
use super::{Published, Store, StoreError, document, ledger};
use crate::inventory::{
    Change, ChangeKind, CompleteSweeps, Diff, Filter, History, Milestone, MilestoneKind, Moment, Presence,
    Resource, ResourceKey, Revision, Scope, ScopeStatus, ScopeView, Snapshot, Subscriber, TagSet, Tags, Timestamp,
    Version, Visibility,
};

/// The state at one moment, with redb's own snapshot for documents and history.
pub struct StoreSnapshot {
    pub(super) state: State,
    at: Timestamp,
    /// The time at which scopes must be current: now, for the newest state. It can lie before the state's time if
    /// the clock was set back.
    fresh_at: Timestamp,
    /// The newest state: it has the newest run of each scope, of which the file may hold a shorter one.
    newest: State,
    /// Set if later sweeps count too: the first end after the moment of each life that has one.
    ends_after: Option<BTreeMap<Rid, (u64, Tombstone)>>,
    pub(super) lease: Arc<Lease>,
}

/// A filter that selects less than one in this many resources is sparse.
const SPARSE_FRACTION_DENOMINATOR: usize = 8;

/// A live resource as a list shows it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub scope: &'a Arc<Scope>,
    pub id: &'a str,
    pub presence: Presence,
    pub is_suspect: bool,
    /// `None` if they are unknown, or the type has none.
    pub tags: Option<&'a TagSet>,
    pub first_seen: Timestamp,
    pub changed: Revision,
}

impl Store {
    /// State at a moment, as known then.
    pub fn snapshot(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        self.snapshot_on(moment, |txn| self.inner.shared.leases.lend(txn))
    }

    /// As [`Store::snapshot`], without a time limit.
    pub(super) fn snapshot_unlimited(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        self.snapshot_on(moment, Lease::without_end)
    }

    fn snapshot_on(
        &self,
        moment: Moment,
        lease: impl FnOnce(Arc<ReadTransaction>) -> Arc<Lease>,
    ) -> Result<StoreSnapshot, StoreError> {
        let Published { state: newest, txn } = self.inner.shared.published()?;
        let now = self.now();
        let (revision, at) = revision_at(&txn, &newest, moment, now)?;
        let fresh_at = if moment == Moment::Now { now } else { at };
        let state = if revision == newest.revision {
            newest.clone()
        } else {
            self.inner.shared.past(&txn, &newest, revision)?
        };
        let lease = lease(txn);
        Ok(StoreSnapshot { state, at, fresh_at, newest, ends_after: None, lease })
    }

    /// State at a moment, with what later sweeps show about it: present if a sweep before and one after show the
    /// same life, unknown between last seen and first missed, absent from then on.
    pub fn snapshot_in_hindsight(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        let snapshot = self.snapshot(moment)?;
        let (state, newest) = (&snapshot.state, &snapshot.newest);
        let mut ends = BTreeMap::new();
        life::tombstones_back(&*snapshot.txn()?, newest.revision, newest.ends, |revision, rid, tombstone| {
            let is_after = revision > state.revision.0;
            if is_after {
                // Of two ends of one life the first counts, which comes last here.
                ends.insert(rid, (revision, tombstone));
            }
            is_after
        })?;
        Ok(StoreSnapshot { ends_after: Some(ends), ..snapshot })
    }

    /// Resources that ended after one moment and until another, and whose end was not retracted by then, newest
    /// first: read from the tombstones alone.
    pub fn disappeared(
        &self,
        from: Moment,
        to: Moment,
        subscriber: Option<&Subscriber>,
    ) -> Result<Vec<Change>, StoreError> {
        let to = self.snapshot(to)?;
        let Published { state: newest, txn } = self.inner.shared.published()?;
        let from = revision_at(&txn, &newest, from, self.now())?.0;
        let mut ended = Vec::new();
        life::tombstones_back(&*to.txn()?, to.state.revision, to.state.ends, |revision, _, tombstone| {
            let is_within = revision > from.0;
            let is_seen = subscriber.is_none_or(|subscriber| to.sees(subscriber, tombstone.life.scope));
            if is_within && is_seen && tombstone.stands_at(to.state.revision) {
                let resource = to.state.scopes[&tombstone.life.scope].scope.key(&tombstone.life.id);
                let change =
                    Change::new(ChangeKind::Disappeared, resource, Revision(revision), tombstone.concluded);
                ended.push(change.ended(tombstone.end(revision)));
            }
            is_within
        })?;
        Ok(ended)
    }

    /// The net difference between two moments, and the scopes that were not current at one of them.
    pub fn diff(&self, from: Moment, to: Moment, subscriber: Option<&Subscriber>) -> Result<Diff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        let sees = |scope| subscriber.is_none_or(|v| to.sees(v, scope) || from.sees(v, scope));
        let changes = net_changes(&from, &to, &sees)?.into_iter().map(|(_, change)| change).collect();
        let unknown = unknown_at(&from, &to);
        Ok(Diff { from: from.state.revision, to: to.state.revision, changes, unknown })
    }

    /// As [`Store::diff`], of the scopes that `sees` accepts, each change with its scope.
    pub fn diff_of(
        &self,
        from: Moment,
        to: Moment,
        sees: &dyn Fn(ScopeNo) -> bool,
    ) -> Result<ScopedDiff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        Ok(ScopedDiff { changes: net_changes(&from, &to, sees)?, unknown: unknown_at(&from, &to) })
    }
}

/// The difference between two moments, with the scope of each change, and the scopes that were not current at one
/// of them.
#[derive(Clone, Debug)]
pub struct ScopedDiff {
    pub changes: Vec<(ScopeNo, Change)>,
    pub unknown: Vec<ScopeView>,
}

fn net_changes(
    from: &StoreSnapshot,
    to: &StoreSnapshot,
    sees: &dyn Fn(ScopeNo) -> bool,
) -> Result<Vec<(ScopeNo, Change)>, StoreError> {
    // For each life with entries between the two: its scope, and its last end.
    let mut touched: BTreeMap<Rid, (ScopeNo, Option<u64>)> = BTreeMap::new();
    let range = from.state.revision.0 + 1..=to.state.revision.0;
    log::revisions(&to.txn()?.open_table(LOG)?, range, |revision, row, entries| {
        if sees(row.scope) {
            for entry in entries.iter().filter(|entry| entry.rid != NO_RID) {
                let of_it = touched.entry(entry.rid).or_insert((row.scope, None));
                if matches!(entry.kind, EntryKind::Ended) {
                    of_it.1 = Some(revision.0);
                }
            }
        }
        Ok(())
    })?;
    let mut changes = Vec::new();
    for (rid, (scope, ended)) in touched {
        changes.extend(to.net_change(from, rid, scope, ended)?.map(|change| (scope, change)));
    }
    changes.sort_by(|(_, a), (_, b)| (&a.resource, b.change).cmp(&(&b.resource, a.change)));
    Ok(changes)
}

/// The revision of a moment, and its time.
pub(super) fn revision_at(
    txn: &ReadTransaction,
    newest: &State,
    moment: Moment,
    now: Timestamp,
) -> Result<(Revision, Timestamp), StoreError> {
    Ok(match moment {
        Moment::Now => (newest.revision, now.max(newest.time)),
        Moment::Revision(requested) if requested > newest.revision => {
            return Err(StoreError::Future { requested, newest: newest.revision });
        }
        Moment::Revision(requested) => {
            newest.kept.check(requested)?;
            (requested, time_of(txn, Revision(newest.kept.logged(requested.0)))?)
        }
        Moment::Time(requested) => (last_at(txn, newest, requested)?, requested),
    })
}

/// The scopes that were not current at one of two moments.
pub(super) fn unknown_at(from: &StoreSnapshot, to: &StoreSnapshot) -> Vec<ScopeView> {
    let mut unknown: BTreeMap<Scope, ScopeView> = BTreeMap::new();
    for view in from.scopes().into_iter().chain(to.scopes()) {
        if view.status != ScopeStatus::Current {
            unknown.entry(view.scope.clone()).or_insert(view);
        }
    }
    unknown.into_values().collect()
}

fn time_of(txn: &ReadTransaction, revision: Revision) -> Result<Timestamp, StoreError> {
    let table = txn.open_table(LOG)?;
    match revision {
        // The empty state before everything.
        Revision::ZERO => Ok(log::first_time(&table)?.unwrap_or_default()),
        _ => log::time_of(&table, revision.0),
    }
}

/// The last revision whose time is at or before `requested`.
fn last_at(txn: &ReadTransaction, current: &State, requested: Timestamp) -> Result<Revision, StoreError> {
    if requested >= current.time {
        return Ok(current.revision);
    }
    if let Some(kept) = current.kept.at(requested)? {
        return Ok(kept);
    }
    let log = txn.open_table(LOG)?;
    let floor = current.kept.floor();
    let first = if floor == Revision::ZERO { Revision(current.kept.after(0)) } else { floor };
    let earliest = log::time_of(&log, first.0)?;
    if requested < earliest {
        return Err(StoreError::TooEarly { requested, earliest, revision: first });
    }
    last_between(&log, &current.kept, first.0..=current.revision.0, requested)
}

/// The last revision of a range whose time is at or before `requested`. All of them must be kept, and the first
/// must qualify. Binary search, because times never go back.
pub(super) fn last_between(
    log: &impl redb::ReadableTable<(u64, Rid), &'static [u8]>,
    kept: &Kept,
    range: RangeInclusive<u64>,
    requested: Timestamp,
) -> Result<Revision, StoreError> {
    let (mut low, mut high) = range.into_inner();
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if log::time_of(log, kept.logged(middle))? <= requested {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(Revision(kept.logged(low)))
}

impl StoreSnapshot {
    /// The redb snapshot; an error once it has been held for too long.
    pub(super) fn txn(&self) -> Result<Arc<ReadTransaction>, StoreError> {
        self.lease.txn()
    }

    pub(super) fn scope_view(&self, number: ScopeNo) -> ScopeView {
        let state = &self.state.scopes[&number];
        let open = state.is_open_at(self.at) || state.is_open();
        let (status, watermark) = ledger::status_at(self.runs(number).into_iter(), open, self.fresh_at);
        ScopeView { scope: Scope::clone(&state.scope), status, watermark }
    }

    /// Runs whose first sweep ended at or before the moment, newest first. A run that can't be read counts as
    /// none: it makes its times unknown, never present.
    fn runs(&self, number: ScopeNo) -> Vec<Run> {
        let at = self.at.as_millis();
        let newest = self.newest_run(number).filter(|run| run.first_ended.as_millis() <= at);
        // Runs before the last complete one are not needed: mostly it is the newest, and the file is not read.
        if let Some(run) = newest.filter(|run| run.outcome.is_complete()) {
            return vec![run.clone()];
        }
        let mut runs: BTreeMap<i64, Run> = BTreeMap::new();
        if let Ok(txn) = self.txn()
            && let Ok(table) = txn.open_table(RUN)
            && let Ok(rows) = table.range((number, i64::MIN)..=(number, at))
        {
            for (key, value) in rows.rev().flatten() {
                let Ok(run) = decode::<Run>("run", value.value()) else { continue };
                let done = run.outcome.is_complete();
                runs.insert(key.value().1, run);
                if done {
                    break;
                }
            }
        }
        if let Some(run) = newest {
            runs.insert(run.first_ended.as_millis(), run.clone());
        }
        runs.into_values().rev().collect()
    }

    /// When the known complete sweeps of the runs before one began: the first and the last of each.
    fn earlier_sweeps(&self, number: ScopeNo, before: Timestamp) -> Vec<Timestamp> {
        /// Earlier runs are not needed.
        const EARLIER_RUNS_MAX: usize = 8;
        let mut began = Vec::new();
        if let Ok(txn) = self.txn()
            && let Ok(table) = txn.open_table(RUN)
            && let Ok(rows) = table.range((number, i64::MIN)..(number, before.as_millis()))
        {
            let runs = rows.rev().flatten().filter_map(|row| decode::<Run>("run", row.1.value()).ok());
            for run in runs.filter(|run| run.outcome.is_complete()).take(EARLIER_RUNS_MAX) {
                began.extend([run.last_started, run.first_started]);
            }
        }
        began
    }

    /// Whether a complete sweep of the scope ended after the moment.
    fn is_swept_later(&self, number: ScopeNo) -> Result<bool, StoreError> {
        let is_later = |run: &Run| run.outcome.is_complete() && run.last_ended > self.at;
        if self.newest_run(number).is_some_and(is_later) || self.runs(number).iter().any(is_later) {
            return Ok(true);
        }
        for row in self.txn()?.open_table(RUN)?.range((number, self.at.as_millis())..=(number, i64::MAX))? {
            if is_later(&decode::<Run>("run", row?.1.value())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn newest_run(&self, number: ScopeNo) -> Option<&Run> {
        self.newest.scopes.get(&number)?.run.as_ref()
    }

    /// Corrects a resource by what became known of its life after the moment.
    fn correct(&self, rid: Rid, ends_after: &BTreeMap<Rid, (u64, Tombstone)>, resource: &mut Resource) {
        let end = ends_after.get(&rid);
        if let Some((revision, tombstone)) = end
            && self.at >= tombstone.first_missed
        {
            // A retracted end was no end: what happened in between is unknown.
            let is_retracted = tombstone.retracted.is_some();
            resource.presence = if is_retracted { Presence::Unknown } else { Presence::Absent };
            resource.end = (!is_retracted).then(|| tombstone.end(*revision));
            return;
        }
        let last_seen = match end {
            Some((_, tombstone)) => Some(tombstone.last_seen),
            None => self.newest.suspects.get(&rid).map(|suspect| suspect.last_seen),
        };
        if last_seen.is_none_or(|last_seen| self.at <= last_seen) {
            resource.presence = Presence::Present;
            resource.suspect = None;
        } else {
            resource.presence = Presence::Unknown;
        }
    }

    pub(super) fn sees(&self, subscriber: &Subscriber, scope: ScopeNo) -> bool {
        self.state.scopes.get(&scope).is_some_and(|scope| scope.visibilities.get(subscriber).is_some())
    }

    pub(super) fn resource(&self, rid: Rid, status: ScopeStatus) -> Resource {
        let (head, id) = (self.state.head(rid), self.state.id(rid));
        self.resource_of(&Living { rid, head, id }, status)
    }

    pub(super) fn resource_of(&self, life: &Living<'_>, status: ScopeStatus) -> Resource {
        let Living { rid, head, id } = life;
        let scope = self.state.scopes[&head.scope].scope.clone();
        let suspect = self.state.suspects.get(rid).cloned();
        let is_present = status == ScopeStatus::Current && suspect.is_none();
        Resource {
            key: scope.key(id),
            scope,
            presence: if is_present { Presence::Present } else { Presence::Unknown },
            tags: self.state.tags(head.tags),
            first_seen: head.first_seen,
            baseline: head.baseline,
            birth: head.birth,
            changed: head.changed,
            suspect,
            end: None,
            retracted: head.retracted,
        }
    }

    fn ended_resource(&self, revision: u64, tombstone: Tombstone, status: ScopeStatus) -> Resource {
        let scope = self.state.scopes[&tombstone.life.scope].scope.clone();
        // In hindsight a life whose end was retracted never ended.
        let is_false = self.ends_after.is_some() && tombstone.retracted.is_some();
        let is_absent = status == ScopeStatus::Current && !is_false;
        Resource {
            key: scope.key(&tombstone.life.id),
            scope,
            presence: if is_absent { Presence::Absent } else { Presence::Unknown },
            tags: self.state.tags(tombstone.tags),
            first_seen: tombstone.life.first_seen,
            baseline: tombstone.life.baseline,
            birth: tombstone.life.birth,
            changed: Revision(revision),
            suspect: None,
            end: (!is_false).then(|| tombstone.end(revision)),
            retracted: false,
        }
    }

    /// Passes every resource that was ever seen to `report`, with its last life: live resources scope by scope,
    /// then ended ones, newest first. One at a time, because there may be many.
    pub(super) fn each_resource_ever(
        &self,
        mut report: impl FnMut(Resource) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statuses = BTreeMap::new();
        for (number, scope) in &self.state.scopes {
            let status = self.scope_view(*number).status;
            statuses.insert(*number, status);
            for rid in scope.order.iter() {
                report(self.resource(*rid, status))?;
            }
        }
        let txn = self.txn()?;
        let keys = txn.open_table(KEY)?;
        let mut failed = Ok(());
        life::tombstones_back(&txn, self.state.revision, self.state.ends, |revision, rid, tombstone| {
            let number = tombstone.life.scope;
            let scope = &self.state.scopes[&number].scope;
            // The table holds the last end of each id that is not live.
            let last = keys.get(life::key_hash(scope, &tombstone.life.id)).map(|row| row.map(|row| row.value()));
            match last {
                Ok(last) if last == Some((rid, revision)) => {
                    failed = report(self.ended_resource(revision, tombstone, statuses[&number]));
                }
                Ok(_) => {}
                Err(error) => failed = Err(error.into()),
            }
            failed.is_ok()
        })?;
        failed
    }

    /// The last ended life of each id that is not live at the moment.
    fn ended(&self, since: Timestamp) -> Result<Vec<(u64, Tombstone)>, StoreError> {
        let mut out = Vec::new();
        let mut reported: BTreeSet<(ScopeNo, Arc<str>)> = BTreeSet::new();
        life::tombstones_back(&*self.txn()?, self.state.revision, self.state.ends, |revision, _, tombstone| {
            if tombstone.concluded < since {
                return false;
            }
            let (scope, id) = (tombstone.life.scope, tombstone.life.id.clone());
            if tombstone.stands_at(self.state.revision)
                && self.state.rid(scope, &id).is_none()
                && reported.insert((scope, id))
            {
                out.push((revision, tombstone));
            }
            true
        })?;
        Ok(out)
    }

    /// All resources that a key or a bare id names, including ended ones.
    pub fn find(&self, name: &str, subscriber: Option<&Subscriber>) -> Result<Vec<Resource>, StoreError> {
        let key = name.parse::<ResourceKey>().ok();
        let is_meant = |scope: &Scope| {
            key.as_ref().is_none_or(|key| {
                key.provider == scope.provider
                    && key.account == scope.account
                    && key.region == scope.region
                    && key.resource_type == scope.resource_type
            })
        };
        let id = key.as_ref().map_or(name, |key| &*key.id);
        let mut found = Vec::new();
        for (number, scope) in &self.state.scopes {
            if !is_meant(&scope.scope) || subscriber.is_some_and(|v| scope.visibilities.get(v).is_none()) {
                continue;
            }
            found.extend(self.find_in(*number, id)?);
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The live resource with an id in a scope, or the last one that ended.
    pub fn find_in(&self, number: ScopeNo, id: &str) -> Result<Option<Resource>, StoreError> {
        if let Some(rid) = self.state.rid(number, id) {
            let status = self.scope_view(number).status;
            let mut resource = self.resource(rid, status);
            self.apply_hindsight_to_scope(number, status, &mut [(rid, &mut resource)]);
            return Ok(Some(resource));
        }
        let Some(ended) = self.ended_at(number, id)? else { return Ok(None) };
        Ok(Some(self.ended_resource(ended.revision, ended.tombstone, self.scope_view(number).status)))
    }

    /// The last life of an id that has ended at the moment; `None` if it is live, or was never seen.
    fn ended_at(&self, number: ScopeNo, id: &str) -> Result<Option<Ended>, StoreError> {
        let now = &self.newest.scopes[&number];
        let mut last = match self.newest.rid(number, id) {
            Some(rid) => Some((rid, self.newest.head(rid).last_entry)),
            None if !now.has_ends => None,
            None => life::last_ended(&*self.txn()?, (number, &now.scope), id)?.map(|(rid, end, _)| (rid, end)),
        };
        let mut lives = Lives::open(&*self.txn()?)?;
        while let Some((rid, newest)) = last {
            let steps = self.entries_of(rid, newest, 0)?;
            let then = steps.iter().rev().find(|(revision, ..)| *revision <= self.state.revision.0);
            match then {
                Some((revision, _, entry)) if matches!(entry.kind, EntryKind::Ended) => {
                    let tombstone = life::tombstone(&self.txn()?.open_table(END)?, *revision, rid)?;
                    return Ok(Some(Ended { rid, revision: *revision, tombstone }));
                }
                Some(_) => return Ok(None),
                None => last = lives.get(rid)?.before,
            }
        }
        Ok(None)
    }

    /// The life of a resource, and the revision of its newest entry.
    pub(super) fn life_of(&self, resource: &Resource) -> Result<Option<(Rid, u64)>, StoreError> {
        let Some(number) = self.state.scope_numbers.get(&resource.scope) else { return Ok(None) };
        if let Some(rid) = self.state.rid(*number, &resource.key.id) {
            return Ok(Some((rid, self.state.head(rid).last_entry)));
        }
        Ok(self.ended_at(*number, &resource.key.id)?.map(|ended| (ended.rid, ended.revision)))
    }

    pub(super) fn document(&self, revision: u64, rid: Rid) -> Result<Value, StoreError> {
        let table = self.txn()?.open_table(LOG)?;
        document::document(revision, &self.state.dictionaries, |revision| log::document(&table, revision, rid))
    }

    pub(super) fn tags_of(&self, tags: TagsRef) -> Tags {
        self.state.tags(tags)
    }

    /// How one life here differs from its state in `from`.
    fn net_change(
        &self,
        from: &StoreSnapshot,
        rid: Rid,
        number: ScopeNo,
        ended: Option<u64>,
    ) -> Result<Option<Change>, StoreError> {
        let scope = &self.state.scopes[&number];
        // A scope that is no longer watched gives no information on what became of its resources.
        if !scope.is_open() {
            return Ok(None);
        }
        let change = |change, id: &str, revision| -> Result<Change, StoreError> {
            Ok(Change::new(change, scope.scope.key(id), revision, time_of(&*self.txn()?, revision)?))
        };
        Ok(match (from.state.heads.get(rid), self.state.heads.get(rid)) {
            (None, Some(now)) => {
                let id = self.state.id(rid);
                let appeared = change(ChangeKind::Appeared, id, now.changed)?;
                let replaced = from.state.rid(number, id).is_some();
                let txn = self.txn()?;
                let moved_from = life::moved_from(&txn, &mut Lives::open(&txn)?, &self.state, rid)?;
                let moved = moved_from.is_some();
                Some(Change { baseline: now.baseline, replaced, moved, moved_from, ..appeared })
            }
            (Some(_), None) => {
                let revision = ended.ok_or(StoreError::Damaged { table: "log" })?;
                let tombstone = life::tombstone(&self.txn()?.open_table(END)?, revision, rid)?;
                let disappeared = change(ChangeKind::Disappeared, from.state.id(rid), Revision(revision))?;
                Some(disappeared.ended(tombstone.end(revision)))
            }
            (Some(then), Some(now)) if then.changed != now.changed => {
                let before = (from.document(then.document, rid)?, from.tags_of(then.tags));
                let after = (self.document(now.document, rid)?, self.tags_of(now.tags));
                let fields = fields_between((&before.0, &before.1), (&after.0, &after.1));
                let changed = change(ChangeKind::Changed, self.state.id(rid), now.changed)?;
                (!fields.is_empty()).then_some(Change { fields, ..changed })
            }
            (None, None) | (Some(_), Some(_)) => None,
        })
    }

    /// With hindsight: corrects resources of a scope if the moment lies between two sweeps.
    fn apply_hindsight_to_scope(
        &self,
        number: ScopeNo,
        status: ScopeStatus,
        resources: &mut [(Rid, &mut Resource)],
    ) {
        let Some(ends_after) = &self.ends_after else { return };
        if !matches!(status, ScopeStatus::Current | ScopeStatus::Stale) {
            return;
        }
        match self.is_swept_later(number) {
            Ok(true) => resources.iter_mut().for_each(|(rid, resource)| self.correct(*rid, ends_after, resource)),
            Ok(false) => {}
            // As with a run that can't be read: unknown, never present.
            Err(_) => resources.iter_mut().for_each(|(_, resource)| resource.presence = Presence::Unknown),
        }
    }

    /// Passes every live resource that matches the filter to `report`, scope by scope in the order of the ids;
    /// nothing is copied for it. It applies no hindsight.
    pub fn each(&self, filter: &Filter, mut report: impl FnMut(Line<'_>)) {
        // Collected once, instead of a search in the tree that holds them for each resource.
        let sets: Vec<&TagSet> = self.state.tag_sets.iter().collect();
        let selected = self.state.tag_index.matches(&self.state.tag_sets, filter);
        let has_tags = |tags: TagsRef| selected.as_ref().is_none_or(|selected| selected.has(tags));
        // A few are found by their tags first; with many it is faster to skip the others on the way.
        let few = selected.as_ref().map(|selected| self.state.heads.with_tags(selected));
        let few = few.filter(|rids| rids.len() < self.state.heads.len() / SPARSE_FRACTION_DENOMINATOR);
        let mut by_scope: BTreeMap<ScopeNo, Vec<Rid>> = BTreeMap::new();
        for rid in few.iter().flatten() {
            by_scope.entry(self.state.head(*rid).scope).or_default().push(*rid);
        }
        for number in self.state.scopes.keys().filter(|number| self.is_requested(filter, **number)) {
            let scope = &self.state.scopes[number];
            let mut some = by_scope.remove(number).unwrap_or_default();
            some.sort_by(|a, b| self.state.id(*a).cmp(self.state.id(*b)));
            let rids: &[Rid] = if few.is_some() { &some } else { &scope.order };
            if rids.is_empty() {
                continue;
            }
            let is_current = self.scope_view(*number).status == ScopeStatus::Current;
            for Living { rid, head, id } in self.state.heads.each_tagged(rids, has_tags) {
                if filter.id.as_deref().is_some_and(|selected| selected != id) {
                    continue;
                }
                let is_suspect = !self.state.suspects.is_empty() && self.state.suspects.contains_key(&rid);
                let is_present = is_current && !is_suspect;
                report(Line {
                    scope: &scope.scope,
                    id,
                    presence: if is_present { Presence::Present } else { Presence::Unknown },
                    is_suspect,
                    tags: head.tags.number().map(|number| sets[number as usize]),
                    first_seen: head.first_seen,
                    changed: head.changed,
                });
            }
        }
    }

    /// The number of live resources that match the filter. A filter by tags over all watched scopes is counted
    /// without visiting each resource.
    pub fn count(&self, filter: &Filter) -> usize {
        let is_requested = |number: &ScopeNo| self.is_requested(filter, *number);
        let selected = self.state.tag_index.matches(&self.state.tag_sets, filter);
        if let Some(selected) =
            selected.filter(|_| filter.id.is_none() && self.state.scopes.keys().all(is_requested))
        {
            return self.state.heads.with_tags(&selected).len();
        }
        let mut count = 0;
        self.each(filter, |_| count += 1);
        count
    }

    fn is_requested(&self, filter: &Filter, number: ScopeNo) -> bool {
        let scope = &self.state.scopes[&number];
        (filter.include_unwatched || scope.is_open())
            && filter.subscriber.as_ref().is_none_or(|v| scope.visibilities.get(v).is_some())
            && filter.matches_scope(&scope.scope)
    }
}

impl Snapshot for StoreSnapshot {
    type Error = StoreError;

    fn revision(&self) -> Revision {
        self.state.revision
    }

    fn time(&self) -> Timestamp {
        self.at
    }

    fn scopes(&self) -> Vec<ScopeView> {
        let known = |number: &&ScopeNo| !self.state.scopes[*number].intervals.is_empty();
        self.state.scopes.keys().filter(known).map(|number| self.scope_view(*number)).collect()
    }

    fn resources(&self, filter: &Filter) -> Result<Vec<Resource>, StoreError> {
        // Many resources share a set of tags: each set is matched once.
        let matched: RefCell<BTreeMap<TagsRef, bool>> = RefCell::default();
        let matches = |tags: TagsRef| {
            *matched.borrow_mut().entry(tags).or_insert_with(|| filter.matches_tags(&self.state.tags(tags)))
        };
        let is_id = |id: &str| filter.id.as_deref().is_none_or(|selected| selected == id);
        let mut out = Vec::new();
        let mut statuses = BTreeMap::new();
        for number in self.state.scopes.keys().filter(|number| self.is_requested(filter, **number)) {
            let status = self.scope_view(*number).status;
            statuses.insert(*number, status);
            let rids = self.state.scopes[number].order.iter().copied();
            let selected = rids.filter(|rid| matches(self.state.head(*rid).tags) && is_id(self.state.id(*rid)));
            let mut lives: Vec<(Rid, Resource)> = selected.map(|rid| (rid, self.resource(rid, status))).collect();
            let mut found: Vec<(Rid, &mut Resource)> = lives.iter_mut().map(|(rid, r)| (*rid, r)).collect();
            self.apply_hindsight_to_scope(*number, status, &mut found);
            let is_selected = |resource: &Resource| {
                resource.end.as_ref().is_none_or(|end| filter.ended_since.is_some_and(|s| end.concluded >= s))
            };
            out.extend(lives.into_iter().map(|(_, resource)| resource).filter(is_selected));
        }
        if let Some(since) = filter.ended_since {
            for (revision, tombstone) in self.ended(since)? {
                if let Some(status) = statuses.get(&tombstone.life.scope)
                    && matches(tombstone.tags)
                    && is_id(&tombstone.life.id)
                {
                    out.push(self.ended_resource(revision, tombstone, *status));
                }
            }
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }

    fn attributes(&self, resource: &Resource) -> Result<Value, StoreError> {
        let number = self.state.scope_numbers.get(&resource.scope).copied().unwrap_or_default();
        if let Some(rid) = self.state.rid(number, &resource.key.id) {
            return self.document(self.state.head(rid).document, rid);
        }
        let ended = self.ended_at(number, &resource.key.id)?.ok_or(StoreError::Damaged { table: "key" })?;
        self.document(ended.tombstone.document, ended.rid)
    }

    fn visible(&self, subscriber: &Subscriber) -> BTreeMap<Scope, Visibility> {
        let visibility = |scope: &Arc<super::state::ScopeState>| {
            Some((Scope::clone(&scope.scope), *scope.visibilities.get(subscriber)?))
        };
        self.state.scopes.values().filter_map(visibility).collect()
    }

    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps> {
        let number = *self.state.scope_numbers.get(scope)?;
        if self.scope_view(number).status != ScopeStatus::Current {
            return None;
        }
        let run = self.runs(number).into_iter().find(|run| run.outcome.is_complete())?;
        Some(CompleteSweeps {
            first: run.first_started,
            // In a run that went on after the moment, the last sweep before it is not known.
            last: if run.last_ended <= self.at { run.last_started } else { run.first_started },
            longest_gap: Duration::from_millis(run.longest_gap_millis),
            earlier: self.earlier_sweeps(number, run.first_ended),
        })
    }

    fn time_of(&self, revision: Revision) -> Result<Timestamp, StoreError> {
        time_of(&*self.txn()?, revision)
    }
}

impl History for StoreSnapshot {
    type Error = StoreError;

    fn milestones(&self, resource: &Resource) -> Result<Vec<Milestone>, StoreError> {
        let Some((rid, newest)) = self.life_of(resource)? else { return Ok(Vec::new()) };
        let newest = match self.state.heads.get(rid) {
            // A head from an older checkpoint has no milestone.
            Some(head) if head.milestone == 0 => self.last_milestone(rid, head.last_entry)?,
            Some(head) => head.milestone,
            None => newest,
        };
        let mut before = None;
        let mut reported = Vec::new();
        for (revision, row, Logged { entry, .. }) in self.walk_back(rid, newest, 0, |entry| entry.milestone)? {
            let after = entry.kind.version().and_then(|version| version.tags).or(before);
            let tags = after.map_or(Tags::Unknown, |tags| self.tags_of(tags));
            let mut report = |kind| {
                reported.push(Milestone {
                    revision: Revision(revision),
                    time: row.time,
                    kind,
                    tags: tags.clone(),
                });
            };
            match &entry.kind {
                EntryKind::Appeared { .. } => report(MilestoneKind::Appeared { baseline: resource.baseline }),
                EntryKind::Ended => report(MilestoneKind::Ended),
                EntryKind::Retracted { .. } => report(MilestoneKind::Retracted),
                _ => {}
            }
            let is_new = matches!(entry.kind, EntryKind::Changed { .. } | EntryKind::Retracted { .. });
            if let (true, true, Some(before)) = (is_new, before != after, before) {
                report(MilestoneKind::TagsChanged { before: self.tags_of(before), after: tags.clone() });
            }
            before = after;
        }
        Ok(reported)
    }

    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool) -> Result<(), StoreError> {
        let Some((rid, newest)) = self.life_of(resource)? else { return Ok(()) };
        for (revision, row, entry) in self.entries_of(rid, newest, 0)?.into_iter().rev() {
            if !entry.has_document || entry.kind.version().is_none() {
                continue;
            }
            let attributes = self.document(revision, rid)?;
            if !more(Version { revision: Revision(revision), time: row.time, attributes }) {
                break;
            }
        }
        Ok(())
    }
}
