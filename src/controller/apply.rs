//! What was built, carried out: findings and events written, where they differ from what stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::assess::{self, Assessment};
use super::build::{self, MANAGER};
use super::notify;
use super::pace::Pace;
use super::standing::Findings;
use super::status::Counts;
use super::{Context, ReconcileError, lock, timely};
use crate::api::{ACKNOWLEDGED, CloudScan, ResourceFinding};
use crate::inventory::{RuleSettings, Timestamp, Viewer};
use crate::policy::Evaluator;
use crate::policy::lifecycle::{Lifecycle, Seen};
use crate::store::StoreError;

/// Writes to the API server in flight for one CloudScan.
const WRITES_IN_FLIGHT: usize = 8;
/// What one reconcile writes at most, so that status keeps up; the rest is for the next, at once.
const MAX_WRITES: usize = 500;
/// Events of one reconcile: beyond this one summary speaks for the rest.
const MAX_EVENTS: usize = 100;

/// Characters of an acknowledgement that are kept: it is noted in the store and repeated by events.
const MAX_ACKNOWLEDGEMENT: usize = 1024;

/// What was brought about.
pub(super) struct Published {
    pub counts: Counts,
    /// There is more to write: at once, in another reconcile.
    pub more: bool,
}

/// Brings the findings of a CloudScan to what the store says. Written first, told second, noted last: a
/// crash between any two repeats the same names and adds nothing.
pub(super) async fn findings(
    scan: &CloudScan,
    rules: &RuleSettings,
    context: &Context,
) -> Result<Published, ReconcileError> {
    let namespace = scan.namespace().unwrap_or_default();
    let standing = standing(scan, context);
    let seen: BTreeMap<String, Seen> = standing
        .iter()
        .map(|(name, object)| {
            let note = object.annotations().get(ACKNOWLEDGED);
            let acknowledged = note.map(|note| build::shortened(note, MAX_ACKNOWLEDGEMENT));
            (name.clone(), Seen { uid: object.uid().unwrap_or_default(), acknowledged })
        })
        .collect();
    let assessment = {
        let (store, viewer, rules, name) =
            (context.store.clone(), build::viewer(scan), rules.clone(), scan.name_any());
        let earlier_tags = context.fleet.earlier_tags(&viewer);
        let evaluator = evaluator(context, &viewer);
        tokio::task::spawn_blocking(move || {
            assess::assess(&store, &viewer, &rules, &name, &seen, &earlier_tags, &mut lock(&evaluator))
        })
        .await
        .map_err(|_| ReconcileError::Store(StoreError::Poisoned))??
    };
    let Assessment { lifecycle, counts, now, .. } = &assessment;
    let now = *now;
    let api: Api<ResourceFinding> = Api::namespaced(context.client.clone(), &namespace);
    let told: BTreeSet<&String> = lifecycle.transitions.iter().map(|(name, _)| name).collect();

    let mut wanted: BTreeMap<String, ResourceFinding> = BTreeMap::new();
    for (name, record) in lifecycle.records.iter().filter(|(_, record)| record.published) {
        wanted.insert(name.clone(), build::finding(scan, name, record, &counts.currency));
    }
    if lifecycle.suppressed.count > 0 {
        let object =
            build::more_findings(scan, &lifecycle.suppressed, rules.findings.max_open, counts.revision, now);
        let name = object.name_any();
        // Its numbers change; since when it says so does not.
        let object = match standing.get(&name) {
            Some(standing) => build::since_then(object, standing),
            None => object,
        };
        wanted.insert(name, object);
    }
    let mut differing: Vec<(String, ResourceFinding)> = Vec::new();
    for (name, object) in &wanted {
        let is_as_wanted = standing.get(name).is_some_and(|standing| build::is_as_wanted(standing, object));
        if !is_as_wanted || told.contains(name) {
            differing.push((name.clone(), object.clone()));
        }
    }
    let mut gone: Vec<String> = lifecycle.removed.clone();
    gone.extend(strays(scan, lifecycle, &wanted, &standing));
    let deferred: BTreeSet<String> =
        differing.split_off(differing.len().min(MAX_WRITES)).into_iter().map(|(name, _)| name).collect();
    let later = gone.split_off(gone.len().min(MAX_WRITES));
    let more = !deferred.is_empty() || !later.is_empty();

    let mut failures: Vec<(String, ReconcileError)> = Vec::new();
    let (written, failed) = write(&api, &context.pace, differing).await;
    failures.extend(failed);
    failures.extend(tell(scan, lifecycle, &written, counts, now, context).await);
    for name in &gone {
        if hangs(&failures) {
            failures.push((name.clone(), ReconcileError::Deadline));
            continue;
        }
        context.pace.turn().await;
        match timely(api.delete(name, &DeleteParams::default())).await {
            Ok(_) => {}
            Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 404 => {}
            Err(error) => failures.push((name.clone(), error)),
        }
    }

    // What failed, and what waits for the next turn, keeps its old note, so that it is done again.
    let waits: BTreeSet<&String> = failures.iter().map(|(name, _)| name).chain(&deferred).chain(&later).collect();
    // What is to be told goes first: where a crash comes between, it is queued again under the same id.
    let mut notes = Vec::new();
    if scan.spec.findings.webhook.is_some() {
        let messages =
            lifecycle.transitions.iter().filter(|(name, _)| !waits.contains(name)).map(|(name, what)| {
                let record = &lifecycle.records[name];
                let object = written.get(name).or(wanted.get(name)).or(standing.get(name).map(|object| &**object));
                notify::message(scan, name, *what, record, object, now)
            });
        let messages = notify::within_limit(scan, messages.collect(), context).await?;
        notes.extend(notify::queued(messages, counts.revision));
    }
    notes.extend(assess::notes(&assessment, rules, |name| !waits.contains(name)));
    let counts = assessment.counts;
    let (store, viewer) = (context.store.clone(), build::viewer(scan));
    tokio::task::spawn_blocking(move || assess::write(&store, &viewer, &notes))
        .await
        .map_err(|_| ReconcileError::Store(StoreError::Poisoned))??;

    match failures.into_iter().next() {
        None => Ok(Published { counts, more }),
        Some((_, error)) => Err(error),
    }
}

/// The findings of this CloudScan that stand in the API server.
fn standing(scan: &CloudScan, context: &Context) -> Findings {
    let namespace = scan.namespace().unwrap_or_default();
    context.findings.of(&namespace, &scan.name_any(), scan.metadata.uid.as_deref())
}

/// Each CloudScan has its own: what its rules remember is what it may see.
fn evaluator(context: &Context, viewer: &Viewer) -> Arc<Mutex<Evaluator>> {
    let new = || Arc::new(Mutex::new(Evaluator::new(context.prices.clone())));
    lock(&context.evaluators).entry(viewer.clone()).or_insert_with(new).clone()
}

/// Applies objects, a few at once and no more a second than the API server can spare.
async fn write(
    api: &Api<ResourceFinding>,
    pace: &Pace,
    objects: Vec<(String, ResourceFinding)>,
) -> (BTreeMap<String, ResourceFinding>, Vec<(String, ReconcileError)>) {
    let has_hung = AtomicBool::new(false);
    let apply = async |(name, wanted): (String, ResourceFinding)| {
        if has_hung.load(Ordering::Relaxed) {
            return (name, Err(ReconcileError::Deadline));
        }
        pace.turn().await;
        let patch = PatchParams::apply(MANAGER).force();
        let applied = timely(api.patch(&name, &patch, &Patch::Apply(&wanted))).await;
        if matches!(applied, Err(ReconcileError::Deadline)) {
            has_hung.store(true, Ordering::Relaxed);
        }
        (name, applied)
    };
    let mut applying = futures::stream::iter(objects).map(apply).buffer_unordered(WRITES_IN_FLIGHT);
    let (mut written, mut failed) = (BTreeMap::new(), Vec::new());
    while let Some((name, applied)) = applying.next().await {
        match applied {
            Ok(object) => drop(written.insert(name, object)),
            Err(error) => failed.push((name, error)),
        }
    }
    (written, failed)
}

/// Whether the API server has left a call without an answer. Where one hangs, an admission webhook perhaps, the next does
/// too: hundreds in a row would keep others from their turn for hours.
fn hangs(failures: &[(String, ReconcileError)]) -> bool {
    failures.iter().any(|(_, error)| matches!(error, ReconcileError::Deadline))
}

/// One event for each transition of what was written.
async fn tell(
    scan: &CloudScan,
    lifecycle: &Lifecycle,
    written: &BTreeMap<String, ResourceFinding>,
    counts: &Counts,
    now: Timestamp,
    context: &Context,
) -> Vec<(String, ReconcileError)> {
    let instance = &context.identity.instance;
    let told: Vec<_> = lifecycle.transitions.iter().filter(|(name, _)| written.contains_key(name)).collect();
    let mut events: Vec<(String, Event)> = Vec::new();
    for (name, what) in told.iter().take(MAX_EVENTS) {
        let event = build::finding_event(scan, &written[name], &lifecycle.records[name], *what, now, instance);
        events.push((name.clone(), event));
    }
    if told.len() > MAX_EVENTS {
        let untold = told.len() - MAX_EVENTS;
        events.push((String::new(), build::summary_event(scan, untold, counts.revision.0, now, instance)));
    }
    let namespace = scan.namespace().unwrap_or_default();
    let mut failures = Vec::new();
    for (name, event) in events {
        if hangs(&failures) {
            failures.push((name, ReconcileError::Deadline));
        } else if let Err(error) = publish(context, &namespace, &event).await {
            failures.push((name, error));
        }
    }
    failures
}

/// Findings of this CloudScan that nothing is known of: their store was lost.
fn strays(
    scan: &CloudScan,
    lifecycle: &Lifecycle,
    wanted: &BTreeMap<String, ResourceFinding>,
    standing: &Findings,
) -> Vec<String> {
    let conditions = scan.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    if !conditions.iter().any(|c| c.type_ == "FirstScanComplete" && c.status == "True") {
        return Vec::new();
    }
    let is_known = |name: &String| wanted.contains_key(name) || lifecycle.removed.contains(name);
    standing.keys().filter(|name| !is_known(name)).cloned().collect()
}

/// How many findings an exemption holds back now.
pub(super) fn held_back(context: &Context, exemption: &ObjectRef<crate::api::FindingExemption>) -> usize {
    let by_it = |object: &ResourceFinding| {
        object.status.as_ref().is_some_and(|s| s.exemption.as_deref() == Some(exemption.name.as_str()))
    };
    context.findings.count(exemption.namespace.as_deref().unwrap_or_default(), by_it)
}

/// An event that was published already is published.
pub(super) async fn publish(context: &Context, namespace: &str, event: &Event) -> Result<(), ReconcileError> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    context.pace.turn().await;
    match timely(api.create(&PostParams::default(), event)).await {
        Ok(_) => Ok(()),
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
