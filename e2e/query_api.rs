//! `inventory.elava.dev` through the real API server: plain kubectl, kube-rs's reflector, and clients without
//! permission.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use elava::cloud::Provider;
use elava::cloud::aws::Aws;
use elava::inventory::{
    Confirmation, Facts, IdReuse, Observation, Outcome, Revision, Scope, Subscriber, Sweep, Tags, Timestamp,
};
use elava::server::aggregated::{self, Service};
use elava::store::{Retention, Store};
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::cluster::{Cluster, chart, serve_from_loopback};
use crate::support::kubectl::client_of;
use crate::support::operator::binary;
use crate::support::world::{IRELAND, World};
use crate::support::{eventually, free_port};

const A: &str = "111122223333";
const APIS: &str = "/apis/inventory.elava.dev/v1alpha1";

fn reported(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits until the API server has noticed that the query API answers.
async fn until_available(cluster: &Cluster) {
    let available = || async {
        let output = cluster.kubectl(&["get", "--raw", &format!("{APIS}/cloudresources?limit=1")]);
        if output.status.success() { Ok(()) } else { Err(reported(&output)) }
    };
    eventually("the query API is available", available).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_lists_now_and_then() {
    let world = World::start_with_query_api().await;
    let hands = world.hands(A, IRELAND).await;
    let data = hands.volume(&[("Name", "data"), ("owner", "team-data")]).await;
    let scratch = hands.volume(&[("Name", "scratch"), ("owner", "team-b")]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.scan_now("team-a", "one").await;
    until_available(&world.cluster).await;
    let name = lists_now(&world, &data);
    let before = world.operator.answer(&["get"])["revision"].as_u64().unwrap();
    lists_then(&world, &data, &scratch, &name, before).await;
    is_refused_with_a_reason(&world, before);
    is_the_same_on_the_command_line(&world, &data, &scratch, before);

    // The operator is uninstalled: only objects that were marked to be kept are left.
    world.cluster.helm(&["uninstall", "elava", "--namespace", "elava"]);
    let services = world.cluster.run(&["get", "apiservices", "-o", "name"]);
    assert!(!services.contains("inventory"), "{services}");
}

fn refused(world: &World, args: &[&str]) -> String {
    let output = world.cluster.kubectl(&[args, &["-n", "team-a"]].concat());
    assert!(!output.status.success(), "{args:?} is refused: {}", reported(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lists the present state. Returns the name of the volume.
fn lists_now(world: &World, data: &str) -> String {
    let kubectl = |args: &[&str]| world.cluster.run(&[args, &["-n", "team-a"]].concat());
    // As a table, wide, as an object, by name, by selectors, and in chunks.
    let volumes = kubectl(&["get", "cloudresources", "--field-selector", "type=AWS::EC2::Volume"]);
    let header = volumes.lines().next().unwrap();
    let columns: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "NAMED", "OWNER", "ACCOUNT", "REGION", "STATE", "SEEN"], "{volumes}");
    assert_eq!(volumes.lines().count(), 3, "{volumes}");
    let of_data = volumes.lines().find(|line| line.contains(data)).expect("the volume is there");
    for word in ["data", "team-data", A, IRELAND, "Present"] {
        assert!(of_data.contains(word), "{word} in {of_data}");
    }
    let name = of_data.split_whitespace().next().unwrap().to_owned();
    assert!(name.starts_with(&format!("volume-{data}-")), "{name}");
    let wide = kubectl(&["get", "cres", "-o", "wide", "-l", "elava.dev/type=AWS.EC2.Volume"]);
    assert!(wide.contains("AWS::EC2::Volume") && wide.contains("Name=data,owner=team-data"), "{wide}");
    let object: Value = serde_json::from_str(&kubectl(&["get", "cloudresource", &name, "-o", "json"])).unwrap();
    assert_eq!(object["metadata"]["namespace"], "team-a");
    assert_eq!(object["status"]["key"], format!("aws/{A}/{IRELAND}/AWS::EC2::Volume/{data}"));
    assert_eq!(object["status"]["attributes"]["VolumeId"], json!(data));
    let all = kubectl(&["get", "cloudresources", "-o", "name"]);
    assert_eq!(
        all,
        kubectl(&["get", "cloudresources", "-o", "name", "--chunk-size=3"]),
        "in pieces it is the same"
    );
    assert!(all.lines().count() > 10, "{all}");
    let owned =
        kubectl(&["get", "cres", "--field-selector", "owner=team-data,state=Present,tag.Name!=x", "-o", "name"]);
    assert_eq!(owned.trim(), format!("cloudresource.inventory.elava.dev/{name}"));
    assert!(world.cluster.run(&["get", "cloudresources", "-A"]).contains("NAMESPACE"));
    let explained = kubectl(&["explain", "cloudresources"]);
    assert!(explained.contains("CloudResource") && explained.contains("asOf="), "{explained}");
    let explained = kubectl(&["explain", "cloudresources.status.state"]);
    assert!(explained.contains("Present, or Unknown"), "{explained}");
    name
}

/// Lists after a deletion and a change.
async fn lists_then(world: &World, data: &str, scratch: &str, name: &str, before: u64) {
    let kubectl = |args: &[&str]| world.cluster.run(&[args, &["-n", "team-a"]].concat());
    let hands = world.hands(A, IRELAND).await;
    // Watches through the operator and through the cluster report each change as it happens.
    let watching = [&["watch", "-o", "json"][..], &["watch", "-n", "team-a", "-o", "json"]].map(|args| {
        let seen = world.dir.path().join(format!("watched-{}", args.len()));
        let mut elava = std::process::Command::new(binary());
        elava.args(args).args(["--after", &before.to_string()]).env("KUBECONFIG", world.cluster.kubeconfig());
        if args.len() == 3 {
            elava.env("ELAVA_STORE", world.operator.store());
        }
        let child = elava.stdout(std::fs::File::create(&seen).unwrap()).spawn().unwrap();
        (seen, child)
    });
    // One volume is deleted and the other one is changed.
    hands.delete_volume(data).await;
    hands.tag(scratch, &[("Name", "renamed")]).await;
    let gone = || async {
        world.scan_now("team-a", "one").await;
        let changes = kubectl(&["get", "resourcechanges", "--field-selector", "change=Disappeared"]);
        if changes.contains(data) { Ok(()) } else { Err(changes) }
    };
    eventually("the deletion is concluded", gone).await;
    for (seen, mut child) in watching {
        let reported = || async {
            let text = std::fs::read_to_string(&seen).unwrap();
            let changes = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
            let of_it = changes.filter(|change| change["resource"]["id"] == data);
            let kinds: Vec<String> = of_it.map(|change| change["change"].to_string()).collect();
            if kinds == ["\"Disappeared\""] { Ok(()) } else { Err(format!("{kinds:?} in {text}")) }
        };
        eventually("whoever watches is told of it", reported).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let missing = refused(world, &["get", "cloudresource", name]);
    assert!(missing.contains("NotFound") && missing.contains("kubectl get resourcehistory"), "{missing}");
    let as_of = |moment: &str| {
        let selector = format!("asOf={moment},type=AWS::EC2::Volume");
        kubectl(&["get", "cloudresources", "--field-selector", &selector])
    };
    assert!(!as_of("now").contains(data) && as_of(&before.to_string()).contains(data));
    let changes = kubectl(&["get", "resourcechanges", "--field-selector", &format!("id={data}"), "-o", "json"]);
    let changes: Value = serde_json::from_str(&changes).unwrap();
    let kinds: Vec<&str> =
        changes["items"].as_array().unwrap().iter().map(|c| c["status"]["change"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Appeared", "Disappeared"]);
    let ended = changes["items"][1]["status"]["revision"].as_u64().unwrap();
    assert!(as_of(&(ended - 1).to_string()).contains(data) && !as_of(&ended.to_string()).contains(data));
    let appeared = changes["items"][0]["status"]["time"].as_str().unwrap();
    assert!(as_of(appeared).contains(data), "as of a time");
    let selector = format!("from={before},id={scratch}");
    let renamed = kubectl(&["get", "resourcechanges", "--field-selector", &selector]);
    assert!(renamed.contains("Tags.Name: scratch -> renamed"), "{renamed}");
    let history = kubectl(&["get", "resourcehistory", name]);
    let kinds: Vec<&str> = history.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(kinds, ["Disappeared", "Appeared"], "{history}");
}

/// An invalid query is refused with the reason.
fn is_refused_with_a_reason(world: &World, before: u64) {
    for (args, why) in [
        (&["get", "cres", "--field-selector", "asOf=2020-01-01T00:00:00Z"][..], "lies before"),
        (&["get", "cres", "--field-selector", "asOf=soon"], "is not a moment"),
        (&["get", "cres", "--field-selector", "colour=red"], "is no field to select by"),
        (&["get", "cres", "--field-selector", "asOf=1", "-w"], "does not change"),
        (&["get", "resourcehistories"], "a history is of one resource"),
        (&["get", "resourcechanges", "--field-selector", "from=now,to=1"], "name the earlier moment first"),
        (&["delete", "cloudresource", "x"], "not allowed"),
    ] {
        let error = refused(world, args);
        assert!(error.contains(why) || error.contains("MethodNotAllowed"), "{args:?}: {error}");
    }
    let raw = |query: &str| world.cluster.kubectl(&["get", "--raw", &format!("{APIS}/cloudresources?{query}")]);
    let exactly: Value =
        serde_json::from_slice(&raw(&format!("resourceVersion={before}&resourceVersionMatch=Exact")).stdout)
            .unwrap();
    assert_eq!(exactly["metadata"]["resourceVersion"], before.to_string());
    assert!(reported(&raw("resourceVersion=99999999&resourceVersionMatch=Exact")).contains("newest"));
    // A continue token that a client made up names revision 999999 as its end.
    let forged = format!("{APIS}/resourcechanges?limit=500&continue=AQAABjk5OTk5OQ");
    let refused = reported(&world.cluster.kubectl(&["get", "--raw", &forged]));
    assert!(refused.contains("the continue token is of another list"), "{refused}");
}

/// The command line gives the same answers from the cluster as from the operator.
fn is_the_same_on_the_command_line(world: &World, data: &str, scratch: &str, before: u64) {
    let plugin = world.dir.path().join("kubectl-elava");
    std::os::unix::fs::symlink(binary(), &plugin).unwrap();
    let path = format!("{}:{}", world.dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let elava = |args: &[&str]| -> Output {
        let mut kubectl = std::process::Command::new(crate::support::tools().join("kubectl"));
        kubectl.env("KUBECONFIG", world.cluster.kubeconfig()).env("PATH", &path).env("NO_COLOR", "1");
        kubectl.arg("elava").args(args).output().expect("kubectl runs")
    };
    let since = before.to_string();
    for args in [
        &["get", "--type", "AWS::EC2::Volume"][..],
        &["get", scratch, "--attributes"],
        &["at", &since, "--tag", "owner=team-data"],
        &["history", data],
        &["diff", &since],
        &["diff", &since, "now", "--steps"],
        &["changes", "--since", &since],
        &["disappeared", "--since", &since],
        &["untagged"],
        &["findings"],
        &["owners"],
        &["owners", "--cloudscan", "team-a/one", "--at", &since],
        &["tree", scratch],
    ] {
        let local = world.operator.answer(args);
        let output = elava(&[args, &["-n", "team-a", "-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", reported(&output));
        let mut requested: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut local = local.clone();
        // Values that depend on the clock of each side.
        for answer in [&mut requested, &mut local] {
            answer["time"] = Value::Null;
            for finding in answer["findings"].as_array_mut().into_iter().flatten() {
                finding.as_object_mut().unwrap().remove("costSoFar");
            }
        }
        assert_eq!(requested, local, "{args:?}");
    }
    let csv = elava(&["get", "-n", "team-a", "--type", "AWS::EC2::Volume", "-o", "csv"]);
    assert!(
        reported(&csv).starts_with("TYPE,ID,NAME,ACCOUNT,REGION,FIRST SEEN,STATE,CHANGED,TAGS"),
        "{}",
        reported(&csv)
    );
    let names = elava(&["get", "-n", "team-a", "--type", "AWS::EC2::Volume", "-o", "name"]);
    assert_eq!(reported(&names).trim(), format!("aws/{A}/{IRELAND}/AWS::EC2::Volume/{scratch}"));
    for (args, why) in [
        (&["get", "vol-none"][..], "no resource called vol-none exists now"),
        (&["at", "2020-01-01T00:00:00Z"], "before"),
        (&["at", "now", scratch, "--hindsight"], "kubectl exec"),
        (&["store", "stats"], "the operator does"),
    ] {
        let output = elava(&[args, &["-n", "team-a"]].concat());
        assert!(!output.status.success() && reported(&output).contains(why), "{args:?}: {}", reported(&output));
    }
}

/// The query API over the test's own store, in the test's process, behind a real API server.
struct Served {
    cluster: Cluster,
    client: Client,
    /// None while it is reopened.
    store: Option<Store>,
    now: Arc<AtomicI64>,
    port: u16,
    operator: std::path::PathBuf,
    /// A runtime of its own, so that all of its tasks end with it.
    serving: Option<tokio::runtime::Runtime>,
    dir: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("elava-").tempdir().unwrap();
        let cluster = Cluster::start(dir.path()).await;
        let chart = chart().display().to_string();
        let namespace = ["--namespace", "elava", "--create-namespace", "--set", "queryAPI.enabled=true"];
        cluster.helm(&[&["install", "elava", &chart], &namespace[..]].concat());
        let port = free_port();
        serve_from_loopback(&cluster, port);
        let operator = cluster.kubeconfig_of("elava", "elava");
        let now = Arc::new(AtomicI64::new(1_800_000_000_000));
        let store = open(dir.path(), &now).unwrap();
        let serving = Some(serve(port, &store, &operator));
        let client = cluster.client().await;
        for namespace in ["team-a", "team-b"] {
            cluster.run(&["create", "namespace", namespace]);
        }
        until_available(&cluster).await;
        Self { cluster, client, store: Some(store), now, port, operator, serving, dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    /// Restarts as an operator does: only the file is left.
    async fn restart(&mut self) {
        self.serving.take().expect("it is served").shutdown_background();
        self.store = None;
        // Reads that were in progress close the file a moment later.
        let opened = || async { open(self.dir.path(), &self.now).map_err(|error| error.to_string()) };
        let store = eventually("the store is opened again", opened).await;
        self.serving = Some(serve(self.port, &store, &self.operator));
        self.store = Some(store);
        until_available(&self.cluster).await;
    }

    /// Commits a complete sweep with these resources and their sizes.
    fn scan_now(&self, scope: &Scope, subscriber: &str, shown: &BTreeMap<String, u64>) -> Revision {
        let started = Timestamp::from_millis(self.now.fetch_add(60_000, Ordering::Relaxed) + 30_000);
        let observation = |(id, size): (&String, &u64)| Observation {
            id: id.clone(),
            tags: Tags::Known([("Name".to_owned(), format!("n-{size}"))].into_iter().collect()),
            attributes: (&json!({"VolumeId": id, "Size": size})).into(),
            birth: Some(Timestamp::from_millis(1)),
            end_state: None,
            unread: Vec::new(),
        };
        let sweep = Sweep {
            scope: scope.clone(),
            started,
            ended: started.plus(Duration::from_secs(1)),
            cadence: Some(Duration::from_mins(5)),
            shape: 1,
            ids: IdReuse::Unique,
            confirmation: Confirmation::Sweeps { needed: 1, apart: Duration::ZERO },
            outcome: Outcome::Complete,
            observations: shown.iter().map(observation).collect(),
            absences: BTreeMap::new(),
            held: false,
            skew_millis: 0,
        };
        self.store().commit(&sweep, Some(&Subscriber::new(subscriber))).unwrap().revision
    }

    fn api(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resources())
    }

    async fn ids(&self, namespace: &str, selector: &str) -> BTreeMap<String, u64> {
        let params = ListParams { field_selector: Some(selector.to_owned()), ..ListParams::default() };
        sizes(self.api(namespace).list(&params).await.unwrap().items.iter())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }
}

fn open(dir: &Path, now: &Arc<AtomicI64>) -> Result<Store, elava::store::StoreError> {
    let ticking = now.clone();
    let clock: elava::store::Clock = Arc::new(move || Timestamp::from_millis(ticking.load(Ordering::Relaxed)));
    Store::open(&dir.join("elava.redb"), clock)
}

fn serve(port: u16, store: &Store, kubeconfig: &Path) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (store, kubeconfig) = (store.clone(), kubeconfig.to_owned());
    runtime.spawn(async move {
        // The previous server may not have released the port yet.
        let bound = || async { TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| error.to_string()) };
        let listener = eventually("the port is free", bound).await;
        let service = Service { namespace: "elava".to_owned(), name: "elava-query".to_owned() };
        aggregated::serve(
            listener,
            store,
            Facts::of([Aws::default().facts()]),
            client_of(&kubeconfig).await,
            service,
            64,
        )
        .await
    });
    runtime
}

fn resources() -> ApiResource {
    ApiResource {
        group: "inventory.elava.dev".into(),
        version: "v1alpha1".into(),
        api_version: "inventory.elava.dev/v1alpha1".into(),
        kind: "CloudResource".into(),
        plural: "cloudresources".into(),
    }
}

fn sizes<'a>(objects: impl Iterator<Item = &'a DynamicObject>) -> BTreeMap<String, u64> {
    let of = |object: &DynamicObject| {
        let status = &object.data["status"];
        let size = status["attributes"]["Size"].as_u64().expect("every object has its document");
        (status["id"].as_str().unwrap().to_owned(), size)
    };
    objects.map(of).collect()
}

fn scope(account: &str, region: &str) -> Scope {
    Scope {
        provider: "aws".into(),
        partition: "aws".into(),
        endpoint: "".into(),
        account: account.into(),
        region: region.into(),
        resource_type: "AWS::EC2::Volume".into(),
    }
}

/// Adds, changes and removes resources at random.
fn churn(shown: &mut BTreeMap<String, u64>, dice: &mut SmallRng) {
    for _ in 0..dice.random_range(1..12) {
        let id = format!("vol-{:04x}", dice.random_range(0..400));
        match dice.random_range(0..3) {
            0 => drop(shown.remove(&id)),
            _ => drop(shown.insert(id, dice.random_range(1..9))),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflector_stays_right_over_thousands_of_changes_restarts_and_a_compaction() {
    let mut served = Served::start().await;
    let mut dice = SmallRng::seed_from_u64(7);
    let (ireland, virginia) = (scope(A, "eu-west-1"), scope(A, "us-east-1"));
    let mut shown = [BTreeMap::new(), BTreeMap::new()];
    // One reader by lists and watches, one by streamed lists, and one in a namespace that can see one of the two
    // scopes.
    let mut readers = Vec::new();
    let mut running = Vec::new();
    for (namespace, config) in [
        ("team-a", watcher::Config::default()),
        ("team-a", watcher::Config::default().streaming_lists()),
        ("team-b", watcher::Config::default()),
    ] {
        let writer = reflector::store::Writer::new(resources());
        let reader = writer.as_reader();
        let stream = reflector(writer, watcher(served.api(namespace), config)).default_backoff();
        running.push(tokio::spawn(stream.for_each(|_| futures::future::ready(()))));
        readers.push((namespace, reader));
    }
    let mut changed = 0;
    for round in 0..450 {
        for (at, scope) in [&ireland, &virginia].into_iter().enumerate() {
            let before = shown[at].clone();
            churn(&mut shown[at], &mut dice);
            let all: BTreeSet<&String> = before.keys().chain(shown[at].keys()).collect();
            changed += all.into_iter().filter(|id| before.get(*id) != shown[at].get(*id)).count();
            served.scan_now(scope, "team-a/one", &shown[at]);
        }
        served.scan_now(&virginia, "team-b/two", &shown[1]);
        match round {
            150 | 300 => served.restart().await,
            // From here on no client can resume from an earlier revision: a client that was disconnected lists again.
            400 => {
                served.now.fetch_add(3 * 24 * 3_600_000, Ordering::Relaxed);
                served.scan_now(&ireland, "team-a/one", &shown[0]);
                let day = Duration::from_hours(24);
                served.store().retain(Retention { detail: day, horizon: 400 * day }).unwrap();
                served.restart().await;
            }
            _ => {}
        }
    }
    assert!(changed > 3_000, "{changed}");
    let both: BTreeMap<String, u64> = shown[0].iter().chain(&shown[1]).map(|(id, n)| (id.clone(), *n)).collect();
    for (number, (namespace, reader)) in readers.iter().enumerate() {
        let desired = if *namespace == "team-a" { &both } else { &shown[1] };
        let same = || async {
            let held = reader.state();
            let known: BTreeSet<(String, u64)> = sizes(held.iter().map(|object| &**object)).into_iter().collect();
            let desired: BTreeSet<(String, u64)> = match *namespace {
                "team-a" => shown.iter().flatten().map(|(id, size)| (id.clone(), *size)).collect(),
                _ => desired.clone().into_iter().collect(),
            };
            // An id may exist in both regions: then it is listed twice, under two names.
            let count = if *namespace == "team-a" { shown[0].len() + shown[1].len() } else { shown[1].len() };
            if held.len() == count && known.is_subset(&desired) {
                Ok(())
            } else {
                Err(format!("{} of {count}, {known:?} of {desired:?}", held.len()))
            }
        };
        eventually(&format!("reflector {number} of {namespace} knows what there is"), same).await;
    }
    // kubectl's own watch shows a row for each new resource, and applies the selector.
    let seen = served.dir().join("watched");
    let mut kubectl = std::process::Command::new(crate::support::tools().join("kubectl"))
        .env("KUBECONFIG", served.cluster.kubeconfig())
        .args(["get", "cloudresources", "-n", "team-b", "-w", "--field-selector", "region=us-east-1"])
        .stdout(std::fs::File::create(&seen).unwrap())
        .spawn()
        .unwrap();
    let listed = || async {
        let text = std::fs::read_to_string(&seen).unwrap();
        if text.lines().count() > shown[1].len() { Ok(()) } else { Err(text) }
    };
    eventually("kubectl lists before it watches", listed).await;
    let mut more = shown.clone();
    for at in [0, 1] {
        more[at].insert("vol-watched".to_owned(), 1);
    }
    served.scan_now(&ireland, "team-a/one", &more[0]);
    served.scan_now(&virginia, "team-b/two", &more[1]);
    let watched = || async {
        let text = std::fs::read_to_string(&seen).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("vol-watched")).collect();
        if rows.len() == 1 && rows[0].contains("us-east-1") { Ok(()) } else { Err(text) }
    };
    eventually("kubectl shows what came", watched).await;
    kubectl.kill().unwrap();
    kubectl.wait().unwrap();
    // No watch can resume from a compacted revision.
    let path = format!("{APIS}/namespaces/team-a/cloudresources?watch=1&resourceVersion=5");
    let expired = served.cluster.kubectl(&["get", "--raw", &path]);
    let event = String::from_utf8_lossy(&expired.stdout).into_owned();
    assert!(
        event.contains(r#""type":"ERROR""#) && event.contains("Expired"),
        "an event says so: {}",
        reported(&expired)
    );
    for task in running {
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_at_any_moment_is_what_it_was_and_a_namespace_sees_its_own_times_alone() {
    let served = Served::start().await;
    let mut dice = SmallRng::seed_from_u64(11);
    let scope = scope(A, "eu-west-1");
    // What each namespace sees at each revision: the oracle.
    let mut oracle: Vec<[BTreeMap<String, u64>; 2]> = vec![Default::default()];
    let (mut shown, mut visibilities) = (BTreeMap::new(), [false, false]);
    for round in 0..250 {
        churn(&mut shown, &mut dice);
        // The scope is visible to the second subscriber from round 60 to 120, and again from 180 on.
        let prover = match round {
            0..60 | 121..180 => 0,
            _ if round % 2 == 0 => 0,
            _ => 1,
        };
        if round == 121 {
            served.store().revoke_visibility(&Subscriber::new("team-b/two"), &scope).unwrap();
            visibilities[1] = false;
            let last = oracle.last().unwrap()[0].clone();
            oracle.push([last, BTreeMap::new()]);
        }
        let revision = served.scan_now(&scope, ["team-a/one", "team-b/two"][prover], &shown);
        visibilities[prover] = true;
        let state = [0, 1].map(|who: usize| if visibilities[who] { shown.clone() } else { BTreeMap::new() });
        let before = oracle.last().unwrap().clone();
        // A sweep without changes may create no revision.
        oracle.resize(usize::try_from(revision.0).unwrap(), before);
        oracle.push(state);
        oracle.truncate(usize::try_from(revision.0).unwrap() + 1);
    }
    let newest = u64::try_from(oracle.len()).unwrap() - 1;
    assert_eq!(served.store().revision().0, newest);
    for _ in 0..1_000 {
        let (revision, who) = (dice.random_range(1..=newest), dice.random_range(0..2_usize));
        let seen = served.ids(["team-a", "team-b"][who], &format!("asOf={revision}")).await;
        assert_eq!(seen, oracle[usize::try_from(revision).unwrap()][who], "{who} at revision {revision}");
    }
    // A scope that was not swept lately has no known state, and a warning reports it.
    served.now.fetch_add(3 * 24 * 3_600_000, Ordering::Relaxed);
    let stale = served.cluster.kubectl(&["get", "cloudresources", "-n", "team-a"]);
    let (rows, warning) = (String::from_utf8_lossy(&stale.stdout), String::from_utf8_lossy(&stale.stderr));
    assert!(warning.contains("Warning: 1 scope was not current at"), "{warning}");
    assert!(rows.lines().skip(1).all(|row| row.contains("Unknown")), "{rows}");
    let raw = served.cluster.run(&["get", "--raw", &format!("{APIS}/namespaces/team-a/cloudresources?limit=1")]);
    let raw: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(raw["unknown"][0]["status"], "Stale");
    // Changes from a time without visibility are not returned.
    let changes = ApiResource { kind: "ResourceChange".into(), plural: "resourcechanges".into(), ..resources() };
    let api: Api<DynamicObject> = Api::namespaced_with(served.client.clone(), "team-b", &changes);
    let of_all = ListParams::default().fields("from=1");
    let reported = api.list(&of_all).await.unwrap().items;
    assert!(reported.len() > 100);
    for change in &reported {
        let revision = change.data["status"]["revision"].as_u64().unwrap();
        let before = &oracle[usize::try_from(revision).unwrap()][1];
        assert!(!before.is_empty(), "revision {revision} was not team-b's to know");
    }
    let in_pieces = ListParams { limit: Some(7), ..of_all };
    let (mut names, mut token) = (Vec::new(), None);
    loop {
        let page = api.list(&ListParams { continue_token: token, ..in_pieces.clone() }).await.unwrap();
        assert!(page.items.len() <= 7);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(names, reported.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), "in pieces it is the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_no_permission_is_refused() {
    let served = Served::start().await;
    let one = BTreeMap::from([("vol-1".to_owned(), 1)]);
    served.scan_now(&scope(A, "eu-west-1"), "team-a/one", &one);
    let fetch = async |identity: Option<&str>, user: Option<(&str, &str)>| {
        let path = format!("{APIS}/namespaces/team-a/cloudresources");
        fetch(&served, identity.map(|name| served.cluster.identity(name)), &path, user).await
    };
    let admin = Some(("admin", "system:masters"));
    // No certificate, without and with user headers; a certificate of the right CA with another name; one of another
    // CA.
    for (identity, user) in [(None, None), (None, admin), (Some("somebody"), admin)] {
        let (status, body) = fetch(identity, user).await.unwrap();
        assert_eq!((status, body["reason"].as_str()), (401, Some("Unauthorized")), "{identity:?}: {body}");
    }
    let refused = fetch(Some("admin"), admin).await;
    assert!(refused.is_err(), "a certificate of another CA makes no connection: {refused:?}");
    let (status, body) = fetch(Some("front-proxy"), admin).await.unwrap();
    assert_eq!((status, body["items"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    // The front proxy authenticates the user; the API server authorizes the request.
    let (status, body) = fetch(Some("front-proxy"), Some(("nobody", "system:authenticated"))).await.unwrap();
    assert_eq!(status, 403, "{body}");
    assert!(body["message"].as_str().unwrap().contains("User \"nobody\" cannot list"), "{body}");

    // A CA that is removed from the APIService is restored.
    let without = r#"[{"op": "remove", "path": "/spec/caBundle"}]"#;
    let service = "v1alpha1.inventory.elava.dev";
    served.cluster.run(&["patch", "apiservice", service, "--type=json", "-p", without]);
    let is_back = || async {
        let bundle = served.cluster.run(&["get", "apiservice", service, "-o", "jsonpath={.spec.caBundle}"]);
        if bundle.is_empty() { Err("it has no CA".to_owned()) } else { Ok(()) }
    };
    eventually("the operator tells the CA again", is_back).await;
    until_available(&served.cluster).await;

    // With kubectl: a user of one namespace sees that namespace, no other one, and not all of them.
    served.cluster.run(&["create", "serviceaccount", "reader", "-n", "team-a"]);
    let binding = ["create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=team-a:reader"];
    served.cluster.run(&[&binding[..], &["-n", "team-a"]].concat());
    let kubeconfig = served.cluster.kubeconfig_of("team-a", "reader");
    let get = |args: &[&str]| served.cluster.kubectl_as(&kubeconfig, &[&["get", "cloudresources"], args].concat());
    let seen = || async {
        let output = get(&["-n", "team-a", "-o", "name"]);
        if reported(&output).contains("volume-vol-1") { Ok(()) } else { Err(reported(&output)) }
    };
    eventually("view lets a user look into the namespace", seen).await;
    for args in [&["-n", "team-b"][..], &["-A"], &["-n", "team-b", "--field-selector", "id=vol-1"]] {
        let output = get(args);
        assert!(
            !output.status.success() && reported(&output).contains("is forbidden"),
            "{args:?}: {}",
            reported(&output)
        );
    }
    // The scope is not visible in that namespace: even an admin sees nothing.
    let empty = served.ids("team-b", "").await;
    assert!(empty.is_empty(), "{empty:?}");
}

/// Connects without the API server, with the given certificate and headers; the server's certificate must be signed by
/// the CA that the APIService names.
async fn fetch(
    served: &Served,
    identity: Option<String>,
    path: &str,
    user: Option<(&str, &str)>,
) -> anyhow::Result<(u16, Value)> {
    let service = ["get", "apiservice", "v1alpha1.inventory.elava.dev", "-o", "jsonpath={.spec.caBundle}"];
    let bundle = BASE64_STANDARD.decode(served.cluster.run(&service))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(pem) => config.with_client_auth_cert(
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?,
            PrivateKeyDer::from_pem_slice(pem.as_bytes())?,
        )?,
    };
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", served.port)).await?;
    let name = "elava-query.elava.svc".try_into()?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = hyper::Request::get(path).header("host", "elava");
    if let Some((user, group)) = user {
        request = request.header("X-Remote-User", user).header("X-Remote-Group", group);
    }
    let answer = sender.send_request(request.body(Empty::<&[u8]>::new())?).await?;
    let status = answer.status().as_u16();
    Ok((status, serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?))
}
