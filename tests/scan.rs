//! `elava scan` and the queries, as a user without a cluster runs them.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::aws::Emulator;
use crate::support::operator::binary;
use crate::support::proxy::{Fault, Proxy};

const A: &str = "111122223333";
const IRELAND: &str = "eu-west-1";
const OWNED: &[(&str, &str)] = &[("owner", "a")];

struct Desk {
    dir: tempfile::TempDir,
    aws: Emulator,
    proxy: Proxy,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let aws = Emulator::start(dir.path()).await;
        let proxy = Proxy::start(&aws.url);
        let desk = Self { dir, aws, proxy };
        desk.write(&json!({
            "interval": "1h",
            "provider": {"aws": {
                "endpointURL": desk.proxy.url,
                "accounts": [{"id": A, "roleARN": format!("arn:aws:iam::{A}:role/elava")}],
                "regions": {"include": [IRELAND]},
                "credentialsSecretRef": {"name": "keys"},
            }},
            "resourceTypes": {"include": crate::support::desk::COMMON},
            "tagPolicy": {"exemptTypes": crate::support::desk::BUILT_IN},
        }));
        desk
    }

    fn write(&self, spec: &Value) {
        let scan = json!({"apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": "x"}, "spec": spec});
        std::fs::write(self.dir.path().join("cloudscan.yaml"), scan.to_string()).unwrap();
    }

    fn elava(&self, args: &[&str]) -> Output {
        run(self.dir.path(), args)
    }

    fn answer(&self, question: &[&str]) -> Value {
        let output = self.elava(&[question, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{question:?}: {error}");
        serde_json::from_slice(&output.stdout).expect("json")
    }

    fn scan(&self) -> (i32, Value, String) {
        let output = self.elava(&["scan", "-f", "cloudscan.yaml", "--store", "elava.redb", "-o", "json"]);
        let reported = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), reported, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A command without credentials.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir).env("AWS_EC2_METADATA_DISABLED", "true").env_remove("ELAVA_STORE");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let keys = [("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", "somebody")];
    command(dir, args).envs(keys).output().expect("elava runs")
}

fn of_type<'a>(list: &'a Value, resource_type: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().filter(|c| c["resource"]["type"] == resource_type).collect()
}

/// Credentials of a pod identity or a container role are fetched as JSON, again whenever they are about to expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_during_a_sweep_are_fetched_anew() {
    const OWN: &str = "123456789012";
    let desk = Desk::new().await;
    desk.aws.hands(OWN, IRELAND).await.volume(OWNED).await;
    desk.write(&json!({
        "provider": {"aws": {
            "endpointURL": desk.proxy.url, "accounts": [{"id": OWN}], "regions": {"include": [IRELAND]},
        }},
        "resourceTypes": {"include": ["AWS::EC2::Volume", "AWS::EC2::VPC"]},
    }));
    let fetched = Arc::new(AtomicUsize::new(0));
    let counted = fetched.clone();
    let give = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // The SDK treats credentials that expire this soon as expired.
        let soon = jiff::Timestamp::now() + Duration::from_secs(5);
        async move {
            let keys =
                json!({"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": soon.to_string()});
            ([("content-type", "application/json")], keys.to_string())
        }
    };
    let agent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", agent.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(agent, axum::Router::new().fallback(give)).await });
    let args = ["scan", "-f", "cloudscan.yaml", "--store", "elava.redb", "-o", "json"];
    let scan = command(desk.dir.path(), &args)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        .output()
        .expect("elava runs");
    let reported: Value = serde_json::from_slice(&scan.stdout).unwrap_or_default();
    assert_eq!(reported["complete"], true, "{reported}: {}", String::from_utf8_lossy(&scan.stderr));
    assert_eq!(of_type(&reported["changes"], "AWS::EC2::Volume").len(), 1);
    assert!(fetched.load(Ordering::Relaxed) > 2, "for the identity, and then for each listing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_reports_what_is_new_changed_gone_and_unowned() {
    let desk = Desk::new().await;
    let hands = desk.aws.hands(A, IRELAND).await;
    let (old, kept) = (hands.volume(OWNED).await, hands.volume(OWNED).await);
    let (code, reported, errors) = desk.scan();
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("credentialsSecretRef is ignored"), "{errors}");
    assert_eq!(reported["apiVersion"], "elava.dev/v1alpha1");
    assert_eq!(reported["complete"], true);
    let volumes = of_type(&reported["changes"], "AWS::EC2::Volume");
    assert_eq!(volumes.len(), 2);
    for change in volumes {
        assert_eq!((&change["change"], &change["baseline"]), (&json!("Appeared"), &json!(true)));
        let key = &change["resource"];
        assert_eq!(
            (&key["provider"], &key["account"], &key["region"]),
            (&json!("aws"), &json!(A), &json!(IRELAND))
        );
    }
    let scope = reported["scopes"].as_array().unwrap().iter().find(|s| s["type"] == "AWS::EC2::Volume").unwrap();
    assert_eq!(
        (&scope["outcome"], &scope["account"], &scope["region"]),
        (&json!("Complete"), &json!(A), &json!(IRELAND))
    );

    let between = desk.answer(&["get"])["time"].as_str().unwrap().to_owned();
    let bare = hands.volume(&[]).await;
    hands.tag(&kept, &[("owner", "b")]).await;
    hands.delete_volume(&old).await;
    let (code, reported, _) = desk.scan();
    assert_eq!(code, 0);
    let presence = |flags: &[&str]| {
        let answer = desk.answer(&[&["at", &between, &old], flags].concat());
        answer["resources"][0]["presence"].as_str().unwrap().to_owned()
    };
    assert_eq!(presence(&[]), "Present", "as known then");
    assert_eq!(presence(&["--hindsight"]), "Unknown", "the next look missed it");
    let mut changes: Vec<(String, String)> = of_type(&reported["changes"], "AWS::EC2::Volume")
        .iter()
        .map(|c| (c["change"].as_str().unwrap().to_owned(), c["resource"]["id"].as_str().unwrap().to_owned()))
        .collect();
    changes.sort();
    assert_eq!(changes, [("Appeared".to_owned(), bare.clone()), ("Changed".to_owned(), kept.clone())]);
    assert!(
        of_type(&reported["changes"], "AWS::EC2::Volume").iter().all(|c| c.get("baseline").is_none()),
        "not the first look"
    );
    assert_eq!(reported["pending"][0]["resource"]["id"], json!(old), "a young one awaits a second look");
    assert_eq!(reported["findings"][0]["kind"], "Untagged");
    assert_eq!(reported["findings"][0]["resource"]["id"], json!(bare));
    assert!(reported["findings"][0]["since"].is_string() && reported["findings"][0]["message"].is_string());
    let between = reported["revision"].as_u64().unwrap();

    let (_, reported, _) = desk.scan();
    assert_eq!(reported["changes"][0]["change"], "Disappeared");
    assert_eq!(reported["changes"][0]["resource"]["id"], json!(old));
    let kinds: Vec<&Value> = reported["findings"].as_array().unwrap().iter().map(|f| &f["kind"]).collect();
    assert!(kinds.contains(&&json!("Disappeared")), "{kinds:?}");
    let (_, reported, _) = desk.scan();
    assert_eq!(reported["changes"], json!([]), "nothing happens while nothing happens");

    // The same past, by queries.
    let steps = desk.elava(&["diff", "1", "now", "--steps"]);
    let steps = String::from_utf8_lossy(&steps.stdout).into_owned();
    assert!(steps.starts_with("TIME") && steps.contains("Tags.owner: a -> b"), "{steps}");
    let backwards = desk.elava(&["diff", "now", "1", "--steps"]);
    assert_eq!(backwards.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&backwards.stderr).contains("name the earlier moment first"));
    let key = format!("aws/{A}/{IRELAND}/AWS::EC2::Volume/{kept}");
    let history = desk.answer(&["history", &key]);
    assert_eq!(history["changes"][0]["fields"][0]["path"], "Tags.owner");
    assert_eq!(history["changes"][0]["fields"][0]["after"], "b");
    let then = desk.answer(&["at", &between.to_string(), "--type", "AWS::EC2::Volume"]);
    assert_eq!(then["resources"].as_array().unwrap().len(), 3);
    let diff = desk.answer(&["diff", &between.to_string()]);
    assert_eq!(diff["changes"].as_array().unwrap().len(), 1);
    let owned = desk.answer(&["get", "--tag", "owner=b", "--attributes"]);
    assert_eq!(owned["resources"][0]["id"], json!(kept));
    assert_eq!(owned["resources"][0]["attributes"]["Tags"], json!([{"Key": "owner", "Value": "b"}]));
    let checked = desk.answer(&["store", "check"]);
    assert_eq!((&checked["flaws"], &checked["checked"]["key"]), (&json!([]), &json!(1)));
    let stats = desk.answer(&["store", "stats"]);
    assert!(stats["live"].as_u64() >= Some(3) && stats["tables"][0]["storedBytes"].as_u64() > Some(0), "{stats}");
    assert_eq!(
        desk.answer(&["get", "--untagged", "--type", "AWS::EC2::Volume"])["resources"][0]["id"],
        json!(bare)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_distinguish_complete_partial_and_not_at_all() {
    let desk = Desk::new().await;
    let message = "You are not authorized to perform this operation".to_owned();
    let denied = desk.proxy.fault(
        |c| c.action == "DescribeAddresses",
        Fault::Refuse { status: 403, code: "UnauthorizedOperation", message },
    );
    let (code, reported, errors) = desk.scan();
    assert_eq!(code, 2, "{errors}");
    assert_eq!(reported["complete"], false);
    let scope = reported["scopes"].as_array().unwrap().iter().find(|s| s["outcome"] != "Complete").unwrap();
    assert_eq!(
        (&scope["type"], &scope["outcome"], &scope["reason"]),
        (&json!("AWS::EC2::EIP"), &json!("Failed"), &json!("Denied"))
    );
    assert!(errors.contains("AWS::EC2::EIP") && errors.contains("ec2:DescribeAddresses"), "{errors}");
    desk.proxy.heal(denied);
    // Cut in the middle of the response: the listing is incomplete.
    let cut = desk.proxy.fault(|c| c.action == "DescribeVpcs", Fault::Cut);
    assert_eq!(desk.scan().0, 2);
    desk.proxy.heal(cut);
    assert_eq!(desk.scan().0, 0);

    let role = desk.proxy.fault(
        |c| c.action == "AssumeRole",
        Fault::Refuse { status: 403, code: "AccessDenied", message: "no".to_owned() },
    );
    let (code, reported, errors) = desk.scan();
    assert_eq!(code, 1, "{errors}");
    assert_eq!(reported["scopes"][0]["reason"], "InvalidCredentials");
    desk.proxy.heal(role);
    for args in [
        vec!["scan"],
        vec!["scan", "-f", "missing.yaml", "--store", "elava.redb"],
        vec!["scan", "-f", "cloudscan.yaml", "--store", "elava.redb", "-o", "xml"],
        vec!["history", "vol-nobody-saw"],
        vec!["at", "yesterday"],
        vec!["at", "99999"],
        vec!["get", "--store", "nowhere.redb"],
        vec!["nonsense"],
    ] {
        let output = desk.elava(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?} says why");
    }
    desk.write(&json!({"provider": {"aws": {"accounts": [{"id": "1"}]}}}));
    let (code, _, errors) = desk.scan();
    assert_eq!(code, 1);
    assert!(errors.contains("spec.provider.aws.accounts[0].id: an account id is twelve digits"), "{errors}");
}
