//! How users act on findings: they acknowledge, exempt and read them.

use std::time::Duration;

use elava::api::FindingState;
use serde_json::json;

use crate::support::world::{IRELAND, World, name_of};
use crate::support::{eventually, holds_for};

const A: &str = "111122223333";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_or_exempted_shows_it_and_opens_again_when_that_ends() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (known, scratch) = (hands.volume(&[]).await, hands.volume(&[]).await);
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_open("team-a", &[format!("Untagged {known}"), format!("Untagged {scratch}")]).await;
    let findings = world.findings("team-a").await;
    let name = |id: &str| {
        let finding = findings.iter().find(|f| f.status.as_ref().is_some_and(|s| s.id == id));
        name_of(finding.expect("it is there"))
    };
    let is = |id: String, state: FindingState| {
        let world = &world;
        async move {
            let check = || async {
                let in_state = world.findings_in("team-a", state).await;
                if in_state.contains(&format!("Untagged {id}")) { Ok(()) } else { Err(format!("{in_state:?}")) }
            };
            eventually(&format!("{id} is {state:?}"), check).await;
        }
    };
    let annotate = |value: &str| {
        world.cluster.run(&["annotate", "resourcefinding", &name(&known), "-n", "team-a", value]);
    };
    annotate("elava.dev/acknowledged=ann: on it");
    is(known.clone(), FindingState::Acknowledged).await;
    // The acknowledgement outlives its object. To withdraw it, the annotation is first written on the new object.
    world.cluster.run(&["delete", "resourcefinding", &name(&known), "-n", "team-a"]);
    is(known.clone(), FindingState::Acknowledged).await;
    annotate("elava.dev/acknowledged=ann");
    let noted = || async {
        let findings = world.findings("team-a").await;
        let notes: Vec<_> = findings.iter().filter_map(|f| f.status.as_ref()?.acknowledgement.clone()).collect();
        if notes == ["ann"] { Ok(()) } else { Err(format!("{notes:?}")) }
    };
    eventually("what is written on it is taken over", noted).await;
    annotate("elava.dev/acknowledged-");
    is(known.clone(), FindingState::Open).await;

    let exemption = json!({
        "apiVersion": "elava.dev/v1alpha1", "kind": "FindingExemption",
        "metadata": {"name": "scratch", "namespace": "team-a"},
        "spec": {
            "selector": {"kinds": ["Untagged"], "keyPattern": format!("aws/.*/{scratch}")},
            "reason": "scratch space", "requester": "data-team",
        },
    });
    world.cluster.apply(&exemption.to_string()).expect("it is good");
    is(scratch.clone(), FindingState::Exempted).await;
    let active = ["get", "fex", "scratch", "-n", "team-a", "-o=jsonpath={.status.conditions[0].status}"];
    let is_active = || async {
        let status = world.cluster.run(&active);
        if status == "True" { Ok(()) } else { Err(status) }
    };
    eventually("the exemption is in force", is_active).await;
    world.cluster.run(&["delete", "fex", "scratch", "-n", "team-a"]);
    is(scratch.clone(), FindingState::Open).await;
    let everything = json!({
        "apiVersion": "elava.dev/v1alpha1", "kind": "FindingExemption",
        "metadata": {"name": "all", "namespace": "team-a"},
        "spec": {"selector": {}, "reason": "r", "requester": "q"},
    });
    let refused =
        world.cluster.apply(&everything.to_string()).expect_err("an exemption of everything is a mistake");
    assert!(refused.contains("name what is exempted"), "{refused}");
    let status = world.scan("team-a", "one").await.status.unwrap_or_default();
    assert_eq!(status.findings.map(|f| (f.open, f.exempted)), Some((2, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_cap_one_object_speaks_for_the_rest_and_the_store_lists_them() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    for _ in 0..5 {
        hands.volume(&[]).await;
    }
    let mut spec = world.scan_spec(&[A]);
    spec["findings"] = json!({"maxOpen": 2});
    world.apply_scan("team-a", "one", &spec);
    let check = || async {
        let kinds = world.open_findings("team-a").await;
        let more = kinds.iter().filter(|k| *k == "MoreFindings *").count();
        if (kinds.len(), more) == (3, 1) { Ok(()) } else { Err(format!("{kinds:?}")) }
    };
    eventually("two are told, and one object speaks for the rest", check).await;
    let answer = world.operator.answer(&["findings", "--cloudscan", "team-a/one"]);
    assert_eq!(answer["findings"].as_array().map(Vec::len), Some(5), "{answer}");
    let status = world.scan("team-a", "one").await.status.unwrap_or_default();
    assert_eq!(status.findings.map(|f| (f.open, f.suppressed)), Some((2, 3)));
    spec["findings"] = json!({"maxOpen": 10});
    world.apply_scan("team-a", "one", &spec);
    let check = || async {
        let kinds = world.open_findings("team-a").await;
        if kinds.len() == 5 { Ok(()) } else { Err(format!("{kinds:?}")) }
    };
    eventually("with room for all of them all are told", check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_names_every_kind_and_owners_counts_what_nobody_owns() {
    let world = World::start().await;
    world.hands(A, IRELAND).await.volume(&[("Name", "data")]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    let explained = world.cluster.run(&["explain", "resourcefinding.status", "--recursive=false"]);
    for kind in elava::inventory::FindingKind::ALL {
        assert!(explained.contains(kind.as_str()), "{kind} is explained: {explained}");
    }
    let owners = world.operator.answer(&["owners", "--cloudscan", "team-a/one"]);
    assert!(owners["accounts"][A]["unowned"].as_u64() >= Some(1), "{owners}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_and_goes_is_one_flapping_finding() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let volume = hands.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_open("team-a", &[format!("Untagged {volume}")]).await;
    for _ in 0..2 {
        hands.tag(&volume, &[("x", "y")]).await;
        world.scan_now("team-a", "one").await;
        world.wait_for_open("team-a", &[]).await;
        hands.untag(&volume, &["x"]).await;
        world.scan_now("team-a", "one").await;
        let check = || async {
            let open = world.open_findings("team-a").await;
            if open.is_empty() { Err("nothing is open".to_owned()) } else { Ok(()) }
        };
        eventually("it is told again", check).await;
    }
    world.wait_for_open("team-a", &[format!("Flapping {volume}")]).await;
    for tags in [true, false] {
        if tags {
            hands.tag(&volume, &[("x", "y")]).await;
        } else {
            hands.untag(&volume, &["x"]).await;
        }
        world.scan_now("team-a", "one").await;
    }
    world.wait_for_open("team-a", &[format!("Flapping {volume}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_suspended_is_left_alone_and_goes_on_when_it_is_resumed() {
    /// Access is checked once more after the suspension.
    const MAX_CALLS_WHILE_SUSPENDED: usize = 5;
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let first = format!("Untagged {}", hands.volume(&[]).await);
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = json!("2s");
    spec["resourceTypes"] = json!({"include": ["AWS::EC2::Volume"]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_open("team-a", std::slice::from_ref(&first)).await;
    let calls = || world.proxy.log().len();

    spec["suspend"] = json!(true);
    world.apply_scan("team-a", "one", &spec);
    let suspended = || async {
        let ready = world.condition("team-a", "one", "Ready").await;
        if ready.as_ref().is_some_and(|(_, reason, _)| reason == "Suspended") {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        }
    };
    eventually("it says that it is suspended", suspended).await;
    let before = calls();
    // Four times the interval.
    let left_alone = || async {
        let more = calls() - before;
        if more <= MAX_CALLS_WHILE_SUSPENDED { Ok(()) } else { Err(format!("{more} calls")) }
    };
    holds_for("AWS is left alone", Duration::from_secs(8), left_alone).await;

    let second = format!("Untagged {}", hands.volume(&[]).await);
    spec["suspend"] = json!(false);
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_open("team-a", &[first, second]).await;
}
