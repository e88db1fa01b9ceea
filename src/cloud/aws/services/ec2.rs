//! EC2: the types whose listings contain their tags.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TAG_LIST, TagSource, list, next_page, send, tag, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagSet;

/// The maximum that nearly every paginated EC2 listing takes; those that take less set it themselves. Unpaginated calls
/// have the smallest buckets.
const PAGE_SIZE: i32 = 1000;

/// The maximum number of values of one filter.
const FILTER_VALUES_MAX: usize = 200;

/// What most of EC2 has in common.
const EC2: Declaration = Declaration { verify_tags: Some(read_tags), ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::EC2::Instance",
        actions: &["ec2:DescribeInstances", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeInstances": describe_instances {include_managed_resources(true)}; page set_next_token, max_results(PAGE_SIZE); id instance_ids),
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
        fetch: list!(ec2 "ec2" "DescribeVolumes": describe_volumes {include_managed_resources(true)}; page set_next_token, max_results(PAGE_SIZE); id volume_ids),
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
        fetch: list!(ec2 "ec2" "DescribeSnapshots": describe_snapshots {owner_ids("self")}; page set_next_token, max_results(PAGE_SIZE); id snapshot_ids),
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
        fetch: list!(ec2 "ec2" "DescribeImages": describe_images {owners("self"), include_disabled(true), include_deprecated(true)}; page set_next_token, max_results(PAGE_SIZE); id image_ids),
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
        fetch: list!(ec2 "ec2" "DescribeAddresses": describe_addresses; id allocation_ids),
        items: &["Addresses"],
        id: "AllocationId",
        not_found: &["InvalidAllocationID.NotFound"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::NetworkInterface",
        is_shared: true,
        actions: &["ec2:DescribeNetworkInterfaces", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeNetworkInterfaces": describe_network_interfaces {include_managed_resources(true)}; page set_next_token, max_results(PAGE_SIZE); id network_interface_ids),
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
        fetch: list!(ec2 "ec2" "DescribeSecurityGroups": describe_security_groups; page set_next_token, max_results(PAGE_SIZE); id group_ids),
        items: &["SecurityGroups"],
        id: "GroupId",
        not_found: &["InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"],
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::VPC",
        is_shared: true,
        actions: &["ec2:DescribeVpcs", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeVpcs": describe_vpcs; page set_next_token, max_results(PAGE_SIZE); id vpc_ids),
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
        fetch: list!(ec2 "ec2" "DescribeSubnets": describe_subnets; page set_next_token, max_results(PAGE_SIZE); id subnet_ids),
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
        fetch: list!(ec2 "ec2" "DescribeRouteTables": describe_route_tables;
            page set_next_token, max_results(100); id route_table_ids),
        items: &["RouteTables"],
        id: "RouteTableId",
        not_found: &["InvalidRouteTableID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::InternetGateway",
        actions: &["ec2:DescribeInternetGateways", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeInternetGateways": describe_internet_gateways; page set_next_token, max_results(PAGE_SIZE); id internet_gateway_ids),
        items: &["InternetGateways"],
        id: "InternetGatewayId",
        not_found: &["InvalidInternetGatewayID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::NatGateway",
        actions: &["ec2:DescribeNatGateways", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeNatGateways": describe_nat_gateways; page set_next_token, max_results(PAGE_SIZE); id nat_gateway_ids),
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
        fetch: list!(ec2 "ec2" "DescribeKeyPairs": describe_key_pairs; id key_pair_ids),
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
        fetch: list!(ec2 "ec2" "DescribeLaunchTemplates": describe_launch_templates {include_managed_resources(true)};
            page set_next_token, max_results(200); id launch_template_ids),
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
        fetch: list!(ec2 "ec2" "DescribeVpcEndpoints": describe_vpc_endpoints;
            page set_next_token, max_results(PAGE_SIZE); id vpc_endpoint_ids),
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
        fetch: list!(ec2 "ec2" "DescribeVpcPeeringConnections": describe_vpc_peering_connections;
            page set_next_token, max_results(PAGE_SIZE); id vpc_peering_connection_ids),
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
        fetch: list!(ec2 "ec2" "DescribeTransitGateways": describe_transit_gateways;
            page set_next_token, max_results(PAGE_SIZE); id transit_gateway_ids),
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
        fetch: list!(ec2 "ec2" "DescribeTransitGatewayAttachments": describe_transit_gateway_attachments;
            page set_next_token, max_results(PAGE_SIZE); id transit_gateway_attachment_ids),
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
        fetch: list!(ec2 "ec2" "DescribeVpnConnections": describe_vpn_connections; id vpn_connection_ids),
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
        fetch: list!(ec2 "ec2" "DescribeNetworkAcls": describe_network_acls;
            page set_next_token, max_results(PAGE_SIZE); id network_acl_ids),
        items: &["NetworkAcls"],
        id: "NetworkAclId",
        not_found: &["InvalidNetworkAclID.NotFound"],
        cadence: CadenceClass::Slow,
        ..EC2
    },
    Declaration {
        name: "AWS::EC2::FlowLog",
        actions: &["ec2:DescribeFlowLogs", "ec2:DescribeTags"],
        fetch: list!(ec2 "ec2" "DescribeFlowLogs": describe_flow_logs;
            page set_next_token, max_results(PAGE_SIZE); id flow_log_ids),
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
        fetch: list!(ec2 "ec2" "DescribeCapacityReservations": describe_capacity_reservations;
            page set_next_token, max_results(PAGE_SIZE); id capacity_reservation_ids),
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
        fetch: list!(ec2 "ec2" "DescribePlacementGroups": describe_placement_groups; id group_ids),
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
        let request = regional.ec2().describe_launch_template_versions().launch_template_id(id);
        let request = request.versions("$Default").versions("$Latest").include_managed_resources(true);
        let mut answer = send!(regional, "ec2" "DescribeLaunchTemplateVersions", request)?;
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
            let values = some.iter().map(|id| (*id).to_owned()).collect();
            let filter =
                aws_sdk_ec2::types::Filter::builder().name("resource-id").set_values(Some(values)).build();
            let mut token = None;
            loop {
                let request = regional.ec2().describe_tags().filters(filter.clone()).max_results(PAGE_SIZE);
                let answer = send!(regional, "ec2" "DescribeTags", request.set_next_token(token))?;
                for found in answer["Tags"].as_array().into_iter().flatten() {
                    tags.entry(text(found, "ResourceId").to_owned()).or_default().push(tag(found));
                }
                token = next_page(&answer, "NextToken");
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(tags.into_iter().map(|(id, tags)| (id, tags.into_iter().collect())).collect())
    })
}
