//! From changes in the cloud to the findings that users see.

use elava::api::FindingState;

use crate::support::proxy::Fault;
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
    world.scan_now("team-a", "all").await;
    // A listed end state ends a life at once; a young resource must be missed by two sweeps.
    world.wait_for_open("team-a", &[format!("Disappeared {instance}")]).await;
    world.scan_now("team-a", "all").await;
    world
        .wait_for_open("team-a", &[format!("Disappeared {instance}"), format!("Disappeared {}", volumes[0])])
        .await;
    for _ in 0..2 {
        world.scan_now("team-a", "all").await;
    }
    world
        .wait_for_open("team-a", &[format!("Disappeared {instance}"), format!("Disappeared {}", volumes[0])])
        .await;
    assert_eq!(world.findings_in("team-a", FindingState::Resolved).await, Vec::<String>::new());
    let events = world.finding_events("team-a").await;
    assert_eq!(events, [("Disappeared".to_owned(), 2)].into(), "each transition is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untagged_and_incomplete_tags_are_findings_until_they_are_mended() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (bare, partly) = (hands.volume(&[]).await, hands.volume(&[("Name", "x"), ("env", "production")]).await);
    let good = hands.volume(&[("Owner", "team-a"), ("env", "prod")]).await;
    let mut spec = world.scan_spec(&[A]);
    let required =
        serde_json::json!([{"key": "owner", "aliases": ["Owner"]}, {"key": "env", "pattern": "prod|dev"}]);
    spec["tagPolicy"]["required"] = required;
    world.apply_scan("team-a", "tags", &spec);
    let (missing, invalid) = (format!("TagsMissing {partly}"), format!("TagInvalid {partly}"));
    world.wait_for_open("team-a", &[missing.clone(), invalid.clone(), format!("Untagged {bare}")]).await;
    let findings = world.findings("team-a").await;
    let message = |kind: &str| {
        let status =
            findings.iter().filter_map(|f| f.status.as_ref()).find(|s| s.kind == kind).expect("it is there");
        status.message.clone()
    };
    assert!(message("TagsMissing").ends_with("lacks required tags: owner"), "{}", message("TagsMissing"));
    assert!(message("TagInvalid").contains("env is \"production\""), "{}", message("TagInvalid"));
    for finding in &findings {
        let bytes = serde_json::to_vec(&strip_managed(finding)).unwrap().len();
        assert!(bytes <= 2048, "{bytes} bytes");
    }

    // Only a sweep that sees the fix resolves a finding; a spec that requires less resolves it at once.
    hands.tag(&bare, &[("Owner", "team-b"), ("env", "dev")]).await;
    world.scan_now("team-a", "tags").await;
    world.wait_for_open("team-a", &[missing, invalid]).await;
    assert_eq!(world.findings_in("team-a", FindingState::Resolved).await, [format!("Untagged {bare}")]);
    spec["tagPolicy"]["required"] = serde_json::json!([{"key": "env"}]);
    world.apply_scan("team-a", "tags", &spec);
    world.wait_for_open("team-a", &[]).await;

    // A loss of all tags is confirmed by a call that fails instead of returning nothing.
    let rule = world.proxy.fault(|call| call.action == "DescribeVolumes", Fault::EmptyTags);
    world.scan_now("team-a", "tags").await;
    world.proxy.heal(rule);
    assert_eq!(
        world.open_findings("team-a").await,
        Vec::<String>::new(),
        "an empty answer under load is no tag loss"
    );
    hands.untag(&good, &["Owner", "env"]).await;
    world.scan_now("team-a", "tags").await;
    world.wait_for_open("team-a", &[format!("OwnershipLost {good}")]).await;
    let history = world.operator.answer(&["history", &good]);
    assert_eq!(history["changes"].as_array().unwrap().len(), 2, "appeared, and lost its tags once: {history}");
}

fn strip_managed(finding: &elava::api::ResourceFinding) -> elava::api::ResourceFinding {
    let mut finding = finding.clone();
    finding.metadata.managed_fields = None;
    finding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_scan_costs_one_status_patch_and_a_finding_deleted_by_hand_comes_back() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let bare = hands.volume(&[]).await;
    world.apply_scan("team-a", "one", &world.scan_spec(&[A]));
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    world.wait_for_condition("team-a", "one", "Reconciling", "False").await;

    let versions = || async {
        let finding = world.findings("team-a").await.remove(0);
        (world.revision_of_status("team-a", "one").await, finding.metadata.resource_version, finding.metadata.uid)
    };
    world.scan_now("team-a", "one").await;
    let (before, finding_before, uid_before) = versions().await;
    let patches = world.status_patches();
    world.scan_now("team-a", "one").await;
    let (after, finding_after, _) = versions().await;
    assert_ne!(before, after, "the scan is told");
    assert_eq!(finding_before, finding_after, "and nothing else");
    assert_eq!(world.status_patches() - patches, 1);
    assert_eq!(world.finding_events("team-a").await, [("Untagged".to_owned(), 1)].into());

    let name = crate::support::world::name_of(&world.findings("team-a").await[0]);
    world.cluster.run(&["delete", "resourcefinding", &name, "-n", "team-a"]);
    let back = || async {
        match world.findings("team-a").await.first() {
            Some(finding) if finding.metadata.uid != uid_before => Ok(()),
            other => Err(format!("{:?}", other.map(|f| &f.metadata.uid))),
        }
    };
    crate::support::eventually("it comes back while its cause lasts", back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_is_a_false_alarm_and_a_disappearance_expires() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (gone, hidden) = (hands.volume(OWNED).await, hands.volume(OWNED).await);
    let mut spec = world.scan_spec(&[A]);
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;

    // The cloud is consistently wrong for two sweeps: the listing and the read by id both miss the resource.
    hands.delete_volume(&gone).await;
    let id = hidden.clone();
    let rule = world.proxy.fault(|call| call.action == "DescribeVolumes", Fault::Hide(vec![id]));
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Disappeared {gone}"), format!("Disappeared {hidden}")]).await;
    world.proxy.heal(rule);
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Disappeared {gone}")]).await;
    let findings = world.findings("team-a").await;
    let status = findings.iter().filter_map(|f| f.status.as_ref()).find(|s| s.id == hidden).unwrap();
    assert_eq!(status.resolution.as_deref(), Some("FalseAlarm"));

    spec["disappearance"] = serde_json::json!({"keep": "1s"});
    spec["findings"] = serde_json::json!({"keepResolved": "0s"});
    world.apply_scan("team-a", "one", &spec);
    world.scan_now("team-a", "one").await;
    world.scan_now("team-a", "one").await;
    let none = || async {
        let left = world.findings("team-a").await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    };
    crate::support::eventually("resolved ones go after keepResolved", none).await;
    assert_eq!(world.finding_events("team-a").await.get("DisappearedExpired"), Some(&1));
}
