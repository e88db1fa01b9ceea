//! From what happens in the cloud to what people are told.

use elava::api::FindingState;

use crate::support::world::{IRELAND, VIRGINIA, World};

const A: &str = "111122223333";
const B: &str = "444455556666";
const OWNED: &[(&str, &str)] = &[("owner", "team-a"), ("Name", "data")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_accounts_are_found_exactly_and_what_goes_becomes_one_disappeared_each() {
    let world = World::start().await;
    let (a, b) = (world.hands(A, IRELAND).await, world.hands(B, VIRGINIA).await);
    let mut volumes = Vec::new();
    for _ in 0..7 {
        volumes.push(a.volume(OWNED).await);
    }
    let (instance, root) = a.instance(OWNED).await;
    a.tag(&root, OWNED).await;
    let other = b.volume(OWNED).await;
    b.bucket("elava-e2e-data", OWNED).await;
    b.database("orders", OWNED).await;

    let spec = world.scan_spec(&[A, B]);
    world.apply_scan("team-a", "all", &spec);
    world.wait_for_condition("team-a", "all", "FirstScanComplete", "True").await;
    let (_, message) = world.wait_for_condition("team-a", "all", "InventoryComplete", "True").await;
    assert!(message.contains("listed whole"), "{message}");

    let mut expected = [volumes.as_slice(), std::slice::from_ref(&root)].concat();
    expected.sort();
    assert_eq!(world.ids(A, "AWS::EC2::Volume"), expected, "several pages, each volume once");
    assert_eq!(world.ids(A, "AWS::EC2::Instance"), [instance.as_str()]);
    assert_eq!(world.ids(B, "AWS::EC2::Volume"), [other.as_str()]);
    assert_eq!(world.ids(B, "AWS::S3::Bucket"), ["elava-e2e-data"]);
    assert_eq!(world.ids(B, "AWS::RDS::DBInstance"), ["orders"]);
    world.wait_for_open("team-a", &[]).await;

    a.terminate(&instance).await;
    a.delete_volume(&volumes[0]).await;
    world.look("team-a", "all").await;
    // A listed end state ends at once; a young resource that is missing takes two looks.
    world.wait_for_open("team-a", &[format!("Disappeared {instance}")]).await;
    world.look("team-a", "all").await;
    world.wait_for_open("team-a", &[format!("Disappeared {instance}"), format!("Disappeared {}", volumes[0])]).await;
    for _ in 0..2 {
        world.look("team-a", "all").await;
    }
    world.wait_for_open("team-a", &[format!("Disappeared {instance}"), format!("Disappeared {}", volumes[0])]).await;
    assert_eq!(world.findings_in("team-a", FindingState::Resolved).await, Vec::<String>::new());
    let events = world.finding_events("team-a").await;
    assert_eq!(events, [("Disappeared".to_owned(), 2)].into(), "each transition is told once");
}
