//! What was built, carried out: findings and events written, where they differ from what stands.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::build::{self, MANAGER};
use super::status::Counts;
use super::{Context, ReconcileError, timely};
use crate::api::{CloudScan, ResourceFinding};
use crate::inventory::{Filter, Moment, RuleSettings, Snapshot, Timestamp, Viewer};
use crate::policy::lifecycle::{self, Lifecycle, Record};
use crate::store::{Store, StoreError};

/// Writes to the API server in flight for one CloudScan.
const WRITES_IN_FLIGHT: usize = 8;
/// Events of one reconcile. A first look at a neglected account opens thousands of findings: beyond
/// this one summary speaks for the rest.
const MAX_EVENTS: usize = 100;
/// What was last published of a finding is a note under this prefix.
const NOTES: &str = "finding/";

/// What holds now, and what was published before.
struct Evaluated {
    lifecycle: Lifecycle,
    before: BTreeMap<String, Record>,
    counts: Counts,
    now: Timestamp,
}

/// Brings the findings of a CloudScan to what the store says. Written first, told second, noted last:
/// a crash between any two repeats the same names and adds nothing.
pub(super) async fn findings(
    scan: &CloudScan,
    rules: &RuleSettings,
    context: &Context,
) -> Result<Counts, ReconcileError> {
    let evaluated = {
        let (store, viewer, rules, name) =
            (context.store.clone(), build::viewer(scan), rules.clone(), scan.name_any());
        tokio::task::spawn_blocking(move || evaluate(&store, &viewer, &rules, &name))
            .await
            .map_err(|_| ReconcileError::Store(StoreError::Poisoned))??
    };
    let Evaluated { lifecycle, before, counts, now } = evaluated;
    let namespace = scan.namespace().unwrap_or_default();
    let api: Api<ResourceFinding> = Api::namespaced(context.client.clone(), &namespace);

    let mut failures = Vec::new();
    let mut written: BTreeMap<String, ResourceFinding> = BTreeMap::new();
    let wanted = lifecycle.records.iter().map(|(name, record)| (name, build::finding(scan, name, record)));
    let differing = wanted.filter_map(|(name, wanted)| {
        let standing = context.findings.get(&ObjectRef::new(name).within(&namespace));
        let told = lifecycle.transitions.contains(name);
        match standing {
            Some(standing) if build::is_as_wanted(&standing, &wanted) && !told => None,
            _ => Some((name.clone(), wanted)),
        }
    });
    let apply = |(name, wanted): (String, ResourceFinding)| {
        let api = api.clone();
        async move {
            let patch = PatchParams::apply(MANAGER).force();
            let applied = timely(api.patch(&name, &patch, &Patch::Apply(&wanted))).await;
            (name, applied)
        }
    };
    let mut applying =
        futures::stream::iter(differing.collect::<Vec<_>>()).map(apply).buffer_unordered(WRITES_IN_FLIGHT);
    while let Some((name, applied)) = applying.next().await {
        match applied {
            Ok(object) => {
                written.insert(name, object);
            }
            Err(error) => failures.push((name, error)),
        }
    }
    drop(applying);

    let told: Vec<&String> = lifecycle.transitions.iter().filter(|name| written.contains_key(*name)).collect();
    let instance = &context.identity.instance;
    let mut events: Vec<(Option<&String>, Event)> = told
        .iter()
        .take(MAX_EVENTS)
        .map(|name| {
            let event = build::finding_event(scan, &written[*name], &lifecycle.records[*name], now, instance);
            (Some(*name), event)
        })
        .collect();
    if told.len() > MAX_EVENTS {
        let untold = told.len() - MAX_EVENTS;
        events.push((None, build::summary_event(scan, untold, counts.revision.0, now, instance)));
    }
    for (name, event) in events {
        if let Err(error) = publish(context, &namespace, &event).await {
            failures.push((name.cloned().unwrap_or_default(), error));
        }
    }

    let mut removed = lifecycle.removed.clone();
    removed.extend(strays(scan, &lifecycle, context));
    for name in &removed {
        match timely(api.delete(name, &DeleteParams::default())).await {
            Ok(_) => {}
            Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 404 => {}
            Err(error) => failures.push((name.clone(), error)),
        }
    }

    // What failed keeps its old note, so that it is done again.
    let done = |name: &String| !failures.iter().any(|(failed, _)| failed == name);
    let mut notes: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for (name, record) in lifecycle.records.iter().filter(|(name, _)| done(name)) {
        if before.get(name) != Some(record) {
            let bytes = postcard::to_stdvec(record).expect("a record is plain data");
            notes.push((format!("{NOTES}{name}"), Some(bytes)));
        }
    }
    notes.extend(lifecycle.removed.iter().filter(|name| done(name)).map(|name| (format!("{NOTES}{name}"), None)));
    let (store, viewer) = (context.store.clone(), build::viewer(scan));
    tokio::task::spawn_blocking(move || store.write_notes(&viewer, &notes))
        .await
        .map_err(|_| ReconcileError::Store(StoreError::Poisoned))??;

    match failures.into_iter().next() {
        None => Ok(counts),
        Some((_, error)) => Err(error),
    }
}

fn evaluate(
    store: &Store,
    viewer: &Viewer,
    rules: &RuleSettings,
    scan_name: &str,
) -> Result<Evaluated, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let evaluation = crate::policy::evaluate(&snapshot, Some(viewer), rules)?;
    let mut before = BTreeMap::new();
    for (name, bytes) in store.notes(viewer, NOTES)? {
        // A note of another version is no loss: what holds is found again.
        if let (Some(name), Ok(record)) = (name.strip_prefix(NOTES), postcard::from_bytes::<Record>(&bytes)) {
            before.insert(name.to_owned(), record);
        }
    }
    let now = snapshot.time();
    let lifecycle =
        lifecycle::advance(evaluation, before.clone(), rules, now, |f| build::finding_name(scan_name, f));
    let mut counts = Counts {
        revision: snapshot.revision(),
        open: lifecycle.records.values().filter(|r| r.is_open()).count(),
        suppressed: lifecycle.suppressed,
        ..Counts::default()
    };
    snapshot.each(&Filter { viewer: Some(viewer.clone()), ..Filter::default() }, |line| {
        *counts.by_account.entry(line.scope.account.clone()).or_default() += 1;
        counts.suspects += usize::from(line.is_suspect);
    });
    Ok(Evaluated { lifecycle, before, counts, now })
}

/// Findings of this CloudScan that nothing is known of: their store was lost.
fn strays(scan: &CloudScan, lifecycle: &Lifecycle, context: &Context) -> Vec<String> {
    let conditions = scan.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    if !conditions.iter().any(|c| c.type_ == "FirstScanComplete" && c.status == "True") {
        return Vec::new();
    }
    let (namespace, uid) = (scan.namespace(), scan.uid());
    let mine = |object: &ResourceFinding| {
        object.namespace() == namespace && object.owner_references().iter().any(|o| Some(&o.uid) == uid.as_ref())
    };
    let objects = context.findings.state();
    let names = objects.iter().filter(|object| mine(object)).map(|object| object.name_any());
    names.filter(|name| !lifecycle.records.contains_key(name) && !lifecycle.removed.contains(name)).collect()
}

/// An event that was published already is published.
pub(super) async fn publish(context: &Context, namespace: &str, event: &Event) -> Result<(), ReconcileError> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    match timely(api.create(&PostParams::default(), event)).await {
        Ok(_) => Ok(()),
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
