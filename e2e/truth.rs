//! "It could not be listed" must never become "it is gone"; a real deletion elsewhere is reported in the same run.

use crate::support::proxy::{BASE_ACCOUNT, Fault};
use crate::support::world::{IRELAND, VIRGINIA, World};

const A: &str = "111122223333";
const B: &str = "444455556666";
const OWNED: &[(&str, &str)] = &[("owner", "team-a")];

fn refuse(status: u16, code: &'static str, message: &str) -> Fault {
    Fault::Refuse { status, code, message: message.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_fails_for_good_hides_nothing_and_a_real_deletion_elsewhere_is_reported() {
    let world = World::start().await;
    let (ireland, virginia) = (world.hands(A, IRELAND).await, world.hands(A, VIRGINIA).await);
    for _ in 0..12 {
        ireland.volume(OWNED).await;
    }
    let deleted = virginia.volume(OWNED).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;
    let before = world.ids(A, "AWS::EC2::Volume");
    assert_eq!(before.len(), 13);

    let rule = world.proxy.fault(
        |call| call.action == "DescribeVolumes" && call.region == IRELAND && call.page == 2,
        refuse(500, "InternalError", "an internal error has occurred"),
    );
    virginia.delete_volume(&deleted).await;
    // It is on the page that still arrives.
    let new = ireland.volume(OWNED).await;
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Disappeared {deleted}")]).await;
    let (reason, message) = world.wait_for_condition("team-a", "one", "InventoryComplete", "False").await;
    assert_eq!(reason, "ServerError", "{message}");
    assert!(message.contains(A) && message.contains("AWS::EC2::Volume in eu-west-1"), "{message}");
    assert!(world.proxy.hits(rule) >= 2, "the fault was played");

    world.proxy.heal(rule);
    world.scan_now("team-a", "one").await;
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;
    let mut expected: Vec<String> = before.into_iter().filter(|id| *id != deleted).chain([new]).collect();
    expected.sort();
    assert_eq!(world.ids(A, "AWS::EC2::Volume"), expected);
    assert_eq!(world.open_findings("team-a").await, [format!("Disappeared {deleted}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_listing_misses_is_no_disappearance() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (flickering, deleted) = (hands.volume(OWNED).await, hands.volume(OWNED).await);
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;

    // Missing from listings, but found by id.
    let id = flickering.clone();
    let listing = world.proxy.fault(|c| c.action == "DescribeVolumes" && !c.is_by_id(), Fault::Hide(vec![id]));
    hands.delete_volume(&deleted).await;
    for _ in 0..3 {
        world.scan_now("team-a", "one").await;
    }
    world.wait_for_open("team-a", &[format!("Disappeared {deleted}")]).await;
    world.proxy.heal(listing);

    // Missing from one listing and from the read by id, but in the next listing: it is young, so one miss is not
    // enough.
    let id = flickering.clone();
    let everything = world.proxy.fault(|c| c.action == "DescribeVolumes", Fault::Hide(vec![id]));
    world.scan_now("team-a", "one").await;
    let status = world.scan("team-a", "one").await.status.unwrap_or_default();
    assert_eq!(status.awaiting_confirmation, Some(1));
    world.proxy.heal(everything);
    world.scan_now("team-a", "one").await;
    assert_eq!(world.open_findings("team-a").await, [format!("Disappeared {deleted}")]);
    let history = world.operator.answer(&["history", &flickering]);
    assert_eq!(history["changes"].as_array().unwrap().len(), 1, "it appeared, and that is all: {history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_api_is_named_and_the_rest_goes_on() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (volume, address) = (hands.volume(OWNED).await, hands.address(OWNED).await);
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;

    let denial = "You are not authorized to perform this operation. User: arn:aws:sts::111122223333:assumed-role/elava \
                  is not authorized to perform: ec2:DescribeVolumes because no identity-based policy allows it";
    let denied =
        world.proxy.fault(|c| c.action == "DescribeVolumes", refuse(403, "UnauthorizedOperation", denial));
    hands.delete_volume(&volume).await;
    hands.ec2.release_address().allocation_id(&address).send().await.expect("the address goes");
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Disappeared {address}")]).await;
    let (reason, message) = world.wait_for_condition("team-a", "one", "InventoryComplete", "False").await;
    assert_eq!(reason, "Denied");
    assert!(
        message.contains("ec2:DescribeVolumes") && message.contains("2 scopes") && message.contains(A),
        "{message}"
    );
    let (_, ready) = world.wait_for_condition("team-a", "one", "Ready", "True").await;
    assert!(!ready.is_empty());
    let reported =
        world.events("team-a").await.into_iter().filter(|e| e.reason.as_deref() == Some("Denied")).count();
    assert_eq!(reported, 1, "once, not at every look");

    world.proxy.heal(denied);
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Disappeared {address}"), format!("Disappeared {volume}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_accounts_roles_endpoints_and_regions_are_reported_with_what_to_do() {
    let world = World::start().await;
    world.hands(BASE_ACCOUNT, IRELAND).await.volume(OWNED).await;
    let external_id = world.proxy.fault(
        |c| c.action == "AssumeRole" && !c.params.contains_key("ExternalId"),
        refuse(403, "AccessDenied", "User is not authorized to perform: sts:AssumeRole"),
    );

    // Without a role, the pod's own credentials are used, and they belong to another account.
    let mut wrong_account = world.scan_spec(&[A]);
    wrong_account["provider"]["aws"]["accounts"] = serde_json::json!([{"id": A}]);
    world.apply_scan("team-a", "wrong-account", &wrong_account);
    let (reason, message) = world.wait_for_condition("team-a", "wrong-account", "Stalled", "True").await;
    assert_eq!(reason, "WrongAccount");
    assert!(message.contains(BASE_ACCOUNT) && message.contains(A), "{message}");

    world.apply_scan("team-a", "wrong-role", &world.scan_spec(&[B]));
    let (reason, message) = world.wait_for_condition("team-a", "wrong-role", "Stalled", "True").await;
    assert_eq!(reason, "InvalidCredentials");
    let role = format!("arn:aws:iam::{B}:role/elava");
    assert!(message.contains(&role) && message.contains("external id"), "{message}");
    world.wait_for_condition("team-a", "wrong-role", "Ready", "False").await;
    world.wait_for_condition("team-a", "wrong-role", "CredentialsValid", "False").await;
    assert!(world.operator.answer(&["get"])["resources"].as_array().unwrap().is_empty(), "nothing was recorded");

    // The right external id gives access, without a restart.
    let mut mended = world.scan_spec(&[B]);
    mended["provider"]["aws"]["accounts"][0]["externalID"] = "elava-1".into();
    world.apply_scan("team-a", "wrong-role", &mended);
    world.wait_for_condition("team-a", "wrong-role", "Ready", "True").await;
    world.wait_for_condition("team-a", "wrong-role", "Stalled", "False").await;
    world.proxy.heal(external_id);

    let mut endpoint = world.scan_spec(&[A]);
    endpoint["provider"]["aws"]["endpointURL"] = "https://attacker.example.com".into();
    world.apply_scan("team-a", "wrong-endpoint", &endpoint);
    let (reason, message) = world.wait_for_condition("team-a", "wrong-endpoint", "Stalled", "True").await;
    assert_eq!(reason, "EndpointNotAllowed");
    assert!(message.contains("--allow-endpoint=https://attacker.example.com"), "{message}");

    let mut region = world.scan_spec(&[A]);
    region["provider"]["aws"]["regions"] = serde_json::json!({"include": ["eu-west-9"]});
    world.apply_scan("team-a", "wrong-region", &region);
    let (reason, message) = world.wait_for_condition("team-a", "wrong-region", "Stalled", "True").await;
    assert_eq!(reason, "RegionDisabled");
    assert!(message.contains("eu-west-9") && message.contains("eu-west-1"), "{message}");

    let regions = vec![VIRGINIA.to_owned()];
    let opted_out = world.proxy.fault(|c| c.action == "DescribeRegions", Fault::NotOptedIn(regions));
    world.apply_scan("team-a", "opted-out", &world.scan_spec(&["777788889999"]));
    let (_, message) = world.wait_for_condition("team-a", "opted-out", "Stalled", "True").await;
    assert!(message.contains("us-east-1 is not enabled"), "{message}");
    world.proxy.heal(opted_out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_loss_is_held_until_a_second_sweep_agrees() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let mut volumes = Vec::new();
    for _ in 0..12 {
        volumes.push(hands.volume(OWNED).await);
    }
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;

    // The cloud returns no volumes for a while.
    let rule = world.proxy.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.clone()));
    world.scan_now("team-a", "one").await;
    let (reason, message) = world.wait_for_condition("team-a", "one", "InventoryComplete", "False").await;
    assert_eq!(reason, "MassLossHeld", "{message}");
    world.proxy.heal(rule);
    world.scan_now("team-a", "one").await;
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;
    assert_eq!(world.open_findings("team-a").await, Vec::<String>::new());

    for volume in &volumes {
        hands.delete_volume(volume).await;
    }
    for _ in 0..3 {
        world.scan_now("team-a", "one").await;
    }
    let gone: Vec<String> = volumes.iter().map(|v| format!("Disappeared {v}")).collect();
    world.wait_for_open("team-a", &gone).await;
}
