//! Canaries for secrets: planted wherever the operator reads a secret, and searched for in everything that it outputs.

use serde_json::json;

use crate::support::desk::BUILT_IN;
use crate::support::proxy::Fault;
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
/// "canary-user-data" in base64, as EC2 returns it.
const USER_DATA: &str = "Y2FuYXJ5LXVzZXItZGF0YQ==";
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLaunchTemplateVersions.html>
const VERSIONS: &str = "<DescribeLaunchTemplateVersionsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
    <requestId>r</requestId><launchTemplateVersionSet><item><launchTemplateName>web</launchTemplateName>\
    <versionNumber>1</versionNumber><defaultVersion>true</defaultVersion><launchTemplateData>\
    <userData>Y2FuYXJ5LXVzZXItZGF0YQ==</userData></launchTemplateData></item></launchTemplateVersionSet>\
    </DescribeLaunchTemplateVersionsResponse>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_log_an_event_a_status_a_metric_or_the_store() {
    const KEY_ID: &str = "AKIACANARYKEYID00001";
    const KEY: &str = "canary-secret-access-key";
    const TOKEN: &str = "canary-session-token";
    const EXTERNAL: &str = "canary-external-id";
    const SIGNING: &str = "canary-signing-key";
    let hook = format!("http://127.0.0.1:{}/canary-hook-path", crate::support::free_port());
    let world = World::start_with(vec![("ELAVA_ALLOW_WEBHOOK", hook.clone())]).await;
    let hands = world.hands(A, IRELAND).await;
    let bare = hands.volume(&[]).await;
    let data = aws_sdk_ec2::types::RequestLaunchTemplateData::builder().image_id("ami-1").build();
    let template = hands.ec2.create_launch_template().launch_template_name("web").launch_template_data(data);
    template.send().await.expect("a launch template");
    // The emulator does not keep user data.
    let versions =
        world.proxy.fault(|call| call.action == "DescribeLaunchTemplateVersions", Fault::Show(VERSIONS));

    let mut spec = world.scan_spec(&[A]);
    spec["tagPolicy"]["exemptTypes"] = json!([BUILT_IN.as_slice(), &["AWS::EC2::LaunchTemplate"]].concat());
    spec["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "keys"});
    spec["provider"]["aws"]["accounts"][0]["externalID"] = json!(EXTERNAL);
    // No server answers at this address: a failed delivery is reported, too.
    spec["findings"] = json!({"webhook": {"url": hook, "secretRef": {"name": "hook"}}});
    world.apply_scan("team-a", "one", &spec);
    let secret = |name: &str, literals: &[String]| {
        let create = ["create", "secret", "generic", name, "-n", "team-a"];
        let literals: Vec<&str> = literals.iter().map(String::as_str).collect();
        world.cluster.run(&[&create[..], &literals].concat());
    };
    let literal = |name: &str, value: &str| format!("--from-literal={name}={value}");
    let keys = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_SESSION_TOKEN", TOKEN)];
    secret("keys", &keys.map(|(name, value)| literal(name, value)));
    secret("hook", &[literal("signing-key", SIGNING)]);
    let bind = ["create", "rolebinding", "elava-credentials", "-n", "team-a", "--clusterrole=elava-credentials"];
    world.cluster.run(&[&bind[..], &["--serviceaccount=elava:elava"]].concat());
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    world.wait_for_condition("team-a", "one", "WebhookDelivered", "False").await;

    // Errors from AWS are reported, too.
    let refused = |status, code, message: &str| Fault::Refuse { status, code, message: message.to_owned() };
    for (action, fault) in [
        (
            "DescribeVolumes",
            refused(403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
        ),
        (
            "AssumeRole",
            refused(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
        ),
    ] {
        let rule = world.proxy.fault(move |call| call.action == action, fault);
        world.scan_now("team-a", "one").await;
        world.proxy.heal(rule);
    }
    world.scan_now("team-a", "one").await;

    let templates = world.operator.answer(&["get", "--type", "AWS::EC2::LaunchTemplate", "--attributes"]);
    let known = &templates["resources"][0]["attributes"]["Versions"][0];
    assert!(world.proxy.hits(versions) > 0 && known["VersionNumber"] == 1, "its user data was read: {templates}");
    let exported = world.dir.path().join("exported");
    let export = ["store", "export", "--format", "jsonl", "--to", &exported.display().to_string()];
    assert!(world.operator.query(&export).status.success());
    let mut places = vec![
        ("the log", world.operator.process.log()),
        (
            "the metrics",
            reqwest::get(format!("{}/metrics", world.operator.url())).await.unwrap().text().await.unwrap(),
        ),
        ("findings, exemptions and events", {
            let kinds = "resourcefindings,findingexemptions,events,events.events.k8s.io";
            world.cluster.run(&["get", kinds, "-A", "-o", "yaml"])
        }),
        ("the status", world.cluster.run(&["get", "cloudscans", "-A", "-o=jsonpath={.items[*].status}"])),
        ("the answers", world.operator.answer(&["get", "--attributes"]).to_string()),
        ("the findings", world.operator.answer(&["findings", "--all"]).to_string()),
    ];
    for entry in std::fs::read_dir(&exported).unwrap() {
        places.push(("the export", std::fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    // Notes are in the file as plain text; documents are compressed there, and were exported.
    let file = std::fs::read(world.operator.store()).unwrap();
    places.push(("the store's file", String::from_utf8_lossy(&file).into_owned()));
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is there");
        let canaries = [KEY_ID, KEY, TOKEN, "canary-user-data", USER_DATA, SIGNING, "canary-hook-path"];
        for canary in canaries {
            assert!(!text.contains(canary), "{place} holds {canary}");
        }
        // The specs are stored so that scanning continues without an API server; they include the external id.
        assert!(*place == "the store's file" || !text.contains(EXTERNAL), "{place} holds {EXTERNAL}");
    }
}
