//! The reconciler: from CloudScans to tasks, from the store to findings, events and status.
//!
//! One reconcile is five steps: [`dereference`], [`validate`], [`build`], [`apply`], [`status`]. Only
//! the first and the last two do I/O. It runs when a spec changes, when an account was looked at, and
//! when a finding is touched; the scanner runs on by itself while the API server is away.

mod apply;
pub mod assess;
pub mod build;
mod dereference;
mod exempt;
mod meters;
pub mod notify;
mod pace;
mod standing;
mod status;
pub mod validate;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::api::{CloudScan, FindingExemption, RECONCILE_REQUESTED_AT, ResourceFinding};
use crate::cloud::CloudError;
use crate::inventory::{AccountId, Viewer};
use crate::policy::{Evaluator, Prices};
use crate::scanner::Fleet;
use crate::store::{Store, StoreError};
pub use meters::Meters;
pub use validate::AllowedEndpoints;
use validate::Valid;
use watched::watched;

/// CloudScans whose tasks are set up at once. One is a Secret to read, and sometimes accounts to list.
const TAKING_UP: usize = 16;
/// CloudScans whose findings are evaluated and written at once. They share the pace of writes, so one may take long:
/// meanwhile others are taken up, and looked at.
const PUBLISHING: usize = 4;
/// Several accounts of one CloudScan end their rounds together: one reconcile for all of them.
const DEBOUNCE: Duration = Duration::from_millis(300);
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
}

impl ReconcileError {
    pub fn reason(&self) -> &'static str {
        match self {
            ReconcileError::Api(_) => "ApiFailed",
            ReconcileError::Deadline => "ApiDeadline",
            ReconcileError::Store(error) => error.reason(),
        }
    }
}

struct Context {
    client: Client,
    store: Store,
    fleet: Arc<Fleet>,
    scans: reflector::Store<CloudScan>,
    findings: Arc<standing::Standing>,
    exemptions: reflector::Store<FindingExemption>,
    evaluators: Mutex<BTreeMap<Viewer, Arc<Mutex<Evaluator>>>>,
    prices: Arc<Prices>,
    notifiers: notify::Notifiers,
    taking_up: Semaphore,
    publishing: Semaphore,
    pace: pace::Pace,
    meters: Meters,
    endpoints: AllowedEndpoints,
    identity: Identity,
    existing: watch::Receiver<Option<BTreeSet<Viewer>>>,
    namespaces: Vec<String>,
    failures: Mutex<BTreeMap<Viewer, u32>>,
}

async fn timely<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ReconcileError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => answer.map_err(ReconcileError::Api),
        Err(_) => Err(ReconcileError::Deadline),
    }
}

/// What the administrator of the operator settles.
pub struct Settings {
    pub endpoints: AllowedEndpoints,
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
    finished: mpsc::Receiver<Viewer>,
    settings: Settings,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let (existing_sender, existing) = watch::channel(None);
    let (scans, scan_writer) = reflector::store();
    let mut list = Existing { found: BTreeSet::new(), sender: existing_sender };
    // A change of status is our own doing.
    let spec_or_request = predicates::generation.combine(predicates::annotations);
    let Settings { endpoints, webhooks, prices, identity, namespaces, meters } = settings;
    meters.count(scans.clone());
    let scan_stream = watched::<CloudScan>(&client, &namespaces)
        .inspect_ok(move |event| list.see(event))
        .inspect_err(|error| tracing::warn!("watching CloudScans: {error}"))
        .reflect(scan_writer)
        .applied_objects()
        .predicate_filter(spec_or_request, PredicateConfig::default());
    let findings = Arc::new(standing::Standing::default());
    let stand = findings.clone();
    let finding_stream = watched::<ResourceFinding>(&client, &namespaces)
        .inspect_err(|error| tracing::warn!("watching ResourceFindings: {error}"))
        .inspect_ok(move |event| stand.see(event))
        .touched_objects();
    let (exemptions, exemption_writer) = reflector::store();
    // One that is gone opens what it held back.
    let exemption_stream = watched::<FindingExemption>(&client, &namespaces)
        .inspect_err(|error| tracing::warn!("watching FindingExemptions: {error}"))
        .reflect(exemption_writer)
        .touched_objects();
    let looked_at = futures::stream::unfold(finished, |mut finished| async {
        let viewer = finished.recv().await?;
        Some((reference(&viewer), finished))
    });
    let (delivering, delivered) = mpsc::unbounded_channel();
    let delivered = futures::stream::unfold(delivered, |mut delivered| async {
        let viewer = delivered.recv().await?;
        Some((reference(&viewer), delivered))
    });
    let asked = futures::stream::select(looked_at, delivered);

    let context = Arc::new(Context {
        client,
        store,
        fleet,
        scans: scans.clone(),
        findings,
        exemptions,
        evaluators: Mutex::default(),
        prices: Arc::new(prices),
        notifiers: notify::Notifiers::new(webhooks, delivering),
        taking_up: Semaphore::new(TAKING_UP),
        publishing: Semaphore::new(PUBLISHING),
        pace: pace::Pace::new(),
        meters,
        endpoints,
        identity,
        existing,
        namespaces,
        failures: Mutex::new(BTreeMap::new()),
    });
    let retaining = tokio::spawn(retain(context.clone()));
    let neighbours = scans.clone();
    let exempting = tokio::spawn(exempt::run(context.clone(), stop.clone()));
    // Those in work end what they write; those that wait for their turn don't begin.
    let (stopped, waiting) = (stop.clone(), context.clone());
    let closing = tokio::spawn(async move {
        stopped.await;
        waiting.taking_up.close();
        waiting.publishing.close();
    });
    Controller::for_stream(scan_stream, scans)
        .owns_stream(finding_stream)
        .watches_stream(exemption_stream, move |exemption: FindingExemption| {
            let namespace = exemption.namespace();
            let near = neighbours.state().into_iter().filter(move |scan| scan.namespace() == namespace);
            near.map(|scan| ObjectRef::from_obj(&*scan)).collect::<Vec<_>>()
        })
        .reconcile_on(asked)
        // As many at once as there are: what bounds them is in a reconcile.
        .with_config(Config::default().debounce(DEBOUNCE))
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async {
            if let Err(error) = result {
                tracing::debug!("controller: {error}");
            }
        })
        .await;
    retaining.abort();
    exempting.abort();
    closing.abort();
}

fn reference(viewer: &Viewer) -> ObjectRef<CloudScan> {
    let (namespace, name) = viewer.as_str().split_once('/').unwrap_or_default();
    ObjectRef::new(name).within(namespace)
}

/// The CloudScans that exist, from a complete list on.
struct Existing {
    found: BTreeSet<Viewer>,
    sender: watch::Sender<Option<BTreeSet<Viewer>>>,
}

impl Existing {
    fn see(&mut self, event: &watcher::Event<CloudScan>) {
        match event {
            watcher::Event::Init => {
                self.found.clear();
                return;
            }
            watcher::Event::InitApply(scan) => {
                self.found.insert(build::viewer(scan));
                return;
            }
            watcher::Event::InitDone => {}
            watcher::Event::Apply(scan) => {
                self.found.insert(build::viewer(scan));
            }
            watcher::Event::Delete(scan) => {
                self.found.remove(&build::viewer(scan));
            }
        }
        self.sender.send_replace(Some(self.found.clone()));
    }
}

/// What belongs to CloudScans that are gone goes too, each time the complete list is another.
async fn retain(context: Arc<Context>) {
    let mut existing = context.existing.clone();
    while existing.changed().await.is_ok() {
        let (fleet, list) = (context.fleet.clone(), existing.clone());
        let Some(exist) = list.borrow().clone() else { continue };
        lock(&context.evaluators).retain(|of, _| exist.contains(of));
        context.notifiers.retain(|of| exist.contains(of));
        let retained =
            tokio::task::spawn_blocking(move || fleet.retain(|| list.borrow().clone().unwrap_or_default())).await;
        if let Ok(Err(error)) = retained {
            tracing::error!(reason = error.reason(), "scopes could not be closed: {error}");
        }
    }
}

async fn reconcile(scan: Arc<CloudScan>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let done = reconciled(&scan, &context).await;
    context.meters.reconciled("cloudscan", began.elapsed(), done.as_ref());
    done
}

#[tracing::instrument(name = "reconcile", skip_all, fields(cloudscan = %build::viewer(scan)))]
async fn reconciled(scan: &CloudScan, context: &Context) -> Result<Action, ReconcileError> {
    if scan.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let viewer = build::viewer(scan);
    let valid = validate::validate(&scan.spec, &context.fleet.provider().types(), &context.endpoints);
    let mut taken_up = TakenUp::default();
    if let Ok(valid) = &valid {
        let Some(_turn) = context.meters.turn(&context.taking_up).await else { return Ok(Action::await_change()) };
        taken_up = take_up(scan, valid, context).await?;
        if !exists(context, &viewer) {
            // Deleted while this ran: what was just set would be nobody's.
            let _ = context.fleet.set(&viewer, Vec::new()).await;
            return Ok(Action::await_change());
        }
    }
    let TakenUp { accounts, inactive, unconnected, unlisted } = taken_up;
    let Some(_turn) = context.meters.turn(&context.publishing).await else { return Ok(Action::await_change()) };
    if !is_current(scan, context) {
        return Ok(Action::await_change());
    }
    let mut published = Ok(None);
    let mut reports = Vec::new();
    if let Ok(valid) = &valid {
        // Before the findings: what is said to be looked at must be told.
        reports = context.fleet.reports(&viewer);
        // That nobody gets into an account that is suspended or closed is no news, and says nothing of it.
        reports.retain(|report| report.account.as_ref().is_none_or(|account| !inactive.contains(account)));
        let mut rules = valid.rules.clone();
        rules.exemptions = exempt::of_namespace(scan.namespace().as_deref(), context);
        published = apply::findings(scan, &rules, context).await.map(Some);
    }
    let delivery = notify::deliver(scan, context).await?;
    let (counts, more) = match published.as_ref().ok().and_then(Option::as_ref) {
        Some(published) => (Some(published.counts.clone()), published.more),
        None => (None, false),
    };
    let status = status::summarize(&status::Found {
        scan,
        refusal: valid.as_ref().err(),
        unconnected: unconnected.as_ref(),
        unlisted: unlisted.as_ref(),
        inactive: inactive.len(),
        accounts,
        reports: &reports,
        counts,
        delivery,
        clock_lag: context.store.clock_lag(),
        now: context.store.now(),
    });
    update_status(scan, status, context).await?;
    published?;
    lock(&context.failures).remove(&viewer);
    Ok(Action::requeue(match (more, unconnected) {
        (true, _) => FIRST_BACKOFF,
        (false, Some(_)) => LONGEST_BACKOFF / 10,
        (false, None) => RECHECK,
    }))
}

/// What became of a spec.
#[derive(Default)]
struct TakenUp {
    /// Accounts to look at.
    accounts: usize,
    /// Those that their organisation has suspended or closed.
    inactive: BTreeSet<AccountId>,
    /// Why nothing is looked at, or what was wanted before.
    unconnected: Option<CloudError>,
    /// Why an older list of an organisation's accounts stands.
    unlisted: Option<CloudError>,
}

/// Hands what a CloudScan wants to the fleet.
async fn take_up(scan: &CloudScan, valid: &Valid, context: &Context) -> Result<TakenUp, ReconcileError> {
    let viewer = build::viewer(scan);
    let credentials = dereference::credentials(scan, context).await?;
    let endpoint = context.fleet.provider().default_endpoint();
    let mut taken_up = TakenUp::default();
    let mut members = None;
    if let Some(lister) = build::lister(&valid.aws, &credentials, &endpoint) {
        let units = valid.aws.organization.as_ref().map(|o| o.units.as_slice()).unwrap_or_default();
        let requested_at = scan.annotations().get(RECONCILE_REQUESTED_AT).map(String::as_str);
        match context.fleet.members(&viewer, &lister, units, requested_at).await {
            Ok((list, error)) => (members, taken_up.unlisted) = (Some(list), error),
            // Without any list nobody knows what is wanted: what was wanted before goes on.
            Err(error) => return Ok(TakenUp { unconnected: Some(error), ..taken_up }),
        }
    }
    if let Some(members) = &members {
        let chosen = build::chosen(&valid.aws, members);
        taken_up.inactive = chosen.filter(|m| !m.is_active).map(|m| m.account.clone()).collect();
    }
    let subscriptions = build::subscriptions(scan, valid, &credentials, &endpoint, members.as_ref());
    taken_up.accounts = subscriptions.len() - taken_up.inactive.len();
    match context.fleet.set(&viewer, subscriptions).await {
        Ok(()) => forget_other_accounts(context, &viewer).await?,
        Err(error) => taken_up.unconnected = Some(error),
    }
    Ok(taken_up)
}

async fn forget_other_accounts(context: &Context, viewer: &Viewer) -> Result<(), ReconcileError> {
    let (fleet, viewer) = (context.fleet.clone(), viewer.clone());
    let forgotten = tokio::task::spawn_blocking(move || fleet.forget_other_accounts(&viewer)).await;
    Ok(forgotten.unwrap_or(Err(StoreError::Poisoned))?)
}

fn exists(context: &Context, viewer: &Viewer) -> bool {
    context.existing.borrow().as_ref().is_none_or(|existing| existing.contains(viewer))
}

/// Whether this is still what is wanted, after a wait. Where it is not, another reconcile is asked for already.
fn is_current(scan: &CloudScan, context: &Context) -> bool {
    let current = context.scans.get(&ObjectRef::from_obj(scan));
    current.is_some_and(|current| {
        (&current.metadata.uid, current.metadata.generation) == (&scan.metadata.uid, scan.metadata.generation)
    })
}

/// One patch, when something is to be said; an event for each condition that says something else.
async fn update_status(
    scan: &CloudScan,
    status: crate::api::CloudScanStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if scan.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let namespace = scan.namespace().unwrap_or_default();
    let now = context.store.now();
    for condition in status::newly_told(scan.status.as_ref(), &status) {
        let event = build::condition_event(scan, condition, now, &context.identity.instance);
        apply::publish(context, &namespace, &event).await?;
    }
    let mut object = CloudScan::new(&scan.name_any(), scan.spec.clone());
    object.status = Some(status);
    let mut patch = serde_json::to_value(&object).expect("a CloudScan is JSON");
    patch.as_object_mut().expect("it is an object").remove("spec");
    let api: Api<CloudScan> = Api::namespaced(context.client.clone(), &namespace);
    timely(api.patch_status(&scan.name_any(), &PatchParams::apply(build::MANAGER).force(), &Patch::Apply(&patch)))
        .await?;
    Ok(())
}

fn on_error(scan: Arc<CloudScan>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let viewer = build::viewer(&scan);
    let mut failures = lock(&context.failures);
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
