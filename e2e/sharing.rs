//! Several CloudScans of one account.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::support::eventually;
use crate::support::proxy::{Call, Fault};
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
const B: &str = "444455556666";
const OWNED: &[(&str, &str)] = &[("owner", "team-a")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_share_one_listing_and_one_history_and_a_third_without_credentials_sees_nothing() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let bare = hands.volume(&[]).await;
    let spec = world.scan_spec(&[A]);
    world.apply_scan("team-a", "first", &spec);
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    world.apply_scan("team-b", "second", &spec);
    // Its first sweep proves its visibility: it is made with its own credentials, and committed like any other.
    world.wait_for_open("team-b", &[format!("Untagged {bare}")]).await;

    let mut locked_out = spec.clone();
    locked_out["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "keys"});
    world.apply_scan("team-c", "third", &locked_out);
    let (_, message) = world.wait_for_condition("team-c", "third", "Stalled", "True").await;
    assert!(message.contains("may not read the Secret team-c/keys"), "{message}");

    let listings = || {
        world.proxy.count(|c| c.action == "DescribeVolumes" && !c.is_by_id() && c.page == 1 && c.region == IRELAND)
    };
    let before = listings();
    world.scan_now("team-a", "first").await;
    assert_eq!(listings() - before, 1, "one listing serves both");
    let history = world.operator.answer(&["history", &bare]);
    assert_eq!(history["changes"].as_array().unwrap().len(), 1, "one history: {history}");
    hands.tag(&bare, OWNED).await;
    world.scan_now("team-b", "second").await;
    world.wait_for_open("team-a", &[]).await;
    world.wait_for_open("team-b", &[]).await;
    assert!(world.findings("team-c").await.is_empty(), "without proof nothing is seen");
    assert_eq!(world.scan("team-c", "third").await.status.and_then(|s| s.resources), Some(0));

    // After the deletion, the scope is still swept for the other CloudScan, and the deleted one's findings are deleted.
    world.cluster.run(&["delete", "cloudscan", "first", "-n", "team-a"]);
    let gone = || async {
        let left = world.findings("team-a").await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} findings are left")) }
    };
    eventually("its findings are collected", gone).await;
    let new = hands.volume(&[]).await;
    world.scan_now("team-b", "second").await;
    world.wait_for_open("team-b", &[format!("Untagged {new}")]).await;
    assert!(world.findings("team-a").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_read_only_where_its_role_is_bound() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let bare = hands.volume(&[]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "keys"});
    world.apply_scan("team-a", "one", &spec);
    create_keys(&world, "team-a").await;

    let (reason, message) = world.wait_for_condition("team-a", "one", "CredentialsValid", "False").await;
    assert_eq!(reason, "InvalidCredentials");
    bind_as_printed(&world, &message);
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    world.wait_for_condition("team-a", "one", "CredentialsValid", "True").await;
    world.wait_for_condition("team-a", "one", "Stalled", "False").await;
}

async fn wait_until_none_lives(world: &World, question: &[&str], what: &str) {
    let none = || async {
        let open = world.operator.answer(question);
        if open["resources"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(open.to_string()) }
    };
    eventually(what, none).await;
}

async fn create_keys(world: &World, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
    let secret = json!({
        "metadata": {"name": "keys"},
        "stringData": {"AWS_ACCESS_KEY_ID": namespace, "AWS_SECRET_ACCESS_KEY": "not-a-secret\n"},
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.expect("a Secret");
}

/// Runs the command that a condition recommends.
fn bind_as_printed(world: &World, message: &str) {
    let command = message.split("kubectl ").nth(1).expect("it says what to do");
    let command: Vec<&str> = command.split_whitespace().collect();
    let end = command.iter().position(|w| w.starts_with("--serviceaccount=")).expect("it names the account");
    world.cluster.run(&command[..=end]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_nothing_from_a_cloud_scan_that_subscribes_after_another() {
    let mut world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let doomed = hands.volume(OWNED).await;
    let spec = world.scan_spec(&[A]);
    let mut with_keys = spec.clone();
    with_keys["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "keys"});
    world.apply_scan("team-a", "one", &spec);
    world.apply_scan("team-b", "two", &with_keys);
    create_keys(&world, "team-b").await;
    let (_, message) = world.wait_for_condition("team-b", "two", "CredentialsValid", "False").await;
    bind_as_printed(&world, &message);
    for (namespace, name) in [("team-a", "one"), ("team-b", "two")] {
        world.wait_for_condition(namespace, name, "InventoryComplete", "True").await;
    }
    hands.delete_volume(&doomed).await;
    // A young resource must be missed by two sweeps.
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    let open = [format!("Disappeared {doomed}")];
    world.wait_for_open("team-a", &open).await;
    world.wait_for_open("team-b", &open).await;
    let before = world.operator.answer(&["get"])["revision"].clone();
    for _ in 0..3 {
        world.operator.kill();
        world.operator.restart().await;
        world.scan_now("team-a", "one").await;
        world.scan_now("team-b", "two").await;
    }
    let revision = world.operator.answer(&["get"])["revision"].clone();
    assert_eq!(revision, before, "no cover was dropped and gained again");
    for namespace in ["team-a", "team-b"] {
        assert_eq!(world.open_findings(namespace).await, open);
        assert_eq!(world.finding_events(namespace).await.get("Disappeared"), Some(&1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_left_the_spec_while_the_operator_was_down_is_no_longer_watched() {
    let mut world = World::start().await;
    let (a, b) = (world.hands(A, IRELAND).await, world.hands(B, IRELAND).await);
    let (kept, left) = (a.volume(&[]).await, b.volume(&[]).await);
    world.apply_scan("team-a", "one", &world.scan_spec(&[A, B]));
    world.wait_for_open("team-a", &[format!("Untagged {kept}"), format!("Untagged {left}")]).await;

    world.operator.kill();
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.operator.restart().await;
    world.wait_for_open("team-a", &[format!("Untagged {kept}")]).await;
    wait_until_none_lives(&world, &["get", "--account", B], "what nobody looks at is in no current answer").await;
    world.scan_now("team-a", "one").await;
    assert_eq!(world.open_findings("team-a").await, [format!("Untagged {kept}")], "nothing disappeared");
    let history = world.operator.answer(&["history", &left]);
    assert_eq!(history["changes"].as_array().unwrap().len(), 1, "its history stays: {history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_outlives_its_cloud_scan_leaves_nothing_watched() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;

    let last = hands.volume(OWNED).await;
    let is_listing = |call: &Call| call.action == "DescribeVolumes" && !call.is_by_id();
    let slow = world.proxy.fault(is_listing, Fault::Slow(Duration::from_secs(4)));
    world.request_scan("team-a", "one").await;
    let hit = || async { if world.proxy.hits(slow) > 0 { Ok(()) } else { Err("no call".to_owned()) } };
    eventually("the round is under way", hit).await;
    world.cluster.run(&["delete", "cloudscan", "one", "--namespace=team-a"]);

    let committed = || async {
        let history = world.operator.query(&["history", &last]);
        if history.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&history.stderr).into_owned()) }
    };
    eventually("the round ends", committed).await;
    wait_until_none_lives(&world, &["get"], "what the round opened again is closed").await;
}
