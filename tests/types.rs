//! Every declared type against the emulator: listed with its tags, returned the same by a read by id, absent if it does
//! not exist, unchanged while nothing changes, and without secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;

use elava::cloud::aws::{Aws, access, keys};
use elava::cloud::{AccountTarget, Listing, Provider, Session, TypeInfo};
use elava::inventory::{AccountId, Confirmation, Reason, Region, ResourceType, Scope};
use serde_json::json;

use crate::declarations::{self, OnTheWire};
use crate::support::aws::Emulator;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools;

const A: &str = "111122223333";
const IRELAND: &str = "eu-west-1";
const ALARM: &str = "AWS::CloudWatch::Alarm";
const RESERVATION: &str = "AWS::EC2::CapacityReservation";
const SERVICE: &str = "AWS::ECS::Service";
const PLACEMENT: &str = "AWS::EC2::PlacementGroup";

/// Creates one resource of each type. Returns the ids by type.
fn everything(url: &str) -> BTreeMap<String, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/aws/everything.py");
    let made = Command::new(tools().join("aws/bin/python"))
        .args([script, "make", url, A, IRELAND])
        .output()
        .expect("the emulator's python runs");
    let errors = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{errors}");
    eprintln!("{errors}");
    serde_json::from_slice(&made.stdout).expect("it prints JSON")
}

fn scope(session: &dyn Session, endpoint: &str, info: &TypeInfo) -> Scope {
    Scope {
        provider: "aws".into(),
        partition: session.identity().partition.clone(),
        endpoint: endpoint.into(),
        account: AccountId::new(A),
        region: Region::new(if info.global { "global" } else { IRELAND }),
        resource_type: ResourceType::new(info.name),
    }
}

/// Another id of the same form.
fn other(id: &str) -> String {
    let mut characters: Vec<char> = id.chars().collect();
    if let Some(last) = characters.last_mut() {
        *last = if *last == 'a' { 'b' } else { 'a' };
    }
    characters.into_iter().collect()
}

/// Adds the resources that the emulator can't create, in the documented wire format.
fn stand_ins(proxy: &Proxy, made: &mut BTreeMap<String, String>) {
    proxy.alarm(A, IRELAND, "alarm", &[("owner", "a")]);
    made.insert(ALARM.to_owned(), "alarm".to_owned());
    let tags = "<tagSet><item><key>owner</key><value>a</value></item></tagSet>";
    proxy.stand_in(
        A,
        IRELAND,
        "DescribeCapacityReservations",
        "cr-0123456789abcdef0",
        &format!(
            "<capacityReservationId>cr-0123456789abcdef0</capacityReservationId><instanceType>t3.micro</instanceType>\
             <state>active</state><createDate>2026-11-01T08:30:00.000Z</createDate><totalInstanceCount>1</totalInstanceCount>{tags}"
        ),
    );
    made.insert(RESERVATION.to_owned(), "cr-0123456789abcdef0".to_owned());
    proxy.stand_in(
        A,
        IRELAND,
        "DescribePlacementGroups",
        "pg-0123456789abcdef0",
        &format!(
            "<groupName>p</groupName><strategy>cluster</strategy><state>available</state>\
             <groupId>pg-0123456789abcdef0</groupId>{tags}"
        ),
    );
    made.insert(PLACEMENT.to_owned(), "pg-0123456789abcdef0".to_owned());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_listed_with_its_tags_and_reads_alike_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let aws = Emulator::start(dir.path()).await;
    let proxy = Proxy::start(&aws.url);
    let mut made = everything(&aws.url);
    stand_ins(&proxy, &mut made);
    let target = AccountTarget {
        account: Some(AccountId::new(A)),
        provider: "aws".into(),
        access: access(keys("somebody", "somebody"), Some(format!("arn:aws:iam::{A}:role/elava"))),
        endpoint: proxy.url.as_str().into(),
        include_regions: vec![Region::new(IRELAND)],
        exclude_regions: Vec::new(),
    };
    // The emulator has no other users, so the whole request quota is used.
    let provider = Aws::new(1.0);
    let session: Arc<dyn Session> = provider.connect(&target).await.expect("everybody gets in");
    let mut types = provider.types();
    types.sort_by_key(|info| info.name);
    let declared: BTreeSet<&str> = types.iter().map(|info| info.name).collect();
    let made_types: BTreeSet<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(declared, made_types, "one of each is made");

    let mut wrong = Vec::new();
    let mut on_the_wire = Vec::new();
    for info in &types {
        let scope = scope(&*session, &proxy.url, info);
        let before = provider.calls();
        let listing = Listing::of(session.list(&scope)).await;
        if let Some(error) = &listing.error {
            wrong.push(format!("{}: the listing failed: {error}", info.name));
            continue;
        }
        let Some(id) = made.get(info.name) else { continue };
        let Some(seen) = listing.observations.iter().find(|o| o.id == *id) else {
            let ids: Vec<&str> = listing.observations.iter().map(|o| o.id.as_str()).collect();
            wrong.push(format!("{}: {id} is not listed: {ids:?}", info.name));
            continue;
        };
        let owner = seen.tags.known().and_then(|tags| tags.get("owner"));
        if owner != Some("a") && info.name != "AWS::IAM::AccessKey" {
            wrong.push(format!("{}: its tags are {:?}", info.name, seen.tags));
        }
        if String::from_utf8_lossy(seen.attributes.as_bytes()).contains("hunter2") {
            wrong.push(format!("{}: a secret is kept", info.name));
        }
        let again = Listing::of(session.list(&scope)).await;
        if again.observations.iter().find(|o| o.id == *id) != Some(seen) {
            wrong.push(format!("{}: it differs in the next look", info.name));
        }
        // The emulator does not have the resources that the proxy serves in its place.
        let is_stand_in = [RESERVATION, PLACEMENT].contains(&info.name);
        if info.verify_tag_loss.is_some() {
            match session.read_tags(&scope, &[id]).await {
                Ok(tags) if is_stand_in || tags.get(id.as_str()) == seen.tags.known() => {}
                other => wrong.push(format!("{}: its tags, asked again: {other:?}", info.name)),
            }
        }
        let before_absence = provider.calls();
        if info.confirmation != Confirmation::ReadById {
            on_the_wire.push(OnTheWire::of(info, &before, &before_absence, &before_absence));
            continue;
        }
        match session.read_by_id(&scope, id).await {
            Ok(Some(read)) if read == *seen => {}
            // The response is another document: it proves that the resource exists, and no more.
            Ok(Some(read)) if read.attributes.is_unknown() && EXISTS_ALONE.contains(&info.name) => {}
            Ok(Some(read)) => wrong.push(format!(
                "{}: listed {} {:?}, by id {} {:?}",
                info.name,
                String::from_utf8_lossy(seen.attributes.as_bytes()),
                seen.tags,
                String::from_utf8_lossy(read.attributes.as_bytes()),
                read.tags,
            )),
            other => wrong.push(format!("{}: asked by id: {other:?}", info.name)),
        }
        match session.read_by_id(&scope, &other(id)).await {
            Ok(None) => {}
            // The emulator reports that a route table is not found, which proves nothing.
            Err(error) if info.name == "AWS::EC2::NetworkAcl" && error.message.contains("RouteTable") => {}
            // The emulator fails here instead of answering.
            Err(error) if info.name == "AWS::MSK::Cluster" && error.reason == Reason::ServerError => {}
            answer => wrong.push(format!("{}: what is not there, asked by id: {answer:?}", info.name)),
        }
        on_the_wire.push(OnTheWire::of(info, &before, &before_absence, &provider.calls()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    short_arns_are_found_in_the_cluster_that_they_were_listed_in(&proxy, &*session, &made).await;
    declarations::hold_against_the_models(&on_the_wire);
}

/// ECS services from before the long format of ARNs: their ARNs do not name the cluster.
async fn short_arns_are_found_in_the_cluster_that_they_were_listed_in(
    proxy: &Proxy,
    session: &dyn Session,
    made: &BTreeMap<String, String>,
) {
    let long = &made[SERVICE];
    let name = long.rsplit('/').next().unwrap();
    let short = format!("arn:aws:ecs:{IRELAND}:{A}:service/{name}");
    assert_ne!(*long, short);
    let listed: &str = format!(r#"{{"serviceArns": ["{short}"]}}"#).leak();
    let rule = proxy.fault(|call| call.action == "ListServices", Fault::Show(listed));
    let info = Aws::default().types().into_iter().find(|info| info.name == SERVICE).unwrap();
    let listing = Listing::of(session.list(&scope(session, &proxy.url, &info))).await;
    assert!(listing.error.is_none(), "{:?}", listing.error);
    let ids: Vec<&str> = listing.observations.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(ids, [long.as_str()], "it is described within its cluster");
    proxy.heal(rule);
}

/// Types whose read by id returns another document than their listing.
const EXISTS_ALONE: [&str; 4] = [
    "AWS::CloudFront::Distribution",
    "AWS::Lambda::Function",
    "AWS::SecretsManager::Secret",
    "AWS::StepFunctions::StateMachine",
];

/// Types that can't be checked with the emulator's IAM: it has other names than IAM for the calls of REST services, and
/// does not have the calls that the proxy implements.
const UNKNOWN_TO_ITS_IAM: [&str; 13] = [
    "AWS::ApiGateway::RestApi",
    "AWS::Backup::BackupVault",
    "AWS::CloudFront::Distribution",
    "AWS::EFS::FileSystem",
    "AWS::EKS::Cluster",
    "AWS::EKS::Nodegroup",
    "AWS::Lambda::Function",
    "AWS::MSK::Cluster",
    "AWS::OpenSearchService::Domain",
    "AWS::Route53::HostedZone",
    ALARM,
    RESERVATION,
    PLACEMENT,
];

fn policy() -> serde_json::Value {
    let printed = Command::new(crate::support::operator::binary()).arg("iam-policy").output().expect("elava runs");
    serde_json::from_slice(&printed.stdout).expect("it prints JSON")
}

/// The types with a call that is denied to a user with this policy.
async fn denied(aws: &Emulator, user: &str, policy: &serde_json::Value) -> BTreeSet<&'static str> {
    let authorise = async |after: &str| {
        let url = format!("{}/moto-api/reset-auth", aws.url);
        let answer = reqwest::Client::new().post(url).body(after.to_owned()).send().await.unwrap();
        assert!(answer.status().is_success());
    };
    authorise("inf").await;
    let root = aws.root();
    root.call("iam", "CreateUser", json!({ "UserName": user })).await;
    let attached = json!({ "UserName": user, "PolicyName": "elava", "PolicyDocument": policy.to_string() });
    root.call("iam", "PutUserPolicy", attached).await;
    let made = root.call("iam", "CreateAccessKey", json!({ "UserName": user })).await["AccessKey"].take();
    let key = |name: &str| made[name].as_str().expect("it is a key").to_owned();
    authorise("0").await;
    let target = AccountTarget {
        account: None,
        provider: "aws".into(),
        access: access(keys(&key("AccessKeyId"), &key("SecretAccessKey")), None),
        endpoint: aws.url.as_str().into(),
        include_regions: vec![Region::new(IRELAND)],
        exclude_regions: Vec::new(),
    };
    let provider = Aws::new(1.0);
    let session = provider.connect(&target).await.expect("it answers");
    session.regions().await.expect("the regions may be listed");
    let mut denied = BTreeSet::new();
    for info in provider.types().iter().filter(|info| !UNKNOWN_TO_ITS_IAM.contains(&info.name)) {
        let scope = scope(&*session, &aws.url, info);
        let listing = Listing::of(session.list(&scope)).await;
        match listing.error {
            None => {}
            Some(error) if error.reason == Reason::Denied => {
                assert!(error.action.is_some(), "it says which: {error}");
                denied.insert(info.name);
            }
            Some(error) => panic!("{}: {error}", info.name),
        }
    }
    denied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_is_enough_and_without_an_action_exactly_its_types_are_denied() {
    let dir = tempfile::tempdir().unwrap();
    let aws = Emulator::start(dir.path()).await;
    let policy = policy();
    assert_eq!(denied(&aws, "whole", &policy).await, BTreeSet::new());
    for (number, action) in
        ["ec2:DescribeVolumes", "iam:ListUsers", "s3:ListAllMyBuckets", "states:ListStateMachines"]
            .into_iter()
            .enumerate()
    {
        let mut less = policy.clone();
        let actions = less["Statement"][0]["Action"].as_array_mut().expect("a list");
        actions.retain(|allowed| allowed != action);
        let needing = Aws::default().types().into_iter().filter(|info| info.actions.contains(&action));
        let expected: BTreeSet<&str> = needing.map(|info| info.name).collect();
        assert_eq!(denied(&aws, &format!("less-{number}"), &less).await, expected, "{action}");
    }
}

#[test]
fn what_ended_without_a_read_by_id_claims_none() {
    let types = Aws::default().types();
    let by_sweeps = types.iter().filter(|info| matches!(info.confirmation, Confirmation::Sweeps { .. }));
    let by_sweeps: BTreeSet<&str> = by_sweeps.map(|info| info.name).collect();
    let facts = Aws::default().facts().types;
    let without = facts.values().filter(|facts| !facts.has_read_by_id).map(|facts| facts.name);
    assert_eq!(without.collect::<BTreeSet<_>>(), by_sweeps, "the rule words the end after this");
    assert_eq!(by_sweeps, ["AWS::Backup::BackupVault", "AWS::IAM::AccessKey"].into());
}
