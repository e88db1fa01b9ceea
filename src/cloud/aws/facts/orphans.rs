//! The ways in which resources of AWS can be unused, and what they are billed for.
//!
//! Each case is about one type: which documents qualify, and which types must not reference the resource.

use std::borrow::Cow;

use serde_json::Value;

use super::names::{
    AUTO_SCALING_GROUP, DB_CLUSTER, DB_INSTANCE, ECS_SERVICE, EKS_CLUSTER, ELASTIC_IP, IMAGE, INSTANCE,
    LAMBDA_FUNCTION, LAUNCH_TEMPLATE, LOAD_BALANCER, LOG_GROUP, NAT_GATEWAY, NETWORK_INTERFACE, ROUTE_TABLE,
    SECURITY_GROUP, SNAPSHOT, TARGET_GROUP, VOLUME, VPC_ENDPOINT,
};
use crate::inventory::{Billing, Claim, OrphanCase, Severity, SinceSource, Usage, texts};

/// What most cases have in common.
const OWN_BILL: OrphanCase = OrphanCase {
    resource_type: "",
    is_open: |_| false,
    referring_types: &[],
    severity: Severity::Low,
    verdict: "",
    reported: "",
    advice: "",
    shows: &[],
    since_source: SinceSource::LastReference,
    billing: Billing::Itself,
    is_stopped: false,
    origin: None,
    kept_by: &[],
    claim: None,
};

/// For a volume that Kubernetes created: a workload at zero replicas attaches nothing, but its claim is bound.
const CLAIMED_VOLUME_ADVICE: &str = "Do not delete it in AWS while a PersistentVolume names it (kubectl get pv -o yaml | grep the volume): a workload at \
     zero replicas uses it. If the data is not needed, delete the claim. Only what no PersistentVolume names is left over";

/// Tags of tools that keep copies on purpose: Velero, snapshots of Kubernetes' EBS driver, Elastic Disaster
/// Recovery.
const BACKUP_TOOL_TAG_PREFIXES: [&str; 4] =
    ["velero.io/", "ebs.csi.aws.com/", "CSIVolumeSnapshotName", "AWSElasticDisasterRecovery"];

pub(super) const CASES: &[OrphanCase] = &[
    OrphanCase {
        claim: Some(Claim { driver_tags: &["ebs.csi.aws.com/"], advice: CLAIMED_VOLUME_ADVICE }),
        resource_type: VOLUME,
        is_open: |volume| is(volume, "State", "available") && texts(volume, "Attachments.InstanceId").is_empty(),
        referring_types: &[INSTANCE],
        severity: Severity::Medium,
        verdict: "serves nothing",
        reported: "it is attached to no instance",
        advice: "Ask its owner. If the data may be needed, make a snapshot, wait until it is completed, tag it with its owner and \
                 until when it is kept, and exempt that tag; then delete the volume",
        shows: &["SnapshotId"],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: ELASTIC_IP,
        is_open: |address| {
            // An address that a service allocated can only be released by that service.
            ["AssociationId", "InstanceId", "NetworkInterfaceId", "ServiceManaged"]
                .iter()
                .all(|f| texts(address, f).is_empty())
        },
        referring_types: &[NAT_GATEWAY],
        severity: Severity::Medium,
        verdict: "serves nothing",
        reported: "it is associated with nothing, and no NAT gateway names it",
        advice: "Before releasing it, search DNS for the address and ask its owner for allow lists and failover: a released \
                 address may not come back, and a DNS record left behind points to a stranger. If it is kept, exempt it",
        shows: &["PublicIp"],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: SNAPSHOT,
        origin: Some(|snapshot| Some((VOLUME, texts(snapshot, "VolumeId").pop()?))),
        kept_by: &BACKUP_TOOL_TAG_PREFIXES,
        // A copied snapshot references a volume that never existed.
        is_open: |snapshot| texts(snapshot, "VolumeId").iter().any(|id| id != "vol-ffffffff"),
        referring_types: &[VOLUME, IMAGE, LAUNCH_TEMPLATE, AUTO_SCALING_GROUP],
        severity: Severity::Low,
        verdict: "serves nothing",
        reported: "its volume is not in this account and region, and no image, launch template or Auto Scaling group names it",
        advice: "It may be the only copy of that data. Ask its owner and check for the tags of a backup tool: if it is to be kept, \
                 exempt it with an expiry. Delete it only when nobody needs the data",
        shows: &["VolumeId", "Description"],
        since_source: SinceSource::LastReference,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: IMAGE,
        is_open: |image| image["Public"].as_bool() != Some(true),
        referring_types: &[INSTANCE, LAUNCH_TEMPLATE, AUTO_SCALING_GROUP],
        severity: Severity::Low,
        verdict: "serves nothing",
        reported: "no instance of this account and region runs or is stopped on it, and no launch template (default and latest \
               version) or Auto Scaling group names it",
        advice: "Look at its LastLaunchedTime first (aws ec2 describe-images --image-ids). Fleets, Batch, EMR, Karpenter, \
                 pipelines and other accounts may use it unseen: disable it for a while (aws ec2 disable-image), deregister last",
        shows: &["Name"],
        since_source: SinceSource::LastReference,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: LOAD_BALANCER,
        // A load balancer that only redirects or returns fixed responses needs no targets.
        is_open: |balancer| {
            balancer["Listeners"].as_array().is_some_and(|listeners| {
                listeners.is_empty()
                    || texts(balancer, "Listeners.DefaultActions.Type").contains(&"forward".to_owned())
            })
        },
        referring_types: &[TARGET_GROUP],
        severity: Severity::Medium,
        verdict: "serves nothing",
        reported: "no target group that it forwards to has a target, or it has no listener (rules of listeners are not read)",
        advice: "Is what stands behind it scaled to zero on purpose? Then exempt it. Else remove it where it was made (Ingress, \
                 Service, stack), after its DNS records: its DNS name can't be had again",
        shows: &["DNSName"],
        since_source: SinceSource::LastReference,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: TARGET_GROUP,
        is_open: |group| texts(group, "LoadBalancerArns").is_empty(),
        referring_types: &[AUTO_SCALING_GROUP, ECS_SERVICE],
        severity: Severity::Low,
        verdict: "serves nothing",
        reported: "no load balancer forwards to it, and no Auto Scaling group or ECS service names it",
        advice: "Is it the idle one of a blue/green pair, or bound by a TargetGroupBinding? Then exempt it. Else add it to a \
                 listener, or delete it",
        shows: &[],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: NAT_GATEWAY,
        is_open: |gateway| is(gateway, "State", "available"),
        referring_types: &[ROUTE_TABLE],
        severity: Severity::Medium,
        verdict: "serves nothing",
        reported: "no route of any route table points to it",
        advice: "Make sure first that no route was removed by mistake: do the private subnets of its VPC still reach the internet? \
                 If it is a standby, exempt it. Else delete it; keep its address while others allow it",
        shows: &["VpcId", "SubnetId"],
        since_source: SinceSource::LastReference,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: NETWORK_INTERFACE,
        is_open: |interface| {
            is(interface, "Status", "available")
                && interface["RequesterManaged"].as_bool() != Some(true)
                && texts(interface, "Attachment.AttachmentId").is_empty()
        },
        referring_types: &[INSTANCE],
        severity: Severity::Low,
        verdict: "serves nothing",
        reported: "it is attached to nothing",
        advice: "Ask its owner whether its private address or MAC address is kept for something (licences, failover): both go with \
                 it. Else delete it: until then its subnet and security groups can't be deleted",
        shows: &["Description", "PrivateIpAddress", "SubnetId"],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: SECURITY_GROUP,
        // The default group of a VPC can't be deleted, and EMR reuses its own groups for its next cluster.
        is_open: |group| {
            !is(group, "GroupName", "default")
                && !texts(group, "GroupName").iter().any(|name| name.starts_with("ElasticMapReduce-"))
        },
        referring_types: &[
            NETWORK_INTERFACE,
            SECURITY_GROUP,
            LAUNCH_TEMPLATE,
            AUTO_SCALING_GROUP,
            LAMBDA_FUNCTION,
            ECS_SERVICE,
            DB_INSTANCE,
            DB_CLUSTER,
            VPC_ENDPOINT,
            EKS_CLUSTER,
            LOAD_BALANCER,
        ],
        severity: Severity::Low,
        verdict: "serves nothing",
        reported: "no network interface, group, template, function, service, cluster, endpoint or database names it",
        advice: "Ask its owner for what runs only at times: scheduled ECS tasks, CodeBuild, Glue, Batch, EMR, SageMaker, VPC \
                 Lattice, other accounts. Save its rules, then delete it: AWS refuses only what is attached now",
        shows: &["GroupName", "VpcId"],
        since_source: SinceSource::LastReference,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: LOG_GROUP,
        // Groups of the class DELIVERY keep events for one day, whatever their setting.
        is_open: |group| {
            group.get("retentionInDays").is_none_or(Value::is_null) && !is(group, "logGroupClass", "DELIVERY")
        },
        referring_types: &[],
        severity: Severity::Low,
        verdict: "keeps its log events for ever",
        reported: "no retention is set; what writes to it may well be in use",
        advice: "Ask its owner how long its events must be kept, then set that (aws logs put-retention-policy): older events are \
                 deleted for good. If they are kept for an audit, exempt it",
        shows: &[],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
    OrphanCase {
        resource_type: INSTANCE,
        is_stopped: true,
        billing: Billing::Parts(|instance| volumes(instance).into_iter().map(|id| (VOLUME, id)).collect()),
        is_open: |instance| is(instance, "State.Name", "stopped") && !volumes(instance).is_empty(),
        referring_types: &[],
        severity: Severity::Medium,
        verdict: "is stopped",
        reported: "its volumes are billed all the same",
        advice: "Ask its owner whether it is a standby or kept as evidence: then exempt it. Else make an image, wait until that is \
                 available, tag it, and terminate the instance. A Spot request is to be cancelled first",
        shows: &["InstanceType"],
        since_source: SinceSource::ReportedByCloud,
        ..OWN_BILL
    },
];

fn is(document: &Value, path: &str, value: &str) -> bool {
    texts(document, path).first().is_some_and(|text| text == value)
}

fn volumes(instance: &Value) -> Vec<String> {
    texts(instance, "BlockDeviceMappings.Ebs.VolumeId")
}

/// How to read what a resource of the type is billed for.
pub(super) fn usage(resource_type: &str) -> Option<fn(&Value) -> Option<Usage>> {
    let read: fn(&Value) -> Option<Usage> = match resource_type {
        VOLUME => |volume| {
            let kind = texts(volume, "VolumeType").pop()?;
            Some(Usage { item: format!("ebs.{kind}").into(), quantity: volume["Size"].as_f64()? })
        },
        // An address that its owner brought to AWS is free: https://aws.amazon.com/vpc/pricing/
        ELASTIC_IP => |address| {
            let is_own = texts(address, "PublicIpv4Pool").iter().any(|pool| pool != "amazon");
            (!is_own).then(|| hours("ipv4"))
        },
        NAT_GATEWAY => |_| Some(hours("nat-gateway")),
        LOAD_BALANCER => |balancer| Some(hours(format!("load-balancer.{}", texts(balancer, "Type").pop()?))),
        _ => return None,
    };
    Some(read)
}

fn hours(item: impl Into<Cow<'static, str>>) -> Usage {
    Usage { item: item.into(), quantity: 1.0 }
}
