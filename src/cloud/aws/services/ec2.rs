//! EC2: the types whose listings contain their tags.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TAG_LIST, TagSource, call, tag, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagSet;

/// The maximum that nearly every paginated EC2 listing takes; those that take less set it themselves. Unpaginated calls
/// have the smallest buckets.
const PAGE_SIZE: i64 = 1000;

/// The maximum number of values of one filter.
const FILTER_VALUES_MAX: usize = 200;

/// What most of EC2 has in common.
const EC2: Declaration = Declaration { verify_tags: Some(read_tags), ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::EC2::Instance",
        actions: &["ec2:DescribeInstances", "ec2:DescribeTags"],
        list: call("ec2", "DescribeInstances")
            .with(r#"{"IncludeManagedResources": true}"#)
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("InstanceIds"),
        items: &["Reservations", "Instances"],
        id: "InstanceId",
        not_found: &["InvalidInstanceID.NotFound"],
        // LaunchTime is the last start. The primary interface is attached at creation, and never detached.
        birth: Some("NetworkInterfaces.Attachment.AttachTime"),
        end_states: Some(("State.Name", &["shutting-down", "terminated"])),
        volatile: &[
            "NetworkInterfaces.PrivateIpAddresses",
            "NetworkInterfaces.Ipv6Addresses",
            "NetworkInterfaces.Ipv4Prefixes",
            "NetworkInterfaces.Ipv6Prefixes",
        ],
        shape: 2,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::Volume",
        actions: &["ec2:DescribeVolumes", "ec2:DescribeTags"],
        list: call("ec2", "DescribeVolumes")
            .with(r#"{"IncludeManagedResources": true}"#)
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("VolumeIds"),
        items: &["Volumes"],
        id: "VolumeId",
        not_found: &["InvalidVolume.NotFound"],
        birth: Some("CreateTime"),
        end_states: Some(("State", &["deleting", "deleted"])),
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::Snapshot",
        actions: &["ec2:DescribeSnapshots", "ec2:DescribeTags"],
        // Without an owner this would list the public catalogue.
        list: call("ec2", "DescribeSnapshots")
            .with(r#"{"OwnerIds": ["self"]}"#)
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("SnapshotIds"),
        items: &["Snapshots"],
        id: "SnapshotId",
        not_found: &["InvalidSnapshot.NotFound"],
        birth: Some("StartTime"),
        volatile: &["Progress"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::Image",
        actions: &["ec2:DescribeImages", "ec2:DescribeTags"],
        list: call("ec2", "DescribeImages")
            .with(r#"{"Owners": ["self"], "IncludeDisabled": true, "IncludeDeprecated": true}"#)
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("ImageIds"),
        items: &["Images"],
        id: "ImageId",
        not_found: &["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"],
        birth: Some("CreationDate"),
        end_states: Some(("State", &["deregistered"])),
        volatile: &["LastLaunchedTime", "ScanResults"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::EIP",
        actions: &["ec2:DescribeAddresses", "ec2:DescribeTags"],
        list: call("ec2", "DescribeAddresses").by_id("AllocationIds"),
        items: &["Addresses"],
        id: "AllocationId",
        not_found: &["InvalidAllocationID.NotFound"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::NetworkInterface",
        is_shared: true,
        actions: &["ec2:DescribeNetworkInterfaces", "ec2:DescribeTags"],
        list: call("ec2", "DescribeNetworkInterfaces")
            .with(r#"{"IncludeManagedResources": true}"#)
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("NetworkInterfaceIds"),
        items: &["NetworkInterfaces"],
        id: "NetworkInterfaceId",
        not_found: &["InvalidNetworkInterfaceID.NotFound"],
        // The only listing of EC2 whose field is not called Tags.
        tags: TagSource::Inline("TagSet", TAG_LIST),
        // With the CNI of EKS each pod has one. The first is in PrivateIpAddress too.
        volatile: &["PrivateIpAddresses", "Ipv6Addresses", "Ipv4Prefixes", "Ipv6Prefixes"],
        shape: 2,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::SecurityGroup",
        is_shared: true,
        actions: &["ec2:DescribeSecurityGroups", "ec2:DescribeTags"],
        list: call("ec2", "DescribeSecurityGroups").paged("NextToken", "MaxResults", PAGE_SIZE).by_id("GroupIds"),
        items: &["SecurityGroups"],
        id: "GroupId",
        not_found: &["InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::VPC",
        is_shared: true,
        actions: &["ec2:DescribeVpcs", "ec2:DescribeTags"],
        list: call("ec2", "DescribeVpcs").paged("NextToken", "MaxResults", PAGE_SIZE).by_id("VpcIds"),
        items: &["Vpcs"],
        id: "VpcId",
        end_states: Some(("State", &["deleting"])),
        not_found: &["InvalidVpcID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::Subnet",
        is_shared: true,
        actions: &["ec2:DescribeSubnets", "ec2:DescribeTags"],
        list: call("ec2", "DescribeSubnets").paged("NextToken", "MaxResults", PAGE_SIZE).by_id("SubnetIds"),
        items: &["Subnets"],
        id: "SubnetId",
        not_found: &["InvalidSubnetID.NotFound"],
        // Every launch changes it.
        volatile: &["AvailableIpAddressCount"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::RouteTable",
        is_shared: true,
        actions: &["ec2:DescribeRouteTables", "ec2:DescribeTags"],
        list: call("ec2", "DescribeRouteTables").paged("NextToken", "MaxResults", 100).by_id("RouteTableIds"),
        items: &["RouteTables"],
        id: "RouteTableId",
        not_found: &["InvalidRouteTableID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::InternetGateway",
        actions: &["ec2:DescribeInternetGateways", "ec2:DescribeTags"],
        list: call("ec2", "DescribeInternetGateways")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("InternetGatewayIds"),
        items: &["InternetGateways"],
        id: "InternetGatewayId",
        not_found: &["InvalidInternetGatewayID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::NatGateway",
        actions: &["ec2:DescribeNatGateways", "ec2:DescribeTags"],
        list: call("ec2", "DescribeNatGateways")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("NatGatewayIds"),
        items: &["NatGateways"],
        id: "NatGatewayId",
        not_found: &["NatGatewayNotFound"],
        birth: Some("CreateTime"),
        // Listed for an hour after it failed.
        end_states: Some(("State", &["deleting", "deleted", "failed"])),
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::KeyPair",
        actions: &["ec2:DescribeKeyPairs", "ec2:DescribeTags"],
        list: call("ec2", "DescribeKeyPairs").by_id("KeyPairIds"),
        items: &["KeyPairs"],
        id: "KeyPairId",
        not_found: &["InvalidKeyPair.NotFound"],
        birth: Some("CreateTime"),
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::LaunchTemplate",
        actions: &["ec2:DescribeLaunchTemplates", "ec2:DescribeLaunchTemplateVersions", "ec2:DescribeTags"],
        list: call("ec2", "DescribeLaunchTemplates")
            .with(r#"{"IncludeManagedResources": true}"#)
            .paged("NextToken", "MaxResults", 200)
            .by_id("LaunchTemplateIds"),
        items: &["LaunchTemplates"],
        enrich: Some(launch_template_versions),
        shape: 2,
        id: "LaunchTemplateId",
        not_found: &["InvalidLaunchTemplateId.NotFound"],
        secret: &["Versions.LaunchTemplateData.UserData"],
        birth: Some("CreateTime"),
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::VPCEndpoint",
        is_shared: true,
        actions: &["ec2:DescribeVpcEndpoints", "ec2:DescribeTags"],
        list: call("ec2", "DescribeVpcEndpoints")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("VpcEndpointIds"),
        items: &["VpcEndpoints"],
        id: "VpcEndpointId",
        not_found: &["InvalidVpcEndpointId.NotFound"],
        birth: Some("CreationTimestamp"),
        end_states: Some((
            "State",
            &[
                "deleting", "deleted", "rejected", "failed", "expired", "Deleting", "Deleted", "Rejected",
                "Failed", "Expired",
            ],
        )),
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::VPCPeeringConnection",
        is_shared: true,
        actions: &["ec2:DescribeVpcPeeringConnections", "ec2:DescribeTags"],
        list: call("ec2", "DescribeVpcPeeringConnections")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("VpcPeeringConnectionIds"),
        items: &["VpcPeeringConnections"],
        id: "VpcPeeringConnectionId",
        not_found: &["InvalidVpcPeeringConnectionID.NotFound"],
        // Listed for a while after they ended.
        end_states: Some(("Status.Code", &["deleting", "deleted", "rejected", "expired", "failed"])),
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::TransitGateway",
        is_shared: true,
        actions: &["ec2:DescribeTransitGateways", "ec2:DescribeTags"],
        list: call("ec2", "DescribeTransitGateways")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("TransitGatewayIds"),
        items: &["TransitGateways"],
        id: "TransitGatewayId",
        not_found: &["InvalidTransitGatewayID.NotFound"],
        birth: Some("CreationTime"),
        end_states: Some(("State", &["deleting", "deleted"])),
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::TransitGatewayAttachment",
        is_shared: true,
        actions: &["ec2:DescribeTransitGatewayAttachments", "ec2:DescribeTags"],
        list: call("ec2", "DescribeTransitGatewayAttachments")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("TransitGatewayAttachmentIds"),
        items: &["TransitGatewayAttachments"],
        id: "TransitGatewayAttachmentId",
        not_found: &["InvalidTransitGatewayAttachmentID.NotFound"],
        birth: Some("CreationTime"),
        end_states: Some(("State", &["deleting", "deleted", "rejecting", "rejected", "failing", "failed"])),
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::VPNConnection",
        actions: &["ec2:DescribeVpnConnections", "ec2:DescribeTags"],
        list: call("ec2", "DescribeVpnConnections").by_id("VpnConnectionIds"),
        items: &["VpnConnections"],
        id: "VpnConnectionId",
        not_found: &["InvalidVpnConnectionID.NotFound"],
        end_states: Some(("State", &["deleting", "deleted"])),
        volatile: &["VgwTelemetry"],
        // Pre-shared keys.
        secret: &["CustomerGatewayConfiguration", "Options.TunnelOptions.PreSharedKey"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::NetworkAcl",
        is_shared: true,
        actions: &["ec2:DescribeNetworkAcls", "ec2:DescribeTags"],
        list: call("ec2", "DescribeNetworkAcls")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("NetworkAclIds"),
        items: &["NetworkAcls"],
        id: "NetworkAclId",
        not_found: &["InvalidNetworkAclID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::FlowLog",
        actions: &["ec2:DescribeFlowLogs", "ec2:DescribeTags"],
        list: call("ec2", "DescribeFlowLogs").paged("NextToken", "MaxResults", PAGE_SIZE).by_id("FlowLogIds"),
        items: &["FlowLogs"],
        id: "FlowLogId",
        not_found: &["InvalidFlowLogId.NotFound"],
        birth: Some("CreationTime"),
        volatile: &["DeliverLogsStatus", "DeliverLogsErrorMessage"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::CapacityReservation",
        is_emulated: false,
        is_shared: true,
        actions: &["ec2:DescribeCapacityReservations", "ec2:DescribeTags"],
        list: call("ec2", "DescribeCapacityReservations")
            .paged("NextToken", "MaxResults", PAGE_SIZE)
            .by_id("CapacityReservationIds"),
        items: &["CapacityReservations"],
        id: "CapacityReservationId",
        not_found: &["InvalidCapacityReservationId.NotFound"],
        birth: Some("CreateDate"),
        end_states: Some((
            "State",
            &["expired", "cancelling", "cancelled", "failed", "payment-failed", "unsupported"],
        )),
        // Every launch into it changes it.
        volatile: &[
            "AvailableInstanceCount",
            "CapacityAllocations",
            "InterruptibleCapacityAllocation.InstanceCount",
        ],
        shape: 2,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::PlacementGroup",
        is_emulated: false,
        is_shared: true,
        actions: &["ec2:DescribePlacementGroups", "ec2:DescribeTags"],
        list: call("ec2", "DescribePlacementGroups").by_id("GroupIds"),
        items: &["PlacementGroups"],
        id: "GroupId",
        not_found: &["InvalidPlacementGroup.Unknown"],
        end_states: Some(("State", &["deleting", "deleted"])),
        cadence: CadenceClass::Slow,
        ..EC2
    },
];

/// The default version and the latest: `Versions`. Launches that name no version use one of them.
fn launch_template_versions<'a>(
    regional: &'a Regional,
    template: &'a mut Value,
) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let id = text(template, "LaunchTemplateId");
        let input = json!({
            "LaunchTemplateId": id, "Versions": ["$Default", "$Latest"], "IncludeManagedResources": true,
        });
        let mut answer = regional.send("ec2", "DescribeLaunchTemplateVersions", input).await?;
        let mut versions =
            std::mem::take(answer["LaunchTemplateVersions"].as_array_mut().unwrap_or(&mut Vec::new()));
        versions.sort_by_key(|version| version["VersionNumber"].as_i64());
        versions.dedup();
        template["Versions"] = Value::Array(versions);
        Ok(())
    })
}

/// DescribeTags fails under load where the listings return an empty set.
fn read_tags<'a>(
    regional: &'a Regional,
    ids: &'a [&'a str],
) -> BoxFuture<'a, Result<BTreeMap<String, TagSet>, Failure>> {
    Box::pin(async move {
        let mut tags: BTreeMap<String, Vec<(String, String)>> =
            ids.iter().map(|id| ((*id).to_owned(), Vec::new())).collect();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            let list = call("ec2", "DescribeTags").paged("NextToken", "MaxResults", PAGE_SIZE);
            let of_these = json!({ "Filters": [{ "Name": "resource-id", "Values": some }] });
            for found in regional.send_all(&list, of_these, &["Tags"], "NextToken").await? {
                tags.entry(text(&found, "ResourceId").to_owned()).or_default().push(tag(&found));
            }
        }
        Ok(tags.into_iter().map(|(id, tags)| (id, tags.into_iter().collect())).collect())
    })
}
