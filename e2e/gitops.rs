//! How GitOps tools handle our objects, with the mechanisms that they are built on: server-side apply with their own
//! field manager, tracking labels, and helm's wait, which reads kstatus.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
const TEAM: &str = "team-a";
const SCAN: &str = "production";
/// The field manager of Argo CD.
const MANAGER: &str = "argocd-controller";
const TRACKING_LABEL: &str = "argocd.argoproj.io/instance";
const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";

/// All manifests in Git.
fn in_git(world: &World, interval: &str) -> String {
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = json!(interval);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    let tracked = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": kind,
            "metadata": {
                "name": name, "namespace": TEAM, "labels": {TRACKING_LABEL: "clouds"},
                "annotations": {TRACKING_ID: format!("clouds:elava.dev/{kind}:{TEAM}/{name}")},
            },
            "spec": spec,
        })
    };
    let exempted = json!({
        "selector": {"kinds": ["Untagged"], "keyPattern": ".*/AWS::EC2::EIP/.*"}, "reason": "kept", "requester": "ann",
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}});
    let items = [namespace, tracked("CloudScan", SCAN, spec), tracked("FindingExemption", "addresses", exempted)];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Syncs as a GitOps tool does: never by force.
fn sync(world: &World, manifest: &str) -> Result<(), String> {
    let path = world.dir.path().join("git.yaml");
    std::fs::write(&path, manifest).unwrap();
    let manager = format!("--field-manager={MANAGER}");
    let synced = world.cluster.kubectl(&["apply", "--server-side", &manager, "-f", &path.display().to_string()]);
    let check = String::from_utf8_lossy(&synced.stderr).into_owned();
    if synced.status.success() { Ok(()) } else { Err(check) }
}

fn object(world: &World, name: &str) -> Value {
    let check = world.cluster.run(&["get", name, "-n", TEAM, "-o", "json", "--show-managed-fields"]);
    serde_json::from_str(&check).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_git_declares_is_nobody_elses_and_what_it_tracks_does_not_spread() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (bare, address) = (hands.volume(&[]).await, hands.address(&[]).await);
    let manifest = in_git(&world, "1h");
    sync(&world, &manifest).unwrap();
    world.wait_for_condition(TEAM, SCAN, "FirstScanComplete", "True").await;
    let untagged = format!("Untagged {bare}");
    let check = || async {
        let open = world.open_findings(TEAM).await;
        if open.contains(&untagged) { Ok(open) } else { Err(format!("{open:?}")) }
    };
    let open = eventually("what is wrong is told", check).await;
    assert!(!open.contains(&format!("Untagged {address}")), "the exemption from Git holds: {open:?}");

    let before = object(&world, "cloudscan/production");
    world.scan_now(TEAM, SCAN).await;
    sync(&world, &manifest).expect("nobody else has what Git declares");
    world.scan_now(TEAM, SCAN).await;
    let after = object(&world, "cloudscan/production");
    assert_eq!(before["metadata"]["generation"], after["metadata"]["generation"], "a reconcile declares nothing");
    for (name, allowed) in [("cloudscan/production", "status"), ("findingexemption/addresses", "status")] {
        let managed = object(&world, name)["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let ours: Vec<&Value> = managed.iter().filter(|entry| entry["manager"] == "elava").collect();
        assert!(!ours.is_empty(), "{name}: {managed:?}");
        for entry in ours {
            assert_eq!(entry["subresource"], allowed, "{name}: the operator has its status alone: {entry}");
        }
    }
    sync(&world, &in_git(&world, "2h")).expect("Git changes what is its own");
    assert_eq!(object(&world, "cloudscan/production")["spec"]["interval"], "2h");

    // A tool prunes an object that has its tracking mark but is not in Git.
    for finding in world.findings(TEAM).await {
        let (labels, annotations) = (finding.metadata.labels, finding.metadata.annotations);
        for marks in [labels.unwrap_or_default(), annotations.unwrap_or_default()] {
            assert!(marks.keys().all(|key| !key.contains("argoproj")), "{marks:?}");
        }
    }
}

/// The lives in the store: key, first seen and last changed.
fn lives(world: &World) -> Vec<(String, Value, Value)> {
    let answer = world.operator.answer(&["get"]);
    let resources = answer["resources"].as_array().unwrap();
    let life = |r: &Value| (format!("{} {}", r["type"], r["id"]), r["firstSeen"].clone(), r["changed"].clone());
    resources.iter().map(life).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_git_deleted_and_applied_again_changes_no_history() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    for _ in 0..3 {
        hands.volume(&[("owner", "team-a")]).await;
    }
    let bare = hands.volume(&[]).await;
    let manifest = in_git(&world, "1h");
    sync(&world, &manifest).unwrap();
    world.wait_for_condition(TEAM, SCAN, "FirstScanComplete", "True").await;
    let before = lives(&world);
    assert!(before.len() > 4, "{before:?}");

    world.cluster.run(&["delete", "cloudscans,findingexemptions", "--all", "-n", TEAM]);
    let unwatched = || async {
        let left = lives(&world);
        if left.is_empty() { Ok(()) } else { Err(format!("{} are watched", left.len())) }
    };
    eventually("nothing is watched any more", unwatched).await;
    sync(&world, &manifest).unwrap();
    world.wait_for_condition(TEAM, SCAN, "FirstScanComplete", "True").await;
    world.scan_now(TEAM, SCAN).await;
    assert_eq!(lives(&world), before, "the same lives go on");
    let steps = world.operator.answer(&["changes", "--since", "1h"]);
    let gone: Vec<&Value> =
        steps["changes"].as_array().unwrap().iter().filter(|step| step["change"] == "Disappeared").collect();
    assert!(gone.is_empty(), "no longer watched is not disappeared: {gone:?}");
    let check = || async {
        let open = world.open_findings(TEAM).await;
        if open.contains(&format!("Untagged {bare}")) { Ok(()) } else { Err(format!("{open:?}")) }
    };
    eventually("what was wrong is told again", check).await;
}

/// Writes a chart with one CloudScan.
fn chart_of(folder: &Path, spec: &Value) {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: clouds\nversion: 1.0.0\n").unwrap();
    let scan = json!({
        "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": SCAN}, "spec": spec,
    });
    std::fs::write(folder.join("templates/scan.yaml"), scan.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_and_kubectl_wait_until_a_cloud_scan_runs_and_hear_of_one_that_can_not() {
    let world = World::start().await;
    let mut spec = world.scan_spec(&[A]);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    let chart = world.dir.path().join("chart");
    chart_of(&chart, &spec);
    let folder = chart.display().to_string();
    let wait = ["--create-namespace", "--wait", "--timeout", "60s"];
    world.cluster.helm(&[&["install", "good", &folder, "--namespace", "good"], &wait[..]].concat());
    for condition in ["Ready", "FirstScanComplete"] {
        let condition = format!("--for=condition={condition}");
        world.cluster.run(&["wait", "cloudscan/production", "-n", "good", &condition, "--timeout=30s"]);
    }
    // An error that only the author can fix is reported, and the wait ends.
    spec["provider"]["aws"]["endpointURL"] = json!("https://elsewhere.example");
    chart_of(&chart, &spec);
    let wait = ["--create-namespace", "--wait", "--timeout", "20s"];
    let refused =
        world.cluster.try_helm(&[&["install", "bad", &folder, "--namespace", "bad"], &wait[..]].concat());
    let refused = refused.expect_err("it is not ready");
    assert!(refused.contains("production"), "{refused}");
    world.cluster.run(&["wait", "cloudscan/production", "-n", "bad", "--for=condition=Stalled", "--timeout=30s"]);
}
