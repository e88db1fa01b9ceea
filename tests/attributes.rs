//! The stored attributes of each type are what the AWS CLI prints: the emulator's raw responses, parsed by botocore's
//! own parser, are compared field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use serde_json::{Value, json};

use crate::support::aws::{Emulator, Hands};
use crate::support::operator::binary;
use crate::support::tools;

const A: &str = "111122223333";
const IRELAND: &str = "eu-west-1";
const OWNED: &[(&str, &str)] = &[("owner", "a"), ("Name", "n")];

/// Creates at least one resource of every type.
async fn one_of_each(hands: &Hands) {
    let (_, volume) = hands.instance(OWNED).await;
    hands.snapshot(&volume, OWNED).await;
    hands.volume(OWNED).await;
    hands.address(OWNED).await;
    hands.bucket("elava-attributes", OWNED).await;
    hands.database("attributes", OWNED).await;
    let ec2 = &hands.ec2;
    let tags = |kind: ResourceType| {
        let tag = Tag::builder().key("owner").value("a").build();
        TagSpecification::builder().resource_type(kind).tags(tag).build()
    };
    ec2.create_key_pair().key_name("pair").tag_specifications(tags(ResourceType::KeyPair)).send().await.unwrap();
    ec2.create_internet_gateway().tag_specifications(tags(ResourceType::InternetGateway)).send().await.unwrap();
    let subnets = ec2.describe_subnets().send().await.unwrap();
    let subnet = subnets.subnets()[0].subnet_id().unwrap().to_owned();
    ec2.create_nat_gateway()
        .subnet_id(&subnet)
        .tag_specifications(tags(ResourceType::Natgateway))
        .send()
        .await
        .unwrap();
    ec2.create_network_interface()
        .subnet_id(&subnet)
        .tag_specifications(tags(ResourceType::NetworkInterface))
        .send()
        .await
        .unwrap();
    let data = aws_sdk_ec2::types::RequestLaunchTemplateData::builder().image_id("ami-1").build();
    let template = ec2.create_launch_template().launch_template_name("template").launch_template_data(data);
    template.tag_specifications(tags(ResourceType::LaunchTemplate)).send().await.unwrap();
}

/// Lists with botocore, as `aws <service> <operation>` does, with the CLI's time format.
const BOTOCORE: &str = r#"
import json, sys, datetime, botocore.session
url = sys.argv[1]
session = botocore.session.get_session()
def client(service, **keys):
    return session.create_client(service, region_name="eu-west-1", endpoint_url=url, **keys)
role = client("sts", aws_access_key_id="x", aws_secret_access_key="x").assume_role(
    RoleArn="arn:aws:iam::111122223333:role/x", RoleSessionName="test")["Credentials"]
keys = dict(aws_access_key_id=role["AccessKeyId"], aws_secret_access_key=role["SecretAccessKey"],
            aws_session_token=role["SessionToken"])
ec2, s3, rds = client("ec2", **keys), client("s3", **keys), client("rds", **keys)
out = {
    "AWS::EC2::Instance": [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]],
    "AWS::EC2::Volume": ec2.describe_volumes()["Volumes"],
    "AWS::EC2::Snapshot": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
    "AWS::EC2::Image": ec2.describe_images(Owners=["self"])["Images"],
    "AWS::EC2::EIP": ec2.describe_addresses()["Addresses"],
    "AWS::EC2::NetworkInterface": ec2.describe_network_interfaces()["NetworkInterfaces"],
    "AWS::EC2::SecurityGroup": ec2.describe_security_groups()["SecurityGroups"],
    "AWS::EC2::VPC": ec2.describe_vpcs()["Vpcs"],
    "AWS::EC2::Subnet": ec2.describe_subnets()["Subnets"],
    "AWS::EC2::RouteTable": ec2.describe_route_tables()["RouteTables"],
    "AWS::EC2::InternetGateway": ec2.describe_internet_gateways()["InternetGateways"],
    "AWS::EC2::NatGateway": ec2.describe_nat_gateways()["NatGateways"],
    "AWS::EC2::KeyPair": ec2.describe_key_pairs()["KeyPairs"],
    "AWS::EC2::LaunchTemplate": ec2.describe_launch_templates()["LaunchTemplates"],
    "AWS::S3::Bucket": s3.list_buckets()["Buckets"],
    "AWS::RDS::DBInstance": rds.describe_db_instances()["DBInstances"],
}
def plain(o):
    if isinstance(o, datetime.datetime):
        return o.isoformat()
    raise TypeError(type(o))
json.dump(out, sys.stdout, default=plain)
"#;

/// Removes the fields at a path, through lists.
fn remove(value: &mut Value, path: &str) {
    match (value, path.split_once('.')) {
        (Value::Array(items), _) => items.iter_mut().for_each(|item| remove(item, path)),
        (Value::Object(fields), None) => drop(fields.remove(path)),
        (Value::Object(fields), Some((step, rest))) => {
            if let Some(inner) = fields.get_mut(step) {
                remove(inner, rest);
            }
        }
        _ => {}
    }
}

/// The id field of each type, the fields that are not kept, and the fields that are added.
const IDS: [(&str, &str, &[&str], &[&str]); 16] = [
    (
        "AWS::EC2::Instance",
        "InstanceId",
        &["NetworkInterfaces.PrivateIpAddresses", "NetworkInterfaces.Ipv6Addresses"],
        &[],
    ),
    ("AWS::EC2::Volume", "VolumeId", &[], &[]),
    ("AWS::EC2::Snapshot", "SnapshotId", &["Progress"], &[]),
    ("AWS::EC2::Image", "ImageId", &[], &[]),
    ("AWS::EC2::EIP", "AllocationId", &[], &[]),
    ("AWS::EC2::NetworkInterface", "NetworkInterfaceId", &["PrivateIpAddresses", "Ipv6Addresses"], &[]),
    ("AWS::EC2::SecurityGroup", "GroupId", &[], &[]),
    ("AWS::EC2::VPC", "VpcId", &[], &[]),
    ("AWS::EC2::Subnet", "SubnetId", &["AvailableIpAddressCount"], &[]),
    ("AWS::EC2::RouteTable", "RouteTableId", &[], &[]),
    ("AWS::EC2::InternetGateway", "InternetGatewayId", &[], &[]),
    ("AWS::EC2::NatGateway", "NatGatewayId", &[], &[]),
    ("AWS::EC2::KeyPair", "KeyPairId", &[], &[]),
    ("AWS::EC2::LaunchTemplate", "LaunchTemplateId", &[], &["Versions"]),
    ("AWS::S3::Bucket", "Name", &[], &["location"]),
    ("AWS::RDS::DBInstance", "DBInstanceIdentifier", &["LatestRestorableTime"], &[]),
];

/// Sorts all lists: in described objects they are sets.
fn sorted(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sorted);
            items.sort_by_key(ToString::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(sorted),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_are_what_the_aws_cli_prints() {
    let dir = tempfile::tempdir().unwrap();
    let aws = Emulator::start(dir.path()).await;
    one_of_each(&aws.hands(A, IRELAND).await).await;
    let scan = json!({"apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": "x"}, "spec": {
        "resourceTypes": {"include": crate::support::desk::COMMON},
        "provider": {"aws": {
            "endpointURL": aws.url,
            "accounts": [{"id": A, "roleARN": format!("arn:aws:iam::{A}:role/elava")}],
            "regions": {"include": [IRELAND]},
        }},
    }});
    let manifest = dir.path().join("cloudscan.json");
    std::fs::write(&manifest, scan.to_string()).unwrap();
    let store = dir.path().join("elava.redb").display().to_string();
    let elava = |args: &[&str]| {
        let output = Command::new(binary())
            .args(args)
            .args(["--store", &store, "-o", "json"])
            .envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    elava(&["scan", "-f", &manifest.display().to_string()]);
    let kept = elava(&["get", "--attributes"]);
    let output = Command::new(tools().join("aws/bin/python")).args(["-c", BOTOCORE, &aws.url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut printed: BTreeMap<String, Vec<Value>> = serde_json::from_slice(&output.stdout).unwrap();

    let mut compared = BTreeSet::new();
    for resource in kept["resources"].as_array().unwrap() {
        let name = resource["type"].as_str().unwrap();
        let (_, id, left_out, added) = IDS.iter().find(|(n, ..)| *n == name).expect("every type is in the table");
        let objects = printed.get_mut(name).expect("every type is listed");
        let i = objects
            .iter()
            .position(|o| o[*id] == resource["id"])
            .unwrap_or_else(|| panic!("{name} {}", resource["id"]));
        let mut expected = objects.swap_remove(i);
        let mut attributes = resource["attributes"].clone();
        for field in *left_out {
            remove(&mut expected, field);
        }
        for field in *added {
            assert!(attributes.as_object_mut().unwrap().remove(*field).is_some(), "{name} has {field}");
        }
        // An empty tag list is left out here.
        for field in ["Tags", "TagSet", "TagList"] {
            if expected[field] == json!([]) {
                expected.as_object_mut().unwrap().remove(field);
            }
        }
        sorted(&mut expected);
        sorted(&mut attributes);
        assert_eq!(attributes, expected, "{name} {}", resource["id"]);
        compared.insert(name.to_owned());
    }
    assert_eq!(compared.len(), IDS.len(), "every type was compared: {compared:?}");
    let unseen: Vec<_> = printed.iter().filter(|(_, rest)| !rest.is_empty()).collect();
    assert!(unseen.is_empty(), "listed by botocore and not kept: {unseen:?}");
}
