//! The references between resources: the fields of described objects that contain the id of another resource.
//!
//! Field names are those of AWS's API references (`aws <service> describe-...` prints them).

use super::names::{
    AUTO_SCALING_GROUP, DB_CLUSTER, DB_INSTANCE, ECS_SERVICE, EKS_CLUSTER, ELASTIC_IP, IMAGE, INSTANCE,
    INTERNET_GATEWAY, LAMBDA_FUNCTION, LAUNCH_TEMPLATE, LOAD_BALANCER, NAT_GATEWAY, NETWORK_INTERFACE, NODE_GROUP,
    ROUTE_TABLE, SECURITY_GROUP, SNAPSHOT, SUBNET, TARGET_GROUP, TRANSIT_GATEWAY, TRANSIT_GATEWAY_ATTACHMENT,
    VOLUME, VPC, VPC_ENDPOINT, VPC_PEERING,
};
use crate::inventory::Edge;

const fn edge(from: &'static str, path: &'static str, relation: &'static str, to: &'static str) -> Edge {
    Edge { from, path, relation, to, gives_purpose: false, only_with: None }
}

/// An edge that gives the referenced resource a purpose.
const fn uses(from: &'static str, path: &'static str, relation: &'static str, to: &'static str) -> Edge {
    Edge { gives_purpose: true, ..edge(from, path, relation, to) }
}

pub(super) const EDGES: &[Edge] = &[
    uses(INSTANCE, "BlockDeviceMappings.Ebs.VolumeId", "uses", VOLUME),
    uses(INSTANCE, "ImageId", "was started from", IMAGE),
    uses(INSTANCE, "NetworkInterfaces.NetworkInterfaceId", "uses", NETWORK_INTERFACE),
    uses(INSTANCE, "SecurityGroups.GroupId", "is guarded by", SECURITY_GROUP),
    edge(INSTANCE, "SubnetId", "lies in", SUBNET),
    edge(INSTANCE, "VpcId", "lies in", VPC),
    edge(VOLUME, "Attachments.InstanceId", "is attached to", INSTANCE),
    edge(VOLUME, "SnapshotId", "was made from", SNAPSHOT),
    edge(SNAPSHOT, "VolumeId", "was made from", VOLUME),
    uses(IMAGE, "BlockDeviceMappings.Ebs.SnapshotId", "is made of", SNAPSHOT),
    edge(ELASTIC_IP, "InstanceId", "is attached to", INSTANCE),
    edge(ELASTIC_IP, "NetworkInterfaceId", "is attached to", NETWORK_INTERFACE),
    edge(NETWORK_INTERFACE, "Attachment.InstanceId", "is attached to", INSTANCE),
    uses(NETWORK_INTERFACE, "Groups.GroupId", "is guarded by", SECURITY_GROUP),
    edge(NETWORK_INTERFACE, "SubnetId", "lies in", SUBNET),
    edge(NETWORK_INTERFACE, "VpcId", "lies in", VPC),
    uses(SECURITY_GROUP, "IpPermissions.UserIdGroupPairs.GroupId", "lets in", SECURITY_GROUP),
    uses(SECURITY_GROUP, "IpPermissionsEgress.UserIdGroupPairs.GroupId", "lets out to", SECURITY_GROUP),
    edge(SECURITY_GROUP, "VpcId", "lies in", VPC),
    edge(SUBNET, "VpcId", "lies in", VPC),
    edge(ROUTE_TABLE, "VpcId", "lies in", VPC),
    edge(ROUTE_TABLE, "Associations.SubnetId", "routes for", SUBNET),
    uses(ROUTE_TABLE, "Routes.NatGatewayId", "routes through", NAT_GATEWAY),
    uses(ROUTE_TABLE, "Routes.GatewayId", "routes through", INTERNET_GATEWAY),
    uses(ROUTE_TABLE, "Routes.NetworkInterfaceId", "routes through", NETWORK_INTERFACE),
    uses(ROUTE_TABLE, "Routes.InstanceId", "routes through", INSTANCE),
    uses(ROUTE_TABLE, "Routes.TransitGatewayId", "routes through", TRANSIT_GATEWAY),
    uses(ROUTE_TABLE, "Routes.VpcPeeringConnectionId", "routes through", VPC_PEERING),
    edge(INTERNET_GATEWAY, "Attachments.VpcId", "is attached to", VPC),
    edge(NAT_GATEWAY, "SubnetId", "lies in", SUBNET),
    edge(NAT_GATEWAY, "VpcId", "lies in", VPC),
    uses(NAT_GATEWAY, "NatGatewayAddresses.AllocationId", "uses", ELASTIC_IP),
    uses(NAT_GATEWAY, "NatGatewayAddresses.NetworkInterfaceId", "uses", NETWORK_INTERFACE),
    uses(LAUNCH_TEMPLATE, "Versions.LaunchTemplateData.ImageId", "starts from", IMAGE),
    uses(LAUNCH_TEMPLATE, "Versions.LaunchTemplateData.SecurityGroupIds", "is guarded by", SECURITY_GROUP),
    uses(LAUNCH_TEMPLATE, "Versions.LaunchTemplateData.NetworkInterfaces.Groups", "is guarded by", SECURITY_GROUP),
    uses(
        LAUNCH_TEMPLATE,
        "Versions.LaunchTemplateData.BlockDeviceMappings.Ebs.SnapshotId",
        "starts from",
        SNAPSHOT,
    ),
    edge(VPC_ENDPOINT, "VpcId", "lies in", VPC),
    edge(VPC_ENDPOINT, "SubnetIds", "lies in", SUBNET),
    uses(VPC_ENDPOINT, "NetworkInterfaceIds", "uses", NETWORK_INTERFACE),
    uses(VPC_ENDPOINT, "Groups.GroupId", "is guarded by", SECURITY_GROUP),
    edge(VPC_PEERING, "AccepterVpcInfo.VpcId", "joins", VPC),
    edge(VPC_PEERING, "RequesterVpcInfo.VpcId", "joins", VPC),
    edge(TRANSIT_GATEWAY_ATTACHMENT, "TransitGatewayId", "is attached to", TRANSIT_GATEWAY),
    edge(LOAD_BALANCER, "VpcId", "lies in", VPC),
    edge(LOAD_BALANCER, "AvailabilityZones.SubnetId", "lies in", SUBNET),
    uses(LOAD_BALANCER, "SecurityGroups", "is guarded by", SECURITY_GROUP),
    Edge { only_with: Some("HasTargets"), ..uses(TARGET_GROUP, "LoadBalancerArns", "serves", LOAD_BALANCER) },
    edge(TARGET_GROUP, "VpcId", "lies in", VPC),
    uses(AUTO_SCALING_GROUP, "TargetGroupARNs", "registers with", TARGET_GROUP),
    uses(AUTO_SCALING_GROUP, "TrafficSources.Identifier", "registers with", TARGET_GROUP),
    uses(AUTO_SCALING_GROUP, "MixedInstancesPolicy.LaunchTemplate.Overrides.ImageId", "starts from", IMAGE),
    uses(AUTO_SCALING_GROUP, "LaunchTemplate.LaunchTemplateId", "starts from", LAUNCH_TEMPLATE),
    edge(AUTO_SCALING_GROUP, "VPCZoneIdentifier", "lies in", SUBNET),
    uses(LAMBDA_FUNCTION, "VpcConfig.SecurityGroupIds", "is guarded by", SECURITY_GROUP),
    edge(LAMBDA_FUNCTION, "VpcConfig.SubnetIds", "lies in", SUBNET),
    uses(ECS_SERVICE, "loadBalancers.targetGroupArn", "registers with", TARGET_GROUP),
    uses(
        ECS_SERVICE,
        "loadBalancers.advancedConfiguration.alternateTargetGroupArn",
        "registers with",
        TARGET_GROUP,
    ),
    uses(ECS_SERVICE, "networkConfiguration.awsvpcConfiguration.securityGroups", "is guarded by", SECURITY_GROUP),
    edge(ECS_SERVICE, "networkConfiguration.awsvpcConfiguration.subnets", "lies in", SUBNET),
    uses(DB_INSTANCE, "VpcSecurityGroups.VpcSecurityGroupId", "is guarded by", SECURITY_GROUP),
    edge(DB_INSTANCE, "DBClusterIdentifier", "belongs to", DB_CLUSTER),
    uses(DB_CLUSTER, "VpcSecurityGroups.VpcSecurityGroupId", "is guarded by", SECURITY_GROUP),
    uses(EKS_CLUSTER, "resourcesVpcConfig.securityGroupIds", "is guarded by", SECURITY_GROUP),
    edge(EKS_CLUSTER, "resourcesVpcConfig.vpcId", "lies in", VPC),
    edge(NODE_GROUP, "clusterName", "belongs to", EKS_CLUSTER),
    edge(NODE_GROUP, "resources.autoScalingGroups.name", "runs on", AUTO_SCALING_GROUP),
];
