//! The chart: what it allows, what it forbids, and how it is uninstalled.

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

    // Nothing waits for the operator after it is uninstalled.
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
async fn where_namespaces_are_named_the_others_are_out_of_reach() {
    let world = World::start_in(&["team-a", "team-b"]).await;
    let bare = world.hands(A, IRELAND).await.volume(&[]).await;
    for namespace in ["team-a", "team-b", "team-c"] {
        world.apply_scan(namespace, "one", &world.scan_spec(&[A]));
    }
    for namespace in ["team-a", "team-b"] {
        world.wait_for_open(namespace, &[format!("Untagged {bare}")]).await;
    }
    let status = world.scan("team-c", "one").await.status.unwrap_or_default();
    assert!(
        status.observed_generation == Some(-1) && status.conditions.is_empty(),
        "nobody takes it up: {status:?}"
    );
    let can = |args: &[&str]| {
        let query = ["auth", "can-i", "list", "cloudscans.elava.dev", "--as=system:serviceaccount:elava:elava"];
        world.cluster.kubectl(&[&query, args].concat()).status.success()
    };
    assert!(can(&["-n", "team-a"]) && !can(&["-n", "team-c"]) && !can(&["-A"]));

    let elava = |environment: &[(&str, &str)], args: &[&str]| {
        let mut elava = std::process::Command::new(crate::support::operator::binary());
        let elava = elava.arg("status").args(args).env("KUBECONFIG", world.cluster.kubeconfig());
        let elava = elava.envs(environment.iter().copied()).args(["--operator", &world.operator.url()]);
        let output = elava.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let status = |namespace: &str| elava(&[], &["--namespace", namespace]);
    // As in its pod: without a namespace argument it checks the namespaces that the operator watches.
    let (code, text) = elava(&[("ELAVA_WATCH_NAMESPACE", "team-a,team-b")], &[]);
    assert!(code == Some(0) && text.contains("Nothing is wrong."), "{code:?} {text}");
    let (code, text) = status("team-a");
    assert!(code == Some(0) && text.contains("Nothing is wrong."), "{code:?} {text}");
    let (code, text) = status("team-c");
    assert!(
        code == Some(2) && text.contains("cloudscan/team-c/one") && text.contains("NotTakenUp"),
        "{code:?} {text}"
    );
}

/// All features of the chart, as in tests/golden/chart-full.yaml.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_the_chart_is_accepted_and_roles_are_for_whom_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = crate::support::cluster::Cluster::start(dir.path()).await;
    let root = env!("CARGO_MANIFEST_DIR");
    for namespace in ["team-a", "team-b"] {
        cluster.run(&["create", "namespace", namespace]);
    }
    let (chart, values) = (format!("{root}/charts/elava"), format!("{root}/tests/golden/chart-full-values.yaml"));
    // Without two objects of the Prometheus operator, which is not installed here.
    let without = "monitoring.serviceMonitor.enabled=false,monitoring.prometheusRule.enabled=false";
    let install = ["install", "elava", &chart, "-n", "elava", "--create-namespace", "--values", &values];
    cluster.helm(&[&install[..], &["--set", without]].concat());
    let names = std::cell::Cell::new(0);
    let scan = |namespace: &str, aws: serde_json::Value| {
        names.set(names.get() + 1);
        let scan = serde_json::json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
            "metadata": {"name": format!("scan-{}", names.get()), "namespace": namespace},
            "spec": {"provider": {"aws": aws}},
        });
        cluster.apply(&scan.to_string())
    };
    let account = |role: &str| {
        let id = role.split(':').nth(4).expect("an ARN has an account");
        serde_json::json!({"accounts": [{"id": id, "roleARN": role}]})
    };
    let mine = "arn:aws:iam::111122223333:role/elava";
    // A policy takes effect a moment after it is created.
    let in_force = || async {
        scan("team-b", account(mine)).map_or_else(|_| Ok(()), |_| Err("it is not in force yet".to_owned()))
    };
    eventually("what is not allowed is refused", in_force).await;
    let own = serde_json::json!({});
    let member = |name: &str| serde_json::json!({"organization": {"roleName": name, "listRoleARN": mine}});
    let with_keys =
        serde_json::json!({"credentialsSecretRef": {"name": "keys"}, "accounts": [{"id": A, "roleARN": mine}]});
    let cases = [
        ("team-a", account(mine), None),
        ("team-a", account("arn:aws:iam::111122223333:role/admin"), Some("role/admin")),
        ("team-a", own.clone(), Some("own")),
        ("team-a", member("elava"), Some("arn:aws:iam::*:role/elava")),
        ("team-b", own, None),
        ("team-b", member("audit"), Some(mine)),
        ("team-b", account("arn:aws:iam::444455556666:role/audit/elava"), None),
        ("team-b", with_keys, None),
    ];
    for (namespace, aws, refused) in cases {
        match (scan(namespace, aws.clone()), refused) {
            (Ok(_), None) => {}
            (Err(error), Some(role)) => {
                let reported = format!("CloudScans in the namespace {namespace} may not use ");
                assert!(error.contains(&reported) && error.contains(role), "{error}");
            }
            (reported, _) => panic!("{namespace} {aws}: {reported:?}"),
        }
    }

    // The values of docs/hardening.md.
    let hardened = format!("{root}/charts/elava/ci/multi-tenant-values.yaml");
    // Reinstalled, because a StatefulSet's claim templates are immutable.
    cluster.helm(&["uninstall", "elava", "-n", "elava"]);
    // The claim for backups stays, and is immutable, too.
    let without = ["--set", "backup.enabled=false"];
    cluster.helm(&[&["install", "elava", &chart, "-n", "elava", "--values", &hardened][..], &without].concat());
    let in_force = || async {
        scan("team-b", account("arn:aws:iam::444455556666:role/audit/elava"))
            .map_or_else(|_| Ok(()), |_| Err("it is not in force yet".to_owned()))
    };
    eventually("another role of team-b is refused", in_force).await;
    scan("team-b", account("arn:aws:iam::444455556666:role/elava")).expect("its own is allowed");
    scan("team-a", account("arn:aws:iam::444455556666:role/elava")).expect_err("the other's is not");
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
