//! The load of the operator on a control plane: a thousand CloudScans and fifty thousand findings through a real API
//! server, compared with a kube-rs controller that only lists and watches the same objects. `make bench-control-plane`.
//!
//! Built with the dev profile: the bench counts requests, bytes and memory, not instructions.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used)] // Figures for people; a failed unwrap fails the bench.

#[path = "../e2e/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use elava::api::{CloudScan, ResourceFinding};
use futures::StreamExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use serde_json::json;
use support::process::Process;
use support::proxy::{Call, Fault};
use support::world::{IRELAND, World};

/// Findings per CloudScan.
const EACH: usize = 50;
const NAMESPACES: usize = 10;
const QUIET: Duration = Duration::from_mins(2);
/// The number of request kinds that are listed.
const MOST: usize = 6;
/// The maximum duration on a machine with two cores, with [`EACH`] findings per CloudScan.
const LONGEST: Duration = Duration::from_hours(1);

fn scans() -> usize {
    std::env::var("SCANS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "plain") {
        runtime.block_on(plain());
    } else {
        runtime.block_on(measure());
    }
}

/// The minimal controller of these objects.
async fn plain() {
    let client = kube::Client::try_default().await.unwrap();
    let reconcile =
        |_: Arc<CloudScan>, _: Arc<()>| async { Ok::<_, std::convert::Infallible>(Action::await_change()) };
    Controller::new(Api::<CloudScan>::all(client.clone()), watcher::Config::default())
        .owns(Api::<ResourceFinding>::all(client), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::await_change(), Arc::new(()))
        .for_each(|_| async {})
        .await;
}

/// Untagged volumes, different ones for each account.
fn volumes(call: &Call) -> String {
    let item = |n: usize| {
        format!(
            "<item><volumeId>vol-{}{n:05}</volumeId><size>8</size><status>available</status>\
             <availabilityZone>{IRELAND}a</availabilityZone><createTime>2026-01-01T00:00:00.000Z</createTime>\
             <volumeType>gp3</volumeType></item>",
            call.account
        )
    };
    let items: String = (0..EACH).map(item).collect();
    format!(
        "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <volumeSet>{items}</volumeSet></DescribeVolumesResponse>"
    )
}

fn account(n: usize) -> String {
    format!("{:012}", 100_000_000_000 + n)
}

/// Requests to the API server from all clients, by verb and kind, and the size of etcd's data.
struct Load {
    requests: BTreeMap<String, f64>,
    etcd_bytes: f64,
}

impl Load {
    async fn now(world: &World) -> Self {
        let metrics = world.cluster.run(&["get", "--raw=/metrics"]);
        let mut requests = BTreeMap::<String, f64>::new();
        for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label =
                |name: &str| line.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            let (kind, part) = (label("resource").unwrap_or_default(), label("subresource").unwrap_or_default());
            // The requests that read this figure are not counted.
            if part == "metrics" {
                continue;
            }
            let what = format!(
                "{} {kind}{}{part}",
                label("verb").unwrap_or_default(),
                if part.is_empty() { "" } else { "/" }
            );
            *requests.entry(what).or_default() += value(line);
        }
        let etcd = std::fs::read_to_string(world.dir.path().join("cluster/etcd-url")).unwrap();
        let etcd = reqwest::get(format!("{etcd}/metrics")).await.unwrap().text().await.unwrap();
        let bytes = etcd.lines().filter(|line| line.starts_with("etcd_mvcc_db_total_size_in_use_in_bytes"));
        Self { requests, etcd_bytes: bytes.map(value).sum() }
    }

    /// Requests per minute since `before`, and the most frequent kinds among them.
    fn since(&self, before: &Load, time: Duration) -> (f64, String) {
        let minutes = time.as_secs_f64() / 60.0;
        let of = |(what, count): (&String, &f64)| {
            ((count - before.requests.get(what).copied().unwrap_or_default()) / minutes, what.clone())
        };
        let mut by_what: Vec<(f64, String)> = self.requests.iter().map(of).collect();
        by_what.sort_by(|a, b| b.0.total_cmp(&a.0));
        let most = by_what.iter().take(MOST).map(|(count, what)| format!("{what} {count:.0}"));
        (by_what.iter().map(|(count, _)| count).sum(), most.collect::<Vec<_>>().join(", "))
    }
}

/// The value in a line of metrics.
fn value(line: &str) -> f64 {
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Measures how long another client of the API server waits, until `stop` is set. Returns all waits.
async fn another_user(client: kube::Client, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        api.get("default").await.unwrap();
        waits.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    waits.sort();
    waits
}

fn p99(waits: &[Duration]) -> f64 {
    waits[waits.len() * 99 / 100].as_secs_f64() * 1e3
}

/// The number of findings, listed page by page.
async fn findings(client: &kube::Client) -> usize {
    let api: Api<ResourceFinding> = Api::all(client.clone());
    let mut params = ListParams::default().limit(5_000);
    let mut count = 0;
    loop {
        let list = api.list_metadata(&params).await.unwrap();
        count += list.items.len();
        let Some(token) = list.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        params = params.continue_token(&token);
    }
    count
}

/// The number of scopes whose state is current.
async fn current_scopes(operator: &str) -> f64 {
    let Ok(answer) = reqwest::get(format!("{operator}/metrics")).await else { return 0.0 };
    let metrics = answer.text().await.unwrap_or_default();
    metrics.lines().filter(|line| line.starts_with("elava_scopes{status=\"Current\"}")).map(value).sum()
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) -> Duration {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < LONGEST, "not within {LONGEST:?}: {what}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    started.elapsed()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

async fn measure() {
    let (scans, mut rows) = (scans(), Vec::<(String, String)>::new());
    let mut row = |what: &str, value: String| {
        println!("{what}: {value}");
        rows.push((what.to_owned(), value));
    };
    let mut world = World::start_with(vec![("ELAVA_API_SHARE", "1".to_owned())]).await;
    world.proxy.fault(|call| call.action == "DescribeVolumes" && !call.is_by_id(), Fault::Make(volumes));
    for n in 0..NAMESPACES {
        world.cluster.run(&["create", "namespace", &format!("team-{n}")]);
    }
    row("memory before anything", format!("{:.0} MiB", mib(world.operator.process.memory_kib().1)));
    let idle = Arc::new(AtomicBool::new(false));
    let user = tokio::spawn(another_user(world.client.clone(), idle.clone()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    idle.store(true, Ordering::Relaxed);
    let alone = p99(&user.await.unwrap());

    let before = Load::now(&world).await;
    let busy = Arc::new(AtomicBool::new(false));
    let user = tokio::spawn(another_user(world.client.clone(), busy.clone()));
    let started = Instant::now();
    let operator = world.operator.url();
    let swept = tokio::spawn(async move {
        until("every account is scanned", || async { current_scopes(&operator).await >= scans as f64 }).await
    });
    for n in 0..scans {
        let mut spec = world.scan_spec(&[&account(n)]);
        spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
        spec["resourceTypes"] = json!({"include": ["AWS::EC2::Volume"]});
        spec["findings"] = json!({"exclude": ["Orphaned"]});
        // A first sweep is repeated if the emulator does not answer in time.
        spec["interval"] = json!("30m");
        let name = format!("scan-{n}");
        let scan = json!({"apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": name}, "spec": spec});
        let api: Api<CloudScan> = Api::namespaced(world.client.clone(), &format!("team-{}", n % NAMESPACES));
        api.patch(&name, &PatchParams::apply("bench").force(), &Patch::Apply(&scan)).await.unwrap();
    }
    row(&format!("applying {scans} CloudScans"), format!("{:.0} s", started.elapsed().as_secs_f64()));
    row("until every account has been scanned", format!("{:.0} s", swept.await.unwrap().as_secs_f64()));
    let expected = scans * EACH;
    until("every finding stands", || async { findings(&world.client).await >= expected }).await;
    busy.store(true, Ordering::Relaxed);
    let beside = p99(&user.await.unwrap());
    let total = started.elapsed();
    row(&format!("until all {expected} findings stand"), format!("{:.0} s", total.as_secs_f64()));
    // Waits until the last events and statuses are written.
    tokio::time::sleep(QUIET / 4).await;
    let after = Load::now(&world).await;
    let (requests, most) = after.since(&before, total);
    row("requests to the API server meanwhile, a minute, all users", format!("{requests:.0}"));
    row("of these, most are", most);
    row("another user's `get`, p99, before and meanwhile", format!("{alone:.1} ms, {beside:.1} ms"));
    let bytes = after.etcd_bytes - before.etcd_bytes;
    row("bytes in etcd for it all", format!("{:.0} MB", bytes / 1e6));
    row("bytes in etcd a finding, with its event", format!("{:.0}", bytes / expected as f64));
    let (peak, now) = world.operator.process.memory_kib();
    row("the operator's memory with all of it, peak", format!("{:.0} MiB, {:.0} MiB", mib(now), mib(peak)));

    let before = Load::now(&world).await;
    tokio::time::sleep(QUIET).await;
    let after = Load::now(&world).await;
    let (requests, most) = after.since(&before, QUIET);
    row("requests a minute while nothing happens, all users", format!("{requests:.0}"));
    row("of these, most are", most);

    // Findings that were deleted meanwhile exist again: every CloudScan was reconciled.
    world.operator.kill();
    for n in 0..NAMESPACES {
        let namespace = format!("team-{n}");
        let api: Api<ResourceFinding> = Api::namespaced(world.client.clone(), &namespace);
        let one = api.list_metadata(&ListParams::default().limit(1)).await.unwrap().items.remove(0);
        api.delete(&one.metadata.name.unwrap(), &kube::api::DeleteParams::default()).await.unwrap();
    }
    let started = Instant::now();
    world.operator.restart().await;
    row("after a restart: ready", format!("{:.1} s", started.elapsed().as_secs_f64()));
    until("what was deleted is back", || async { findings(&world.client).await >= expected }).await;
    row("after a restart: everything is as it should be", format!("{:.0} s", started.elapsed().as_secs_f64()));
    tokio::time::sleep(QUIET / 4).await;
    let (peak, now) = world.operator.process.memory_kib();
    row("memory after a restart, peak", format!("{:.0} MiB, {:.0} MiB", mib(now), mib(peak)));

    let kubeconfig = world.cluster.kubeconfig().display().to_string();
    let own = std::env::current_exe().unwrap();
    let plain = Process::start(world.dir.path(), "plain", &own, ["plain"], &[("KUBECONFIG", kubeconfig)]);
    tokio::time::sleep(QUIET / 4).await;
    let (peak_of_plain, of_plain) = plain.memory_kib();
    row(
        "a plain kube-rs controller of the same objects, peak",
        format!("{:.0} MiB, {:.0} MiB", mib(of_plain), mib(peak_of_plain)),
    );
    row("the operator's memory beside it", format!("{:.1} x", now as f64 / of_plain as f64));
    write(&rows, scans, expected);
}

fn write(rows: &[(String, String)], scans: usize, findings: usize) {
    let Some(path) = std::env::var_os("TABLE") else { return };
    let mut text = format!(
        "<!-- Written by `make bench-control-plane`. Do not edit. -->\n\n# What the operator takes of a control plane\n\n\
         {scans} CloudScans with {EACH} findings each, {findings} in all, through kube-apiserver and etcd on the same two \
         cores, with the binary of the dev profile. Writes are paced at 100 a second over all CloudScans, after a burst of \
         200.\n\n| | |\n|---|---|\n"
    );
    for (what, value) in rows {
        writeln!(text, "| {what} | {value} |").unwrap();
    }
    std::fs::write(Path::new(&path), text).unwrap();
}
