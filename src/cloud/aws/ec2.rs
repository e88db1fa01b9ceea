//! EC2: the types whose listings carry their tags.

use super::Regional;
use super::declare::{Declaration, Which};
use super::error::Failure;
use crate::cloud::CadenceClass;
use crate::inventory::TagSet;

/// The most that every paginated EC2 listing here takes; unpaginated calls have the smallest buckets.
const PAGE: i32 = 1000;

/// A paged listing of EC2: `call!(describe_volumes, volume_ids, "DescribeVolumes")`.
macro_rules! call {
    ($operation:ident, $ids:ident, $name:literal $(, $set:ident($value:expr))*) => {
        |regional: &Regional, which: Which| {
            Box::pin(async move {
                let request = regional.ec2.$operation()$(.$set($value))*;
                let request = match which {
                    Which::Page(token) => request.set_next_token(token).max_results(PAGE),
                    Which::Id(id) => request.$ids(id),
                };
                let capture = regional.capture();
                let sent = request.customize().interceptor(capture.clone()).send().await;
                regional.answer("ec2", $name, &capture, sent.map(drop))
            })
        }
    };
    (unpaged $operation:ident, $ids:ident, $name:literal) => {
        |regional: &Regional, which: Which| {
            Box::pin(async move {
                let request = regional.ec2.$operation();
                let request = match which {
                    Which::Page(_) => request,
                    Which::Id(id) => request.$ids(id),
                };
                let capture = regional.capture();
                let sent = request.customize().interceptor(capture.clone()).send().await;
                regional.answer("ec2", $name, &capture, sent.map(drop))
            })
        }
    };
}

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::EC2::Instance",
        actions: &["ec2:DescribeInstances"],
        fetch: call!(describe_instances, instance_ids, "DescribeInstances"),
        items: &["Reservations", "Instances"],
        id: "InstanceId",
        birth: Some("LaunchTime"),
        end_states: Some(("State.Name", &["shutting-down", "terminated"])),
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::Volume",
        actions: &["ec2:DescribeVolumes"],
        fetch: call!(describe_volumes, volume_ids, "DescribeVolumes"),
        items: &["Volumes"],
        id: "VolumeId",
        birth: Some("CreateTime"),
        end_states: Some(("State", &["deleting", "deleted"])),
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::Snapshot",
        actions: &["ec2:DescribeSnapshots"],
        // Without an owner this would list the public catalogue.
        fetch: call!(describe_snapshots, snapshot_ids, "DescribeSnapshots", owner_ids("self")),
        items: &["Snapshots"],
        id: "SnapshotId",
        birth: Some("StartTime"),
        volatile: &["Progress"],
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::Image",
        actions: &["ec2:DescribeImages"],
        fetch: call!(describe_images, image_ids, "DescribeImages", owners("self")),
        items: &["Images"],
        id: "ImageId",
        birth: Some("CreationDate"),
        end_states: Some(("State", &["deregistered"])),
        volatile: &["LastLaunchedTime"],
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::EIP",
        actions: &["ec2:DescribeAddresses"],
        fetch: call!(unpaged describe_addresses, allocation_ids, "DescribeAddresses"),
        items: &["Addresses"],
        id: "AllocationId",
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::NetworkInterface",
        actions: &["ec2:DescribeNetworkInterfaces"],
        fetch: call!(describe_network_interfaces, network_interface_ids, "DescribeNetworkInterfaces"),
        items: &["NetworkInterfaces"],
        id: "NetworkInterfaceId",
        // The one listing of EC2 whose field is not called Tags.
        tags: super::declare::TagSource::Inline("TagSet"),
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::SecurityGroup",
        actions: &["ec2:DescribeSecurityGroups"],
        fetch: call!(describe_security_groups, group_ids, "DescribeSecurityGroups"),
        items: &["SecurityGroups"],
        id: "GroupId",
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::VPC",
        actions: &["ec2:DescribeVpcs"],
        fetch: call!(describe_vpcs, vpc_ids, "DescribeVpcs"),
        items: &["Vpcs"],
        id: "VpcId",
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::Subnet",
        actions: &["ec2:DescribeSubnets"],
        fetch: call!(describe_subnets, subnet_ids, "DescribeSubnets"),
        items: &["Subnets"],
        id: "SubnetId",
        // Every launch changes it.
        volatile: &["AvailableIpAddressCount"],
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::RouteTable",
        actions: &["ec2:DescribeRouteTables"],
        fetch: call!(describe_route_tables, route_table_ids, "DescribeRouteTables"),
        items: &["RouteTables"],
        id: "RouteTableId",
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::InternetGateway",
        actions: &["ec2:DescribeInternetGateways"],
        fetch: call!(describe_internet_gateways, internet_gateway_ids, "DescribeInternetGateways"),
        items: &["InternetGateways"],
        id: "InternetGatewayId",
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::NatGateway",
        actions: &["ec2:DescribeNatGateways"],
        fetch: call!(describe_nat_gateways, nat_gateway_ids, "DescribeNatGateways"),
        items: &["NatGateways"],
        id: "NatGatewayId",
        birth: Some("CreateTime"),
        end_states: Some(("State", &["deleting", "deleted"])),
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::KeyPair",
        actions: &["ec2:DescribeKeyPairs"],
        fetch: call!(unpaged describe_key_pairs, key_pair_ids, "DescribeKeyPairs"),
        items: &["KeyPairs"],
        id: "KeyPairId",
        birth: Some("CreateTime"),
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
    Declaration {
        name: "AWS::EC2::LaunchTemplate",
        actions: &["ec2:DescribeLaunchTemplates"],
        fetch: call!(describe_launch_templates, launch_template_ids, "DescribeLaunchTemplates"),
        items: &["LaunchTemplates"],
        id: "LaunchTemplateId",
        birth: Some("CreateTime"),
        cadence: CadenceClass::Slow,
        ..Declaration::EC2
    },
];

/// DescribeTags fails under load where the listings answer an empty set.
pub(super) async fn read_tags(regional: &Regional, id: &str) -> Result<TagSet, Failure> {
    let filter = aws_sdk_ec2::types::Filter::builder().name("resource-id").values(id).build();
    let mut tags = Vec::new();
    let mut token = None;
    loop {
        let capture = regional.capture();
        let sent = regional
            .ec2
            .describe_tags()
            .filters(filter.clone())
            .max_results(PAGE)
            .set_next_token(token)
            .customize()
            .interceptor(capture.clone())
            .send()
            .await;
        let answer = regional.answer("ec2", "DescribeTags", &capture, sent.map(drop))?;
        tags.extend(super::tag_list(answer.get("Tags")));
        token = super::next_page(&answer, "NextToken");
        if token.is_none() {
            return Ok(tags.into_iter().collect());
        }
    }
}
