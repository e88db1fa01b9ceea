//! From specs to what the scanner scans. It does not wait for findings: a CloudScan is scanned once it is applied,
//! however much is to be written for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::sync::mpsc;

use super::validate::{Refusal, Valid, validate};
use super::{
    BACKOFF_MAX, Context, RECHECK_INTERVAL, ReconcileError, build, catch_panic, dereference, exists, lock,
    with_deadline,
};
use crate::api::{CloudScan, RECONCILE_REQUESTED_AT, namespace_uid, reason};
use crate::cloud::CloudError;
use crate::inventory::{AccountId, Credentials, NAMESPACE_EXPRESSIONS_MAX_BYTES, Reason, Subscriber, Timestamp};
use crate::store::Store;

/// The result of processing a spec.
pub(super) struct ProcessedSpec {
    uid: Option<String>,
    /// The UID of its namespace; empty if it could not be determined.
    tenant: String,
    generation: Option<i64>,
    pub valid: Result<Valid, Refusal>,
    pub resolved: Resolved,
    /// When the requested scan starts, if it is deferred.
    pub deferred_until: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct Resolved {
    /// Number of accounts to scan.
    pub accounts: usize,
    /// Accounts that their organization has suspended or closed.
    pub inactive: BTreeSet<AccountId>,
    /// Why nothing is scanned, or why the earlier subscriptions stay in force.
    pub unconnected: Option<CloudError>,
    /// Why an older list of an organization's accounts is still used.
    pub unlisted: Option<CloudError>,
}

/// The last result for each spec, and the channel that is notified of a new one.
pub(super) struct Subscriptions {
    by_subscriber: Mutex<BTreeMap<Subscriber, Arc<ProcessedSpec>>>,
    taken_up: mpsc::UnboundedSender<Subscriber>,
}

impl Subscriptions {
    pub fn new(taken_up: mpsc::UnboundedSender<Subscriber>) -> Self {
        Self { by_subscriber: Mutex::default(), taken_up }
    }

    /// The result for the current spec: none if it is not processed yet. Processing it sends a notification.
    pub fn of(&self, scan: &CloudScan) -> Option<Arc<ProcessedSpec>> {
        let subscribed = lock(&self.by_subscriber).get(&build::subscriber(scan)).cloned();
        subscribed.filter(|s| (&s.uid, s.generation) == (&scan.metadata.uid, scan.metadata.generation))
    }

    /// The tenant that was found for this object, as opposed to another object of its name.
    fn tenant_of(&self, subscriber: &Subscriber, uid: Option<&String>) -> Option<String> {
        let by_subscriber = lock(&self.by_subscriber);
        let known =
            by_subscriber.get(subscriber).filter(|known| known.uid.as_ref() == uid && !known.tenant.is_empty())?;
        Some(known.tenant.clone())
    }

    pub fn retain(&self, exists: impl Fn(&Subscriber) -> bool) {
        lock(&self.by_subscriber).retain(|subscriber, _| exists(subscriber));
    }

    /// The expressions of all CloudScans of a namespace share a budget: those processed first keep theirs.
    fn within_budget(&self, subscriber: &Subscriber, valid: Valid) -> Result<Valid, Refusal> {
        let own = valid.rules.expression_bytes();
        let namespace =
            |subscriber: &Subscriber| subscriber.as_str().split('/').next().unwrap_or_default().to_owned();
        let here = namespace(subscriber);
        let others: usize = lock(&self.by_subscriber)
            .iter()
            .filter(|(other, _)| *other != subscriber && namespace(other) == here)
            .filter_map(|(_, subscribed)| subscribed.valid.as_ref().ok())
            .map(|valid| valid.rules.expression_bytes())
            .sum();
        if own == 0 || own + others <= NAMESPACE_EXPRESSIONS_MAX_BYTES {
            return Ok(valid);
        }
        let message = format!(
            "spec.tagPolicy.required: with it the patterns of the CloudScans of {here} take more than {} MiB when they are compiled: \
             repeat less, or [A-Za-z0-9_] in place of \\w",
            NAMESPACE_EXPRESSIONS_MAX_BYTES >> 20
        );
        Err(Refusal { reason: reason::TOO_MANY_EXPRESSIONS, message })
    }

    fn take(&self, subscriber: &Subscriber, subscribed: ProcessedSpec) {
        lock(&self.by_subscriber).insert(subscriber.clone(), Arc::new(subscribed));
        let _ = self.taken_up.send(subscriber.clone());
    }
}

pub(super) async fn reconcile(scan: Arc<CloudScan>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.meters.measure("subscription", catch_panic(Box::pin(reconciled(&scan, &context)))).await
}

#[tracing::instrument(name = "subscribe", skip_all, fields(cloudscan = %build::subscriber(scan)))]
async fn reconciled(scan: &CloudScan, context: &Context) -> Result<Action, ReconcileError> {
    if scan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let subscriber = build::subscriber(scan);
    let namespace = scan.namespace().unwrap_or_default();
    // Before anything of its predecessor continues, once per object: a namespace that was created again has another
    // UID.
    let tenant = match context.subscriptions.tenant_of(&subscriber, scan.metadata.uid.as_ref()) {
        Some(tenant) => tenant,
        None => claim_namespace(context, &namespace).await?,
    };
    let valid =
        validate(&scan.spec, &namespace, |provider| context.fleet.providers().types(provider), &context.allowed);
    let valid = valid.and_then(|valid| context.subscriptions.within_budget(&subscriber, valid));
    let valid = valid.and_then(|valid| {
        context.limits.check(scan, context.scans.state())?;
        Ok(Valid { interval: context.limits.interval(valid.interval), ..valid })
    });
    let request = context.requests.accept(
        &subscriber,
        scan.annotations().get(RECONCILE_REQUESTED_AT),
        scan.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref()),
        Instant::now(),
        context.limits.min_interval,
    );
    let resolved = if let Ok(valid) = &valid {
        subscribe(scan, valid, &tenant, request.value, context).await?
    } else {
        // Scanning for the last accepted spec stops. What was visible stays visible, unless the administrator does not
        // allow the access any more.
        let access_ended = valid.as_ref().is_err_and(Refusal::is_of_access);
        context.fleet.refuse(&subscriber, access_ended).await;
        Resolved::default()
    };
    if !exists(context, &subscriber) {
        // Deleted while this ran: what was just set would have no owner.
        let _ = context.fleet.set(&subscriber, Vec::new()).await;
        return Ok(Action::await_change());
    }
    let again = if resolved.unconnected.is_some() { BACKOFF_MAX / 10 } else { RECHECK_INTERVAL };
    let again = request.deferred.map_or(again, |remaining| again.min(remaining));
    let deferred_until = request.deferred.map(|remaining| context.store.now().plus(remaining));
    let (uid, generation) = (scan.metadata.uid.clone(), scan.metadata.generation);
    let processed = ProcessedSpec { uid, tenant, generation, valid, resolved, deferred_until };
    context.subscriptions.take(&subscriber, processed);
    context.subscribing.succeeded(&subscriber);
    Ok(Action::requeue(again))
}

/// Registers the UID of a namespace in the store: a namespace that was created again sees nothing of its predecessor.
/// Returns the UID.
async fn claim_namespace(context: &Context, namespace: &str) -> Result<String, ReconcileError> {
    let uid = match with_deadline(namespace_uid(&context.client, namespace)).await {
        // A ClusterRole from before this permission was required: the query API then serves no client, and scanning
        // continues.
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 403 => {
            tracing::warn!(
                "the operator may not get the namespace {namespace}: its ClusterRole is older than it is"
            );
            return Ok(String::new());
        }
        uid => uid?,
    };
    // A deleted namespace takes its CloudScans with it.
    let Some(uid) = uid else { return Ok(String::new()) };
    let (namespace, tenant) = (namespace.to_owned(), uid.clone());
    context.store.run_blocking(move |store| store.claim_tenant(&namespace, &tenant)).await?;
    Ok(uid)
}

/// Passes the subscriptions of a CloudScan to the fleet.
async fn subscribe(
    scan: &CloudScan,
    valid: &Valid,
    tenant: &str,
    requested_at: Option<String>,
    context: &Context,
) -> Result<Resolved, ReconcileError> {
    let subscriber = build::subscriber(scan);
    let provider = &*valid.provider;
    let credentials = dereference::credentials(scan, provider, context).await?;
    if let Credentials::Unavailable(why) = &credentials {
        // Thousands of accounts would be tried in vain. What was visible stays visible until its proof expires.
        context.fleet.refuse(&subscriber, false).await;
        let error = CloudError::new(Reason::InvalidCredentials, why.clone());
        return Ok(Resolved { accounts: 1, unconnected: Some(error), ..Resolved::default() });
    }
    let endpoint = context.fleet.providers().default_endpoint(provider.name());
    let mut resolved = Resolved::default();
    let mut members = None;
    if let Some(units) = provider.units() {
        let lister = provider.lister(&credentials, &endpoint);
        match context.fleet.members(&subscriber, &lister, units, requested_at.as_deref()).await {
            Ok((list, error)) => (members, resolved.unlisted) = (Some(list), error),
            // Without any list the desired accounts are unknown: the earlier subscriptions stay in force.
            Err(error) => return Ok(Resolved { unconnected: Some(error), ..resolved }),
        }
    }
    if let Some(members) = &members {
        let chosen = provider.chosen(members).into_iter();
        resolved.inactive = chosen.filter(|m| !m.is_active).map(|m| m.account.clone()).collect();
    }
    let mut subscriptions = build::subscriptions(scan, valid, &credentials, &endpoint, members.as_ref());
    for subscription in &mut subscriptions {
        subscription.tenant = tenant.into();
        subscription.requested_at.clone_from(&requested_at);
    }
    resolved.accounts = subscriptions.len() - resolved.inactive.len();
    match context.fleet.set(&subscriber, subscriptions).await {
        Ok(()) => forget_other_accounts(context, &subscriber).await?,
        Err(error) => resolved.unconnected = Some(error),
    }
    Ok(resolved)
}

async fn forget_other_accounts(context: &Context, subscriber: &Subscriber) -> Result<(), ReconcileError> {
    let (fleet, subscriber) = (context.fleet.clone(), subscriber.clone());
    let work = move |_: &Store| fleet.forget_other_accounts(&subscriber);
    Ok(context.store.run_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_was_not_taken_up_is_not_reported_and_the_operator_that_takes_it_up_reports() {
        let (taken_up, mut hears) = mpsc::unbounded_channel();
        let subscriptions = Subscriptions::new(taken_up);
        let mut scan = CloudScan::new("one", serde_json::from_str(r#"{"provider": {}}"#).unwrap());
        (scan.metadata.uid, scan.metadata.generation) = (Some("a".to_owned()), Some(1));
        let subscriber = build::subscriber(&scan);
        let take = |scan: &CloudScan| {
            let refusal = Refusal { reason: "InvalidSpec", message: String::new() };
            let (uid, generation) = (scan.metadata.uid.clone(), scan.metadata.generation);
            let tenant = String::new();
            subscriptions.take(
                &subscriber,
                ProcessedSpec {
                    uid,
                    tenant,
                    generation,
                    valid: Err(refusal),
                    resolved: Resolved::default(),
                    deferred_until: None,
                },
            );
        };
        assert!(subscriptions.of(&scan).is_none());
        take(&scan);
        assert!(subscriptions.of(&scan).is_some());
        assert_eq!(hears.try_recv().as_ref(), Ok(&subscriber));
        // Edited, and created again under the same name.
        scan.metadata.generation = Some(2);
        assert!(subscriptions.of(&scan).is_none());
        take(&scan);
        scan.metadata.uid = Some("b".to_owned());
        assert!(subscriptions.of(&scan).is_none());
        subscriptions.retain(|_| false);
        scan.metadata.uid = Some("a".to_owned());
        assert!(subscriptions.of(&scan).is_none());
    }
}
