//! Finding kinds that need more in the cloud than a volume: resources created by code, and resources that belong
//! together.

use std::time::Duration;

use elava::api::FindingState;
use serde_json::json;

use crate::support::world::{IRELAND, World};
use crate::support::{eventually, holds_for};

const A: &str = "111122223333";
const GROUP: &str = "AWS::AutoScaling::AutoScalingGroup";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_by_hand_or_leaves_the_code_is_reported_if_the_spec_enables_it() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (owner, mark) = (("owner", "team-a"), ("terraform", "shop"));
    let _before = hands.volume(&[owner]).await;
    let coded = hands.volume(&[owner, mark]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["management"] = json!({"marks": [{"key": "terraform"}]});
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    world.wait_for_open("team-a", &[]).await;

    let by_hand = hands.volume(&[owner]).await;
    let _by_code = hands.volume(&[owner, mark]).await;
    hands.untag(&coded, &["terraform"]).await;
    world.scan_now("team-a", "one").await;
    let (unmanaged, drifted) = (format!("Unmanaged {by_hand}"), format!("DriftedOut {coded}"));
    world.wait_for_open("team-a", &[unmanaged.clone(), drifted.clone()]).await;

    hands.tag(&by_hand, &[mark]).await;
    hands.tag(&coded, &[mark]).await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[]).await;
    let mut fixed = world.findings_in("team-a", FindingState::Resolved).await;
    fixed.sort();
    assert_eq!(fixed, [drifted, unmanaged]);

    // Without `management` in the spec, the same change opens no finding.
    hands.untag(&coded, &["terraform"]).await;
    spec.as_object_mut().expect("it is an object").remove("management");
    world.apply_scan("team-a", "one", &spec);
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_replaces_is_no_news_and_a_group_that_goes_is_one_finding() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let instances = hands.scaling_group("web", 3).await;
    let mut spec = world.scan_spec(&[A]);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    spec["resourceTypes"] = json!({"include": ["AWS::EC2::Instance", GROUP]});
    spec["tagPolicy"] = json!({"exemptTypes": ["AWS::EC2::Instance", GROUP]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    assert_eq!(world.ids(A, "AWS::EC2::Instance").len(), 3);

    // The group exists: it replaces its members at any time.
    hands.terminate(&instances[0]).await;
    world.scan_now("team-a", "one").await;
    let ended = || async {
        let answer = world.operator.answer(&["history", &instances[0]]);
        if answer["changes"][0]["change"] == "Disappeared" { Ok(()) } else { Err(answer.to_string()) }
    };
    eventually("its end is recorded", ended).await;
    let nothing = || async {
        let open = world.open_findings("team-a").await;
        if open.is_empty() { Ok(()) } else { Err(open) }
    };
    holds_for("nothing is told of it", Duration::from_secs(2), nothing).await;

    hands.delete_scaling_group("web").await;
    for _ in 0..2 {
        world.scan_now("team-a", "one").await;
    }
    world.wait_for_open("team-a", &["Disappeared web".to_owned()]).await;
    let findings = world.findings("team-a").await;
    let reported = findings.into_iter().filter_map(|f| f.status).find(|s| s.id == "web").expect("it is told");
    assert!(reported.message.contains("and with it"), "{}", reported.message);
    assert!(reported.message.contains("Instance"), "{}", reported.message);
}
