//! Teams that share an operator: the objects of one team take nothing from another.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::eventually;
use crate::support::operator::ALLOW_ROLE;
use crate::support::proxy::Fault;
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
const B: &str = "444455556666";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exemption_that_can_not_be_read_takes_nobody_s_out_of_force() {
    let mut world = World::start().await;
    let volume = world.hands(A, IRELAND).await.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    let exempt = |namespace: &str, expires: &str| {
        json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "FindingExemption",
            "metadata": {"name": "scratch", "namespace": namespace},
            "spec": {
                "selector": {"kinds": ["Untagged"]}, "reason": "scratch space", "requester": "data-team",
                "expiresAt": expires,
            },
        })
        .to_string()
    };
    world.cluster.apply(&exempt("team-a", "2100-01-01T00:00:00Z")).expect("it is good");
    eventually("it is held back", || is_exempted(&world, &volume)).await;

    world.cluster.run(&["create", "namespace", "team-b"]);
    for bad in ["2027-06-30T00:00:00+99:99", "9999-12-31T23:59:59Z", "2027-06-30 00:00:00", "soon"] {
        let refused = world.cluster.apply(&exempt("team-b", bad)).expect_err("no moment");
        assert!(refused.contains("expiresAt"), "{refused}");
    }
    // A value that an older CRD accepted.
    let expires = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/expiresAt";
    let older = json!([
        {"op": "remove", "path": format!("{expires}/pattern")},
        {"op": "remove", "path": format!("{expires}/format")},
    ]);
    let crd = "findingexemptions.elava.dev";
    world.cluster.run(&["patch", "crd", crd, "--type=json", "-p", &older.to_string()]);
    let is_let_through =
        || async { world.cluster.apply(&exempt("team-b", "2027-06-30T00:00:00+99:99")).map(drop) };
    eventually("the API server takes the CRD up", is_let_through).await;
    let is_reported = || async {
        let events = world.cluster.run(&["get", "events", "-n", "team-b", "-o=jsonpath={.items[*].reason}"]);
        if events.contains("Unreadable") { Ok(()) } else { Err(events) }
    };
    eventually("whoever wrote it hears of it", is_reported).await;

    world.operator.restart().await;
    let before = world.scan("team-a", "one").await.status.and_then(|status| status.last_scan);
    let has_scanned = || async {
        let last = world.scan("team-a", "one").await.status.and_then(|status| status.last_scan);
        if last == before { Err(format!("{last:?}")) } else { Ok(()) }
    };
    eventually("it goes on after the restart", has_scanned).await;
    eventually("it is still held back", || is_exempted(&world, &volume)).await;
    let events = world.cluster.run(&["get", "events", "-n", "team-a", "-o=jsonpath={.items[*].reason}"]);
    assert!(!events.contains("ExemptionEnded"), "nor was it told meanwhile: {events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_s_credentials_are_for_those_whom_the_administrator_names() {
    let mut world = World::start_with(vec![(ALLOW_ROLE, format!("team-a=arn:aws:iam::{A}:role/elava"))]).await;
    let volume = world.hands(A, IRELAND).await.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_open("team-a", &[format!("Untagged {volume}")]).await;
    // Another namespace, and another account: neither is allowed.
    let own = json!({"provider": {"aws": {"endpointURL": world.proxy.url}}});
    for (namespace, name, spec) in [
        ("team-b", "same", world.scan_spec(&[A])),
        ("team-b", "own", own),
        ("team-a", "more", world.scan_spec(&[A, B])),
    ] {
        world.apply_scan(namespace, name, &spec);
        let (reason, message) = world.wait_for_condition(namespace, name, "Stalled", "True").await;
        assert_eq!(reason, "RoleNotAllowed", "{namespace}/{name}");
        assert!(message.contains("--allow-role="), "{message}");
    }
    assert!(world.open_findings("team-b").await.is_empty());

    // The permission is withdrawn: from the start nothing is scanned, and the recorded resources stay.
    let requested = world.proxy.fault(|call| call.account == A, Fault::Slow(Duration::ZERO));
    world.scan_now("team-a", "one").await;
    let before = world.proxy.hits(requested);
    assert!(before > 0, "it is looked at");
    world.operator.kill();
    let before = world.proxy.hits(requested);
    world.operator.restart_with(ALLOW_ROLE, "team-a=arn:aws:iam::999988887777:role/elava").await;
    let (reason, _) = world.wait_for_condition("team-a", "one", "Stalled", "True").await;
    assert_eq!(reason, "RoleNotAllowed");
    assert_eq!(world.proxy.hits(requested), before, "not once since the restart");
    assert_eq!(world.ids(A, "AWS::EC2::Volume"), std::slice::from_ref(&volume));
    world.operator.restart_with(ALLOW_ROLE, "*=arn:aws:iam::*:role/elava").await;
    world.scan_now("team-a", "one").await;
    assert!(world.proxy.hits(requested) > before, "it goes on");
    // Two CloudScans without proven visibility that arrive together are each tried with their own credentials, in
    // order.
    world.wait_for_open("team-b", &[format!("Untagged {volume}")]).await;
    // "one" and "more" each report it.
    world.wait_for_open("team-a", &vec![format!("Untagged {volume}"); 2]).await;

    // A spec that is refused while it runs ends its scans, and removes nothing that was recorded.
    let open = world.open_findings("team-a").await;
    let mut typo = world.scan_spec(&[A]);
    typo["resourceTypes"] = json!({"include": ["AWS::EC2::Volumes"]});
    world.apply_scan("team-a", "one", &typo);
    let (reason, _) = world.wait_for_condition("team-a", "one", "Stalled", "True").await;
    assert_eq!(reason, "InvalidSpec");
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "Stalled", "False").await;
    world.scan_now("team-a", "one").await;
    assert_eq!(world.open_findings("team-a").await, open);
    let events = world.cluster.run(&["get", "events", "-n", "team-a", "-o=jsonpath={.items[*].reason}"]);
    assert!(!events.contains("NoLongerWatched"), "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_stop_neither_health_nor_metrics() {
    let world = World::start_with_query_api().await;
    let operator: SocketAddr = world.operator.url().trim_start_matches("http://").parse().unwrap();
    let mut half_open = Vec::new();
    for _ in 0..1200 {
        let mut stream = TcpStream::connect(operator).await.unwrap();
        // Connections that the server has closed may fail here.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await;
        half_open.push(stream);
    }
    for path in ["livez", "readyz", "metrics"] {
        let answer = reqwest::get(format!("{}/{path}", world.operator.url())).await.expect(path);
        assert!(answer.status().is_success(), "{path}");
    }
    let handles = format!("/proc/{}/fd", world.operator.process.id());
    let are_few = || async {
        let open = std::fs::read_dir(&handles).unwrap().count();
        if open < 300 { Ok(()) } else { Err(format!("{open} open files")) }
    };
    eventually("it holds few of them", are_few).await;
}

async fn is_exempted(world: &World, volume: &str) -> Result<(), String> {
    let exempted = world.findings_in("team-a", elava::api::FindingState::Exempted).await;
    if exempted.contains(&format!("Untagged {volume}")) { Ok(()) } else { Err(format!("{exempted:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_no_more_than_the_administrator_allows() {
    let limits = vec![
        ("ELAVA_MIN_INTERVAL", "2h".to_owned()),
        ("ELAVA_NAMESPACE_CLOUDSCANS", "2".to_owned()),
        ("ELAVA_NAMESPACE_RESOURCES", "1000".to_owned()),
        ("ELAVA_NAMESPACE_OPEN_FINDINGS", "3".to_owned()),
    ];
    let mut world = World::start_with(limits).await;
    let hands = world.hands(A, IRELAND).await;
    for _ in 0..4 {
        hands.volume(&[]).await;
    }
    world.apply_scan("team-a", "first", &world.scan_spec(&[A]));
    world.scan_now("team-a", "first").await;
    let raised = || async {
        let (_, _, message) = world.condition("team-a", "first", "Ready").await.unwrap_or_default();
        if message.contains("every 2h") && message.contains("1h") { Ok(()) } else { Err(message) }
    };
    eventually("it says that its interval is longer than it asked for", raised).await;
    let next = world.scan("team-a", "first").await.status.and_then(|status| status.next_scan_time);
    let in_seconds = next.expect("it is known").as_millis() / 1000 - jiff::Timestamp::now().as_second();
    assert!(in_seconds > 3600, "the next look is in {in_seconds} s");
    // The first request was handled at once; the second one is deferred, and the condition says so.
    let sooner = world.request_scan("team-a", "first").await;
    let deferred = || async {
        let (_, _, message) = world.condition("team-a", "first", "Ready").await.unwrap_or_default();
        let is_reported = message.contains("starts at") && message.contains("one every 2h");
        if is_reported { Ok(()) } else { Err(message) }
    };
    eventually("the second request is deferred", deferred).await;
    let handled = world.scan("team-a", "first").await.status.and_then(|status| status.last_handled_reconcile_at);
    assert_ne!(handled, Some(sooner));
    let open = || async {
        let open = world.open_findings("team-a").await;
        // For each CloudScan one more finding stands for the missing ones.
        let reported = open.iter().filter(|finding| !finding.starts_with("MoreFindings")).count();
        if reported == 3 && open.len() > 3 { Ok(()) } else { Err(format!("{open:?}")) }
    };
    eventually("three findings are open", open).await;

    // Other CloudScans of the namespace find no room; another namespace has its own limit.
    world.apply_scan("team-a", "second", &world.scan_spec(&[A]));
    world.scan_now("team-a", "second").await;
    world.apply_scan("team-a", "third", &world.scan_spec(&[A]));
    let (reason, message) = world.wait_for_condition("team-a", "third", "Stalled", "True").await;
    assert!(reason == "TooManyCloudScans" && message.contains("namespaceLimits.cloudScans"), "{message}");
    eventually("still three are open, all of the first", open).await;
    world.cluster.run(&["create", "namespace", "team-b"]);
    world.apply_scan("team-b", "one", &world.scan_spec(&[A]));
    world.scan_now("team-b", "one").await;

    // A CloudScan with too many resources is refused, and the recorded resources stay.
    world.operator.restart_with("ELAVA_NAMESPACE_RESOURCES", "3").await;
    let (reason, message) = world.wait_for_condition("team-a", "first", "Stalled", "True").await;
    assert!(reason == "TooManyResources" && message.contains("namespaceLimits.resources"), "{message}");
    assert!(world.ids(A, "AWS::EC2::Volume").len() >= 4);
    world.operator.restart_with("ELAVA_NAMESPACE_RESOURCES", "1000").await;
    world.wait_for_condition("team-a", "first", "Stalled", "False").await;
}

/// Deletes it and everything in it, as the controllers do that this control plane does not run.
async fn delete_namespace(world: &World, namespace: &str) {
    for kind in ["cloudscans", "resourcefindings"] {
        world.cluster.run(&["delete", kind, "--all", "-n", namespace, "--wait=true"]);
    }
    world.cluster.run(&["delete", "namespace", namespace, "--wait=false"]);
    let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string();
    let path = world.dir.path().join("finalized.json");
    std::fs::write(&path, finalized).unwrap();
    let url = format!("/api/v1/namespaces/{namespace}/finalize");
    world.cluster.run(&["replace", "--raw", &url, "-f", &path.display().to_string()]);
    let gone = || async {
        let left = world.cluster.run(&["get", "namespaces", "-o", "name"]);
        if left.contains(&format!("namespace/{namespace}\n")) { Err(left) } else { Ok(()) }
    };
    eventually("the namespace is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_made_again_sees_nothing_of_its_predecessor_s_past() {
    let mut world = World::start_with_query_api().await;
    let volume = world.hands(A, IRELAND).await.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Untagged {volume}")]).await;
    let get = |args: &[&str]| {
        let output = world.cluster.kubectl(&[&["get", "-n", "team-a"], args].concat());
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let before = world.operator.answer(&["get"])["revision"].to_string();
    let of_then = format!("asOf={before}");
    let past: [&[&str]; 4] = [
        &["cloudresources", "--field-selector", &of_then],
        &["resourcechanges", "--field-selector", "from=0"],
        &["resourcehistories", "-o", "name", "--field-selector", &format!("id={volume}")],
        &["cloudresources"],
    ];
    let shows = || async {
        let reported = past.map(get);
        if reported.iter().all(|reported| reported.contains(&volume)) { Ok(()) } else { Err(reported.join("\n")) }
    };
    eventually("its own past is shown", shows).await;

    // The operator is down and does not see the deletion; a CloudScan of the same name exists when it restarts.
    world.operator.kill();
    delete_namespace(&world, "team-a").await;
    world.cluster.run(&["create", "namespace", "team-a"]);
    // The new team has no access to that account.
    let denied = world.proxy.fault(
        |call| call.account == A,
        Fault::Refuse { status: 403, code: "UnauthorizedOperation", message: "no".to_owned() },
    );
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.operator.restart().await;
    let hides = || async {
        let reported = past.map(get);
        let is_published = reported
            .iter()
            .all(|reported| !reported.contains(&volume) && !reported.contains("ServiceUnavailable"));
        if is_published { Ok(()) } else { Err(reported.join("\n")) }
    };
    eventually("nothing of its predecessor's", hides).await;
    world.wait_for_condition("team-a", "one", "CredentialsValid", "False").await;
    eventually("still nothing", hides).await;
    assert!(get(past[0]).contains("was made again under this name"), "{}", get(past[0]));
    let findings = world.cluster.run(&["get", "resourcefindings", "-n", "team-a"]);
    assert!(!findings.contains(&volume), "{findings}");
    let all = world.cluster.run(&["get", "resourcechanges", "-A", "--field-selector", "from=0"]);
    assert!(all.contains(&volume), "whoever may see all namespaces sees it: {all}");

    // With credentials that work, it sees the present resources.
    world.proxy.heal(denied);
    world.scan_now("team-a", "one").await;
    let now = || async {
        let reported = get(past[3]);
        if reported.contains(&volume) { Ok(()) } else { Err(reported) }
    };
    eventually("what its own credentials show", now).await;

    // The names of other teams' CloudScans are not revealed.
    world.cluster.run(&["create", "namespace", "team-b"]);
    for scan in ["team-b/none", "team-a/one"] {
        let url = format!("/apis/inventory.elava.dev/v1alpha1/namespaces/team-b/reports/owners?cloudscan={scan}");
        let output = world.cluster.kubectl(&["get", "--raw", &url]);
        let reported = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !reported.contains("there are"), "{reported}");
        assert!(scan == "team-a/one" || !reported.contains("team-a/one"), "{reported}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_no_header_can_carry_stop_nobody() {
    let world = World::start().await;
    world.hands(A, IRELAND).await.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.scan_now("team-a", "one").await;
    world.cluster.run(&["create", "namespace", "team-b"]);
    let bind = ["create", "rolebinding", "elava-credentials", "-n", "team-b", "--clusterrole=elava-credentials"];
    world.cluster.run(&[&bind[..], &["--serviceaccount=elava:elava"]].concat());
    // The SDK panics on an access key with a newline; other invalid values are untested.
    let keys = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "team-b"},
        "stringData": {"AWS_ACCESS_KEY_ID": "AKIA\nGOOD", "AWS_SECRET_ACCESS_KEY": "x"},
    });
    world.cluster.apply(&keys.to_string()).expect("it is a Secret");
    let of = |more: serde_json::Value| {
        let mut spec = world.scan_spec(&[A]);
        spec["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "keys"});
        for (field, value) in more.as_object().unwrap() {
            spec["provider"]["aws"][field] = value.clone();
        }
        spec
    };
    let mut organization = of(json!({"organization": {"roleName": "elava"}}));
    organization["provider"]["aws"].as_object_mut().unwrap().remove("accounts");
    for (name, spec) in [("accounts", of(json!({}))), ("organization", organization)] {
        world.apply_scan("team-b", name, &spec);
        let (reason, message) = world.wait_for_condition("team-b", name, "Stalled", "True").await;
        assert!(reason == "InvalidCredentials" && message.contains("AWS_ACCESS_KEY_ID"), "{reason}: {message}");
    }
    world.scan_now("team-a", "one").await;
    let answer = reqwest::get(format!("{}/livez", world.operator.url())).await.expect("it lives");
    assert!(answer.status().is_success());
}
