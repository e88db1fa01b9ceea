//! The reconcilers: from CloudScans to scanner tasks, and from the store to findings, events and status.
//!
//! There are two controllers. [`subscribe`] passes what a spec requests to the scanner ([`dereference`], [`validate`],
//! [`build`]). It runs when a spec changes and when credentials fail. [`publish`] brings findings, events and status in
//! line with the store ([`build`], [`apply`], [`status`]). It runs after that, after each round of an account, and when
//! a finding changes.
//! Only the second is rate limited. The scanner keeps running while the API server is unavailable.

mod apply;
pub mod assess;
pub mod build;
mod dereference;
mod exempt;
pub mod limits;
mod meters;
pub mod notify;
mod pace;
mod post;
mod publish;
mod requests;
mod standing;
mod status;
mod subscribe;
pub mod validate;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{mpsc, watch};

use crate::api::{CloudScan, FindingExemption, ResourceFinding};
use crate::inventory::{Facts, Subscriber};
use crate::policy::{Evaluator, Prices};
use crate::scanner::Fleet;
use crate::store::{Store, StoreError};
pub use limits::NamespaceLimits;
pub use meters::Meters;
pub use validate::{Allowed, RoleGrant};
use watched::{NAMESPACE_OBJECTS_MAX_BYTES, UNBOUNDED, Unreadable, watched};

/// CloudScans that are reconciled concurrently. A reconcile mostly waits for a Secret or a list of accounts.
const SUBSCRIBE_CONCURRENCY: u16 = 64;
/// CloudScans whose findings are evaluated and written concurrently. They share the write rate.
const PUBLISH_CONCURRENCY: u16 = 4;
/// Several accounts of one CloudScan finish their rounds together: one reconcile serves them all.
const GATHER_INTERVAL: Duration = Duration::from_secs(1);
/// Requests for the same CloudScan within this time are merged into one. It must be shorter than [`GATHER_INTERVAL`]: a
/// repeated request within it postpones the reconcile.
const PUBLISH_DEBOUNCE: Duration = Duration::from_millis(300);
/// Maximum number of requests in one chunk; more requests make more chunks.
const REQUEST_CHUNK_MAX: usize = 16_384;
/// The client retries and has no read timeout: without a deadline one call would block a reconcile for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Grace periods and retention depend on time, also where nothing is scanned.
const RECHECK_INTERVAL: Duration = Duration::from_mins(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(5);

/// Identifies the operator in messages that explain how to grant it access.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `namespace:name`, the notation of kubectl.
    pub service_account: String,
    /// The ClusterRole that allows reading credentials. It is bound per namespace.
    pub credentials_role: String,
    /// The pod's name.
    pub instance: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the API server refused or failed")]
    Api(#[source] kube::Error),
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Deadline,
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the program failed on it: see the lines before")]
    Panicked,
}

impl ReconcileError {
    pub fn reason(&self) -> &'static str {
        match self {
            ReconcileError::Api(_) => "ApiFailed",
            ReconcileError::Deadline => "ApiDeadline",
            ReconcileError::Store(error) => error.reason(),
            ReconcileError::Panicked => "Panicked",
        }
    }
}

struct Context {
    client: Client,
    store: Store,
    fleet: Arc<Fleet>,
    scans: reflector::Store<CloudScan>,
    subscriptions: subscribe::Subscriptions,
    requests: requests::Requests,
    statuses: publish::WrittenStatuses,
    findings: Arc<standing::Standing>,
    exemptions: reflector::Store<FindingExemption>,
    evaluators: Mutex<BTreeMap<Subscriber, Arc<Mutex<Evaluator>>>>,
    facts: Facts,
    prices: Arc<Prices>,
    notifiers: notify::Notifiers,
    pace: pace::Pace,
    meters: Meters,
    allowed: Allowed,
    limits: NamespaceLimits,
    identity: Identity,
    existing: watch::Receiver<Option<BTreeSet<Subscriber>>>,
    namespaces: Vec<String>,
    subscribing: Failures,
    publishing: Failures,
}

/// A panic while reconciling one object does not stop the others.
async fn catch_panic<T>(reconcile: impl Future<Output = Result<T, ReconcileError>>) -> Result<T, ReconcileError> {
    AssertUnwindSafe(reconcile).catch_unwind().await.unwrap_or(Err(ReconcileError::Panicked))
}

async fn with_deadline<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ReconcileError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(ReconcileError::Api),
        Err(_) => Err(ReconcileError::Deadline),
    }
}

/// The operator's configuration, set by its administrator.
pub struct Settings {
    pub allowed: Allowed,
    pub limits: NamespaceLimits,
    /// URL prefixes that a CloudScan's webhook may use.
    pub webhooks: Vec<String>,
    pub prices: Prices,
    pub identity: Identity,
    /// Namespaces whose CloudScans are reconciled; all namespaces if empty.
    pub namespaces: Vec<String>,
    pub meters: Meters,
}

/// Runs until `stop` is done.
pub async fn run(
    client: Client,
    store: Store,
    fleet: Arc<Fleet>,
    mut finished: mpsc::Receiver<Subscriber>,
    settings: Settings,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let (existing_sender, existing) = watch::channel(None);
    let (scans, scan_writer) = reflector::store();
    let (listing, mut listed) = mpsc::unbounded_channel();
    let mut list = Existing { found: BTreeSet::new(), sender: existing_sender, listing: listing.clone() };
    // Status changes are the operator's own writes.
    let spec_or_request = predicates::generation.combine(predicates::annotations);
    let facts = fleet.providers().facts();
    let Settings { allowed, limits, webhooks, prices, identity, namespaces, meters } = settings;
    meters.count(scans.clone());
    let (unreadable, unread) = mpsc::unbounded_channel();
    // An unreadable CloudScan still exists, and keeps its subscriptions.
    let guarded = watched::guarded::<CloudScan>(&client, &namespaces).inspect_ok(move |event| list.see(event));
    let scan_stream = watched::readable(guarded.boxed(), unreadable.clone(), NAMESPACE_OBJECTS_MAX_BYTES)
        .inspect_err(|error| tracing::warn!("watching CloudScans: {error}"))
        .reflect(scan_writer)
        .applied_objects()
        .predicate_filter(spec_or_request, PredicateConfig::default());
    let findings = Arc::new(standing::Standing::default());
    let stand = findings.clone();
    let finding_stream = watched::<ResourceFinding>(&client, &namespaces, unreadable.clone(), UNBOUNDED)
        .inspect_err(|error| tracing::warn!("watching ResourceFindings: {error}"))
        .inspect_ok(move |event| stand.see(event))
        .touched_objects();
    let (exemptions, exemption_writer) = reflector::store();
    // A deleted exemption opens the findings that it exempted.
    let exemption_stream =
        watched::<FindingExemption>(&client, &namespaces, unreadable.clone(), NAMESPACE_OBJECTS_MAX_BYTES)
            .inspect_err(|error| tracing::warn!("watching FindingExemptions: {error}"))
            .reflect(exemption_writer)
            .touched_objects();
    let (requesting, mut publish_requests) = mpsc::unbounded_channel();
    let publish_requests = futures::stream::poll_fn(move |context| publish_requests.poll_recv(context))
        .map(|subscriber| reference(&subscriber));
    let listed = futures::stream::poll_fn(move |context| listed.poll_recv(context));
    let swept = futures::stream::poll_fn(move |context| finished.poll_recv(context));
    let to_take_up = debounced_chunks(listed, GATHER_INTERVAL);
    // Findings follow a round whatever becomes of the spec. The spec is processed again only where credentials failed:
    // the Secret may have others by now.
    let scanning = fleet.clone();
    let swept = debounced_chunks(swept, GATHER_INTERVAL).inspect(move |scan| {
        let subscriber = build::subscriber_of_reference(scan);
        if scanning.is_locked_out(&subscriber) {
            let _ = listing.send(subscriber);
        }
    });
    let publish_requests = futures::stream::select(publish_requests, swept);

    let context = Arc::new(Context {
        client,
        store,
        fleet,
        scans: scans.clone(),
        subscriptions: subscribe::Subscriptions::new(requesting.clone()),
        requests: requests::Requests::default(),
        statuses: publish::WrittenStatuses::default(),
        findings,
        exemptions,
        evaluators: Mutex::default(),
        facts,
        prices: Arc::new(prices),
        notifiers: notify::Notifiers::new(webhooks, requesting),
        pace: pace::Pace::new(),
        meters,
        allowed,
        limits,
        identity,
        existing,
        namespaces,
        subscribing: Failures::default(),
        publishing: Failures::default(),
    });
    let resuming = tokio::spawn(resume_unless_listed(context.clone()));
    let retaining = tokio::spawn(retain(context.clone()));
    let neighbours = scans.clone();
    let exempting = tokio::spawn(exempt::run(context.clone(), unreadable, stop.clone()));
    let reporting = tokio::spawn(report_unreadable(context.clone(), unread));
    let subscribing = Controller::for_stream(scan_stream, scans.clone())
        .reconcile_on(to_take_up)
        // Not debounced: with hundreds of accounts rounds end all the time, which would postpone the reconcile for
        // ever.
        .with_config(Config::default().concurrency(SUBSCRIBE_CONCURRENCY))
        .graceful_shutdown_on(stop.clone())
        .run(subscribe::reconcile, |scan, error, context| context.subscribing.again(&scan, error), context.clone())
        .for_each(log_error);
    // The other controller watches the CloudScans for both.
    let publishing = Controller::for_stream(futures::stream::pending(), scans)
        .owns_stream(finding_stream)
        .watches_stream(exemption_stream, move |exemption: FindingExemption| {
            let namespace = exemption.namespace();
            let near = neighbours.state().into_iter().filter(move |scan| scan.namespace() == namespace);
            near.map(|scan| ObjectRef::from_obj(&*scan)).collect::<Vec<_>>()
        })
        .reconcile_on(publish_requests)
        .with_config(Config::default().concurrency(PUBLISH_CONCURRENCY).debounce(PUBLISH_DEBOUNCE))
        .graceful_shutdown_on(stop)
        .run(publish::reconcile, |scan, error, context| context.publishing.again(&scan, error), context)
        .for_each(log_error);
    tokio::join!(subscribing, publishing);
    resuming.abort();
    retaining.abort();
    exempting.abort();
    reporting.abort();
}

/// Maximum number of unreadable objects remembered as reported; beyond it they are reported again.
const REPORTED_OBJECTS_MAX: usize = 10_000;

/// Once per version of an object: its author should learn of it.
async fn report_unreadable(context: Arc<Context>, mut unread: mpsc::UnboundedReceiver<Unreadable>) {
    let mut reported: BTreeMap<String, Option<String>> = BTreeMap::new();
    while let Some(Unreadable { kind, api_version, object }) = unread.recv().await {
        let InvalidObject { error, metadata } = object;
        let (namespace, name) =
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let of = format!("{kind} {namespace}/{name}");
        if reported.get(&of) == Some(&metadata.resource_version) {
            continue;
        }
        if reported.len() >= REPORTED_OBJECTS_MAX {
            reported.clear();
        }
        reported.insert(of.clone(), metadata.resource_version.clone());
        tracing::warn!("{of} can't be read and is left out: {error}");
        let event = build::unreadable_event(
            &kind,
            &api_version,
            &metadata,
            &error,
            context.store.now(),
            &context.identity.instance,
        );
        if let Err(error) = apply::publish(&context, &namespace, &event).await {
            tracing::warn!("the event of {of} could not be written: {error}");
        }
    }
}

async fn log_error<T>(result: Result<T, impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::debug!("controller: {error}");
    }
}

/// Passes on the first chunk at once. After that each CloudScan is passed on at most once per interval, however often
/// it is named.
fn debounced_chunks(
    subscribers: impl Stream<Item = Subscriber> + Send + Unpin + 'static,
    every: Duration,
) -> impl Stream<Item = ObjectRef<CloudScan>> + Send + 'static {
    let chunks = futures::stream::unfold(
        (subscribers.ready_chunks(REQUEST_CHUNK_MAX), false),
        move |(mut chunks, waits)| async move {
            if waits {
                tokio::time::sleep(every).await;
            }
            let named: BTreeSet<Subscriber> = chunks.next().await?.into_iter().collect();
            Some((futures::stream::iter(named).map(|subscriber| reference(&subscriber)), (chunks, true)))
        },
    );
    chunks.flatten()
}

fn reference(subscriber: &Subscriber) -> ObjectRef<CloudScan> {
    let (namespace, name) = subscriber.as_str().split_once('/').unwrap_or_default();
    ObjectRef::new(name).within(namespace)
}

/// The existing CloudScans, known once a list is complete.
struct Existing {
    found: BTreeSet<Subscriber>,
    sender: watch::Sender<Option<BTreeSet<Subscriber>>>,
    /// Receives every CloudScan after each complete list. Objects of a list trigger a reconcile before the list is
    /// complete, and a reconcile that runs before the reflector knows its object does nothing.
    listing: mpsc::UnboundedSender<Subscriber>,
}

impl Existing {
    fn see(&mut self, event: &watcher::Event<DeserializeGuard<CloudScan>>) {
        match event {
            watcher::Event::Init => {
                self.found.clear();
                return;
            }
            watcher::Event::InitApply(scan) => {
                self.found.insert(build::subscriber_of(scan));
                return;
            }
            watcher::Event::InitDone => {
                for subscriber in &self.found {
                    let _ = self.listing.send(subscriber.clone());
                }
            }
            // Most of these are status changes, which leave the list as it is.
            watcher::Event::Apply(scan) => {
                if !self.found.insert(build::subscriber_of(scan)) {
                    return;
                }
            }
            watcher::Event::Delete(scan) => {
                self.found.remove(&build::subscriber_of(scan));
            }
        }
        self.sender.send_replace(Some(self.found.clone()));
    }
}

/// How long startup waits for the list of CloudScans. An API server that is unavailable does not stop scanning for
/// longer.
const RESUME_DELAY: Duration = Duration::from_secs(15);

/// Resumes scanning as before the restart if the CloudScans can't be listed. Not earlier: the credentials of a
/// CloudScan that was suspended or deleted while the operator was down, or since the restored backup, must not be used.
async fn resume_unless_listed(context: Arc<Context>) {
    let mut existing = context.existing.clone();
    let listed = existing.wait_for(Option::is_some);
    if tokio::time::timeout(RESUME_DELAY, listed).await.is_ok() {
        return;
    }
    tracing::warn!("the API server has not listed the CloudScans: scanning goes on as before the restart");
    let store = context.store.clone();
    let work = move |_: &Store| {
        let providers = context.fleet.providers();
        context.fleet.resume(|subscription| {
            let default_endpoint = providers.default_endpoint(&subscription.target.provider);
            context.allowed.allows_remembered(subscription, &default_endpoint)
        })
    };
    if let Err(error) = store.run_blocking(work).await {
        tracing::error!(reason = error.reason(), "what was scanned before the restart can't be read: {error}");
    }
}

/// Removes the data of deleted CloudScans, each time the complete list changes and at intervals: that retries what
/// failed, and removes what was written for a CloudScan during its deletion.
async fn retain(context: Arc<Context>) {
    let mut existing = context.existing.clone();
    let mut pause = RECHECK_INTERVAL;
    while !matches!(tokio::time::timeout(pause, existing.changed()).await, Ok(Err(_))) {
        pause = RECHECK_INTERVAL;
        let (fleet, list) = (context.fleet.clone(), existing.clone());
        let Some(exist) = list.borrow().clone() else { continue };
        lock(&context.evaluators).retain(|of, _| exist.contains(of));
        context.notifiers.retain(|of| exist.contains(of));
        context.subscriptions.retain(|of| exist.contains(of));
        context.requests.retain(|of| exist.contains(of));
        context.statuses.retain(|of| exist.contains(of));
        context.subscribing.retain(|of| exist.contains(of));
        context.publishing.retain(|of| exist.contains(of));
        let work = move |_: &Store| fleet.retain(|| list.borrow().clone().unwrap_or_default());
        if let Err(error) = context.store.run_blocking(work).await {
            tracing::error!(reason = error.reason(), "scopes could not be closed: {error}");
            pause = BACKOFF_MAX / 10;
        }
    }
}

fn exists(context: &Context, subscriber: &Subscriber) -> bool {
    context.existing.borrow().as_ref().is_none_or(|existing| existing.contains(subscriber))
}

/// Consecutive failures of each CloudScan's reconcile.
#[derive(Default)]
struct Failures(Mutex<BTreeMap<Subscriber, u32>>);

impl Failures {
    fn succeeded(&self, subscriber: &Subscriber) {
        lock(&self.0).remove(subscriber);
    }

    fn retain(&self, exists: impl Fn(&Subscriber) -> bool) {
        lock(&self.0).retain(|subscriber, _| exists(subscriber));
    }

    /// When to retry.
    fn again(&self, scan: &CloudScan, error: &ReconcileError) -> Action {
        let subscriber = build::subscriber(scan);
        let mut failures = lock(&self.0);
        let failed = failures.entry(subscriber.clone()).or_default();
        *failed += 1;
        let failed = *failed;
        let backoff = FIRST_BACKOFF.saturating_mul(1 << (failed - 1).min(16)).min(BACKOFF_MAX);
        let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        // Every round requests a reconcile: logging each failure would flood the log while the API server is
        // unavailable.
        if failed.is_power_of_two() {
            tracing::warn!(
                cloudscan = %subscriber, reason = error.reason(), failed, again_in_seconds = backoff.as_secs(),
                "{error}: {source}"
            );
        }
        Action::requeue(backoff)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_changes_again_and_again_is_reconciled_all_the_same() {
        let (naming, mut named) = mpsc::unbounded_channel();
        let subscribers = futures::stream::poll_fn(move |context| named.poll_recv(context));
        let mut debounced_chunks = std::pin::pin!(debounced_chunks(subscribers, Duration::from_millis(1)));
        let name = |name: &str| naming.send(Subscriber::new(format!("team-a/{name}"))).unwrap();
        name("one");
        assert_eq!(debounced_chunks.next().await.unwrap().name, "one");
        for _ in 0..100 {
            name("one");
            name("two");
        }
        drop(naming);
        // A chunk ends where tokio makes the task yield, so a name may occur more than once.
        let rest: Vec<_> = debounced_chunks.map(|reference| reference.name).collect().await;
        assert!(rest.starts_with(&["one".to_owned(), "two".to_owned()]) && rest.len() < 10, "{rest:?}");
    }

    #[test]
    fn after_a_complete_list_all_of_it_is_taken_up_and_a_status_is_no_other_list() {
        let (sender, mut existing) = watch::channel(None);
        let (listing, mut listed) = mpsc::unbounded_channel();
        let mut list = Existing { found: BTreeSet::new(), sender, listing };
        let scan = |name: &str| CloudScan::new(name, serde_json::from_str(r#"{"provider": {}}"#).unwrap());
        list.see(&watcher::Event::Init);
        list.see(&watcher::Event::InitApply(DeserializeGuard(Ok(scan("one")))));
        list.see(&watcher::Event::InitApply(DeserializeGuard(Ok(scan("two")))));
        assert!(listed.try_recv().is_err() && existing.borrow_and_update().is_none(), "the list is not complete");
        list.see(&watcher::Event::InitDone);
        let all = BTreeSet::from([build::subscriber(&scan("one")), build::subscriber(&scan("two"))]);
        assert_eq!(BTreeSet::from([listed.try_recv().unwrap(), listed.try_recv().unwrap()]), all);
        assert_eq!(existing.borrow_and_update().as_ref(), Some(&all));
        list.see(&watcher::Event::Apply(DeserializeGuard(Ok(scan("one")))));
        assert!(!existing.has_changed().unwrap() && listed.try_recv().is_err());
        list.see(&watcher::Event::Delete(DeserializeGuard(Ok(scan("one")))));
        assert_eq!(
            existing.borrow_and_update().as_ref(),
            Some(&BTreeSet::from([build::subscriber(&scan("two"))]))
        );
        // An unreadable CloudScan keeps its subscriptions.
        let unreadable = serde_json::json!({"metadata": {"name": "three"}, "spec": 7});
        list.see(&watcher::Event::Apply(serde_json::from_value(unreadable).unwrap()));
        assert!(existing.borrow().as_ref().unwrap().contains(&Subscriber::new("/three")));
    }
}

#[cfg(test)]
mod scripted_tests;
