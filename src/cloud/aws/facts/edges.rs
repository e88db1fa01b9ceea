//! The references between resources: the fields of described objects that contain the id of another resource.
//!
//! Field names are those of AWS's API references (`aws <service> describe-...` prints them).

use super::names::{
    ADDRESS, ATTACHMENT, BALANCER, DATABASE, DATABASES, EKS, ENDPOINT, FUNCTION, GROUP, IMAGE, INSTANCE,
    INTERFACE, INTERNET, NAT, NODES, PEERING, ROUTES, SCALING, SERVICE, SNAPSHOT, SUBNET, TARGETS, TEMPLATE,
    TRANSIT, VOLUME, VPC,
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
    uses(INSTANCE, "NetworkInterfaces.NetworkInterfaceId", "uses", INTERFACE),
    uses(INSTANCE, "SecurityGroups.GroupId", "is guarded by", GROUP),
    edge(INSTANCE, "SubnetId", "lies in", SUBNET),
    edge(INSTANCE, "VpcId", "lies in", VPC),
    edge(VOLUME, "Attachments.InstanceId", "is attached to", INSTANCE),
    edge(VOLUME, "SnapshotId", "was made from", SNAPSHOT),
    edge(SNAPSHOT, "VolumeId", "was made from", VOLUME),
    uses(IMAGE, "BlockDeviceMappings.Ebs.SnapshotId", "is made of", SNAPSHOT),
    edge(ADDRESS, "InstanceId", "is attached to", INSTANCE),
    edge(ADDRESS, "NetworkInterfaceId", "is attached to", INTERFACE),
    edge(INTERFACE, "Attachment.InstanceId", "is attached to", INSTANCE),
    uses(INTERFACE, "Groups.GroupId", "is guarded by", GROUP),
    edge(INTERFACE, "SubnetId", "lies in", SUBNET),
    edge(INTERFACE, "VpcId", "lies in", VPC),
    uses(GROUP, "IpPermissions.UserIdGroupPairs.GroupId", "lets in", GROUP),
    uses(GROUP, "IpPermissionsEgress.UserIdGroupPairs.GroupId", "lets out to", GROUP),
    edge(GROUP, "VpcId", "lies in", VPC),
    edge(SUBNET, "VpcId", "lies in", VPC),
    edge(ROUTES, "VpcId", "lies in", VPC),
    edge(ROUTES, "Associations.SubnetId", "routes for", SUBNET),
    uses(ROUTES, "Routes.NatGatewayId", "routes through", NAT),
    uses(ROUTES, "Routes.GatewayId", "routes through", INTERNET),
    uses(ROUTES, "Routes.NetworkInterfaceId", "routes through", INTERFACE),
    uses(ROUTES, "Routes.InstanceId", "routes through", INSTANCE),
    uses(ROUTES, "Routes.TransitGatewayId", "routes through", TRANSIT),
    uses(ROUTES, "Routes.VpcPeeringConnectionId", "routes through", PEERING),
    edge(INTERNET, "Attachments.VpcId", "is attached to", VPC),
    edge(NAT, "SubnetId", "lies in", SUBNET),
    edge(NAT, "VpcId", "lies in", VPC),
    uses(NAT, "NatGatewayAddresses.AllocationId", "uses", ADDRESS),
    uses(NAT, "NatGatewayAddresses.NetworkInterfaceId", "uses", INTERFACE),
    uses(TEMPLATE, "Versions.LaunchTemplateData.ImageId", "starts from", IMAGE),
    uses(TEMPLATE, "Versions.LaunchTemplateData.SecurityGroupIds", "is guarded by", GROUP),
    uses(TEMPLATE, "Versions.LaunchTemplateData.NetworkInterfaces.Groups", "is guarded by", GROUP),
    uses(TEMPLATE, "Versions.LaunchTemplateData.BlockDeviceMappings.Ebs.SnapshotId", "starts from", SNAPSHOT),
    edge(ENDPOINT, "VpcId", "lies in", VPC),
    edge(ENDPOINT, "SubnetIds", "lies in", SUBNET),
    uses(ENDPOINT, "NetworkInterfaceIds", "uses", INTERFACE),
    uses(ENDPOINT, "Groups.GroupId", "is guarded by", GROUP),
    edge(PEERING, "AccepterVpcInfo.VpcId", "joins", VPC),
    edge(PEERING, "RequesterVpcInfo.VpcId", "joins", VPC),
    edge(ATTACHMENT, "TransitGatewayId", "is attached to", TRANSIT),
    edge(BALANCER, "VpcId", "lies in", VPC),
    edge(BALANCER, "AvailabilityZones.SubnetId", "lies in", SUBNET),
    uses(BALANCER, "SecurityGroups", "is guarded by", GROUP),
    Edge { only_with: Some("HasTargets"), ..uses(TARGETS, "LoadBalancerArns", "serves", BALANCER) },
    edge(TARGETS, "VpcId", "lies in", VPC),
    uses(SCALING, "TargetGroupARNs", "registers with", TARGETS),
    uses(SCALING, "TrafficSources.Identifier", "registers with", TARGETS),
    uses(SCALING, "MixedInstancesPolicy.LaunchTemplate.Overrides.ImageId", "starts from", IMAGE),
    uses(SCALING, "LaunchTemplate.LaunchTemplateId", "starts from", TEMPLATE),
    edge(SCALING, "VPCZoneIdentifier", "lies in", SUBNET),
    uses(FUNCTION, "VpcConfig.SecurityGroupIds", "is guarded by", GROUP),
    edge(FUNCTION, "VpcConfig.SubnetIds", "lies in", SUBNET),
    uses(SERVICE, "loadBalancers.targetGroupArn", "registers with", TARGETS),
    uses(SERVICE, "loadBalancers.advancedConfiguration.alternateTargetGroupArn", "registers with", TARGETS),
    uses(SERVICE, "networkConfiguration.awsvpcConfiguration.securityGroups", "is guarded by", GROUP),
    edge(SERVICE, "networkConfiguration.awsvpcConfiguration.subnets", "lies in", SUBNET),
    uses(DATABASE, "VpcSecurityGroups.VpcSecurityGroupId", "is guarded by", GROUP),
    edge(DATABASE, "DBClusterIdentifier", "belongs to", DATABASES),
    uses(DATABASES, "VpcSecurityGroups.VpcSecurityGroupId", "is guarded by", GROUP),
    uses(EKS, "resourcesVpcConfig.securityGroupIds", "is guarded by", GROUP),
    edge(EKS, "resourcesVpcConfig.vpcId", "lies in", VPC),
    edge(NODES, "clusterName", "belongs to", EKS),
    edge(NODES, "resources.autoScalingGroups.name", "runs on", SCALING),
];
