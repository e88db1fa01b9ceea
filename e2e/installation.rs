//! The chart: what it allows, what it does not, and how it goes.

use crate::support::eventually;
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_account_may_do_what_the_operator_does_and_nothing_else() {
    let world = World::start().await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    let can = |verb: &str, resource: &str| {
        let account = "--as=system:serviceaccount:elava:elava";
        world.cluster.kubectl(&["auth", "can-i", verb, resource, "-n", "team-a", account]).status.success()
    };
    let used = [
        ("cloudscans.elava.dev", "get list watch"),
        ("cloudscans.elava.dev/status", "patch"),
        ("resourcefindings.elava.dev", "get list watch create patch delete"),
        ("events.events.k8s.io", "create"),
    ];
    for (resource, verbs) in used {
        for verb in verbs.split(' ') {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let subresource = format!("--subresource={subresource}");
            let account = "--as=system:serviceaccount:elava:elava";
            let allowed =
                world.cluster.kubectl(&["auth", "can-i", verb, resource, &subresource, "-n", "team-a", account]);
            assert!(allowed.status.success(), "{verb} {resource}");
        }
    }
    let denied = [
        ("get", "secrets"),
        ("list", "secrets"),
        ("update", "cloudscans.elava.dev"),
        ("delete", "cloudscans.elava.dev"),
    ];
    for (verb, resource) in
        denied.into_iter().chain([("get", "configmaps"), ("create", "pods"), ("patch", "cloudscans.elava.dev")])
    {
        assert!(!can(verb, resource), "{verb} {resource}");
    }
    let rules = world.cluster.run(&["get", "clusterrole", "elava", "-o", "json"]);
    assert!(!rules.contains("\"*\""), "no wildcard: {rules}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chart_is_uninstalled_and_the_namespaces_are_deleted_and_it_ends() {
    let mut world = World::start().await;
    let bare = world.hands(A, IRELAND).await.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    assert_eq!(world.operator.process.stop(), Some(0), "SIGTERM ends it well: {}", world.operator.process.tail());

    // Without the operator: nothing waits for it.
    world.cluster.helm(&["uninstall", "elava", "--namespace", "elava"]);
    assert!(world.cluster.run(&["get", "cloudscans", "-A"]).contains("one"), "CRDs, and so CloudScans, are kept");
    for namespace in ["team-a", "elava"] {
        world.cluster.run(&["delete", "namespace", namespace, "--wait=false"]);
    }
    let ended = || async {
        let left = world.cluster.run(&["get", "namespaces", "-o", "name"]);
        if left.contains("team-a") || left.contains("/elava") { Err(left) } else { Ok(()) }
    };
    eventually("the namespaces are gone", ended).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kustomize_installs_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = crate::support::cluster::Cluster::start(dir.path()).await;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    cluster.run(&["apply", "--server-side", "-k", &format!("{config}/default")]);
    for crd in ["cloudscans.elava.dev", "findingexemptions.elava.dev", "resourcefindings.elava.dev"] {
        cluster.run(&["wait", "--for=condition=Established", &format!("crd/{crd}"), "--timeout=60s"]);
    }
    cluster.run(&["apply", "-k", &format!("{config}/samples")]);
    assert!(cluster.run(&["get", "statefulset", "-n", "elava", "-o", "name"]).contains("statefulset.apps/elava"));
    let explained = cluster.run(&["explain", "cloudscan.spec.interval"]);
    assert!(explained.contains("Absent means 5m"), "{explained}");
}
