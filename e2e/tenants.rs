//! Teams that share an operator: what one of them writes takes nothing from another.

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
    // As an older CRD let it through.
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
    // Another namespace, and another account.
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

    // What was allowed is taken away: nothing is looked at from the first moment on, and what was seen stays seen.
    let asked = world.proxy.fault(|call| call.account == A, Fault::Slow(Duration::ZERO));
    world.look("team-a", "one").await;
    let before = world.proxy.hits(asked);
    assert!(before > 0, "it is looked at");
    world.operator.kill();
    let before = world.proxy.hits(asked);
    world.operator.restart_with(ALLOW_ROLE, "team-a=arn:aws:iam::999988887777:role/elava").await;
    let (reason, _) = world.wait_for_condition("team-a", "one", "Stalled", "True").await;
    assert_eq!(reason, "RoleNotAllowed");
    assert_eq!(world.proxy.hits(asked), before, "not once since the restart");
    assert_eq!(world.ids(A, "AWS::EC2::Volume"), std::slice::from_ref(&volume));
    world.operator.restart_with(ALLOW_ROLE, "*=arn:aws:iam::*:role/elava").await;
    world.look("team-a", "one").await;
    assert!(world.proxy.hits(asked) > before, "it goes on");
    world.wait_for_open("team-b", &[format!("Untagged {volume}")]).await;

    // A spec that is refused while it runs ends the looking, and takes nothing of what was seen.
    let open = world.open_findings("team-a").await;
    let mut typo = world.scan_spec(&[A]);
    typo["resourceTypes"] = json!({"include": ["AWS::EC2::Volumes"]});
    world.apply_scan("team-a", "one", &typo);
    let (reason, _) = world.wait_for_condition("team-a", "one", "Stalled", "True").await;
    assert_eq!(reason, "InvalidSpec");
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "Stalled", "False").await;
    world.look("team-a", "one").await;
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
        // Who was let go of may find that out here.
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
