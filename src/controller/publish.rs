//! From the store to the API server: findings, events, what a webhook is told, and status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use super::{
    CALL_DEADLINE, Context, FIRST_BACKOFF, RECHECK, ReconcileError, apply, build, exempt, exists, lock, notify,
    status, timely, unless_it_panics,
};
use crate::api::{CloudScan, CloudScanStatus};
use crate::inventory::Viewer;

/// The status of each CloudScan that was written last, with the version of the object that it was made from.
#[derive(Default)]
pub(super) struct Statuses(Mutex<BTreeMap<Viewer, (Option<String>, CloudScanStatus)>>);

impl Statuses {
    pub fn retain(&self, exists: impl Fn(&Viewer) -> bool) {
        lock(&self.0).retain(|viewer, _| exists(viewer));
    }

    fn wrote(&self, scan: &CloudScan, status: CloudScanStatus) {
        lock(&self.0).insert(build::viewer(scan), (scan.resource_version(), status));
    }

    /// With the status that was written last, where the watch has not brought it yet: what was said once, and since
    /// when, would be said anew from what was there before.
    fn upon(&self, scan: Arc<CloudScan>) -> Arc<CloudScan> {
        let mut statuses = lock(&self.0);
        let Some((made_from, status)) = statuses.remove(&build::viewer(&scan)) else { return scan };
        if made_from != scan.resource_version() {
            return scan;
        }
        statuses.insert(build::viewer(&scan), (made_from, status.clone()));
        Arc::new(CloudScan { status: Some(status), ..(*scan).clone() })
    }
}

pub(super) async fn reconcile(scan: Arc<CloudScan>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let scan = context.statuses.upon(scan);
    context.meters.measure("cloudscan", unless_it_panics(Box::pin(reconciled(&scan, &context)))).await
}

#[tracing::instrument(name = "reconcile", skip_all, fields(cloudscan = %build::viewer(scan)))]
async fn reconciled(scan: &CloudScan, context: &Context) -> Result<Action, ReconcileError> {
    if scan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    // Without the list of exemptions what they hold back would be opened, without that of findings it would be told anew.
    let lists = async { tokio::join!(context.exemptions.wait_until_ready(), context.findings.complete()) };
    if tokio::time::timeout(CALL_DEADLINE, lists).await.is_err() {
        return Err(ReconcileError::Deadline);
    }
    let viewer = build::viewer(scan);
    // Until a spec is taken up nothing is said of it.
    let Some(subscribed) = context.subscriptions.of(scan) else { return Ok(Action::await_change()) };
    let wanted = &subscribed.wanted;
    let mut published = Ok(None);
    let mut reports = Vec::new();
    if let Ok(valid) = &subscribed.valid {
        // Before the findings: what is said to be looked at must be told.
        reports = context.fleet.reports(&viewer);
        // That nobody gets into an account that is suspended or closed is no news, and says nothing of it.
        reports.retain(|report| report.account.as_ref().is_none_or(|account| !wanted.inactive.contains(account)));
        let mut rules = valid.rules.clone();
        rules.exemptions = exempt::of_namespace(scan.namespace().as_deref(), context);
        rules.findings.max_open =
            rules.findings.max_open.min(context.limits.open_findings(scan, context.scans.state()));
        published = apply::findings(scan, &rules, context).await.map(Some);
    }
    if !exists(context, &viewer) {
        return Ok(Action::await_change());
    }
    let delivery = notify::deliver(scan, context).await?;
    let (counts, more) = match published.as_ref().ok().and_then(Option::as_ref) {
        Some(published) => (Some(published.counts.clone()), published.more),
        None => (None, false),
    };
    let status = status::summarize(&status::Found {
        scan,
        refusal: subscribed.valid.as_ref().err(),
        unconnected: wanted.unconnected.as_ref(),
        unlisted: wanted.unlisted.as_ref(),
        inactive: wanted.inactive.len(),
        accounts: wanted.accounts,
        interval: subscribed.valid.as_ref().map_or(Duration::ZERO, |valid| valid.interval),
        reports: &reports,
        counts,
        delivery,
        clock_lag: context.store.clock_lag(),
        now: context.store.now(),
    });
    update_status(scan, status, context).await?;
    published?;
    context.publishing.succeeded(&viewer);
    Ok(Action::requeue(if more { FIRST_BACKOFF } else { RECHECK }))
}

/// One patch, when something is to be said; an event for each condition that says something else.
async fn update_status(
    scan: &CloudScan,
    status: CloudScanStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if scan.status.as_ref() == Some(&status) {
        return Ok(());
    }
    // Writing findings takes a while, and a patch goes by name: another one of the same name is not spoken of.
    let is_gone = || {
        let now_there = context.scans.get(&ObjectRef::from_obj(scan));
        now_there.is_none_or(|there| there.meta().uid != scan.meta().uid)
    };
    if is_gone() {
        return Ok(());
    }
    let namespace = scan.namespace().unwrap_or_default();
    let now = context.store.now();
    for condition in status::newly_told(scan.status.as_ref(), &status) {
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
    timely(api.patch_status(&scan.name_any(), &PatchParams::apply(build::MANAGER).force(), &Patch::Apply(&patch)))
        .await?;
    context.statuses.wrote(scan, status);
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
        let statuses = Statuses::default();
        let seen = |scan: CloudScan| statuses.upon(Arc::new(scan)).status.as_ref().and_then(|s| s.resources);
        assert_eq!(seen(scan("1")), None);
        statuses.wrote(&scan("1"), resources(7));
        // The watch is late, more than once.
        assert_eq!((seen(scan("1")), seen(scan("1"))), (Some(7), Some(7)));
        // It is there, and so is what somebody else wrote.
        assert_eq!(seen(CloudScan { status: Some(resources(8)), ..scan("2") }), Some(8));
        assert_eq!(seen(scan("1")), None, "what is past is forgotten");
    }
}
