//! From specs to what the scanner looks at. It waits for nobody's findings: a CloudScan is looked at once it is applied,
//! whatever there is to write for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::sync::mpsc;

use super::validate::{Refusal, Valid, validate};
use super::{
    Context, LONGEST_BACKOFF, RECHECK, ReconcileError, build, dereference, exists, lock, timely, unless_it_panics,
};
use crate::api::{CloudScan, RECONCILE_REQUESTED_AT, namespace_uid};
use crate::cloud::{CloudError, Credentials};
use crate::inventory::{AccountId, NAMESPACE_EXPRESSIONS_MAX_BYTES, Reason, Viewer};
use crate::store::StoreError;

/// What became of a spec.
pub(super) struct Subscribed {
    uid: Option<String>,
    /// The UID of its namespace; empty where that could not be told.
    tenant: String,
    generation: Option<i64>,
    pub valid: Result<Valid, Refusal>,
    pub wanted: Wanted,
}

#[derive(Default)]
pub(super) struct Wanted {
    /// Accounts to look at.
    pub accounts: usize,
    /// Those that their organisation has suspended or closed.
    pub inactive: BTreeSet<AccountId>,
    /// Why nothing is looked at, or what was wanted before.
    pub unconnected: Option<CloudError>,
    /// Why an older list of an organisation's accounts stands.
    pub unlisted: Option<CloudError>,
}

/// What became of each spec last, and who is told when that is known.
pub(super) struct Subscriptions {
    by_viewer: Mutex<BTreeMap<Viewer, Arc<Subscribed>>>,
    told: mpsc::UnboundedSender<Viewer>,
}

impl Subscriptions {
    pub fn new(told: mpsc::UnboundedSender<Viewer>) -> Self {
        Self { by_viewer: Mutex::default(), told }
    }

    /// Of the spec as it is: none where it is not taken up yet. Whoever does so tells then.
    pub fn of(&self, scan: &CloudScan) -> Option<Arc<Subscribed>> {
        let subscribed = lock(&self.by_viewer).get(&build::viewer(scan)).cloned();
        subscribed.filter(|s| (&s.uid, s.generation) == (&scan.metadata.uid, scan.metadata.generation))
    }

    /// Whose this object, as opposed to another of its name, was found to be.
    fn tenant_of(&self, viewer: &Viewer, uid: Option<&String>) -> Option<String> {
        let by_viewer = lock(&self.by_viewer);
        let known = by_viewer.get(viewer).filter(|known| known.uid.as_ref() == uid && !known.tenant.is_empty())?;
        Some(known.tenant.clone())
    }

    pub fn retain(&self, exists: impl Fn(&Viewer) -> bool) {
        lock(&self.by_viewer).retain(|viewer, _| exists(viewer));
    }

    /// The expressions of all CloudScans of a namespace have a budget: those that were taken up first keep theirs.
    fn within_budget(&self, viewer: &Viewer, valid: Valid) -> Result<Valid, Refusal> {
        let own = valid.rules.expression_bytes();
        let namespace = |viewer: &Viewer| viewer.as_str().split('/').next().unwrap_or_default().to_owned();
        let here = namespace(viewer);
        let others: usize = lock(&self.by_viewer)
            .iter()
            .filter(|(other, _)| *other != viewer && namespace(other) == here)
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
        Err(Refusal { reason: "TooManyExpressions", message })
    }

    fn take(&self, viewer: &Viewer, subscribed: Subscribed) {
        lock(&self.by_viewer).insert(viewer.clone(), Arc::new(subscribed));
        let _ = self.told.send(viewer.clone());
    }
}

pub(super) async fn reconcile(scan: Arc<CloudScan>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.meters.measure("subscription", unless_it_panics(Box::pin(reconciled(&scan, &context)))).await
}

#[tracing::instrument(name = "subscribe", skip_all, fields(cloudscan = %build::viewer(scan)))]
async fn reconciled(scan: &CloudScan, context: &Context) -> Result<Action, ReconcileError> {
    if scan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let viewer = build::viewer(scan);
    let namespace = scan.namespace().unwrap_or_default();
    // Before anything of its predecessor's is gone on with, once for each object: a namespace that was made again has others.
    let tenant = match context.subscriptions.tenant_of(&viewer, scan.metadata.uid.as_ref()) {
        Some(tenant) => tenant,
        None => take_over(context, &namespace).await?,
    };
    let valid = validate(&scan.spec, &namespace, &context.fleet.provider().types(), &context.allowed);
    let valid = valid.and_then(|valid| context.subscriptions.within_budget(&viewer, valid));
    let valid = valid.and_then(|valid| {
        context.limits.check(scan, context.scans.state())?;
        Ok(Valid { interval: context.limits.interval(valid.interval), ..valid })
    });
    let wanted = if let Ok(valid) = &valid {
        subscribe(scan, valid, &tenant, context).await?
    } else {
        // What was looked at under a spec that was accepted is not gone on with. What was seen stays seen.
        context.fleet.refuse(&viewer).await;
        Wanted::default()
    };
    if !exists(context, &viewer) {
        // Deleted while this ran: what was just set would be nobody's.
        let _ = context.fleet.set(&viewer, Vec::new()).await;
        return Ok(Action::await_change());
    }
    let again = if wanted.unconnected.is_some() { LONGEST_BACKOFF / 10 } else { RECHECK };
    let (uid, generation) = (scan.metadata.uid.clone(), scan.metadata.generation);
    context.subscriptions.take(&viewer, Subscribed { uid, tenant, generation, valid, wanted });
    context.subscribing.succeeded(&viewer);
    Ok(Action::requeue(again))
}

/// Has the store know whose a namespace is: one that was made again sees nothing of its predecessor's. Returns its UID.
async fn take_over(context: &Context, namespace: &str) -> Result<String, ReconcileError> {
    let uid = match timely(namespace_uid(&context.client, namespace)).await {
        // A role of before this was asked for: the query API answers nobody then, and looking goes on.
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 403 => {
            tracing::warn!(
                "the operator may not get the namespace {namespace}: its ClusterRole is older than it is"
            );
            return Ok(String::new());
        }
        uid => uid?,
    };
    // One that is gone takes its CloudScans with it.
    let Some(uid) = uid else { return Ok(String::new()) };
    let (store, namespace, tenant) = (context.store.clone(), namespace.to_owned(), uid.clone());
    let since = tokio::task::spawn_blocking(move || store.tenant_since(&namespace, &tenant)).await;
    since.unwrap_or(Err(StoreError::Poisoned))?;
    Ok(uid)
}

/// Hands what a CloudScan wants to the fleet.
async fn subscribe(
    scan: &CloudScan,
    valid: &Valid,
    tenant: &str,
    context: &Context,
) -> Result<Wanted, ReconcileError> {
    let viewer = build::viewer(scan);
    let credentials = dereference::credentials(scan, context).await?;
    if let Credentials::Unavailable(why) = &credentials {
        // Thousands of accounts would be tried in vain. What was seen stays seen, as long as a proof lasts.
        context.fleet.refuse(&viewer).await;
        let error = CloudError::new(Reason::InvalidCredentials, why.clone());
        return Ok(Wanted { accounts: 1, unconnected: Some(error), ..Wanted::default() });
    }
    let endpoint = context.fleet.provider().default_endpoint();
    let mut wanted = Wanted::default();
    let mut members = None;
    if let Some(lister) = build::lister(&valid.aws, &credentials, &endpoint) {
        let units = valid.aws.organization.as_ref().map(|o| o.units.as_slice()).unwrap_or_default();
        let requested_at = scan.annotations().get(RECONCILE_REQUESTED_AT).map(String::as_str);
        match context.fleet.members(&viewer, &lister, units, requested_at).await {
            Ok((list, error)) => (members, wanted.unlisted) = (Some(list), error),
            // Without any list nobody knows what is wanted: what was wanted before goes on.
            Err(error) => return Ok(Wanted { unconnected: Some(error), ..wanted }),
        }
    }
    if let Some(members) = &members {
        let chosen = build::chosen(&valid.aws, members);
        wanted.inactive = chosen.filter(|m| !m.is_active).map(|m| m.account.clone()).collect();
    }
    let mut subscriptions = build::subscriptions(scan, valid, &credentials, &endpoint, members.as_ref());
    for subscription in &mut subscriptions {
        subscription.tenant = tenant.into();
    }
    wanted.accounts = subscriptions.len() - wanted.inactive.len();
    match context.fleet.set(&viewer, subscriptions).await {
        Ok(()) => forget_other_accounts(context, &viewer).await?,
        Err(error) => wanted.unconnected = Some(error),
    }
    Ok(wanted)
}

async fn forget_other_accounts(context: &Context, viewer: &Viewer) -> Result<(), ReconcileError> {
    let (fleet, viewer) = (context.fleet.clone(), viewer.clone());
    let forgotten = tokio::task::spawn_blocking(move || fleet.forget_other_accounts(&viewer)).await;
    Ok(forgotten.unwrap_or(Err(StoreError::Poisoned))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_was_not_taken_up_is_not_spoken_of_and_whoever_takes_it_up_tells() {
        let (told, mut hears) = mpsc::unbounded_channel();
        let subscriptions = Subscriptions::new(told);
        let mut scan = CloudScan::new("one", serde_json::from_str(r#"{"provider": {}}"#).unwrap());
        (scan.metadata.uid, scan.metadata.generation) = (Some("a".to_owned()), Some(1));
        let viewer = build::viewer(&scan);
        let take = |scan: &CloudScan| {
            let refusal = Refusal { reason: "InvalidSpec", message: String::new() };
            let (uid, generation) = (scan.metadata.uid.clone(), scan.metadata.generation);
            let tenant = String::new();
            subscriptions.take(
                &viewer,
                Subscribed { uid, tenant, generation, valid: Err(refusal), wanted: Wanted::default() },
            );
        };
        assert!(subscriptions.of(&scan).is_none());
        take(&scan);
        assert!(subscriptions.of(&scan).is_some());
        assert_eq!(hears.try_recv().as_ref(), Ok(&viewer));
        // Edited, and made anew under the same name.
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
