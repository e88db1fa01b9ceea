//! Watches: from a revision on, everything that becomes visible, changes, or goes.
//!
//! Nothing is queued for a watcher. It holds the state that it was told last, which costs what changed since, and
//! compares it with the newest as fast as its client reads; so a slow one holds up nobody, and finds less to be
//! told. One that retention overtakes gets an ERROR event with 410, and lists again.
//!
//! One revision may touch many resources, and a client that was cut off goes on from the resource version that it
//! saw last. So all events of a revision but the last carry the revision before: what was not told is told again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::discovery::{CHANGES, Kind, RESOURCES};
use super::list::{Covered, check_tenant, span};
use super::objects::{self, Object};
use super::question::{Form, Found, Options, Owners, Wanted, each, owner};
use super::refusal::Refusal;
use super::slots::Slot;
use super::table::{self, Rows};
use crate::inventory::{Moment, Revision, ScopeStatus, Snapshot};
use crate::store::{Rid, ScopeNo, Store, StoreSnapshot};

/// How often a watcher looks for what no revision says: scopes that are no longer current.
const TICK: Duration = Duration::from_secs(10);
/// How often one that asked for bookmarks gets one.
const BOOKMARK: Duration = Duration::from_mins(1);
/// Without a time of its own a watch ends after so long, as kube-apiserver's do.
const LONGEST: Duration = Duration::from_mins(45);
/// Events that wait for a slow reader.
const BUFFER: usize = 64;

/// Writes events of one watch.
struct Events {
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
    form: Form,
    include: Option<String>,
    has_columns: bool,
}

/// The client is gone, or its time is over.
struct Over;

enum Stop {
    Over,
    Refused(Refusal),
}

impl From<Over> for Stop {
    fn from(_: Over) -> Self {
        Stop::Over
    }
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Refused(error.into())
    }
}

impl Events {
    fn send(&self, kind: &str, object: &Value) -> Result<(), Over> {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.sender.blocking_send(Ok(line.into())).map_err(|_| Over)
    }

    fn tell<S: Serialize>(&mut self, kind: &str, object: &Object<S>) -> Result<(), Over>
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

    /// The columns stand in the first.
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

    fn bookmark<S: Serialize>(&mut self, kind: &Kind, revision: Revision, is_initial_end: bool) -> Result<(), Over>
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
    /// With everything that there is.
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

/// Runs a watch until its client or its time is gone. Each call of `step` tells what is new, on a thread that may
/// wait for a slow reader, and returns up to which revision; between them no thread is held.
fn run(
    store: &Store,
    options: &Options,
    form: Form,
    permit: Slot,
    mut step: impl FnMut(&mut Events) -> Result<Revision, Stop> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFER);
    let ends = Instant::now() + options.timeout.unwrap_or(LONGEST).min(LONGEST);
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
            let Ok((next_step, same_events, Ok(told))) = stepped.await else { return };
            (step, events) = (next_step, same_events);
            if newer(&store, events.sender.closed(), told, ends).await.is_err() {
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

/// Waits for a newer revision than one, for a tick at most; [`Over`] once the watch is.
async fn newer(store: &Store, gone: impl Future<Output = ()>, known: Revision, ends: Instant) -> Result<(), Over> {
    let mut revisions = store.subscribe();
    let now = Instant::now();
    if now >= ends {
        return Err(Over);
    }
    let until = ends.min(now + TICK);
    tokio::select! {
        () = gone => Err(Over),
        _ = revisions.wait_for(|revision| *revision > known) => Ok(()),
        () = tokio::time::sleep_until(until.into()) => Ok(()),
    }
}

/// Tells a client that asked for them, now and then, up to which revision it knows everything.
struct Bookmarks {
    next: Option<Instant>,
    told: Revision,
}

impl Bookmarks {
    fn new(options: &Options, told: Revision) -> Self {
        Self { next: options.allow_watch_bookmarks.then(|| Instant::now() + BOOKMARK), told }
    }

    fn tell<S: Serialize>(&mut self, events: &mut Events, kind: &Kind, revision: Revision) -> Result<(), Over>
    where
        Object<S>: Rows,
    {
        if self.next.is_some_and(|next| next <= Instant::now()) && revision > self.told {
            events.bookmark::<S>(kind, revision, false)?;
            *self = Self { next: Some(Instant::now() + BOOKMARK), told: revision };
        }
        Ok(())
    }
}

/// What an event says of a resource in a namespace.
struct Told {
    revision: Revision,
    /// What goes is told before what comes under the same name.
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

/// The state that a watcher was told of last.
struct Seen {
    snapshot: StoreSnapshot,
    statuses: BTreeMap<ScopeNo, ScopeStatus>,
}

impl Seen {
    fn new(snapshot: StoreSnapshot, wanted: &Wanted) -> Self {
        let asked = snapshot.seen_scopes().filter(|seen| wanted.has_scope(seen.scope));
        let status = |number| (number, snapshot.view_of(number).status);
        let statuses = asked.map(|seen| seen.number).collect::<Vec<_>>().into_iter().map(status).collect();
        Self { snapshot, statuses }
    }

    fn namespaces(&self, wanted: &Wanted, number: ScopeNo) -> BTreeSet<&str> {
        let seen = self.snapshot.seen_scope(number).filter(|seen| wanted.has_scope(seen.scope));
        seen.map(|seen| wanted.namespaces(&seen)).into_iter().flatten().collect()
    }

    /// A life as it stands here, where it does and is wanted.
    fn found(
        &self,
        wanted: &Wanted,
        owners: &mut Owners,
        (namespace, scope, rid): (&str, ScopeNo, Rid),
    ) -> Result<Option<Found>, Refusal> {
        let status = self.statuses.get(&scope).copied().unwrap_or(ScopeStatus::NeverLooked);
        let (Some(resource), Some(seen)) = (self.snapshot.living(rid, status), self.snapshot.seen_scope(scope))
        else {
            return Ok(None);
        };
        let owner = owner(&resource, &*owners.measure(&seen, namespace)?);
        let is_wanted = wanted.has(&resource, owner.as_deref());
        Ok(is_wanted.then_some(Found { scope, rid, resource, owner }))
    }
}

/// What is to be told of the step from one state to another, in the order of the revisions.
fn told_between(seen: &Seen, now: &Seen, wanted: &Wanted, owners: &mut Owners) -> Result<Vec<Told>, Refusal> {
    let newest = now.snapshot.revision();
    let touched = now.snapshot.touched_since(seen.snapshot.revision())?;
    let mut told = Vec::new();
    // What came into sight, or went out of it, with its scope.
    for (number, revision) in &touched.scopes {
        let (before, after) = (seen.namespaces(wanted, *number), now.namespaces(wanted, *number));
        let gone = before.difference(&after).map(|namespace| (What::Deleted, *namespace, seen));
        let came = after.difference(&before).map(|namespace| (What::Added, *namespace, now));
        for (kind, namespace, state) in gone.chain(came) {
            for rid in state.snapshot.lives_of(*number) {
                if state.found(wanted, owners, (namespace, *number, *rid))?.is_some() {
                    let namespace = namespace.to_owned();
                    told.push(Told { revision: *revision, kind, namespace, scope: *number, rid: *rid });
                }
            }
        }
    }
    // What was touched, and all of a scope that is no longer current, or is again.
    let mut lives: BTreeMap<Rid, (ScopeNo, Revision)> = BTreeMap::new();
    for (number, status) in &now.statuses {
        if seen.statuses.get(number).is_some_and(|before| before != status) {
            lives.extend(now.snapshot.lives_of(*number).iter().map(|rid| (*rid, (*number, newest))));
        }
    }
    lives.extend(touched.lives);
    for (rid, (scope, revision)) in lives {
        let after = now.namespaces(wanted, scope);
        for namespace in seen.namespaces(wanted, scope).intersection(&after) {
            let of = (*namespace, scope, rid);
            let (before, after) = (seen.found(wanted, owners, of)?, now.found(wanted, owners, of)?);
            let kind = match (before, after) {
                (None, None) => continue,
                (None, Some(_)) => What::Added,
                (Some(_), None) => What::Deleted,
                (Some(_), Some(_)) => What::Modified,
            };
            told.push(Told { revision, kind, namespace: (*namespace).to_owned(), scope, rid });
        }
    }
    told.sort_by_key(|told| (told.revision, told.kind));
    Ok(told)
}

/// The resource version of each event: that of its revision for the last of it, else the one before.
fn resource_version(revision: Revision, next: Option<Revision>) -> Revision {
    if next == Some(revision) { Revision(revision.0 - 1) } else { revision }
}

pub(super) fn resources(
    store: &Store,
    wanted: Wanted,
    options: Options,
    form: Form,
    permit: Slot,
) -> Result<Response, Refusal> {
    if wanted.as_of.is_some() {
        return Err(Refusal::bad_request(
            "asOf names a moment of the past, which does not change: list it, or leave asOf out to watch",
        ));
    }
    let start = start(&options)?;
    let begun = beginning(store, start).and_then(|snapshot| {
        check_tenant(&snapshot, wanted.tenant_since)?;
        Ok(snapshot)
    });
    let snapshot = match begun {
        Ok(snapshot) => snapshot,
        Err(refusal) => return expired(refusal),
    };
    let mut seen = Seen::new(snapshot, &wanted);
    let mut bookmarks = Bookmarks::new(&options, seen.snapshot.revision());
    let (own, mut start) = (store.clone(), Some(start));
    let step = move |events: &mut Events| -> Result<Revision, Stop> {
        // Tags may count for another owner than the time before.
        let mut owners = Owners::new(&own);
        if let Some(Start::All { with_bookmark }) = start.take() {
            each(&seen.snapshot, &wanted, &mut owners, None, &mut |namespace, found| {
                Ok(tell(events, &seen, What::Added, namespace, found, None)?.is_ok())
            })?;
            if with_bookmark {
                events.bookmark::<objects::CloudResourceStatus>(&RESOURCES, seen.snapshot.revision(), true)?;
            }
        }
        let now = Seen::new(own.snapshot(Moment::Now)?, &wanted);
        let told = told_between(&seen, &now, &wanted, &mut owners)?;
        for (at, step) in told.iter().enumerate() {
            let next = told.get(at + 1).map(|next| next.revision);
            let state = if step.kind == What::Deleted { &seen } else { &now };
            let found = state.found(&wanted, &mut owners, (&step.namespace, step.scope, step.rid))?;
            if let Some(found) = found {
                let version = resource_version(step.revision, next);
                tell(events, state, step.kind, &step.namespace, found, Some(version))??;
            }
        }
        seen = now;
        seen.snapshot.let_go_of_the_file();
        bookmarks.tell::<objects::CloudResourceStatus>(events, &RESOURCES, seen.snapshot.revision())?;
        Ok(seen.snapshot.revision())
    };
    Ok(run(store, &options, form, permit, step))
}

/// The state from which a watch of resources goes on.
fn beginning(store: &Store, start: Start) -> Result<StoreSnapshot, Refusal> {
    let now = store.snapshot(Moment::Now)?;
    match start {
        Start::After(revision) if revision < now.revision() => {
            // Single changes since then must still be there, and the state of then.
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

/// A resource version that is not kept ends a watch by an event, as kube-apiserver's does: kube-rs asks again from the
/// same version for ever where the request itself is refused.
fn expired(refusal: Refusal) -> Result<Response, Refusal> {
    if !refusal.is_expired() {
        return Err(refusal);
    }
    let line = format!("{}\n", json!({"type": "ERROR", "object": refusal.status()}));
    Ok(([("content-type", "application/json")], line).into_response())
}

fn tell(
    events: &mut Events,
    state: &Seen,
    kind: What,
    namespace: &str,
    found: Found,
    version: Option<Revision>,
) -> Result<Result<(), Over>, Refusal> {
    // What is gone has no document to be read any more.
    let is_described = events.form == Form::Object && kind != What::Deleted;
    let attributes = if is_described { Some(state.snapshot.described(found.rid)?) } else { None };
    let version = version.unwrap_or(found.resource.changed);
    let object = objects::cloud_resource(namespace, found.resource, found.owner, attributes, version);
    let kind = match kind {
        What::Added => "ADDED",
        What::Modified => "MODIFIED",
        What::Deleted => "DELETED",
    };
    Ok(events.tell(kind, &object))
}

pub(super) fn changes(
    store: &Store,
    wanted: Wanted,
    options: Options,
    form: Form,
    permit: Slot,
) -> Result<Response, Refusal> {
    if wanted.to.is_some() {
        return Err(Refusal::bad_request("to names a moment, at which no watch ends: leave it out to watch"));
    }
    let start = start(&options)?;
    let mut told = match start {
        Start::After(revision) => match store.revision_at(Moment::Revision(revision)) {
            Ok((revision, _)) => revision,
            Err(error) => return expired(error.into()),
        },
        Start::All { .. } => span(store, &wanted)?.0,
    };
    let is_kept = store.snapshot(Moment::Now)?.steps_after(told, told, &|_, _| false);
    if let Err(error) = is_kept {
        return expired(error.into());
    }
    let mut is_initial = start == Start::All { with_bookmark: true };
    let mut bookmarks = Bookmarks::new(&options, told);
    let own = store.clone();
    let step = move |events: &mut Events| -> Result<Revision, Stop> {
        let now = own.snapshot(Moment::Now)?;
        let newest = now.revision();
        let covered = Covered::of(&now, &wanted)?;
        while told < newest {
            let (until, steps) = covered.steps(&now, &wanted, told, newest)?;
            for (at, step) in steps.iter().enumerate() {
                let next = steps.get(at + 1).map(|next| next.change.revision);
                let mut object = covered.object(&now, step);
                object.metadata.resource_version = resource_version(step.change.revision, next).to_string();
                events.tell("ADDED", &object)?;
            }
            told = until;
        }
        if std::mem::take(&mut is_initial) {
            events.bookmark::<objects::ResourceChangeStatus>(&CHANGES, told, true)?;
        }
        bookmarks.tell::<objects::ResourceChangeStatus>(events, &CHANGES, told)?;
        Ok(told)
    };
    Ok(run(store, &options, form, permit, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_cut_off_within_a_revision_is_told_the_rest_of_it() {
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
        for (query, wanted) in [
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
            assert_eq!(start(query), wanted, "{query}");
        }
    }
}
