//! The reconcilers: from CloudScans to tasks, from the store to findings, events and status.
//!
//! There are two of them. [`subscribe`] hands what a spec wants to the scanner ([`dereference`], [`validate`],
//! [`build`]); it runs when a spec changes and when an account was looked at. [`publish`] brings findings, events and
//! status to what the store says ([`build`], [`apply`], [`status`]); it runs after that, and when a finding is touched.
//! The second is paced, and the first is not. The scanner runs on by itself while the API server is away.

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
use crate::inventory::Viewer;
use crate::policy::{Evaluator, Prices};
use crate::scanner::Fleet;
use crate::store::{Store, StoreError};
pub use limits::NamespaceLimits;
pub use meters::Meters;
pub use validate::{Allowed, RoleGrant};
use watched::{NAMESPACE_OBJECTS_MAX_BYTES, UNBOUNDED, Unreadable, watched};

/// CloudScans that are taken up at once. Most of the time of one is waiting: for a Secret, or a list of accounts.
const SUBSCRIBING: u16 = 64;
/// CloudScans whose findings are evaluated and written at once: they share the pace of writes.
const PUBLISHING: u16 = 4;
/// Several accounts of one CloudScan end their rounds together: one reconcile for all of them.
const GATHERED: Duration = Duration::from_secs(1);
/// What is told of one CloudScan in so short a time is told once. It must be shorter than [`GATHERED`]: whatever asks
/// anew within it puts off the reconcile.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// So many mentions are taken together; more are more chunks.
const MOST_GATHERED: usize = 16_384;
/// Client retries are on and its read timeout is none: without a deadline one call hangs a reconcile.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Time passes for grace periods and for what is kept, also where nothing is scanned.
const RECHECK: Duration = Duration::from_mins(5);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// Who the operator is, for messages that tell how to let it in.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `namespace:name`, as kubectl writes it.
    pub service_account: String,
    /// The ClusterRole that allows reading credentials, to be bound per namespace.
    pub credentials_role: String,
    /// The pod's name.
    pub instance: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the API server refused or failed")]
    Api(#[source] kube::Error),
    #[error("the API server did not answer within {} s", CALL_DEADLINE.as_secs())]
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
    statuses: publish::Statuses,
    findings: Arc<standing::Standing>,
    exemptions: reflector::Store<FindingExemption>,
    evaluators: Mutex<BTreeMap<Viewer, Arc<Mutex<Evaluator>>>>,
    prices: Arc<Prices>,
    notifiers: notify::Notifiers,
    pace: pace::Pace,
    meters: Meters,
    allowed: Allowed,
    limits: NamespaceLimits,
    identity: Identity,
    existing: watch::Receiver<Option<BTreeSet<Viewer>>>,
    namespaces: Vec<String>,
    subscribing: Failures,
    publishing: Failures,
}

/// One object on which the program fails stops no other.
async fn unless_it_panics<T>(
    reconcile: impl Future<Output = Result<T, ReconcileError>>,
) -> Result<T, ReconcileError> {
    AssertUnwindSafe(reconcile).catch_unwind().await.unwrap_or(Err(ReconcileError::Panicked))
}

async fn timely<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ReconcileError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(ReconcileError::Api),
        Err(_) => Err(ReconcileError::Deadline),
    }
}

/// What the administrator of the operator settles.
pub struct Settings {
    pub allowed: Allowed,
    pub limits: NamespaceLimits,
    /// URLs that a CloudScan's webhook may begin with.
    pub webhooks: Vec<String>,
    pub prices: Prices,
    pub identity: Identity,
    /// Those whose CloudScans are taken up; all where none is named.
    pub namespaces: Vec<String>,
    pub meters: Meters,
}

/// Runs until `stop` is done.
pub async fn run(
    client: Client,
    store: Store,
    fleet: Arc<Fleet>,
    mut finished: mpsc::Receiver<Viewer>,
    settings: Settings,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let (existing_sender, existing) = watch::channel(None);
    let (scans, scan_writer) = reflector::store();
    let (listing, mut listed) = mpsc::unbounded_channel();
    let mut list = Existing { found: BTreeSet::new(), sender: existing_sender, listing };
    // A change of status is our own doing.
    let spec_or_request = predicates::generation.combine(predicates::annotations);
    let Settings { allowed, limits, webhooks, prices, identity, namespaces, meters } = settings;
    meters.count(scans.clone());
    let (unreadable, unread) = mpsc::unbounded_channel();
    // One that can't be read exists all the same, and keeps what it had.
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
    // One that is gone opens what it held back.
    let exemption_stream =
        watched::<FindingExemption>(&client, &namespaces, unreadable.clone(), NAMESPACE_OBJECTS_MAX_BYTES)
            .inspect_err(|error| tracing::warn!("watching FindingExemptions: {error}"))
            .reflect(exemption_writer)
            .touched_objects();
    let (asking, mut asked) = mpsc::unbounded_channel();
    let asked = futures::stream::poll_fn(move |context| asked.poll_recv(context)).map(|viewer| reference(&viewer));
    let listed = futures::stream::poll_fn(move |context| listed.poll_recv(context));
    let looked_at = futures::stream::poll_fn(move |context| finished.poll_recv(context));
    let to_take_up = gathered(futures::stream::select(looked_at, listed), GATHERED);

    let context = Arc::new(Context {
        client,
        store,
        fleet,
        scans: scans.clone(),
        subscriptions: subscribe::Subscriptions::new(asking.clone()),
        statuses: publish::Statuses::default(),
        findings,
        exemptions,
        evaluators: Mutex::default(),
        prices: Arc::new(prices),
        notifiers: notify::Notifiers::new(webhooks, asking),
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
        // Not debounced: of hundreds of accounts one ends a round every moment, which would put it off for ever.
        .with_config(Config::default().concurrency(SUBSCRIBING))
        .graceful_shutdown_on(stop.clone())
        .run(subscribe::reconcile, |scan, error, context| context.subscribing.again(&scan, error), context.clone())
        .for_each(say);
    // The other one watches for both.
    let publishing = Controller::for_stream(futures::stream::pending(), scans)
        .owns_stream(finding_stream)
        .watches_stream(exemption_stream, move |exemption: FindingExemption| {
            let namespace = exemption.namespace();
            let near = neighbours.state().into_iter().filter(move |scan| scan.namespace() == namespace);
            near.map(|scan| ObjectRef::from_obj(&*scan)).collect::<Vec<_>>()
        })
        .reconcile_on(asked)
        .with_config(Config::default().concurrency(PUBLISHING).debounce(DEBOUNCE))
        .graceful_shutdown_on(stop)
        .run(publish::reconcile, |scan, error, context| context.publishing.again(&scan, error), context)
        .for_each(say);
    tokio::join!(subscribing, publishing);
    resuming.abort();
    retaining.abort();
    exempting.abort();
    reporting.abort();
}

/// Objects that can't be read of which it is remembered that they were reported; more are reported again.
const MOST_REPORTED: usize = 10_000;

/// Once for each version of an object: whoever wrote it should hear of it.
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
        if reported.len() >= MOST_REPORTED {
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

async fn say<T>(result: Result<T, impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::debug!("controller: {error}");
    }
}

/// The first at once, and then each once in so long, however often it is named meanwhile.
fn gathered(
    viewers: impl Stream<Item = Viewer> + Send + Unpin + 'static,
    every: Duration,
) -> impl Stream<Item = ObjectRef<CloudScan>> + Send + 'static {
    let chunks = futures::stream::unfold(
        (viewers.ready_chunks(MOST_GATHERED), false),
        move |(mut chunks, waits)| async move {
            if waits {
                tokio::time::sleep(every).await;
            }
            let named: BTreeSet<Viewer> = chunks.next().await?.into_iter().collect();
            Some((futures::stream::iter(named).map(|viewer| reference(&viewer)), (chunks, true)))
        },
    );
    chunks.flatten()
}

fn reference(viewer: &Viewer) -> ObjectRef<CloudScan> {
    let (namespace, name) = viewer.as_str().split_once('/').unwrap_or_default();
    ObjectRef::new(name).within(namespace)
}

/// The CloudScans that exist, from a complete list on.
struct Existing {
    found: BTreeSet<Viewer>,
    sender: watch::Sender<Option<BTreeSet<Viewer>>>,
    /// Hears of all of them after each list. What a list brings asks for a reconcile before the list is complete, and
    /// of one that comes too early the reflector does not know yet: it would come to nothing.
    listing: mpsc::UnboundedSender<Viewer>,
}

impl Existing {
    fn see(&mut self, event: &watcher::Event<DeserializeGuard<CloudScan>>) {
        match event {
            watcher::Event::Init => {
                self.found.clear();
                return;
            }
            watcher::Event::InitApply(scan) => {
                self.found.insert(build::viewer_of(scan));
                return;
            }
            watcher::Event::InitDone => {
                for viewer in &self.found {
                    let _ = self.listing.send(viewer.clone());
                }
            }
            // Most of these are statuses: then the list is as it was.
            watcher::Event::Apply(scan) => {
                if !self.found.insert(build::viewer_of(scan)) {
                    return;
                }
            }
            watcher::Event::Delete(scan) => {
                self.found.remove(&build::viewer_of(scan));
            }
        }
        self.sender.send_replace(Some(self.found.clone()));
    }
}

/// An API server that is away for so long at the start keeps nobody's cloud from being scanned.
const RESUME_AFTER: Duration = Duration::from_secs(15);

/// Has scanning go on as it did before the restart where the list of CloudScans can't be had. Not before: one that was
/// suspended or deleted while the operator was down, or since the backup that was restored, has its credentials used no more.
async fn resume_unless_listed(context: Arc<Context>) {
    let mut existing = context.existing.clone();
    let listed = existing.wait_for(Option::is_some);
    if tokio::time::timeout(RESUME_AFTER, listed).await.is_ok() {
        return;
    }
    tracing::warn!("the API server has not listed the CloudScans: scanning goes on as before the restart");
    let resumed = tokio::task::spawn_blocking(move || {
        let endpoint = context.fleet.provider().default_endpoint();
        context.fleet.resume(|subscription| context.allowed.is_remembered(subscription, &endpoint))
    });
    if let Ok(Err(error)) = resumed.await {
        tracing::error!(reason = error.reason(), "what was scanned before the restart can't be read: {error}");
    }
}

/// What belongs to CloudScans that are gone goes too, each time the complete list is another, and now and then: what
/// failed is made up for, and so is what was written for one while it went.
async fn retain(context: Arc<Context>) {
    let mut existing = context.existing.clone();
    let mut pause = RECHECK;
    while !matches!(tokio::time::timeout(pause, existing.changed()).await, Ok(Err(_))) {
        pause = RECHECK;
        let (fleet, list) = (context.fleet.clone(), existing.clone());
        let Some(exist) = list.borrow().clone() else { continue };
        lock(&context.evaluators).retain(|of, _| exist.contains(of));
        context.notifiers.retain(|of| exist.contains(of));
        context.subscriptions.retain(|of| exist.contains(of));
        context.statuses.retain(|of| exist.contains(of));
        context.subscribing.retain(|of| exist.contains(of));
        context.publishing.retain(|of| exist.contains(of));
        let retained =
            tokio::task::spawn_blocking(move || fleet.retain(|| list.borrow().clone().unwrap_or_default())).await;
        if let Ok(Err(error)) = retained {
            tracing::error!(reason = error.reason(), "scopes could not be closed: {error}");
            pause = LONGEST_BACKOFF / 10;
        }
    }
}

fn exists(context: &Context, viewer: &Viewer) -> bool {
    context.existing.borrow().as_ref().is_none_or(|existing| existing.contains(viewer))
}

/// How often in a row each CloudScan's reconcile has failed.
#[derive(Default)]
struct Failures(Mutex<BTreeMap<Viewer, u32>>);

impl Failures {
    fn succeeded(&self, viewer: &Viewer) {
        lock(&self.0).remove(viewer);
    }

    fn retain(&self, exists: impl Fn(&Viewer) -> bool) {
        lock(&self.0).retain(|viewer, _| exists(viewer));
    }

    /// When it is tried again.
    fn again(&self, scan: &CloudScan, error: &ReconcileError) -> Action {
        let viewer = build::viewer(scan);
        let mut failures = lock(&self.0);
        let failed = failures.entry(viewer.clone()).or_default();
        *failed += 1;
        let failed = *failed;
        let backoff = FIRST_BACKOFF.saturating_mul(1 << (failed - 1).min(16)).min(LONGEST_BACKOFF);
        let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        // Each look asks for a reconcile: while the API server is away for long, the log has more to tell.
        if failed.is_power_of_two() {
            tracing::warn!(
                cloudscan = %viewer, reason = error.reason(), failed, again_in_seconds = backoff.as_secs(),
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
    async fn whoever_is_named_again_and_again_is_looked_after_all_the_same() {
        let (naming, mut named) = mpsc::unbounded_channel();
        let viewers = futures::stream::poll_fn(move |context| named.poll_recv(context));
        let mut gathered = std::pin::pin!(gathered(viewers, Duration::from_millis(1)));
        let name = |name: &str| naming.send(Viewer::new(format!("team-a/{name}"))).unwrap();
        name("one");
        assert_eq!(gathered.next().await.unwrap().name, "one");
        for _ in 0..100 {
            name("one");
            name("two");
        }
        drop(naming);
        // A chunk ends where tokio has a task yield: not quite each once.
        let rest: Vec<_> = gathered.map(|reference| reference.name).collect().await;
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
        let all = BTreeSet::from([build::viewer(&scan("one")), build::viewer(&scan("two"))]);
        assert_eq!(BTreeSet::from([listed.try_recv().unwrap(), listed.try_recv().unwrap()]), all);
        assert_eq!(existing.borrow_and_update().as_ref(), Some(&all));
        list.see(&watcher::Event::Apply(DeserializeGuard(Ok(scan("one")))));
        assert!(!existing.has_changed().unwrap() && listed.try_recv().is_err());
        list.see(&watcher::Event::Delete(DeserializeGuard(Ok(scan("one")))));
        assert_eq!(existing.borrow_and_update().as_ref(), Some(&BTreeSet::from([build::viewer(&scan("two"))])));
        // One that can't be read keeps what it had.
        let unreadable = serde_json::json!({"metadata": {"name": "three"}, "spec": 7});
        list.see(&watcher::Event::Apply(serde_json::from_value(unreadable).unwrap()));
        assert!(existing.borrow().as_ref().unwrap().contains(&Viewer::new("/three")));
    }
}
