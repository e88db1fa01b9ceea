//! A model test of two tenants that share an operator and an account: random sequences of actions of the tenants, the
//! administrator and the cloud, against the real components, with a clock that the test moves. After each step
//! everything that a tenant can read is compared with what it may know: it may know a fact of the cloud if its own
//! credentials, in this life of its namespace, could list the account at most a day before that fact. A tenant that may
//! not list can neither cause listings with the other's credentials nor hide the truth from the other.
//!
//! Each sequence has two namespaces and an account of its own; all sequences that are played at once share the
//! operator. A sequence replays from its seed: ELAVA_SEED=N plays that one alone, ELAVA_TENANCY sets the number of
//! sequences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use elava::api::{CloudScan, RECONCILE_REQUESTED_AT, ResourceFinding};
use elava::cloud::aws::{Aws, keys};
use elava::cloud::{AccountTarget, CloudError, Credentials, Provider, Providers, Session, TypeInfo};
use elava::controller::{self, Allowed, Identity, NamespaceLimits, RoleGrant, Settings};
use elava::inventory::{Facts, ProviderFacts, Timestamp};
use elava::policy::Prices;
use elava::scanner::Fleet;
use elava::server::aggregated::{self, Service};
use elava::store::{Clock, Store};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::aws::{Emulator, Hands};
use crate::support::cluster::{Cluster, chart, serve_from_loopback};
use crate::support::kubectl::client_of;
use crate::support::proxy::{Fault, Proxy, RuleId};
use crate::support::world::IRELAND;
use crate::support::{eventually, free_port, number};

const SEQUENCES: u64 = 20;
/// Sequences that share an operator.
const AT_ONCE: usize = 125;
const STEPS: usize = 7;
const HOUR: i64 = 3_600_000;
/// How long a proof of visibility is valid.
const PROOF_VALIDITY: i64 = 24 * HOUR;
/// How long visibility is kept after a start without a new proof.
const RESTART_GRACE: i64 = HOUR;
/// Steps are at least twenty minutes apart, and take some seconds.
const STEP_SLACK: i64 = HOUR / 2;

/// The operator in this process, without its command line.
struct Operator {
    runtime: Option<tokio::runtime::Runtime>,
    running: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// AWS with the operator's own keys, instead of the credentials in this process's environment.
struct AsOperator(Aws);

#[async_trait]
impl Provider for AsOperator {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn types(&self) -> Vec<TypeInfo> {
        self.0.types()
    }

    fn facts(&self) -> ProviderFacts {
        self.0.facts()
    }

    fn default_endpoint(&self) -> String {
        self.0.default_endpoint()
    }

    async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
        let mut target = target.clone();
        if target.access.credentials == Credentials::Ambient {
            target.access.credentials = keys("operator", "operator");
        }
        self.0.connect(&target).await
    }
}

struct Place {
    store: PathBuf,
    kubeconfig: PathBuf,
    query_port: u16,
    endpoint: String,
    clock: Clock,
}

impl Operator {
    async fn start(place: &Place, grants: &[RoleGrant]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let open = || async { Store::open(&place.store, place.clock.clone()).map_err(|error| error.to_string()) };
        let store = eventually("the store is let go of", open).await;
        let (stop, mut stopped) = watch::channel(false);
        let stopping = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
        .shared();
        let settings = Settings {
            allowed: Allowed::These { endpoints: [place.endpoint.clone()].into(), roles: grants.to_vec() },
            limits: NamespaceLimits {
                // Each step of a sequence requests a scan.
                min_interval: Duration::from_millis(50),
                cloud_scans: 10,
                accounts: 10,
                resources: 1000,
                open_findings: 1000,
                waiting_events: 1000,
            },
            webhooks: Vec::new(),
            prices: Prices::shipped(),
            identity: Identity {
                service_account: "elava:elava".to_owned(),
                credentials_role: "elava-credentials".to_owned(),
                instance: "elava".to_owned(),
            },
            namespaces: Vec::new(),
            meters: controller::Meters::default(),
        };
        let (kubeconfig, port) = (place.kubeconfig.clone(), place.query_port);
        let running = runtime.spawn(async move {
            let client = client_of(&kubeconfig).await;
            let (fleet, finished) =
                Fleet::new(Providers::of([Arc::new(AsOperator(Aws::new(1.0))) as _]), store.clone());
            let bound =
                || async { TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| error.to_string()) };
            let listener = eventually("the port is free", bound).await;
            let service = Service { namespace: "elava".to_owned(), name: "elava-query".to_owned() };
            let serving = tokio::spawn(aggregated::serve(
                listener,
                store.clone(),
                Facts::of([Aws::default().facts()]),
                client.clone(),
                service,
                64,
            ));
            controller::run(client, store, fleet, finished, settings, stopping).await;
            serving.abort();
        });
        Self { runtime: Some(runtime), running, stop }
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(10), &mut self.running).await;
        let runtime = self.runtime.take().expect("it runs");
        // Waits for blocking tasks: they may have the store open.
        let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        ending.await.expect("it ends");
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One of the two tenants.
struct Tenant {
    /// Also the name of its role.
    name: &'static str,
    namespace: String,
    /// The name of its CloudScan, if it has one.
    scan: Option<String>,
    /// The role in its spec: its own, or the other's.
    role: &'static str,
    suspended: bool,
    /// Whether the administrator allows it to use its role; `granted_in_force` is the value at the operator's start.
    granted: bool,
    granted_in_force: bool,
    /// The fault by which the cloud denies its role the listing.
    denied: Option<RuleId>,
    /// It may know of changes in the cloud up to this time; of none before it could list for the first time.
    visible_until: Option<i64>,
}

impl Tenant {
    /// Whether its own credentials can list the account.
    fn can_list(&self) -> bool {
        self.scan.is_some() && !self.suspended && self.is_role_allowed() && self.denied.is_none()
    }

    fn is_role_allowed(&self) -> bool {
        self.granted_in_force && self.role == self.name
    }
}

/// A volume, with its times of creation and deletion by the store's clock.
struct TrackedVolume {
    made: i64,
    deleted: Option<i64>,
}

struct Sequence<'a> {
    seed: u64,
    dice: SmallRng,
    game: &'a SharedState,
    account: String,
    hands: Hands,
    tenants: [Tenant; 2],
    things: BTreeMap<String, TrackedVolume>,
    /// The time of the last listing by any credentials: visibility ends with a listing.
    listed: i64,
    leaks: Vec<String>,
    steered: Vec<String>,
    log: Vec<String>,
}

/// The state that all sequences share.
struct SharedState {
    client: Client,
    /// Kept up to date by a watch: a hundred CloudScans are waited for at once.
    scans: reflector::Store<CloudScan>,
    proxy: Proxy,
    now: Arc<AtomicI64>,
    endpoint: String,
}

impl SharedState {
    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed) + Timestamp::from(jiff::Timestamp::now()).as_millis()
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.map_err(|error| error.to_string())
    }
}

impl<'a> Sequence<'a> {
    async fn new(seed: u64, game: &'a SharedState, aws: &Emulator) -> Self {
        let account = format!("{:012}", 500_000_000_000 + seed % 400_000_000_000);
        let tenant = |name: &'static str| Tenant {
            name,
            namespace: format!("s{seed}-{name}"),
            scan: None,
            role: name,
            suspended: false,
            granted: true,
            granted_in_force: true,
            denied: None,
            visible_until: None,
        };
        let tenants = [tenant("one"), tenant("two")];
        for Tenant { namespace, .. } in &tenants {
            make_namespace(game, namespace).await;
        }
        let hands = aws.hands(&account, IRELAND).await;
        let dice = SmallRng::seed_from_u64(seed);
        let (things, leaks, steered, log) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self { seed, dice, game, account, hands, tenants, things, listed: 0, leaks, steered, log }
    }

    /// The role grants for the operator that is started now.
    fn grants(&mut self) -> Vec<RoleGrant> {
        for tenant in &mut self.tenants {
            tenant.granted_in_force = tenant.granted;
        }
        let granted = self.tenants.iter().filter(|tenant| tenant.granted);
        let grant = |tenant: &Tenant| RoleGrant {
            namespace: tenant.namespace.clone(),
            role: format!("arn:aws:iam::{}:role/{}", self.account, tenant.name),
        };
        granted.map(grant).collect()
    }

    async fn make(&mut self) {
        let made = self.game.now();
        let id = self.hands.volume(&[]).await;
        self.things.insert(id, TrackedVolume { made, deleted: None });
    }

    async fn delete(&mut self) {
        let there: Vec<String> =
            self.things.iter().filter(|(_, thing)| thing.deleted.is_none()).map(|(id, _)| id.clone()).collect();
        let Some(id) = there.choose(&mut self.dice).cloned() else { return };
        self.things.get_mut(&id).unwrap().deleted = Some(self.game.now());
        self.hands.delete_volume(&id).await;
    }

    async fn apply(&self, which: usize, interval: &str, mass_loss: u8) {
        let tenant = &self.tenants[which];
        let Some(name) = &tenant.scan else { return };
        let spec = json!({
            "interval": interval,
            "suspend": tenant.suspended,
            "provider": {"aws": {
                "endpointURL": self.game.endpoint,
                "accounts": [{"id": self.account, "roleARN": format!("arn:aws:iam::{}:role/{}", self.account, tenant.role)}],
                "regions": {"include": [IRELAND]},
            }},
            "resourceTypes": {"include": ["AWS::EC2::Volume"]},
            "disappearance": {"massLoss": {"percent": mass_loss, "minimum": mass_loss}},
        });
        let scan = json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
            "metadata": {"name": name, "namespace": tenant.namespace}, "spec": spec,
        });
        let params = PatchParams::apply("tenant").force();
        self.scans(which).patch(name, &params, &Patch::Apply(&scan)).await.expect("the spec is good");
    }

    fn scans(&self, which: usize) -> Api<CloudScan> {
        Api::namespaced(self.game.client.clone(), &self.tenants[which].namespace)
    }

    async fn drop_scan(&mut self, which: usize) {
        if let Some(name) = self.tenants[which].scan.take() {
            self.scans(which).delete(&name, &DeleteParams::default()).await.expect("it is there");
        }
    }

    /// One action of a tenant, the administrator or the cloud.
    async fn random_action(&mut self) {
        let which = self.dice.random_range(0..2);
        let what = self.dice.random_range(0..14);
        self.log.push(format!("{}: {what}", self.tenants[which].name));
        match what {
            0..3 if self.tenants[which].scan.is_none() => {
                self.tenants[which].scan = Some("scan".to_owned());
                self.apply(which, "1h", 100).await;
            }
            0 => {
                // The CloudScan is replaced by one with another name.
                let other = if self.tenants[which].scan.as_deref() == Some("scan") { "other" } else { "scan" };
                self.drop_scan(which).await;
                self.tenants[which].scan = Some(other.to_owned());
                self.apply(which, "1h", 100).await;
            }
            1 => self.drop_scan(which).await,
            2 | 3 => {
                // The role changes to the other's, or back to its own.
                let tenant = &mut self.tenants[which];
                tenant.role = if tenant.role == "one" { "two" } else { "one" };
                self.apply(which, "1h", 100).await;
            }
            4 => {
                self.tenants[which].suspended ^= true;
                self.apply(which, "1h", 100).await;
            }
            5..8 => {
                if let Some(rule) = self.tenants[which].denied.take() {
                    self.game.proxy.heal(rule);
                } else {
                    let (account, role) = (self.account.clone(), self.tenants[which].name);
                    let refuse =
                        Fault::Refuse { status: 403, code: "UnauthorizedOperation", message: "no".to_owned() };
                    let is_listing = move |c: &crate::support::proxy::Call| {
                        c.account == account && c.role == role && c.action == "DescribeVolumes"
                    };
                    self.tenants[which].denied = Some(self.game.proxy.fault(is_listing, refuse));
                }
            }
            // Takes effect at the next start of the operator.
            8 | 9 => self.tenants[which].granted ^= true,
            10 => {
                self.tenants[which].scan = None;
                let namespace = self.tenants[which].namespace.clone();
                remake_namespace(self.game, &namespace).await;
                self.tenants[which].visible_until = None;
            }
            _ => self.request_without_rights(which).await,
        }
        for _ in 0..self.dice.random_range(0..3) {
            if self.dice.random_range(0..3) == 0 { self.delete().await } else { self.make().await }
        }
    }

    /// A tenant that may not list requests scans as fast as it can, with the strictest limits.
    async fn request_without_rights(&mut self, which: usize) {
        let (tenant, other) = (&self.tenants[which], &self.tenants[1 - which]);
        // An earlier proof is valid for a day.
        let is_proven = tenant.visible_until.is_some_and(|until| self.game.now() <= until);
        if tenant.scan.is_none() || tenant.can_list() || is_proven || !other.can_list() {
            return;
        }
        let (account, role) = (self.account.clone(), other.name);
        let listings = || {
            self.game.proxy.count(|c| {
                c.account == account && c.role == role && c.action == "DescribeVolumes" && !c.is_by_id()
            })
        };
        // Scans that are due anyway come first.
        self.request_both().await;
        let before = listings();
        self.apply(which, "1s", 1).await;
        for _ in 0..3 {
            self.request(which).await;
        }
        let steered = listings() - before;
        self.apply(which, "1h", 100).await;
        if steered > 0 {
            let name = self.tenants[which].name;
            self.steered.push(format!("{name} had {steered} listings made by the credentials of {role}"));
        }
    }

    /// Requests a scan, and waits until it is done or the spec is refused.
    async fn request(&self, which: usize) {
        let tenant = &self.tenants[which];
        let Some(name) = &tenant.scan else { return };
        let api = self.scans(which);
        let request = format!("{:?}", std::time::SystemTime::now());
        let patch = json!({"metadata": {"annotations": {RECONCILE_REQUESTED_AT: request}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is annotated");
        let object = reflector::ObjectRef::new(name).within(&tenant.namespace);
        let handled = || async {
            let scan = self.game.scans.get(&object).ok_or("it is not there")?;
            let status = scan.status.clone().unwrap_or_default();
            let is = |condition: &str, desired: &str| {
                status.conditions.iter().any(|c| {
                    c.type_ == condition && c.status == "True" && (desired.is_empty() || c.reason == desired)
                })
            };
            let is_observed = status.observed_generation == scan.metadata.generation;
            let is_done = if tenant.is_role_allowed() {
                status.last_handled_reconcile_at.as_ref() == Some(&request) && !is("Stalled", "RoleNotAllowed")
            } else {
                is("Stalled", "RoleNotAllowed")
            };
            if is_observed && is_done { Ok(()) } else { Err(format!("{:?}: {status:?}", tenant.role)) }
        };
        eventually(&format!("{}/{name} was looked at", tenant.namespace), handled).await;
    }

    async fn request_both(&self) {
        futures::join!(self.request(0), self.request(1));
    }

    /// Tenants that can list may know what happens until now, and for one more day.
    fn extend_visibility(&mut self) {
        let now = self.game.now();
        for tenant in self.tenants.iter_mut().filter(|tenant| tenant.can_list()) {
            tenant.visible_until = Some(now + PROOF_VALIDITY + STEP_SLACK);
        }
    }

    /// Tenants whose visibility has not ended yet have one more hour to prove it again.
    fn extend_visibility_after_restart(&mut self) {
        let now = self.game.now();
        for until in self.tenants.iter_mut().filter_map(|tenant| tenant.visible_until.as_mut()) {
            if self.listed <= *until {
                *until = (*until).max(now + RESTART_GRACE + STEP_SLACK);
            }
        }
    }

    /// Everything that a tenant can read.
    async fn readable(&self, tenant: &Tenant) -> Result<Readable, String> {
        let of = |kind: &str| format!("/apis/inventory.elava.dev/v1alpha1/namespaces/{}/{kind}", tenant.namespace);
        let (now, changes) = (of("cloudresources"), of("resourcechanges?fieldSelector=from%3D0"));
        let (now, changes) = futures::join!(self.game.get(&now), self.game.get(&changes));
        let items = |list: Value| list["items"].as_array().cloned().unwrap_or_default();
        let id = |item: &Value| item["status"]["id"].as_str().unwrap_or_default().to_owned();
        let now: BTreeSet<String> = items(now?).iter().map(id).collect();
        let changes = match changes {
            Ok(changes) => items(changes),
            // No history from before the namespace was recreated is returned.
            Err(error) if error.contains("was made again") => Vec::new(),
            Err(error) => return Err(error),
        };
        let changes =
            changes.iter().map(|change| (id(change), change["status"]["change"] == "Disappeared")).collect();
        let findings: Api<ResourceFinding> = Api::namespaced(self.game.client.clone(), &tenant.namespace);
        let findings = findings.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let findings = findings.items.into_iter().filter_map(|finding| Some(finding.status?.id)).collect();
        Ok(Readable { now, changes, findings })
    }

    /// Compares what each tenant can read with what it may know.
    async fn check(&mut self, step: &str) {
        for which in 0..2 {
            let read = || async { self.readable(&self.tenants[which]).await };
            let Readable { now, changes, findings } = eventually("the query API answers", read).await;
            let tenant = &self.tenants[which];
            let may_know = |at: i64| tenant.visible_until.is_some_and(|until| at <= until);
            let mut leaks = Vec::new();
            let of = |by: &'static str| move |id| (by, id);
            let seen = now.iter().map(of("the list")).chain(findings.iter().map(of("a finding")));
            let seen = seen.chain(changes.iter().map(|(id, _)| ("a change", id)));
            for (by, id) in seen.filter(|(_, id)| id.starts_with("vol-")) {
                if !may_know(self.things[id].made) {
                    leaks.push(format!("by {by} that {id} is there"));
                }
            }
            for (id, _) in changes.iter().filter(|(_, is_end)| *is_end) {
                if !self.things[id].deleted.is_some_and(may_know) {
                    leaks.push(format!("that {id} went"));
                }
            }
            let reported = |what: &String| {
                format!("seed {}, {step}: {} is told {what} ({:?})", self.seed, tenant.name, self.log)
            };
            self.leaks.extend(leaks.iter().map(reported));
            // A tenant that can list has the whole truth, whatever the other one does.
            let there: BTreeSet<String> = self
                .things
                .iter()
                .filter(|(_, thing)| thing.deleted.is_none())
                .map(|(id, _)| id.clone())
                .collect();
            if tenant.can_list() && now != there {
                let differing: Vec<_> = now.symmetric_difference(&there).collect();
                self.steered.push(format!(
                    "seed {}, {step}: {} has not the truth of {differing:?} ({:?})",
                    self.seed, tenant.name, self.log
                ));
            }
        }
    }
}

struct Readable {
    now: BTreeSet<String>,
    /// Each id, and whether the change is an end.
    changes: Vec<(String, bool)>,
    findings: BTreeSet<String>,
}

async fn make_namespace(game: &SharedState, name: &str) {
    let api: Api<Namespace> = Api::all(game.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &namespace).await.expect("it is new");
}

/// Recreates a namespace: another team gets its name.
async fn remake_namespace(game: &SharedState, name: &str) {
    let api: Api<Namespace> = Api::all(game.client.clone());
    api.delete(name, &DeleteParams::default()).await.expect("it is there");
    let gone = || async {
        match api.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(&format!("{name} is gone"), gone).await;
    make_namespace(game, name).await;
}

/// What happens to the operator in a step. It reads the administrator's grants at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Nothing,
    Restart,
    /// Made while it is stopped.
    Backup,
    /// From the last backup.
    Restore,
}

/// Plays sequences together. Returns the leaks, and the cases in which one tenant steered the other.
async fn play(game: &SharedState, aws: &Emulator, place: &Place, seeds: &[u64]) -> (Vec<String>, Vec<String>) {
    // The operator's events are the same for all sequences, and for a sequence that is played alone.
    let mut dice = SmallRng::seed_from_u64(seeds[0] / AT_ONCE as u64);
    let mut sequences = Vec::new();
    for seed in seeds {
        sequences.push(Sequence::new(*seed, game, aws).await);
    }
    let grants =
        |sequences: &mut [Sequence<'_>]| sequences.iter_mut().flat_map(Sequence::grants).collect::<Vec<_>>();
    let mut operator = Operator::start(place, &grants(&mut sequences)).await;
    let backup = place.store.with_extension("backup");
    for step in 0..STEPS {
        let sleeps = [20, 13 * 60, 25 * 60, 26 * 60][dice.random_range(0..4)];
        let what = if step == 0 {
            What::Backup
        } else {
            *[What::Nothing, What::Nothing, What::Nothing, What::Restart, What::Backup, What::Restore]
                .choose(&mut dice)
                .unwrap()
        };
        game.now.fetch_add(sleeps * 60_000, Ordering::Relaxed);
        futures::future::join_all(sequences.iter_mut().map(async |sequence| {
            sequence.extend_visibility();
            if step == 0 {
                for which in 0..2 {
                    sequence.tenants[which].scan = Some("scan".to_owned());
                    sequence.apply(which, "1h", 100).await;
                }
                sequence.make().await;
            } else {
                sequence.random_action().await;
            }
            // An operator that is stopped now may have listed before.
            sequence.extend_visibility();
        }))
        .await;
        if what != What::Nothing {
            operator.stop().await;
            match what {
                What::Restore => {
                    std::fs::remove_file(&place.store).unwrap();
                    Store::restore(&mut std::fs::File::open(&backup).unwrap(), &place.store).unwrap();
                }
                What::Backup => {
                    let open =
                        || async { Store::open(&place.store, place.clock.clone()).map_err(|e| e.to_string()) };
                    let store = eventually("the store is let go of", open).await;
                    store.backup(&mut std::fs::File::create(&backup).unwrap()).unwrap();
                }
                _ => {}
            }
            operator = Operator::start(place, &grants(&mut sequences)).await;
        }
        let step = format!("turn {step}, {what:?}");
        futures::future::join_all(sequences.iter_mut().map(async |sequence| {
            if matches!(what, What::Restart | What::Backup) {
                sequence.extend_visibility_after_restart();
            }
            sequence.request_both().await;
            sequence.extend_visibility();
            // Gives each tenant the chance to list with its own credentials.
            sequence.request_both().await;
            sequence.extend_visibility();
            if sequence.tenants.iter().any(Tenant::can_list) {
                sequence.listed = game.now();
            }
            sequence.check(&step).await;
        }))
        .await;
    }
    operator.stop().await;
    let namespaces: Api<Namespace> = Api::all(game.client.clone());
    for tenant in sequences.iter().flat_map(|sequence| &sequence.tenants) {
        drop(namespaces.delete(&tenant.namespace, &DeleteParams::default()).await);
        if let Some(rule) = tenant.denied {
            game.proxy.heal(rule);
        }
    }
    let (leaks, steered): (Vec<_>, Vec<_>) = sequences.into_iter().map(|s| (s.leaks, s.steered)).unzip();
    (leaks.concat(), steered.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_of_two_tenants_leaks_or_steers() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, aws) = tokio::join!(Cluster::start(dir.path()), Emulator::start(dir.path()));
    let proxy = Proxy::start(&aws.url);
    let chart = chart().display().to_string();
    let install = ["install", "elava", &chart, "--namespace", "elava", "--create-namespace"];
    cluster.helm(&[&install[..], &["--set", "queryAPI.enabled=true"]].concat());
    let query_port = free_port();
    serve_from_loopback(&cluster, query_port);
    let now = Arc::new(AtomicI64::new(0));
    let ahead = now.clone();
    let clock: Clock = Arc::new(move || {
        let real = Timestamp::from(jiff::Timestamp::now()).as_millis();
        Timestamp::from_millis(real + ahead.load(Ordering::Relaxed))
    });
    let seeds: Vec<u64> = match number("ELAVA_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ELAVA_TENANCY").unwrap_or(SEQUENCES)).collect(),
    };
    let client = cluster.client().await;
    let (scans, writer) = reflector::store();
    let watched = watcher(Api::<CloudScan>::all(client.clone()), watcher::Config::default());
    let watching = watched.default_backoff().reflect(writer).for_each(|_| std::future::ready(()));
    let watching = tokio::spawn(watching);
    let game = SharedState { client, scans, endpoint: proxy.url.clone(), proxy, now };
    let (mut leaks, mut steered) = (Vec::new(), Vec::new());
    for (number, seeds) in seeds.chunks(AT_ONCE).enumerate() {
        let place = Place {
            store: dir.path().join(format!("{number}.redb")),
            kubeconfig: cluster.kubeconfig_of("elava", "elava"),
            query_port,
            endpoint: game.endpoint.clone(),
            clock: clock.clone(),
        };
        let (more_leaks, more_steered) = play(&game, &aws, &place, seeds).await;
        leaks.extend(more_leaks);
        steered.extend(more_steered);
        eprintln!("{} sequences", (number * AT_ONCE) + seeds.len());
    }
    watching.abort();
    println!("sequences: {}, leaks: {}, steered: {}", seeds.len(), leaks.len(), steered.len());
    assert!(leaks.is_empty() && steered.is_empty(), "{}", [leaks, steered].concat().join("\n"));
}
