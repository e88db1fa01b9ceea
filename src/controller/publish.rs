//! From the store to the API server: findings, events, webhook events and status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use super::{
    CALL_TIMEOUT, Context, FIRST_BACKOFF, RECHECK_INTERVAL, ReconcileError, apply, build, catch_panic, exempt,
    exists, lock, notify, status, with_deadline,
};
use crate::api::{CloudScan, CloudScanStatus};
use crate::inventory::Subscriber;

/// The last written status of each CloudScan, with the resource version of the object that it was made from.
#[derive(Default)]
pub(super) struct WrittenStatuses(Mutex<BTreeMap<Subscriber, (Option<String>, CloudScanStatus)>>);

impl WrittenStatuses {
    pub fn retain(&self, exists: impl Fn(&Subscriber) -> bool) {
        lock(&self.0).retain(|subscriber, _| exists(subscriber));
    }

    fn record(&self, scan: &CloudScan, status: CloudScanStatus) {
        lock(&self.0).insert(build::subscriber(scan), (scan.resource_version(), status));
    }

    /// The CloudScan with its last written status, if the watch has not delivered it yet: otherwise statements and
    /// their transition times would be derived again from the older status.
    fn with_last_written(&self, scan: Arc<CloudScan>) -> Arc<CloudScan> {
        let mut statuses = lock(&self.0);
        let Some((made_from, status)) = statuses.remove(&build::subscriber(&scan)) else { return scan };
        if made_from != scan.resource_version() {
            return scan;
        }
        statuses.insert(build::subscriber(&scan), (made_from, status.clone()));
        Arc::new(CloudScan { status: Some(status), ..(*scan).clone() })
    }
}

pub(super) async fn reconcile(scan: Arc<CloudScan>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let scan = context.statuses.with_last_written(scan);
    context.meters.measure("cloudscan", catch_panic(Box::pin(reconciled(&scan, &context)))).await
}

#[tracing::instrument(name = "reconcile", skip_all, fields(cloudscan = %build::subscriber(scan)))]
async fn reconciled(scan: &CloudScan, context: &Context) -> Result<Action, ReconcileError> {
    if scan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // Without the list of exemptions, exempted findings would be opened; without the list of findings, existing ones
    // would be reported again.
    let lists = async { tokio::join!(context.exemptions.wait_until_ready(), context.findings.complete()) };
    if tokio::time::timeout(CALL_TIMEOUT, lists).await.is_err() {
        return Err(ReconcileError::Deadline);
    }
    let subscriber = build::subscriber(scan);
    // No status is written before the spec is processed.
    let Some(subscribed) = context.subscriptions.of(scan) else { return Ok(Action::await_change()) };
    let resolved = &subscribed.resolved;
    let mut published = Ok(None);
    let mut reports = Vec::new();
    if let Ok(valid) = &subscribed.valid {
        // Read before the findings are evaluated: the findings must include everything that the status reports as
        // scanned.
        reports = context.fleet.reports(&subscriber);
        // Suspended or closed accounts are expected to deny access: they are not reported.
        reports
            .retain(|report| report.account.as_ref().is_none_or(|account| !resolved.inactive.contains(account)));
        let mut rules = valid.rules.clone();
        rules.exemptions = exempt::of_namespace(scan.namespace().as_deref(), context);
        rules.findings.max_open =
            rules.findings.max_open.min(context.limits.open_findings(scan, context.scans.state()));
        published = apply::findings(scan, &rules, context).await.map(Some);
    }
    if !exists(context, &subscriber) {
        return Ok(Action::await_change());
    }
    let delivery = notify::ensure_delivery(scan, context).await?;
    let (counts, more) = match published.as_ref().ok().and_then(Option::as_ref) {
        Some(published) => (Some(published.counts.clone()), published.more),
        None => (None, false),
    };
    let status = status::summarize(&status::StatusInputs {
        scan,
        refusal: subscribed.valid.as_ref().err(),
        unconnected: resolved.unconnected.as_ref(),
        unlisted: resolved.unlisted.as_ref(),
        inactive: resolved.inactive.len(),
        accounts: resolved.accounts,
        interval: subscribed.valid.as_ref().map_or(Duration::ZERO, |valid| valid.interval),
        deferred_until: subscribed.deferred_until,
        min_interval: context.limits.min_interval,
        reports: &reports,
        counts,
        delivery,
        clock_lag: context.store.clock_lag(),
        now: context.store.now(),
    });
    // What a crash left in the API server is deleted once the first scan is complete: not an interval later.
    let is_first =
        status::is_first_scan_complete(Some(&status)) && !status::is_first_scan_complete(scan.status.as_ref());
    let more = more || is_first;
    update_status(scan, status, context).await?;
    published?;
    context.publishing.succeeded(&subscriber);
    Ok(Action::requeue(if more { FIRST_BACKOFF } else { RECHECK_INTERVAL }))
}

/// Writes one patch if the status changed, and one event for each condition whose statement changed.
async fn update_status(
    scan: &CloudScan,
    status: CloudScanStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if scan.status.as_ref() == Some(&status) {
        return Ok(());
    }
    // Writing findings takes time, and a patch addresses its object by name: it must not reach another object of that
    // name.
    let is_gone = || {
        let now_there = context.scans.get(&ObjectRef::from_obj(scan));
        now_there.is_none_or(|there| there.meta().uid != scan.meta().uid)
    };
    if is_gone() {
        return Ok(());
    }
    let namespace = scan.namespace().unwrap_or_default();
    let now = context.store.now();
    for condition in status::changed_conditions(scan.status.as_ref(), &status) {
        let event = build::condition_event(scan, condition, now, &context.identity.instance);
        apply::publish(context, &namespace, &event).await?;
    }
    if is_gone() {
        return Ok(());
    }
    let mut object = CloudScan::new(&scan.name_any(), scan.spec.clone());
    object.status = Some(status.clone());
    let mut patch = serde_json::to_value(&object).expect("a CloudScan is JSON");
    patch.as_object_mut().expect("it is an object").remove("spec");
    let api: Api<CloudScan> = Api::namespaced(context.client.clone(), &namespace);
    with_deadline(api.patch_status(
        &scan.name_any(),
        &PatchParams::apply(build::MANAGER).force(),
        &Patch::Apply(&patch),
    ))
    .await?;
    context.statuses.record(scan, status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(version: &str) -> CloudScan {
        let mut scan = CloudScan::new("one", serde_json::from_str(r#"{"provider": {}}"#).unwrap());
        scan.metadata.namespace = Some("team-a".to_owned());
        scan.metadata.resource_version = Some(version.to_owned());
        scan
    }

    fn resources(count: i64) -> CloudScanStatus {
        CloudScanStatus { resources: Some(count), ..CloudScanStatus::default() }
    }

    #[test]
    fn the_status_that_was_written_last_stands_until_the_watch_brings_another() {
        let statuses = WrittenStatuses::default();
        let seen =
            |scan: CloudScan| statuses.with_last_written(Arc::new(scan)).status.as_ref().and_then(|s| s.resources);
        assert_eq!(seen(scan("1")), None);
        statuses.record(&scan("1"), resources(7));
        // The watch is late, more than once.
        assert_eq!((seen(scan("1")), seen(scan("1"))), (Some(7), Some(7)));
        // The watch has delivered it, and what another client wrote.
        assert_eq!(seen(CloudScan { status: Some(resources(8)), ..scan("2") }), Some(8));
        assert_eq!(seen(scan("1")), None, "what is past is forgotten");
    }
}
