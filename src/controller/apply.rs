//! Applies what was built: writes findings and events where they differ from what exists.

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
use super::status::{self, Counts};
use super::{Context, ReconcileError, lock, with_deadline};
use crate::api::{ACKNOWLEDGED, CloudScan, ResourceFinding};
use crate::inventory::{RuleSettings, Subscriber, Timestamp};
use crate::policy::Evaluator;
use crate::policy::lifecycle::{Lifecycle, PublishedObject};
use crate::store::Store;

/// Concurrent writes to the API server for one CloudScan.
const WRITES_IN_FLIGHT: usize = 8;
/// Maximum number of writes of one reconcile, so that the status keeps up; the next reconcile follows at once.
const RECONCILE_WRITES_MAX: usize = 500;
/// Maximum number of events of one reconcile: beyond it one summary replaces the rest.
const RECONCILE_EVENTS_MAX: usize = 100;

/// Characters of an acknowledgement that are kept: it is recorded in the store and repeated in events.
const ACKNOWLEDGEMENT_MAX_CHARS: usize = 1024;

/// The result of one reconcile.
pub(super) struct Published {
    pub counts: Counts,
    /// More is to be written, at once, in another reconcile.
    pub more: bool,
}

/// Brings the findings of a CloudScan in line with the store. Objects are written first, transitions reported second,
/// records noted last: a crash between any two steps repeats the same names and adds nothing.
pub(super) async fn findings(
    scan: &CloudScan,
    rules: &RuleSettings,
    context: &Context,
) -> Result<Published, ReconcileError> {
    let namespace = scan.namespace().unwrap_or_default();
    let standing = standing(scan, context);
    let seen: BTreeMap<String, PublishedObject> = standing
        .iter()
        .map(|(name, object)| {
            let note = object.annotations().get(ACKNOWLEDGED);
            let acknowledged = note.map(|note| build::shortened(note, ACKNOWLEDGEMENT_MAX_CHARS));
            (name.clone(), PublishedObject { uid: object.uid().unwrap_or_default(), acknowledged })
        })
        .collect();
    let assessment = {
        let (subscriber, rules, name) = (build::subscriber(scan), rules.clone(), scan.name_any());
        let earlier_tags = context.fleet.earlier_tags(&subscriber);
        let evaluator = evaluator(context, &subscriber);
        let work = move |store: &Store| {
            assess::assess(store, &subscriber, &rules, &name, &seen, &earlier_tags, &mut lock(&evaluator))
        };
        context.store.run_blocking(work).await?
    };
    let Assessment { lifecycle, counts, now, .. } = &assessment;
    let now = *now;
    let api: Api<ResourceFinding> = Api::namespaced(context.client.clone(), &namespace);
    let reported: BTreeSet<&String> = lifecycle.transitions.iter().map(|(name, _)| name).collect();

    let mut desired: BTreeMap<String, ResourceFinding> = BTreeMap::new();
    for (name, record) in lifecycle.records.iter().filter(|(_, record)| record.published) {
        desired.insert(name.clone(), build::finding(scan, name, record, &counts.currency));
    }
    if lifecycle.suppressed.count > 0 {
        let object =
            build::more_findings(scan, &lifecycle.suppressed, rules.findings.max_open, counts.revision, now);
        let name = object.name_any();
        // Its counts change; its start does not.
        let object = match standing.get(&name) {
            Some(standing) => build::since_then(object, standing),
            None => object,
        };
        desired.insert(name, object);
    }
    let mut differing: Vec<(String, ResourceFinding)> = Vec::new();
    for (name, object) in &desired {
        let is_up_to_date = standing.get(name).is_some_and(|standing| build::is_up_to_date(standing, object));
        if !is_up_to_date || reported.contains(name) {
            differing.push((name.clone(), object.clone()));
        }
    }
    let mut gone: Vec<String> = lifecycle.removed.clone();
    gone.extend(unknown_findings(scan, lifecycle, &desired, &standing));
    let deferred: BTreeSet<String> =
        differing.split_off(differing.len().min(RECONCILE_WRITES_MAX)).into_iter().map(|(name, _)| name).collect();
    let later = gone.split_off(gone.len().min(RECONCILE_WRITES_MAX));
    let more = !deferred.is_empty() || !later.is_empty();

    let mut failures: Vec<(String, ReconcileError)> = Vec::new();
    let (written, failed) = write(&api, &context.pace, differing).await;
    failures.extend(failed);
    failures.extend(publish_events(scan, lifecycle, &written, counts, now, context).await);
    for name in &gone {
        if has_timeout(&failures) {
            failures.push((name.clone(), ReconcileError::Deadline));
            continue;
        }
        context.pace.slot().await;
        match with_deadline(api.delete(name, &DeleteParams::default())).await {
            Ok(_) => {}
            Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 404 => {}
            Err(error) => failures.push((name.clone(), error)),
        }
    }

    // What failed or was deferred keeps its old note, so that it is done again.
    let waits: BTreeSet<&String> = failures.iter().map(|(name, _)| name).chain(&deferred).chain(&later).collect();
    // Webhook events are queued first: after a crash in between they are queued again under the same id.
    let mut notes = Vec::new();
    if scan.spec.findings.webhook.is_some() {
        let messages =
            lifecycle.transitions.iter().filter(|(name, _)| !waits.contains(name)).map(|(name, what)| {
                let record = &lifecycle.records[name];
                let object =
                    written.get(name).or(desired.get(name)).or(standing.get(name).map(|object| &**object));
                notify::message(scan, name, *what, record, object, now)
            });
        let messages = notify::within_limit(scan, messages.collect(), context).await?;
        notes.extend(notify::queued(messages, counts.revision));
    }
    notes.extend(assess::notes(&assessment, rules, |name| !waits.contains(name)));
    let counts = assessment.counts;
    let subscriber = build::subscriber(scan);
    context.store.run_blocking(move |store| assess::write(store, &subscriber, &notes)).await?;

    match failures.into_iter().next() {
        None => Ok(Published { counts, more }),
        Some((_, error)) => Err(error),
    }
}

/// The findings of this CloudScan that exist in the API server.
fn standing(scan: &CloudScan, context: &Context) -> Findings {
    let namespace = scan.namespace().unwrap_or_default();
    context.findings.of(&namespace, &scan.name_any(), scan.metadata.uid.as_deref())
}

/// One for each CloudScan: an evaluator remembers what its CloudScan may see.
fn evaluator(context: &Context, subscriber: &Subscriber) -> Arc<Mutex<Evaluator>> {
    let new = || Arc::new(Mutex::new(Evaluator::new(context.facts.clone(), context.prices.clone())));
    lock(&context.evaluators).entry(subscriber.clone()).or_insert_with(new).clone()
}

/// Applies objects, a few concurrently, within the write rate.
async fn write(
    api: &Api<ResourceFinding>,
    pace: &Pace,
    objects: Vec<(String, ResourceFinding)>,
) -> (BTreeMap<String, ResourceFinding>, Vec<(String, ReconcileError)>) {
    let has_hung = AtomicBool::new(false);
    let apply = async |(name, desired): (String, ResourceFinding)| {
        if has_hung.load(Ordering::Relaxed) {
            return (name, Err(ReconcileError::Deadline));
        }
        pace.slot().await;
        let patch = PatchParams::apply(MANAGER).force();
        let applied = with_deadline(api.patch(&name, &patch, &Patch::Apply(&desired))).await;
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

/// Whether the API server left a call unanswered. If one call hangs, perhaps in an admission webhook, the next does
/// too: hundreds in a row would delay other CloudScans for hours.
fn has_timeout(failures: &[(String, ReconcileError)]) -> bool {
    failures.iter().any(|(_, error)| matches!(error, ReconcileError::Deadline))
}

/// Publishes one event for each transition of the written findings.
async fn publish_events(
    scan: &CloudScan,
    lifecycle: &Lifecycle,
    written: &BTreeMap<String, ResourceFinding>,
    counts: &Counts,
    now: Timestamp,
    context: &Context,
) -> Vec<(String, ReconcileError)> {
    let instance = &context.identity.instance;
    let reported: Vec<_> = lifecycle.transitions.iter().filter(|(name, _)| written.contains_key(name)).collect();
    let mut events: Vec<(String, Event)> = Vec::new();
    for (name, what) in reported.iter().take(RECONCILE_EVENTS_MAX) {
        let event = build::finding_event(scan, &written[name], &lifecycle.records[name], *what, now, instance);
        events.push((name.clone(), event));
    }
    if reported.len() > RECONCILE_EVENTS_MAX {
        let omitted = reported.len() - RECONCILE_EVENTS_MAX;
        events.push((String::new(), build::summary_event(scan, omitted, counts.revision.0, now, instance)));
    }
    let namespace = scan.namespace().unwrap_or_default();
    let mut failures = Vec::new();
    for (name, event) in events {
        if has_timeout(&failures) {
            failures.push((name, ReconcileError::Deadline));
        } else if let Err(error) = publish(context, &namespace, &event).await {
            failures.push((name, error));
        }
    }
    failures
}

/// Findings of this CloudScan that the store does not know: their store was lost.
fn unknown_findings(
    scan: &CloudScan,
    lifecycle: &Lifecycle,
    desired: &BTreeMap<String, ResourceFinding>,
    standing: &Findings,
) -> Vec<String> {
    if !status::is_first_scan_complete(scan.status.as_ref()) {
        return Vec::new();
    }
    let is_known = |name: &String| desired.contains_key(name) || lifecycle.removed.contains(name);
    standing.keys().filter(|name| !is_known(name)).cloned().collect()
}

/// How many findings an exemption exempts now.
pub(super) fn held_back(context: &Context, exemption: &ObjectRef<crate::api::FindingExemption>) -> usize {
    let by_it = |object: &ResourceFinding| {
        object.status.as_ref().is_some_and(|s| s.exemption.as_deref() == Some(exemption.name.as_str()))
    };
    context.findings.count(exemption.namespace.as_deref().unwrap_or_default(), by_it)
}

/// Publishes an event. An event that exists already counts as published.
pub(super) async fn publish(context: &Context, namespace: &str, event: &Event) -> Result<(), ReconcileError> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    context.pace.slot().await;
    match with_deadline(api.create(&PostParams::default(), event)).await {
        Ok(_) => Ok(()),
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
