//! The chart in a pod on a real node, as in a real installation, and the failures that happen to such pods.
//!
//! `cargo test --test e2e -- pods --nocapture` prints how long each recovery took. `ELAVA_OUTAGE_SECONDS` (20) sets how
//! long the API server and the cloud are away. On a machine that can't run a node, these tests report the reason and
//! end.

use std::path::Path;
use std::time::{Duration, Instant};

use elava::api::FindingState;
use serde_json::{Value, json};

use crate::support::aws::Hands;
use crate::support::cluster::chart;
use crate::support::eventually;
use crate::support::node::{Installation, NAMESPACE, POD, STORE_CLAIM, lacks};
use crate::support::proxy::{Call, Fault};
use crate::support::world::IRELAND;

const A: &str = "111122223333";
pub const TEAM: &str = "team-a";
const SCAN: &str = "one";
pub const STORE: &str = "elava.redb";

/// The maximum number of identical log lines, plus one for every ten seconds of an outage: more lines indicate a loop.
const MAX_IDENTICAL_LINES: usize = 20;

fn outage() -> Duration {
    let seconds = std::env::var("ELAVA_OUTAGE_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Whether this machine can run a node. Prints the reason if it can't, or fails with it where a node is required (CI).
pub fn can_run_node() -> bool {
    let is_required = std::env::var("ELAVA_NODE").is_ok_and(|node| node == "required");
    match lacks() {
        None => true,
        Some(why) if is_required => panic!("a node is required, and there is none on this machine: {why}"),
        Some(why) => {
            println!("skipped: no node on this machine: {why}");
            false
        }
    }
}

/// An installation whose cloud is known, so that everything can be checked after any failure.
pub struct CheckedInstallation {
    pub pods: Installation,
    hands: Hands,
    /// The findings that must be open.
    pub open: Vec<String>,
    /// The answers for earlier moments: they must never change.
    answered: Vec<(u64, Vec<String>)>,
    recoveries: Vec<(String, Duration)>,
}

impl CheckedInstallation {
    /// One account, scanned every two seconds.
    pub async fn begin(pods: Installation) -> Self {
        let hands = pods.aws.hands(A, IRELAND).await;
        let mut life = Self { pods, hands, open: Vec::new(), answered: Vec::new(), recoveries: Vec::new() };
        life.create_untagged_volume().await;
        let mut spec = life.pods.scan_spec(&[A]);
        spec["interval"] = json!("2s");
        spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
        life.pods.apply_scan(TEAM, SCAN, &spec);
        life
    }

    /// Creates an untagged volume, which opens a new finding.
    async fn create_untagged_volume(&mut self) {
        let id = self.hands.volume(&[]).await;
        self.open.push(format!("Untagged {id}"));
    }

    fn ids(&self, moment: Option<u64>) -> Result<(u64, Vec<String>), String> {
        let answer = match moment {
            None => self.pods.query(&["get"]),
            Some(revision) => self.pods.query(&["at", &revision.to_string()]),
        }?;
        let resources = answer["resources"].as_array().ok_or("no resources")?;
        let ids = resources.iter().map(|r| format!("{} {}", r["type"], r["id"])).collect();
        Ok((answer["revision"].as_u64().ok_or("no revision")?, ids))
    }

    pub async fn remember(&mut self) {
        let ids = || async { self.ids(None) };
        let now = eventually("the operator answers", ids).await;
        self.answered.push(now);
    }

    /// Checks that everything is correct after `what`: the new change is found, earlier findings stay open, and earlier
    /// answers are unchanged.
    pub async fn assert_recovered(&mut self, what: &str, since: Instant) {
        self.create_untagged_volume().await;
        self.pods.wait_for_open(TEAM, &self.open).await;
        self.recoveries.push((what.to_owned(), since.elapsed()));
        println!("{:>6.1} s  {what}", since.elapsed().as_secs_f64());
        for (revision, ids) in &self.answered {
            let then = || async { self.ids(Some(*revision)) };
            let (_, again) = eventually("the past is answered", then).await;
            assert_eq!(&again, ids, "after {what} revision {revision} is answered differently");
        }
        let newest = self.answered.last().map_or(0, |(revision, _)| *revision);
        self.remember().await;
        let now = self.answered.last().map_or(0, |(revision, _)| *revision);
        assert!(now > newest, "revisions never go back: {newest}, then {now}");
        let resolved = self.pods.findings_in(TEAM, FindingState::Resolved).await;
        assert_eq!(resolved, Vec::<String>::new(), "after {what} something is said to be mended");
        self.assert_no_log_loop(what);
    }

    /// No error is logged repeatedly.
    fn assert_no_log_loop(&self, what: &str) {
        let log = self.pods.log();
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                panic!("a line of the log is no JSON: {line}")
            };
            if line["level"] == "ERROR" || line["level"] == "WARN" {
                let what = format!("{} {}", line["message"].as_str().unwrap_or_default(), line["object"]);
                *counts.entry(what).or_default() += 1;
            }
        }
        let most = MAX_IDENTICAL_LINES + usize::try_from(outage().as_secs() / 10).unwrap_or_default();
        let looped: Vec<_> = counts.into_iter().filter(|(_, count)| *count > most).collect();
        assert!(looped.is_empty(), "after {what} the log repeats itself: {looped:?}");
    }

    pub async fn until_another_pod_is_ready(&self, before: &str) {
        let another = || async {
            match self.pods.uid() {
                Some(uid) if uid != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        eventually("there is another pod", another).await;
        self.pods.until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_anything_happens_to_goes_on_where_it_was() {
    if !can_run_node() {
        return;
    }
    let pods = Installation::prepare().await;
    let volume = pods.node.volume("store", STORE_CLAIM);
    let installed = Instant::now();
    pods.install(&[]);
    println!("{:>6.1} s  helm install --wait", installed.elapsed().as_secs_f64());
    let mut life = CheckedInstallation::begin(pods).await;
    life.pods.wait_for_condition(TEAM, SCAN, "FirstScanComplete", "True").await;
    life.pods.wait_for_open(TEAM, &life.open.clone()).await;
    let first = installed.elapsed();
    println!("{:>6.1} s  from helm install to the first findings", first.as_secs_f64());
    assert!(first < Duration::from_mins(1), "the first scan is on the screen within a minute: {first:?}");
    life.remember().await;
    as_users_have_it(&life).await;

    let before = life.pods.uid().expect("it runs");
    let since = Instant::now();
    life.pods.node.run(&["delete", "pod", POD, "-n", NAMESPACE]);
    life.until_another_pod_is_ready(&before).await;
    life.assert_recovered("the pod was deleted", since).await;

    let (restarts, since) = (life.pods.restarts(), Instant::now());
    life.pods.node.exec(&["pkill", "-KILL", "-x", "elava"]);
    let restarted = || async { if life.pods.restarts() > restarts { Ok(()) } else { Err("not yet".to_owned()) } };
    eventually("the kubelet starts it again", restarted).await;
    life.pods.until_ready().await;
    life.assert_recovered("the operator was killed", since).await;

    let restarts = life.pods.restarts();
    for component in ["containerd", "kubelet"] {
        let since = Instant::now();
        life.pods.node.kill(component);
        life.pods.node.restart(component);
        life.assert_recovered(&format!("{component} was killed and started again"), since).await;
    }
    assert_eq!(life.pods.restarts(), restarts, "the pod runs on while they restart");

    // Longer than any timeout.
    life.pods.node.kill("apiserver");
    let (calls, away) = (life.pods.proxy.log().len(), Instant::now());
    let gone = life.hands.volume(&[("owner", "team-a")]).await;
    tokio::time::sleep(outage()).await;
    life.hands.delete_volume(&gone).await;
    assert!(life.pods.proxy.log().len() > calls, "scanning goes on without an API server");
    life.pods.node.restart("apiserver");
    life.pods.node.until_the_api_server_answers().await;
    let since = Instant::now();
    // It was created and deleted meanwhile: only this is new.
    life.open.push(format!("Disappeared {gone}"));
    let what = format!("the API server was away for {} s", away.elapsed().as_secs());
    life.assert_recovered(&what, since).await;
    assert_eq!(life.pods.restarts(), restarts, "the pod ran on without an API server");

    life.pods.proxy.stop();
    let (reason, message) = life.pods.wait_for_condition(TEAM, SCAN, "InventoryComplete", "False").await;
    assert_eq!(reason, "Unreachable", "{message}");
    tokio::time::sleep(outage() / 10).await;
    life.pods.proxy.serve_again().await;
    let since = Instant::now();
    life.assert_recovered("the cloud was away", since).await;

    let since = Instant::now();
    life.pods.node.until_pods_start().await;
    println!("{:>6.1} s  until the rest of the cluster was back as well", since.elapsed().as_secs_f64());
    too_little_memory(&mut life).await;
    a_full_volume(&mut life, &volume).await;
    println!("{}", life.pods.node.run(&["get", "pods,pvc,cloudscans,resourcefindings", "-A"]));
}

/// Checks the pod (restricted, with probes, a projected token and DNS), and the aggregated API behind its Service.
async fn as_users_have_it(life: &CheckedInstallation) {
    let node = &life.pods.node;
    let pod: Value = serde_json::from_str(&node.run(&["get", "pod", POD, "-n", NAMESPACE, "-o=json"])).unwrap();
    let spec = &pod["spec"];
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    let volumes = spec["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().any(|v| v["projected"]["sources"][0]["serviceAccountToken"].is_object()),
        "{volumes:?}"
    );
    let shell = node.kubectl(&["exec", "-n", NAMESPACE, POD, "--", "sh", "-c", "true"]);
    assert!(!shell.status.success(), "there is no shell in the image");
    let reported = life.pods.finding_events(TEAM).await;
    assert_eq!(reported.get("Untagged"), Some(&1), "{reported:?}");

    let available = "--for=condition=Available";
    node.run(&["wait", available, "apiservice/v1alpha1.inventory.elava.dev", "--timeout=60s"]);
    let listed = || async {
        let output = node.kubectl(&["get", "cloudresources", "-n", TEAM, "-o=name"]);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() && out.contains("vol-") { Ok(()) } else { Err(format!("{out}{err}")) }
    };
    eventually("kubectl get cloudresources lists what the operator saw", listed).await;
    let test = life.pods.node.try_helm(&["test", "elava", "--namespace", NAMESPACE, "--timeout", "60s"]);
    test.unwrap_or_else(|error| panic!("{error}"));
}

/// A memory limit that is too low, and then a sufficient one.
async fn too_little_memory(life: &mut CheckedInstallation) {
    let limit = |memory: &str| format!("resources.limits.memory={memory},resources.requests.memory=8Mi");
    life.pods.helm("upgrade", &chart(), &["--set", &limit("12Mi")]).unwrap();
    let path = "-o=jsonpath={.status.containerStatuses[0]['state','lastState'].terminated.reason}";
    let killed = || async {
        let output = life.pods.node.kubectl(&["get", "pod", POD, "-n", NAMESPACE, path]);
        let why = String::from_utf8_lossy(&output.stdout).into_owned();
        if why.contains("OOMKilled") {
            return Ok(());
        }
        let pod = life.pods.node.kubectl(&["get", "pod", POD, "-n", NAMESPACE, "-o=jsonpath={.status}"]);
        Err(format!("{why} {}", String::from_utf8_lossy(&pod.stdout)))
    };
    eventually("it is out of memory", killed).await;
    let since = Instant::now();
    life.pods.node.try_helm(&["rollback", "elava", "--namespace", NAMESPACE]).unwrap();
    // A StatefulSet waits for a pod that never becomes ready: https://github.com/kubernetes/kubernetes/issues/67250
    life.pods.node.run(&["delete", "pod", POD, "-n", NAMESPACE]);
    life.pods.until_ready().await;
    life.assert_recovered("it was out of memory until its limit was raised", since).await;
}

/// With a full volume the operator answers queries, and it continues by itself once the volume is larger.
async fn a_full_volume(life: &mut CheckedInstallation, volume: &Path) {
    life.pods.scale(0).await;
    let at = volume.display().to_string();
    let small = format!(
        "cp -p {at}/{STORE} {at}.aside && mount -t tmpfs -o size=16m,mode=0777 tmpfs {at} && cp -p {at}.aside {at}/{STORE}"
    );
    life.pods.node.exec(&["sh", "-c", &small]);
    life.pods.scale(1).await;
    // Fills the remaining space.
    let filler = format!("cat /dev/zero > {at}/filler; true");
    life.pods.node.exec(&["sh", "-c", &filler]);
    life.create_untagged_volume().await;
    let (reason, message) = life.pods.wait_for_condition(TEAM, SCAN, "Ready", "False").await;
    assert_eq!(reason, "DiskFull", "{message}");
    assert!(life.ids(None).is_ok(), "it still answers");
    let since = Instant::now();
    life.pods.node.exec(&["mount", "-o", "remount,size=64m", &at]);
    life.assert_recovered("its volume was full until it was enlarged", since).await;
    assert_eq!(life.pods.restarts(), 0, "it goes on without a restart");
}

const ACCOUNTS: usize = 50;
const IN_AN_ACCOUNT: usize = 2_000;

/// Volumes with an owner, different ones for each account.
fn volumes(call: &Call) -> String {
    let item = |n: usize| {
        format!(
            "<item><volumeId>vol-{}{n:05}</volumeId><size>8</size><status>in-use</status><volumeType>gp3</volumeType>\
             <availabilityZone>{IRELAND}a</availabilityZone><createTime>2026-01-01T00:00:00.000Z</createTime>\
             <tagSet><item><key>owner</key><value>team-{}</value></item></tagSet></item>",
            call.account,
            n % 20
        )
    };
    let items: String = (0..IN_AN_ACCOUNT).map(item).collect();
    format!(
        "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <volumeSet>{items}</volumeSet></DescribeVolumesResponse>"
    )
}

/// A measurement and a bound: within the chart's limit there is room for ten times as many resources.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make e2e runs it"]
async fn what_a_pod_takes_of_memory() {
    if !can_run_node() {
        return;
    }
    let pods = Installation::prepare().await;
    pods.node.volume("store", STORE_CLAIM);
    pods.install(&[]);
    let mib = |pods: &Installation| {
        let (peak, now) = pods.memory_kib();
        (peak / 1024, now / 1024)
    };
    println!("memory of the pod at idle: {} MiB", mib(&pods).1);
    pods.proxy.fault(|call| call.action == "DescribeVolumes" && !call.is_by_id(), Fault::Make(volumes));
    let accounts: Vec<String> = (0..ACCOUNTS).map(|n| format!("{:012}", 100_000_000_000 + n)).collect();
    let mut spec = pods.scan_spec(&accounts.iter().map(String::as_str).collect::<Vec<_>>());
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    spec["resourceTypes"] = json!({"include": ["AWS::EC2::Volume"]});
    pods.apply_scan(TEAM, SCAN, &spec);
    let desired = i64::try_from(ACCOUNTS * IN_AN_ACCOUNT).unwrap();
    let all = || async {
        let known = pods.scan(TEAM, SCAN).await.status.and_then(|status| status.resources);
        if known == Some(desired) { Ok(()) } else { Err(format!("{known:?}")) }
    };
    let since = Instant::now();
    eventually("every resource is known", all).await;
    println!("{:>6.1} s  until {desired} resources are known", since.elapsed().as_secs_f64());
    pods.scan_now(TEAM, SCAN).await;
    let (peak, now) = mib(&pods);
    println!("memory of the pod with {desired} resources: {now} MiB, at most {peak} MiB");
    assert!(peak < 512, "{peak} MiB");
}
