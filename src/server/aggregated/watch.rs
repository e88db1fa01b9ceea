//! Watches: from a revision on, everything that becomes visible, changes, or goes.
//!
//! No events are queued for a watch. It holds the last state that it reported, which costs what changed since, and
//! compares it with the newest as fast as its client reads. So a slow client delays no other, and has fewer changes to
//! receive. A watch that retention overtakes gets an ERROR event with 410, and its client lists again.
//!
//! One revision may change many resources, and a client that was interrupted continues from the last resource version
//! that it saw. So all events of a revision but the last carry the revision before: events that were not received are
//! sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::discovery::{CHANGES, Kind, RESOURCES};
use super::list::{PastVisibility, check_tenant, span};
use super::objects::{self, Object};
use super::question::{Form, Options, Owners, ResourceMatch, Selection, each, owner};
use super::refusal::Refusal;
use super::slots::Slot;
use super::table::{self, Rows};
use crate::inventory::{Facts, Moment, Revision, ScopeStatus, Snapshot};
use crate::store::{Rid, ScopeNo, Store, StoreSnapshot};

/// Interval between checks for changes without a revision: scopes that are no longer current.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between bookmarks, for watches that request them.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);
/// The duration of a watch that requests none, as in kube-apiserver; also the maximum.
const WATCH_TIMEOUT_DEFAULT: Duration = Duration::from_mins(45);
/// Events that are buffered for a slow reader.
const EVENT_BUFFER: usize = 64;

/// Writes events of one watch.
struct Events {
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
    form: Form,
    include: Option<String>,
    has_columns: bool,
}

/// The client is gone, or the watch has ended.
struct WatchEnded;

enum Stop {
    WatchEnded,
    Refused(Refusal),
}

impl From<WatchEnded> for Stop {
    fn from(_: WatchEnded) -> Self {
        Stop::WatchEnded
    }
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Refused(error.into())
    }
}

impl Events {
    fn send(&self, kind: &str, object: &Value) -> Result<(), WatchEnded> {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.sender.blocking_send(Ok(line.into())).map_err(|_| WatchEnded)
    }

    fn announce<S: Serialize>(&mut self, kind: &str, object: &Object<S>) -> Result<(), WatchEnded>
    where
        Object<S>: Rows,
    {
        match self.form {
            Form::Object => self.send(kind, &json!(object)),
            Form::Metadata => self.send(kind, &table::metadata_only(object)),
            Form::Table => {
                let rows = table::rows(object, self.include.as_deref());
                let table = self.table::<S>(&object.metadata.resource_version, rows);
                self.send(kind, &table)
            }
        }
    }

    /// Only the first table contains the columns.
    fn table<S: Serialize>(&mut self, resource_version: &str, rows: Vec<Value>) -> Value
    where
        Object<S>: Rows,
    {
        let mut table = json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": resource_version}, "columnDefinitions": null, "rows": rows,
        });
        if !std::mem::replace(&mut self.has_columns, true) {
            table["columnDefinitions"] = table::columns(Object::<S>::COLUMNS);
        }
        table
    }

    fn bookmark<S: Serialize>(
        &mut self,
        kind: &Kind,
        revision: Revision,
        is_initial_end: bool,
    ) -> Result<(), WatchEnded>
    where
        Object<S>: Rows,
    {
        if self.form == Form::Table {
            let table = self.table::<S>(&revision.to_string(), Vec::new());
            return self.send("BOOKMARK", &table);
        }
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if is_initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.form {
            Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            _ => (kind.name, objects::api_version()),
        };
        self.send("BOOKMARK", &json!({"kind": kind, "apiVersion": version, "metadata": metadata}))
    }
}

/// How a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With all existing objects.
    All {
        with_bookmark: bool,
    },
    After(Revision),
}

fn start(options: &Options) -> Result<Start, Refusal> {
    if options.send_initial_events {
        if options.resource_version_match.as_deref() != Some("NotOlderThan") {
            return Err(Refusal::bad_request("sendInitialEvents goes with resourceVersionMatch=NotOlderThan"));
        }
        return Ok(Start::All { with_bookmark: options.allow_watch_bookmarks });
    }
    if options.resource_version_match.is_some() {
        return Err(Refusal::bad_request("resourceVersionMatch of a watch goes with sendInitialEvents"));
    }
    Ok(options.revision()?.map_or(Start::All { with_bookmark: false }, Start::After))
}

/// Runs a watch until its client is gone or its time has passed. Each call of `step` sends what is new, on a thread
/// that may wait for a slow reader, and returns the revision that it reached. Between calls no thread is held.
fn run(
    store: &Store,
    options: &Options,
    form: Form,
    permit: Slot,
    mut step: impl FnMut(&mut Events) -> Result<Revision, Stop> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(EVENT_BUFFER);
    let ends = Instant::now() + options.timeout.unwrap_or(WATCH_TIMEOUT_DEFAULT).min(WATCH_TIMEOUT_DEFAULT);
    let mut events = Events { sender, form, include: options.include_object.clone(), has_columns: false };
    let store = store.clone();
    tokio::spawn(async move {
        let _permit = permit;
        loop {
            let stepped = tokio::task::spawn_blocking(move || {
                let done = step(&mut events);
                if let Err(Stop::Refused(refusal)) = &done {
                    drop(events.send("ERROR", &refusal.status()));
                }
                (step, events, done)
            });
            let Ok((next_step, same_events, Ok(announced))) = stepped.await else { return };
            (step, events) = (next_step, same_events);
            if wait_for_newer(&store, events.sender.closed(), announced, ends).await.is_err() {
                return;
            }
        }
    });
    let lines = futures::stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((line, receiver))
    });
    ([("content-type", "application/json")], Body::from_stream(lines)).into_response()
}

/// Waits for a newer revision than `known`, for one poll interval at most; [`WatchEnded`] once the watch has ended.
async fn wait_for_newer(
    store: &Store,
    gone: impl Future<Output = ()>,
    known: Revision,
    ends: Instant,
) -> Result<(), WatchEnded> {
    let mut revisions = store.subscribe();
    let now = Instant::now();
    if now >= ends {
        return Err(WatchEnded);
    }
    let until = ends.min(now + POLL_INTERVAL);
    tokio::select! {
        () = gone => Err(WatchEnded),
        _ = revisions.wait_for(|revision| *revision > known) => Ok(()),
        () = tokio::time::sleep_until(until.into()) => Ok(()),
    }
}

/// Reports at intervals, to a client that requests bookmarks, up to which revision it has received everything.
struct Bookmarks {
    next: Option<Instant>,
    announced: Revision,
}

impl Bookmarks {
    fn new(options: &Options, announced: Revision) -> Self {
        Self { next: options.allow_watch_bookmarks.then(|| Instant::now() + BOOKMARK_INTERVAL), announced }
    }

    fn announce<S: Serialize>(
        &mut self,
        events: &mut Events,
        kind: &Kind,
        revision: Revision,
    ) -> Result<(), WatchEnded>
    where
        Object<S>: Rows,
    {
        if self.next.is_some_and(|next| next <= Instant::now()) && revision > self.announced {
            events.bookmark::<S>(kind, revision, false)?;
            *self = Self { next: Some(Instant::now() + BOOKMARK_INTERVAL), announced: revision };
        }
        Ok(())
    }
}

/// An event for a resource in a namespace.
struct Announcement {
    revision: Revision,
    /// Deletions are sent before additions under the same name.
    kind: What,
    namespace: String,
    scope: ScopeNo,
    rid: Rid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Deleted,
    Added,
    Modified,
}

/// The state that a watch reported last.
struct WatchState {
    snapshot: StoreSnapshot,
    statuses: BTreeMap<ScopeNo, ScopeStatus>,
}

impl WatchState {
    fn new(snapshot: StoreSnapshot, selection: &Selection) -> Self {
        let matching = snapshot.visible_scopes().filter(|seen| selection.has_scope(seen.scope));
        let status = |number| (number, snapshot.view_of(number).status);
        let statuses = matching.map(|seen| seen.number).collect::<Vec<_>>().into_iter().map(status).collect();
        Self { snapshot, statuses }
    }

    fn namespaces(&self, selection: &Selection, number: ScopeNo) -> BTreeSet<&str> {
        let seen = self.snapshot.visible_scope(number).filter(|seen| selection.has_scope(seen.scope));
        seen.map(|seen| selection.namespaces(&seen)).into_iter().flatten().collect()
    }

    /// A life in this state, if it exists and is selected.
    fn found(
        &self,
        selection: &Selection,
        owners: &mut Owners,
        (namespace, scope, rid): (&str, ScopeNo, Rid),
    ) -> Result<Option<ResourceMatch>, Refusal> {
        let status = self.statuses.get(&scope).copied().unwrap_or(ScopeStatus::NeverScanned);
        let (Some(resource), Some(seen)) = (self.snapshot.living(rid, status), self.snapshot.visible_scope(scope))
        else {
            return Ok(None);
        };
        let owner = owner(&resource, &*owners.settings_for(&seen, namespace)?);
        let is_selected = selection.has(&resource, owner.as_deref());
        Ok(is_selected.then_some(ResourceMatch { scope, rid, resource, owner }))
    }
}

/// The events for the step from one state to another, in the order of the revisions.
fn announced_between(
    seen: &WatchState,
    now: &WatchState,
    selection: &Selection,
    owners: &mut Owners,
) -> Result<Vec<Announcement>, Refusal> {
    let newest = now.snapshot.revision();
    let touched = now.snapshot.touched_since(seen.snapshot.revision())?;
    let mut announced = Vec::new();
    // Lives that became visible, or no longer are, with their scope.
    for (number, revision) in &touched.scopes {
        let (before, after) = (seen.namespaces(selection, *number), now.namespaces(selection, *number));
        let gone = before.difference(&after).map(|namespace| (What::Deleted, *namespace, seen));
        let came = after.difference(&before).map(|namespace| (What::Added, *namespace, now));
        for (kind, namespace, state) in gone.chain(came) {
            for rid in state.snapshot.lives_of(*number) {
                if state.found(selection, owners, (namespace, *number, *rid))?.is_some() {
                    let namespace = namespace.to_owned();
                    announced.push(Announcement {
                        revision: *revision,
                        kind,
                        namespace,
                        scope: *number,
                        rid: *rid,
                    });
                }
            }
        }
    }
    // Lives that were changed, and all lives of a scope that is no longer current, or is again.
    let mut lives: BTreeMap<Rid, (ScopeNo, Revision)> = BTreeMap::new();
    for (number, status) in &now.statuses {
        if seen.statuses.get(number).is_some_and(|before| before != status) {
            lives.extend(now.snapshot.lives_of(*number).iter().map(|rid| (*rid, (*number, newest))));
        }
    }
    lives.extend(touched.lives);
    for (rid, (scope, revision)) in lives {
        let after = now.namespaces(selection, scope);
        for namespace in seen.namespaces(selection, scope).intersection(&after) {
            let of = (*namespace, scope, rid);
            let (before, after) = (seen.found(selection, owners, of)?, now.found(selection, owners, of)?);
            let kind = match (before, after) {
                (None, None) => continue,
                (None, Some(_)) => What::Added,
                (Some(_), None) => What::Deleted,
                (Some(_), Some(_)) => What::Modified,
            };
            announced.push(Announcement { revision, kind, namespace: (*namespace).to_owned(), scope, rid });
        }
    }
    announced.sort_by_key(|announced| (announced.revision, announced.kind));
    Ok(announced)
}

/// The resource version of each event: its revision for the last event of that revision, else the one before.
fn resource_version(revision: Revision, next: Option<Revision>) -> Revision {
    if next == Some(revision) { Revision(revision.0 - 1) } else { revision }
}

pub(super) fn resources(
    store: &Store,
    facts: Facts,
    selection: Selection,
    options: Options,
    form: Form,
    permit: Slot,
) -> Result<Response, Refusal> {
    if selection.as_of.is_some() {
        return Err(Refusal::bad_request(
            "asOf names a moment of the past, which does not change: list it, or leave asOf out to watch",
        ));
    }
    let start = start(&options)?;
    let begun = beginning(store, start).and_then(|snapshot| {
        check_tenant(&snapshot, selection.tenant_since)?;
        Ok(snapshot)
    });
    let snapshot = match begun {
        Ok(snapshot) => snapshot,
        Err(refusal) => return expired(refusal),
    };
    let mut seen = WatchState::new(snapshot, &selection);
    let mut bookmarks = Bookmarks::new(&options, seen.snapshot.revision());
    let (own, mut start) = (store.clone(), Some(start));
    let step = move |events: &mut Events| -> Result<Revision, Stop> {
        // Ownership settings may have changed since the last step.
        let mut owners = Owners::new(&own);
        if let Some(Start::All { with_bookmark }) = start.take() {
            each(&seen.snapshot, &selection, &mut owners, None, &mut |namespace, found| {
                Ok(announce(events, &facts, &seen, What::Added, namespace, found, None)?.is_ok())
            })?;
            if with_bookmark {
                events.bookmark::<objects::CloudResourceStatus>(&RESOURCES, seen.snapshot.revision(), true)?;
            }
        }
        let now = WatchState::new(own.snapshot(Moment::Now)?, &selection);
        let announced = announced_between(&seen, &now, &selection, &mut owners)?;
        for (at, step) in announced.iter().enumerate() {
            let next = announced.get(at + 1).map(|next| next.revision);
            let state = if step.kind == What::Deleted { &seen } else { &now };
            let found = state.found(&selection, &mut owners, (&step.namespace, step.scope, step.rid))?;
            if let Some(found) = found {
                let version = resource_version(step.revision, next);
                announce(events, &facts, state, step.kind, &step.namespace, found, Some(version))??;
            }
        }
        seen = now;
        seen.snapshot.release_file();
        bookmarks.announce::<objects::CloudResourceStatus>(events, &RESOURCES, seen.snapshot.revision())?;
        Ok(seen.snapshot.revision())
    };
    Ok(run(store, &options, form, permit, step))
}

/// The state from which a watch of resources continues.
fn beginning(store: &Store, start: Start) -> Result<StoreSnapshot, Refusal> {
    let now = store.snapshot(Moment::Now)?;
    match start {
        Start::After(revision) if revision < now.revision() => {
            // The changes since then must still be kept, and so must the state at that time.
            now.touched_since(revision)?;
            Ok(store.snapshot(Moment::Revision(revision))?)
        }
        Start::After(revision) => {
            store.revision_at(Moment::Revision(revision))?;
            Ok(now)
        }
        Start::All { .. } => Ok(now),
    }
}

/// A resource version that is no longer kept ends a watch with an event, as in kube-apiserver: kube-rs retries the same
/// version for ever if the request itself is refused.
fn expired(refusal: Refusal) -> Result<Response, Refusal> {
    if !refusal.is_expired() {
        return Err(refusal);
    }
    let line = format!("{}\n", json!({"type": "ERROR", "object": refusal.status()}));
    Ok(([("content-type", "application/json")], line).into_response())
}

fn announce(
    events: &mut Events,
    facts: &Facts,
    state: &WatchState,
    kind: What,
    namespace: &str,
    found: ResourceMatch,
    version: Option<Revision>,
) -> Result<Result<(), WatchEnded>, Refusal> {
    // A deleted resource has no document to read.
    let is_described = events.form == Form::Object && kind != What::Deleted;
    let described = if is_described {
        Some(facts.described(&found.resource, state.snapshot.described(found.rid)?))
    } else {
        None
    };
    let version = version.unwrap_or(found.resource.changed);
    let object = objects::cloud_resource(namespace, found.resource, found.owner, described, version);
    let kind = match kind {
        What::Added => "ADDED",
        What::Modified => "MODIFIED",
        What::Deleted => "DELETED",
    };
    Ok(events.announce(kind, &object))
}

pub(super) fn changes(
    store: &Store,
    selection: Selection,
    options: Options,
    form: Form,
    permit: Slot,
) -> Result<Response, Refusal> {
    if selection.to.is_some() {
        return Err(Refusal::bad_request("to names a moment, at which no watch ends: leave it out to watch"));
    }
    let start = start(&options)?;
    let mut announced = match start {
        Start::After(revision) => match store.revision_at(Moment::Revision(revision)) {
            Ok((revision, _)) => revision,
            Err(error) => return expired(error.into()),
        },
        Start::All { .. } => span(store, &selection)?.0,
    };
    let is_kept = store.snapshot(Moment::Now)?.steps_after(announced, announced, &|_, _| false);
    if let Err(error) = is_kept {
        return expired(error.into());
    }
    let mut is_initial = start == Start::All { with_bookmark: true };
    let mut bookmarks = Bookmarks::new(&options, announced);
    let own = store.clone();
    let step = move |events: &mut Events| -> Result<Revision, Stop> {
        let now = own.snapshot(Moment::Now)?;
        let newest = now.revision();
        let visibility = PastVisibility::of(&now, &selection)?;
        while announced < newest {
            let (until, steps) = visibility.steps(&now, &selection, announced, newest)?;
            for (at, step) in steps.iter().enumerate() {
                let next = steps.get(at + 1).map(|next| next.change.revision);
                let mut object = visibility.object(&now, step);
                object.metadata.resource_version = resource_version(step.change.revision, next).to_string();
                events.announce("ADDED", &object)?;
            }
            announced = until;
        }
        if std::mem::take(&mut is_initial) {
            events.bookmark::<objects::ResourceChangeStatus>(&CHANGES, announced, true)?;
        }
        bookmarks.announce::<objects::ResourceChangeStatus>(events, &CHANGES, announced)?;
        Ok(announced)
    };
    Ok(run(store, &options, form, permit, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_cut_off_within_a_revision_receives_the_rest_of_it() {
        let of = |revisions: &[u64]| -> Vec<u64> {
            let version = |at: usize| {
                resource_version(Revision(revisions[at]), revisions.get(at + 1).map(|next| Revision(*next))).0
            };
            (0..revisions.len()).map(version).collect()
        };
        assert_eq!(of(&[4, 5, 5, 5, 7]), [4, 4, 4, 5, 7]);
        assert_eq!(of(&[1, 1]), [0, 1]);
    }

    #[test]
    fn how_a_watch_begins() {
        let start = |query: &str| start(&Options::parse(query).unwrap()).map_err(|refusal| refusal.code.as_u16());
        for (query, selection) in [
            ("watch=1", Ok(Start::All { with_bookmark: false })),
            ("watch=1&resourceVersion=0", Ok(Start::All { with_bookmark: false })),
            ("watch=1&resourceVersion=7", Ok(Start::After(Revision(7)))),
            (
                "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                Ok(Start::All { with_bookmark: true }),
            ),
            ("watch=1&sendInitialEvents=true", Err(400)),
            ("watch=1&resourceVersionMatch=Exact", Err(400)),
        ] {
            assert_eq!(start(query), selection, "{query}");
        }
    }
}
