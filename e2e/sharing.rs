//! Several CloudScans, one account.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
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
    // Its first look is its proof: made with its own credentials, and committed like any other.
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
    world.look("team-a", "first").await;
    assert_eq!(listings() - before, 1, "one listing serves both");
    let history = world.operator.answer(&["history", &bare]);
    assert_eq!(history["changes"].as_array().unwrap().len(), 1, "one history: {history}");
    hands.tag(&bare, OWNED).await;
    world.look("team-b", "second").await;
    world.wait_for_open("team-a", &[]).await;
    world.wait_for_open("team-b", &[]).await;
    assert!(world.findings("team-c").await.is_empty(), "without proof nothing is seen");
    assert_eq!(world.scan("team-c", "third").await.status.and_then(|s| s.resources), Some(0));

    // Deleted: what it covered goes on for the other, and its findings go with it.
    world.cluster.run(&["delete", "cloudscan", "first", "-n", "team-a"]);
    let gone = || async {
        let left = world.findings("team-a").await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} findings are left")) }
    };
    crate::support::eventually("its findings are collected", gone).await;
    let new = hands.volume(&[]).await;
    world.look("team-b", "second").await;
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
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "team-a");
    let secret = json!({
        "metadata": {"name": "keys"},
        "stringData": {"AWS_ACCESS_KEY_ID": "team-a", "AWS_SECRET_ACCESS_KEY": "not-a-secret\n"},
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.expect("a Secret");

    let (reason, message) = world.wait_for_condition("team-a", "one", "CredentialsValid", "False").await;
    assert_eq!(reason, "InvalidCredentials");
    // The command that the condition gives is the one that helps.
    let command = message.split("kubectl ").nth(1).expect("it says what to do");
    let command: Vec<&str> = command.split_whitespace().collect();
    let end = command.iter().position(|w| w.starts_with("--serviceaccount=")).expect("it names the account");
    world.cluster.run(&command[..=end]);
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    world.wait_for_condition("team-a", "one", "CredentialsValid", "True").await;
    world.wait_for_condition("team-a", "one", "Stalled", "False").await;
}
