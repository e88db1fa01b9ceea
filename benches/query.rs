//! The cost of the query API with a million resources, through a real API server; and of `kubectl get` of as many
//! custom resources in etcd as it can still list. `make bench-query`.
//!
//! The API server, etcd and the store share the machine: a figure is the time that a user waits.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used)] // Figures for people; a failed unwrap fails the bench.

mod bed;
#[path = "../e2e/support/mod.rs"]
mod support;
#[path = "goals/workload.rs"]
mod workload;

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use bed::Bed;
use elava::inventory::{Facts, Moment, Subscriber, Sweep};
use elava::server::aggregated::{self, Service};
use elava::store::Store;
use futures::StreamExt;
use kube::api::{Api, DynamicObject, PostParams};
use kube::{Client, Config};
use serde_json::json;
use support::cluster::{Cluster, chart, serve_from_loopback};
use support::{eventually, free_port, tools};
use workload::Cloud;

const SCOPES: usize = 1_000;
const NAMESPACE: &str = "team-a";
const APIS: &str = "/apis/inventory.elava.dev/v1alpha1/namespaces/team-a";
/// The number of custom resources in etcd that `kubectl get` still lists in an acceptable time.
const IN_ETCD: usize = 10_000;
/// The memory in MB that a whole list may take, whatever its length.
const MEMORY_OF_A_LIST: f64 = 64.0;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

/// A store with this number of resources, of which some have changed over several rounds.
fn filled(resources: usize) -> Bed {
    let mut cloud = Cloud::new(resources, SCOPES);
    let bed = Bed::new();
    let subscriber = Subscriber::new(format!("{NAMESPACE}/one"));
    let sweep_once = |sweeps: &[Sweep]| {
        let halves = sweeps.split_at(sweeps.len() / 2);
        std::thread::scope(|threads| {
            for half in [halves.0, halves.1] {
                let (store, subscriber) = (&bed.store, &subscriber);
                threads.spawn(move || {
                    for sweep in half {
                        drop(store.commit(sweep, Some(subscriber)).unwrap());
                    }
                });
            }
        });
    };
    let sweeps = cloud.sweeps(bed.next_sweep());
    sweep_once(&sweeps);
    cloud.put_back(sweeps);
    for _ in 0..50 {
        let sweeps = cloud.changes(resources / 1_000, bed.next_sweep());
        sweep_once(&sweeps);
    }
    bed.store.flush().unwrap();
    bed
}

struct Queried {
    client: Client,
    lines: String,
}

impl Queried {
    async fn text(&self, path: &str, is_table: bool) -> String {
        let accept = if is_table { "application/json;as=Table;v=v1;g=meta.k8s.io" } else { "application/json" };
        let request = hyper::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
        self.client.request_text(request).await.unwrap()
    }

    /// The median time of several requests, and the last response.
    async fn time(&self, times: usize, path: &str, is_table: bool) -> (Duration, String) {
        let mut spans = Vec::new();
        let mut answer = String::new();
        for _ in 0..times {
            let started = Instant::now();
            answer = self.text(path, is_table).await;
            spans.push(started.elapsed());
        }
        spans.sort();
        (spans[spans.len() / 2], answer)
    }

    fn report(&mut self, what: &str, span: Duration, remark: &str) {
        println!("{what}: {span:.1?} {remark}");
        writeln!(self.lines, "| {what} | {:.1} ms | {remark} |", span.as_secs_f64() * 1e3).unwrap();
    }
}

/// Resident memory in MB: the present value, and the peak since its last reset.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
    };
    (field("VmRSS:"), field("VmHWM:"))
}

async fn run() {
    let resources: usize = std::env::var("RESOURCES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let settings = ["--namespace", "elava", "--create-namespace", "--set", "queryAPI.enabled=true"];
    cluster.helm(&[&["install", "elava", &chart().display().to_string()], &settings[..]].concat());
    let port = free_port();
    serve_from_loopback(&cluster, port);
    let client = cluster.client().await;
    let mut queried = Queried { client: client.clone(), lines: String::new() };

    let bed = tokio::task::spawn_blocking(move || filled(resources)).await.unwrap();
    serve(port, &bed.store, client.clone()).await;
    let served = || async {
        let output = cluster.kubectl(&["get", "--raw", &format!("{APIS}/cloudresources?limit=1")]);
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    };
    eventually("the query API is available", served).await;
    let head = format!("with {resources} resources in the store");
    println!("== {head}");

    let first = queried.text(&format!("{APIS}/cloudresources?limit=1"), false).await;
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    let name = first["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let id = first["items"][0]["status"]["id"].as_str().unwrap().to_owned();
    let then = bed.store.revision().0 / 2;
    for (what, times, path, is_table) in [
        ("get one by its name", 50, format!("{APIS}/cloudresources/{name}"), false),
        ("one by its id", 50, format!("{APIS}/cloudresources?fieldSelector=id%3D{id}"), false),
        ("history of one", 50, format!("{APIS}/resourcehistories/{name}"), true),
        ("first 500, as a table", 20, format!("{APIS}/cloudresources?limit=500"), true),
        ("first 500, as objects with their documents", 20, format!("{APIS}/cloudresources?limit=500"), false),
        ("those of an owner", 10, format!("{APIS}/cloudresources?fieldSelector=owner%3Dteam-7"), true),
        (
            "first 500 at a moment of the past",
            5,
            format!("{APIS}/cloudresources?limit=500&fieldSelector=asOf%3D{then}"),
            true,
        ),
        ("the last 10 rounds of changes", 10, format!("{APIS}/resourcechanges?fieldSelector=from%3D50m"), true),
    ] {
        let (span, answer) = queried.time(times, &path, is_table).await;
        queried.report(what, span, &format!("{:.1} kB", answer.len() as f64 / 1e3));
    }
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, _) = memory();
    let started = Instant::now();
    let request = hyper::Request::get(format!("{APIS}/cloudresources")).body(kube::client::Body::empty()).unwrap();
    let answer = client.send(request).await.unwrap();
    let mut body = axum::body::Body::new(answer.into_body()).into_data_stream();
    let mut bytes = 0;
    while let Some(chunk) = body.next().await {
        bytes += chunk.unwrap().len();
    }
    let span = started.elapsed();
    let grown = memory().1 - before;
    let what = "all of them in one answer, with their documents";
    queried.report(what, span, &format!("{:.0} MB, memory {grown:.1} MB more at most", bytes as f64 / 1e6));
    assert!(grown < MEMORY_OF_A_LIST, "a list takes {grown} MB, {MEMORY_OF_A_LIST} at most");

    in_etcd(&cluster, &mut queried).await;
    if let Ok(path) = std::env::var("TABLE") {
        let text = format!(
            "<!-- Written by `make bench-query`. Do not edit. -->\n\n# What the query API takes\n\nThrough a real \
             kube-apiserver, {head} in {SCOPES} scopes; API server, etcd, store and client on the same two cores. Medians.\n\n\
             | question | takes | answer |\n|---|---:|---|\n{}",
            queried.lines
        );
        std::fs::write(path, text).unwrap();
    }
}

async fn serve(port: u16, store: &Store, client: Client) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let service = Service { namespace: "elava".to_owned(), name: "elava-query".to_owned() };
    let store = store.clone();
    store.snapshot(Moment::Now).unwrap();
    tokio::spawn(async move {
        aggregated::serve(listener, store, Facts::default(), client, service, 64).await.unwrap();
    });
}

/// `kubectl get` as a whole process: the same number of objects from the store and from etcd.
async fn in_etcd(cluster: &Cluster, queried: &mut Queried) {
    cluster.run(&["create", "namespace", NAMESPACE]);
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let findings = kube::api::ApiResource {
        group: "elava.dev".into(),
        version: "v1alpha1".into(),
        api_version: "elava.dev/v1alpha1".into(),
        kind: "ResourceFinding".into(),
        plural: "resourcefindings".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(Client::try_from(config).unwrap(), NAMESPACE, &findings);
    let object = |n: usize| {
        let status = json!({
            "kind": "Untagged", "severity": "Low", "state": "Open", "message": "x".repeat(200), "advice": "y".repeat(100),
            "resource": format!("aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-{n}"), "provider": "aws",
            "account": "111122223333", "region": "eu-west-1", "type": "AWS::EC2::Volume", "id": format!("vol-{n}"),
            "firstSeen": "2026-11-24T08:30:00Z", "since": {"revision": 1, "time": "2026-11-24T08:30:00Z"},
        });
        DynamicObject::new(&format!("untagged-{n}"), &findings).data(json!({"status": status}))
    };
    let created = futures::stream::iter(0..IN_ETCD).for_each_concurrent(16, |n| {
        let (api, object) = (&api, object(n));
        async move { drop(api.create(&PostParams::default(), &object).await.unwrap()) }
    });
    created.await;
    let kubectl = |args: &[&str]| {
        let started = Instant::now();
        let output = Command::new(tools().join("kubectl"))
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(args)
            .args(["-n", NAMESPACE])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (started.elapsed(), String::from_utf8_lossy(&output.stdout).lines().count() - 1)
    };
    let of_some = [
        "get",
        "cloudresources",
        "--field-selector",
        "region=eu-west-1,type=AWS::EC2::Volume,account=100000000000",
    ];
    for (what, args) in [
        ("`kubectl get resourcefindings`, from etcd", &["get", "resourcefindings"][..]),
        ("`kubectl get cloudresources`, of one account, region and type", &of_some[..]),
    ] {
        kubectl(args);
        let (span, rows) = kubectl(args);
        queried.report(what, span, &format!("{rows} rows"));
    }
    // The same number of rows from both, in the chunks that kubectl requests.
    for (whence, path) in [
        ("the store", format!("{APIS}/cloudresources")),
        ("etcd", format!("/apis/elava.dev/v1alpha1/namespaces/{NAMESPACE}/resourcefindings")),
    ] {
        let started = Instant::now();
        let (mut rows, mut token) = (0, String::new());
        while rows < IN_ETCD {
            let page = queried.text(&format!("{path}?limit=500&continue={token}"), true).await;
            let page: serde_json::Value = serde_json::from_str(&page).unwrap();
            rows += page["rows"].as_array().unwrap().len();
            page["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut token);
            if token.is_empty() {
                break;
            }
        }
        queried.report(&format!("{rows} rows in pieces of 500, from {whence}"), started.elapsed(), "");
    }
}
