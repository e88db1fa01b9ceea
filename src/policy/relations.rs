//! The references between resources: the fields of described objects that contain the id of another resource.
//!
//! Field names are those of AWS's API references (`aws <service> describe-...` prints them).

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::document::texts;
use super::{orphaned, parents};
use crate::inventory::ResourceKey;

/// A field of one type that contains ids of another.
#[derive(Debug)]
pub struct Edge {
    pub from: &'static str,
    /// Steps pass through lists.
    pub path: &'static str,
    /// The relation in words, from `from` to `to`.
    pub relation: &'static str,
    pub to: &'static str,
    /// The referenced resource serves a purpose by being referenced.
    pub gives_purpose: bool,
    /// Applies only if this field is true or a non-empty list.
    pub only_with: Option<&'static str>,
}

const fn edge(from: &'static str, path: &'static str, relation: &'static str, to: &'static str) -> Edge {
    Edge { from, path, relation, to, gives_purpose: false, only_with: None }
}

/// An edge that gives the referenced resource a purpose.
const fn uses(from: &'static str, path: &'static str, relation: &'static str, to: &'static str) -> Edge {
    Edge { gives_purpose: true, ..edge(from, path, relation, to) }
}

const INSTANCE: &str = "AWS::EC2::Instance";
const VOLUME: &str = "AWS::EC2::Volume";
const SNAPSHOT: &str = "AWS::EC2::Snapshot";
const IMAGE: &str = "AWS::EC2::Image";
const ADDRESS: &str = "AWS::EC2::EIP";
const INTERFACE: &str = "AWS::EC2::NetworkInterface";
const GROUP: &str = "AWS::EC2::SecurityGroup";
const VPC: &str = "AWS::EC2::VPC";
const SUBNET: &str = "AWS::EC2::Subnet";
const ROUTES: &str = "AWS::EC2::RouteTable";
const NAT: &str = "AWS::EC2::NatGateway";
const INTERNET: &str = "AWS::EC2::InternetGateway";
const TEMPLATE: &str = "AWS::EC2::LaunchTemplate";
const ENDPOINT: &str = "AWS::EC2::VPCEndpoint";
const PEERING: &str = "AWS::EC2::VPCPeeringConnection";
const TRANSIT: &str = "AWS::EC2::TransitGateway";
const ATTACHMENT: &str = "AWS::EC2::TransitGatewayAttachment";
const BALANCER: &str = "AWS::ElasticLoadBalancingV2::LoadBalancer";
const TARGETS: &str = "AWS::ElasticLoadBalancingV2::TargetGroup";
const SCALING: &str = "AWS::AutoScaling::AutoScalingGroup";
const FUNCTION: &str = "AWS::Lambda::Function";
const SERVICE: &str = "AWS::ECS::Service";
const DATABASE: &str = "AWS::RDS::DBInstance";
const DATABASES: &str = "AWS::RDS::DBCluster";
const EKS: &str = "AWS::EKS::Cluster";
const NODES: &str = "AWS::EKS::Nodegroup";

pub const EDGES: &[Edge] = &[
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

/// A referenced resource.
#[derive(Debug)]
pub struct Related {
    pub edge: &'static Edge,
    pub id: String,
}

/// All references in a document.
pub fn of(key: &ResourceKey, document: &Value) -> impl Iterator<Item = Related> {
    let edges = EDGES.iter().filter(|edge| edge.from == key.resource_type.as_str());
    edges.flat_map(|edge| texts(document, edge.path).into_iter().map(|id| Related { edge, id }))
}

impl Edge {
    pub(super) fn applies(&self, document: &Value) -> bool {
        self.only_with.is_none_or(|path| document[path] == true || !texts(document, path).is_empty())
    }
}

/// Whether ids of the type are unique across all accounts and regions.
pub(super) fn has_unique_ids(resource_type: &str) -> bool {
    ["AWS::EC2::", "AWS::ElasticLoadBalancingV2::", "AWS::CloudFormation::"]
        .iter()
        .any(|prefix| resource_type.starts_with(prefix))
}

/// Whether the rules use anything in the documents of a type.
pub(super) fn is_read(resource_type: &str) -> bool {
    static READ: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let related = EDGES.iter().map(|edge| edge.from);
        related.chain(orphaned::types()).chain(parents::IN_DOCUMENT).collect()
    });
    READ.contains(resource_type)
}

/// Fields that an additional call reads, and that rules depend on. If one is missing, the call was denied, and the
/// content of the field is unknown.
const FIELDS_FROM_EXTRA_CALLS: [(&str, &str); 3] =
    [(TEMPLATE, "Versions"), (BALANCER, "Listeners"), (TARGETS, "HasTargets")];

/// Whether the document could not be read, or not completely.
pub(super) fn is_unread(resource_type: &str, document: &Value) -> bool {
    document.as_object().is_none_or(serde_json::Map::is_empty)
        || FIELDS_FROM_EXTRA_CALLS.iter().any(|(of, field)| *of == resource_type && document.get(*field).is_none())
}

/// Whether a document references others in a way that can't be followed: by a parameter of Systems Manager, by a
/// launch configuration, by a CodeDeploy deployment that has a second target group, or because its content could
/// not be read.
pub(super) fn is_opaque(resource_type: &str, document: &Value) -> bool {
    let images = || {
        let of_group = texts(document, "MixedInstancesPolicy.LaunchTemplate.Overrides.ImageId");
        texts(document, "Versions.LaunchTemplateData.ImageId").into_iter().chain(of_group)
    };
    let deploys = || texts(document, "deploymentController.type");
    is_unread(resource_type, document)
        || [TEMPLATE, SCALING].contains(&resource_type) && images().any(|id| id.starts_with("resolve:"))
        || resource_type == SERVICE && deploys().iter().any(|by| by == "CODE_DEPLOY" || by == "EXTERNAL")
        || resource_type == SCALING && !texts(document, "LaunchConfigurationName").is_empty()
}

/// The numbered versions of launch templates that a document pins. `$Default` and `$Latest` are read with the
/// template.
pub(super) fn pinned_versions(resource_type: &str, document: &Value) -> Vec<(String, i64)> {
    let paths = match resource_type {
        SCALING => [
            "LaunchTemplate",
            "MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification",
            "MixedInstancesPolicy.LaunchTemplate.Overrides.LaunchTemplateSpecification",
        ]
        .as_slice(),
        NODES => &["launchTemplate"],
        _ => &[],
    };
    let one_of = |specification: &Value, names: [&str; 2]| {
        names.iter().find_map(|name| specification.get(*name)?.as_str()).map(str::to_owned)
    };
    let pinned = |specification: &Value| {
        let version = one_of(specification, ["Version", "version"])?.parse().ok()?;
        Some((one_of(specification, ["LaunchTemplateId", "id"])?, version))
    };
    paths.iter().flat_map(|path| objects(document, path)).filter_map(pinned).collect()
}

/// The versions in the document of a launch template.
pub(super) fn versions(resource_type: &str, document: &Value) -> Vec<i64> {
    if resource_type != TEMPLATE {
        return Vec::new();
    }
    objects(document, "Versions").iter().filter_map(|version| version["VersionNumber"].as_i64()).collect()
}

/// All objects at a path that passes through lists.
fn objects<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.').fold(vec![value], |found, step| {
        let within = found.into_iter().filter_map(|value| value.get(step));
        within.flat_map(|value| value.as_array().map_or(vec![value], |items| items.iter().collect())).collect()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_names_others_through_lists_and_commas() {
        let key: ResourceKey = "aws/1/eu-west-1/AWS::EC2::Instance/i-1".parse().unwrap();
        let document = json!({
            "ImageId": "ami-1",
            "BlockDeviceMappings": [{"Ebs": {"VolumeId": "vol-1"}}, {"Ebs": {"VolumeId": "vol-2"}}],
            "SecurityGroups": [{"GroupId": "sg-1"}],
        });
        let named: Vec<String> = of(&key, &document).map(|r| format!("{} {}", r.edge.relation, r.id)).collect();
        assert_eq!(named, ["uses vol-1", "uses vol-2", "was started from ami-1", "is guarded by sg-1"]);
        assert_eq!(texts(&json!({"VPCZoneIdentifier": "subnet-1,subnet-2"}), "VPCZoneIdentifier").len(), 2);
        assert!(texts(&json!({"A": null, "B": 1}), "A.C").is_empty());
    }

    // Only if a cloud is available to compare with.
    #[cfg(feature = "operator")]
    #[test]
    fn every_edge_is_between_types_that_are_looked_at() {
        use crate::cloud::Provider;
        let known: Vec<&str> = crate::cloud::aws::Aws::default().types().into_iter().map(|t| t.name).collect();
        for edge in EDGES {
            assert!(known.contains(&edge.from) && known.contains(&edge.to), "{edge:?}");
        }
    }
}
