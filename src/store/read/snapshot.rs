//! Reads: the state at any moment, and the net difference between two.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use redb::ReadTransaction;
use serde_json::Value;

use crate::inventory::{
    CompleteSweeps, Filter, Moment, Presence, Resource, ResourceKey, Revision, Scope, ScopeStatus, ScopeView,
    Snapshot, Subscriber, TagSet, Tags, Timestamp, Visibility,
};
use crate::store::file::documents;
use crate::store::file::lives::Ended;
use crate::store::file::lives::{self, END, KEY, Lives, Tombstone};
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::{EntryKind, RUN, Rid, Run, ScopeNo, TagsRef, decode};
use crate::store::read::moment::{revision_at, time_of};
use crate::store::state::State;
use crate::store::state::heads::Living;
use crate::store::state::lease::Lease;
use crate::store::state::ledger;
use crate::store::state::shared::Published;
use crate::store::{Store, StoreError};

/// The state at one moment, with redb's own snapshot for documents and history. It does not change. After five
/// minutes it can only read what is in memory.
pub struct StoreSnapshot {
    pub(in crate::store) state: State,
    pub(super) at: Timestamp,
    /// The time at which scopes must be current: now, for the newest state. It can lie before the state's time if
    /// the clock was set back.
    pub(super) fresh_at: Timestamp,
    /// The newest state: it has the newest run of each scope, of which the file may hold a shorter one.
    pub(super) newest: State,
    /// Set if later sweeps count too: the first end after the moment of each life that has one.
    pub(super) ends_after: Option<BTreeMap<Rid, (u64, Tombstone)>>,
    pub(in crate::store) lease: Arc<Lease>,
}

/// A filter that selects less than one in this many resources is sparse.
const SPARSE_FRACTION_DENOMINATOR: usize = 8;

/// A live resource as a list shows it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The scope that lists it.
    pub scope: &'a Arc<Scope>,
    /// Its id within the scope.
    pub id: &'a str,
    /// `Present` if the scope is current and no complete sweep missed the resource, otherwise `Unknown`.
    pub presence: Presence,
    /// A complete sweep missed it, and its end is not confirmed yet.
    pub is_suspect: bool,
    /// `None` if they are unknown, or the type has none.
    pub tags: Option<&'a TagSet>,
    /// The end of the sweep that listed this life first.
    pub first_seen: Timestamp,
    /// The revision of its last change.
    pub changed: Revision,
}

impl Store {
    /// State at a moment, as known then.
    ///
    /// # Errors
    ///
    /// [`StoreError::Future`], [`StoreError::TooEarly`] or [`StoreError::NotKept`] if the moment can't be queried;
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn snapshot(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        self.snapshot_on(moment, |txn| self.inner.shared.leases.lend(txn))
    }

    /// As [`Store::snapshot`], without a time limit.
    pub(in crate::store) fn snapshot_unlimited(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        self.snapshot_on(moment, Lease::without_end)
    }

    pub(super) fn snapshot_on(
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
}

impl StoreSnapshot {
    /// The redb snapshot; an error once it has been held for too long.
    pub(in crate::store) fn txn(&self) -> Result<Arc<ReadTransaction>, StoreError> {
        self.lease.txn()
    }

    pub(in crate::store) fn scope_view(&self, number: ScopeNo) -> ScopeView {
        let state = &self.state.scopes[&number];
        let open = state.is_open_at(self.at) || state.is_open();
        let (status, watermark) = ledger::status_at(self.runs(number).into_iter(), open, self.fresh_at);
        ScopeView { scope: Scope::clone(&state.scope), status, watermark }
    }

    /// Runs whose first sweep ended at or before the moment, newest first. A run that can't be read counts as
    /// none: it makes its times unknown, never present.
    pub(super) fn runs(&self, number: ScopeNo) -> Vec<Run> {
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
    pub(super) fn earlier_sweeps(&self, number: ScopeNo, before: Timestamp) -> Vec<Timestamp> {
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
    pub(super) fn is_swept_later(&self, number: ScopeNo) -> Result<bool, StoreError> {
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

    pub(super) fn newest_run(&self, number: ScopeNo) -> Option<&Run> {
        self.newest.scopes.get(&number)?.run.as_ref()
    }

    pub(in crate::store) fn sees(&self, subscriber: &Subscriber, scope: ScopeNo) -> bool {
        self.state.scopes.get(&scope).is_some_and(|scope| scope.visibilities.get(subscriber).is_some())
    }

    pub(in crate::store) fn resource(&self, rid: Rid, status: ScopeStatus) -> Resource {
        let (head, id) = (self.state.head(rid), self.state.id(rid));
        self.resource_of(&Living { rid, head, id }, status)
    }

    pub(in crate::store) fn resource_of(&self, life: &Living<'_>, status: ScopeStatus) -> Resource {
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

    pub(super) fn ended_resource(&self, revision: u64, tombstone: Tombstone, status: ScopeStatus) -> Resource {
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
    pub(in crate::store) fn each_resource_ever(
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
        lives::tombstones_back(&txn, self.state.revision, self.state.ends, |revision, rid, tombstone| {
            let number = tombstone.life.scope;
            let scope = &self.state.scopes[&number].scope;
            // The table holds the last end of each id that is not live.
            let last = keys.get(lives::key_hash(scope, &tombstone.life.id)).map(|row| row.map(|row| row.value()));
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
    pub(super) fn ended(&self, since: Timestamp) -> Result<Vec<(u64, Tombstone)>, StoreError> {
        let mut out = Vec::new();
        let mut seen_ids: BTreeSet<(ScopeNo, Arc<str>)> = BTreeSet::new();
        lives::tombstones_back(&*self.txn()?, self.state.revision, self.state.ends, |revision, _, tombstone| {
            if tombstone.concluded < since {
                return false;
            }
            let (scope, id) = (tombstone.life.scope, tombstone.life.id.clone());
            if tombstone.stands_at(self.state.revision)
                && self.state.rid(scope, &id).is_none()
                && seen_ids.insert((scope, id))
            {
                out.push((revision, tombstone));
            }
            true
        })?;
        Ok(out)
    }

    /// All resources that a key or a bare id names, including ended ones.
    ///
    /// Sorted by key. Empty if there are none, or if the subscriber can't see their scopes.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
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
    ///
    /// `None` if the scope never had one. There must be a scope with this number.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReaderExpired`] if the snapshot is too old to read the file, [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if the file can't be read.
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
    pub(super) fn ended_at(&self, number: ScopeNo, id: &str) -> Result<Option<Ended>, StoreError> {
        let now = &self.newest.scopes[&number];
        let mut last = match self.newest.rid(number, id) {
            Some(rid) => Some((rid, self.newest.head(rid).last_entry)),
            None if !now.has_ends => None,
            None => lives::last_ended(&*self.txn()?, (number, &now.scope), id)?.map(|(rid, end, _)| (rid, end)),
        };
        let mut lives = Lives::open(&*self.txn()?)?;
        while let Some((rid, newest)) = last {
            let steps = self.entries_of(rid, newest, 0)?;
            let then = steps.iter().rev().find(|(revision, ..)| *revision <= self.state.revision.0);
            match then {
                Some((revision, _, entry)) if matches!(entry.kind, EntryKind::Ended) => {
                    let tombstone = lives::tombstone(&self.txn()?.open_table(END)?, *revision, rid)?;
                    return Ok(Some(Ended { rid, revision: *revision, tombstone }));
                }
                Some(_) => return Ok(None),
                None => last = lives.get(rid)?.before,
            }
        }
        Ok(None)
    }

    /// The life of a resource, and the revision of its newest entry.
    pub(in crate::store) fn life_of(&self, resource: &Resource) -> Result<Option<(Rid, u64)>, StoreError> {
        let Some(number) = self.state.scope_numbers.get(&resource.scope) else { return Ok(None) };
        if let Some(rid) = self.state.rid(*number, &resource.key.id) {
            return Ok(Some((rid, self.state.head(rid).last_entry)));
        }
        Ok(self.ended_at(*number, &resource.key.id)?.map(|ended| (ended.rid, ended.revision)))
    }

    pub(in crate::store) fn document(&self, revision: u64, rid: Rid) -> Result<Value, StoreError> {
        let table = self.txn()?.open_table(LOG)?;
        documents::document(revision, &self.state.dictionaries, |revision| log::document(&table, revision, rid))
    }

    pub(in crate::store) fn tags_of(&self, tags: TagsRef) -> Tags {
        self.state.tags(tags)
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

    pub(super) fn is_requested(&self, filter: &Filter, number: ScopeNo) -> bool {
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
        let is_id = |id: &str| filter.id.as_deref().is_none_or(|desired| desired == id);
        let mut out = Vec::new();
        let mut statuses = BTreeMap::new();
        for number in self.state.scopes.keys().filter(|number| self.is_requested(filter, **number)) {
            let status = self.scope_view(*number).status;
            statuses.insert(*number, status);
            let rids = self.state.scopes[number].order.iter().copied();
            let desired = rids.filter(|rid| matches(self.state.head(*rid).tags) && is_id(self.state.id(*rid)));
            let mut lives: Vec<(Rid, Resource)> = desired.map(|rid| (rid, self.resource(rid, status))).collect();
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
        let visibility = |scope: &Arc<crate::store::state::ScopeState>| {
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
