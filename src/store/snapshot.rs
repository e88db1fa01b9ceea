//! Reading: state at any moment, and the net difference between two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use serde_json::Value;

use super::log::{self, LOG};
use super::record::{EntryKind, RUN, Rid, Run, ScopeNo, TagsRef, decode};
use super::state::{Head, State};
use super::steps::{end_of, fields_between};
use super::{Store, StoreError, document, fold, ledger};
use crate::inventory::{
    Change, ChangeKind, Cover, Diff, Filter, History, Milestone, MilestoneKind, Moment, Presence, Resource,
    ResourceKey, Revision, Scope, ScopeStatus, ScopeView, Snapshot, Tags, Timestamp, Viewer,
};

/// The state at one moment, with redb's own snapshot behind it for documents and history.
pub struct StoreSnapshot {
    pub(super) state: State,
    at: Timestamp,
    /// The newest run of each scope, of which the file may hold a shorter one yet.
    newest_runs: BTreeMap<ScopeNo, Run>,
    /// The newest state, where later sweeps may speak too.
    later: Option<State>,
    pub(super) txn: ReadTransaction,
}

impl Store {
    /// State at a moment, as known then.
    pub fn snapshot(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        self.snapshot_from(self.state(), moment)
    }

    /// State at a moment, with what later sweeps let us say about it: present where a sweep before and
    /// one after show the same life, unknown between last seen and first missed, absent from there on.
    pub fn snapshot_in_hindsight(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        let newest = self.state();
        let snapshot = self.snapshot_from(newest.clone(), moment)?;
        Ok(StoreSnapshot { later: Some(newest), ..snapshot })
    }

    fn snapshot_from(&self, current: State, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        let txn = self.inner.shared.db.begin_read()?;
        let newest_runs =
            current.scopes.iter().filter_map(|(number, s)| Some((*number, s.run.clone()?))).collect();
        let (revision, at) = match moment {
            Moment::Now => (current.revision, self.now().max(current.time)),
            Moment::Revision(asked) if asked > current.revision => {
                return Err(StoreError::Future { asked, newest: current.revision });
            }
            Moment::Revision(asked) => (asked, time_of(&txn, asked)?),
            Moment::Time(asked) => (last_at(&txn, &current, asked)?, asked),
        };
        let state = if revision == current.revision { current } else { fold(&txn, revision)? };
        Ok(StoreSnapshot { state, at, newest_runs, later: None, txn })
    }

    /// The net difference between two moments, and the scopes that were not current at one of them.
    pub fn diff(&self, from: Moment, to: Moment, viewer: Option<&Viewer>) -> Result<Diff, StoreError> {
        let (from, to) = (self.snapshot(from)?, self.snapshot(to)?);
        let mut changes = Vec::new();
        let rids: BTreeSet<Rid> = from.state.heads.keys().chain(to.state.heads.keys()).copied().collect();
        for rid in rids {
            if viewer.is_none_or(|v| to.sees(v, rid) || from.sees(v, rid)) {
                to.net_changes(&from, rid, &mut changes)?;
            }
        }
        let unknown = unknown_at(&from, &to);
        Ok(Diff { from: from.state.revision, to: to.state.revision, changes, unknown })
    }
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
    // Revision 0 is the empty state before everything.
    match (revision, table.is_empty()?) {
        (Revision::ZERO, true) => Ok(Timestamp::default()),
        (Revision::ZERO, false) => log::time_of(&table, 1),
        _ => log::time_of(&table, revision.0),
    }
}

/// The last revision whose time is at or before `asked`: binary search, for times never go back.
fn last_at(txn: &ReadTransaction, current: &State, asked: Timestamp) -> Result<Revision, StoreError> {
    if asked >= current.time {
        return Ok(current.revision);
    }
    let earliest = time_of(txn, Revision(1))?;
    if asked < earliest {
        return Err(StoreError::TooEarly { asked, earliest, revision: Revision(1) });
    }
    let (mut low, mut high) = (1, current.revision.0);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if time_of(txn, Revision(middle))? <= asked {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(Revision(low))
}

impl StoreSnapshot {
    fn scope_view(&self, number: ScopeNo) -> ScopeView {
        let state = &self.state.scopes[&number];
        let open = state.is_open_at(self.at) || state.is_open();
        let (status, watermark) = ledger::status_at(self.runs(number).into_iter(), open, self.at);
        ScopeView { scope: Scope::clone(&state.scope), status, watermark }
    }

    /// Runs that began to end at or before the moment, newest first. A run that can't be read is as
    /// good as none: it makes its times unknown, never present.
    fn runs(&self, number: ScopeNo) -> Vec<Run> {
        let at = self.at.as_millis();
        let mut runs: BTreeMap<i64, Run> = BTreeMap::new();
        if let Ok(table) = self.txn.open_table(RUN)
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
        if let Some(run) = self.newest_runs.get(&number).filter(|run| run.first_ended.as_millis() <= at) {
            runs.insert(run.first_ended.as_millis(), run.clone());
        }
        runs.into_values().rev().collect()
    }

    /// Whether a complete sweep of the scope ended after the moment.
    fn is_looked_at_later(&self, number: ScopeNo) -> Result<bool, StoreError> {
        let is_later = |run: &Run| run.outcome.is_complete() && run.last_ended > self.at;
        if self.newest_runs.get(&number).is_some_and(is_later) || self.runs(number).iter().any(is_later) {
            return Ok(true);
        }
        for row in self.txn.open_table(RUN)?.range((number, self.at.as_millis())..=(number, i64::MAX))? {
            if is_later(&decode::<Run>("run", row?.1.value())?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts right what is said of a resource by what was learnt of its life after the moment.
    fn correct(&self, later: &State, rid: Rid, resource: &mut Resource) -> Result<(), StoreError> {
        let then = &self.state.heads[&rid];
        let now = &later.heads[&rid];
        let mut end = None;
        let mut is_retracted = false;
        for (revision, row, entry) in self.entries_of(rid, now.last_entry, then.last_entry)? {
            match &entry.kind {
                EntryKind::Appeared { .. } => break,
                EntryKind::Retracted { .. } => is_retracted = true,
                EntryKind::Ended { .. } if end.is_none() => end = end_of(revision, row.time, &entry.kind),
                _ => {}
            }
        }
        // What came back as the same life was no end: nobody knows what lay between.
        if then.end.is_some() || end.as_ref().is_some_and(|e| self.at >= e.first_missed) {
            resource.presence = if is_retracted { Presence::Unknown } else { Presence::Absent };
            resource.end = if is_retracted { None } else { then.end.clone().or(end) };
            return Ok(());
        }
        let last_seen = end.map(|e| e.last_seen).or_else(|| now.suspect.as_ref().map(|s| s.last_seen));
        if last_seen.is_none_or(|last_seen| self.at <= last_seen) {
            resource.presence = Presence::Present;
            resource.suspect = None;
        } else {
            resource.presence = Presence::Unknown;
        }
        Ok(())
    }

    pub(super) fn sees(&self, viewer: &Viewer, rid: Rid) -> bool {
        self.state.heads.get(&rid).is_some_and(|head| self.state.scopes[&head.scope].covers.contains_key(viewer))
    }

    fn resource(&self, head: &Head, status: ScopeStatus) -> Resource {
        let scope = self.state.scopes[&head.scope].scope.clone();
        let presence = match (status, &head.end, &head.suspect) {
            (ScopeStatus::Current, None, None) => Presence::Present,
            (ScopeStatus::Current, Some(_), _) => Presence::Absent,
            _ => Presence::Unknown,
        };
        Resource {
            key: scope.key(&head.id),
            scope,
            presence,
            tags: self.state.tags(head.version.tags),
            first_seen: head.first_seen,
            baseline: head.baseline,
            birth: head.version.birth,
            changed: head.changed,
            suspect: head.suspect.clone(),
            end: head.end.clone(),
            retracted: head.retracted,
        }
    }

    /// All resources that a key or a bare id names, ended ones too.
    pub fn find(&self, name: &str, viewer: Option<&Viewer>) -> Vec<Resource> {
        let mut filter =
            Filter { include_ended: true, include_unwatched: true, viewer: viewer.cloned(), ..Filter::default() };
        match name.parse::<ResourceKey>() {
            Ok(key) => {
                filter.account = Some(key.account.to_string());
                filter.region = Some(key.region.to_string());
                filter.resource_type = Some(key.resource_type.to_string());
                filter.id = Some(key.id.to_string());
            }
            Err(_) => filter.id = Some(name.to_owned()),
        }
        self.resources(&filter)
    }

    pub(super) fn rid(&self, resource: &Resource) -> Option<Rid> {
        self.state.rid(*self.state.scope_numbers.get(&resource.scope)?, &resource.key.id)
    }

    pub(super) fn document(&self, revision: u64, rid: Rid) -> Result<Value, StoreError> {
        let table = self.txn.open_table(LOG)?;
        document::document(revision, &self.state.dictionaries, |revision| log::document(&table, revision, rid))
    }

    pub(super) fn tags_of(&self, tags: TagsRef) -> Tags {
        self.state.tags(tags)
    }

    /// What is different of one resource here from how it was in `from`.
    fn net_changes(&self, from: &StoreSnapshot, rid: Rid, out: &mut Vec<Change>) -> Result<(), StoreError> {
        let live = |snapshot: &StoreSnapshot| {
            let head = snapshot.state.heads.get(&rid)?;
            let open = snapshot.state.scopes[&head.scope].is_open();
            (head.end.is_none() && open).then(|| head.clone())
        };
        let Some(newest) = self.state.heads.get(&rid).or_else(|| from.state.heads.get(&rid)) else {
            return Ok(());
        };
        let scope: &Arc<Scope> = &self.state.scopes[&newest.scope].scope;
        // A scope that is no longer watched says nothing about what became of its resources.
        if !self.state.scopes[&newest.scope].is_open() {
            return Ok(());
        }
        let change = |change, head: &Head, replaced| -> Result<Change, StoreError> {
            let revision = Revision(head.last_entry.max(head.changed.0));
            Ok(Change {
                change,
                resource: scope.key(&head.id),
                revision,
                time: time_of(&self.txn, revision)?,
                baseline: change == ChangeKind::Appeared && head.baseline,
                replaced,
                retracted: false,
                end: if change == ChangeKind::Disappeared { head.end.clone() } else { None },
                fields: Vec::new(),
            })
        };
        match (live(from), live(self)) {
            (None, Some(now)) => out.push(change(ChangeKind::Appeared, &now, false)?),
            (Some(then), None) => {
                let ended = self.state.heads.get(&rid).cloned().unwrap_or(then);
                out.push(change(ChangeKind::Disappeared, &ended, false)?);
            }
            (Some(then), Some(now)) if then.first_seen != now.first_seen => {
                out.push(change(ChangeKind::Disappeared, &then, true)?);
                out.push(change(ChangeKind::Appeared, &now, true)?);
            }
            (Some(then), Some(now)) if then.changed != now.changed => {
                let before = (self.document(then.document, rid)?, from.tags_of(then.version.tags));
                let after = (self.document(now.document, rid)?, self.tags_of(now.version.tags));
                let fields = fields_between(&before, &after);
                if !fields.is_empty() {
                    out.push(Change { fields, ..change(ChangeKind::Changed, &now, false)? });
                }
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        Ok(())
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

    fn resources(&self, filter: &Filter) -> Vec<Resource> {
        let mut out = Vec::new();
        for (number, scope) in &self.state.scopes {
            if (!filter.include_unwatched && !scope.is_open())
                || filter.viewer.as_ref().is_some_and(|v| !scope.covers.contains_key(v))
            {
                continue;
            }
            let status = self.scope_view(*number).status;
            // Nothing can be put right where the moment lies not between two looks.
            let is_between = matches!(status, ScopeStatus::Current | ScopeStatus::Stale)
                && self.later.is_some()
                && self.is_looked_at_later(*number).unwrap_or(false);
            let later = self.later.as_ref().filter(|_| is_between);
            let corrected = |(rid, mut resource): (Rid, Resource)| {
                if let Some(later) = later
                    && self.correct(later, rid, &mut resource).is_err()
                {
                    // As with a run that can't be read: unknown, never present.
                    resource.presence = Presence::Unknown;
                }
                resource
            };
            let Some(ids) = self.state.by_scope.get(number) else { continue };
            let wanted = ids
                .values()
                .filter(|rid| later.is_some() || filter.include_ended || self.state.heads[*rid].end.is_none())
                .map(|rid| (*rid, self.resource(&self.state.heads[rid], status)))
                .filter(|(_, r)| filter.matches_key(&r.key) && filter.matches_tags(&r.tags))
                .map(corrected)
                .filter(|resource| filter.include_ended || resource.is_live());
            out.extend(wanted);
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        out
    }

    fn attributes(&self, resource: &Resource) -> Result<Value, StoreError> {
        let rid = self.rid(resource).ok_or(StoreError::Damaged { table: "key" })?;
        self.document(self.state.heads[&rid].document, rid)
    }

    fn covered(&self, viewer: &Viewer) -> BTreeMap<Scope, Cover> {
        let cover =
            |scope: &Arc<super::state::ScopeState>| Some((Scope::clone(&scope.scope), *scope.covers.get(viewer)?));
        self.state.scopes.values().filter_map(cover).collect()
    }
}

impl History for StoreSnapshot {
    type Error = StoreError;

    fn milestones(&self, resource: &Resource) -> Result<Vec<Milestone>, StoreError> {
        let Some(rid) = self.rid(resource) else { return Ok(Vec::new()) };
        let newest = self.state.heads.get(&rid).map_or(0, |head| head.milestone);
        let mut before = None;
        let mut told = Vec::new();
        for (revision, row, entry) in self.walk_back(rid, newest, 0, |entry| entry.milestone)? {
            let after = entry.kind.version().map(|version| version.tags).or(before);
            let tags = after.map_or(Tags::Unknown, |tags| self.tags_of(tags));
            let mut tell = |kind| {
                told.push(Milestone { revision: Revision(revision), time: row.time, kind, tags: tags.clone() });
            };
            match &entry.kind {
                EntryKind::Appeared { baseline, .. } => tell(MilestoneKind::Appeared { baseline: *baseline }),
                EntryKind::Ended { .. } => tell(MilestoneKind::Ended),
                EntryKind::Retracted { .. } => tell(MilestoneKind::Retracted),
                _ => {}
            }
            let is_new = matches!(entry.kind, EntryKind::Changed { .. } | EntryKind::Retracted { .. });
            if let (true, true, Some(before)) = (is_new, before != after, before) {
                tell(MilestoneKind::TagsChanged { before: self.tags_of(before), after: tags.clone() });
            }
            before = after;
        }
        Ok(told)
    }
}
