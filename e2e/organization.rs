//! An organization: its accounts are listed, join and leave, and stay as they were while the list can't be read.

use serde_json::json;

use crate::support::desk::COMMON;
use crate::support::proxy::{BASE_ACCOUNT, Fault};
use crate::support::world::{IRELAND, World};

const OWNED: &[(&str, &str)] = &[("owner", "team-a")];
const VOLUME: &str = "AWS::EC2::Volume";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_join_are_scanned_and_a_list_that_fails_changes_nothing() {
    let world = World::start().await;
    let root = world.aws.root();
    root.call("organizations", "CreateOrganization", json!({})).await;
    let join = async |name: &str| {
        let input = json!({ "Email": format!("{name}@example.com"), "AccountName": name });
        let made = root.call("organizations", "CreateAccount", input).await;
        made["CreateAccountStatus"]["AccountId"].as_str().expect("it has an id").to_owned()
    };
    let (one, two) = (join("one").await, join("two").await);
    let volume_of_one = world.hands(&one, IRELAND).await.volume(OWNED).await;
    let volume_of_two = world.hands(&two, IRELAND).await.volume(OWNED).await;

    let spec = json!({
        "interval": "1h",
        "provider": {"aws": {
            "endpointURL": world.proxy.url,
            "organization": {
                "roleName": "elava",
                "listRoleARN": format!("arn:aws:iam::{BASE_ACCOUNT}:role/elava-list"),
                "excludeAccounts": [BASE_ACCOUNT],
            },
            "regions": {"include": [IRELAND]},
        }},
        "resourceTypes": {"include": COMMON},
    });
    world.apply_scan("team-a", "all", &spec);
    world.wait_for_condition("team-a", "all", "InventoryComplete", "True").await;
    assert_eq!(world.ids(&one, VOLUME), std::slice::from_ref(&volume_of_one));
    assert_eq!(world.ids(&two, VOLUME), std::slice::from_ref(&volume_of_two));
    assert!(world.ids(BASE_ACCOUNT, VOLUME).is_empty(), "it is left out");

    // The list fails while an account joins: no account is closed, and nothing is lost.
    let denied = Fault::Refuse { status: 400, code: "AccessDeniedException", message: "no".to_owned() };
    let rule = world.proxy.fault(|c| c.action == "ListAccounts", denied);
    let three = join("three").await;
    let volume_of_three = world.hands(&three, IRELAND).await.volume(OWNED).await;
    world.scan_now("team-a", "all").await;
    let (reason, message) = world.wait_for_condition("team-a", "all", "InventoryComplete", "False").await;
    assert_eq!(reason, "Denied");
    assert!(
        message.contains("the last complete list stands") && message.contains("organizations:ListAccounts"),
        "{message}"
    );
    assert_eq!(world.ids(&two, VOLUME), std::slice::from_ref(&volume_of_two));
    assert!(world.ids(&three, VOLUME).is_empty());

    world.proxy.heal(rule);
    world.scan_now("team-a", "all").await;
    world.wait_for_condition("team-a", "all", "InventoryComplete", "True").await;
    assert_eq!(world.ids(&three, VOLUME), [volume_of_three]);

    // An account is closed: access is denied, and nothing in it has disappeared.
    root.call("organizations", "CloseAccount", json!({ "AccountId": two })).await;
    let closed = two.clone();
    let no = Fault::Refuse { status: 403, code: "AccessDenied", message: "no".to_owned() };
    world.proxy.fault(
        move |c| c.action == "AssumeRole" && c.params.get("RoleArn").is_some_and(|arn| arn.contains(&closed)),
        no,
    );
    world.scan_now("team-a", "all").await;
    let (_, message) = world.wait_for_condition("team-a", "all", "InventoryComplete", "True").await;
    assert!(message.contains("1 accounts of the organization are suspended or closed"), "{message}");
    assert_eq!(world.ids(&two, VOLUME), [volume_of_two]);
    assert!(world.open_findings("team-a").await.iter().all(|f| !f.starts_with("Disappeared")));
}
