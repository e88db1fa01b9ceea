//! The parents of resources: those that replace their members, and those whose parts end with them.

use serde_json::Value;

use super::document::texts;
use crate::inventory::{ResourceKey, ResourceType, TagSet, Tags};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It creates and deletes its members as needed: while it lives, the end of a member is not reported.
    Replaces,
    /// Its parts belong to it, and end with it.
    Holds,
}

/// The parent of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    Known {
        key: ResourceKey,
        role: Role,
    },
    /// A parent that is no scanned resource (a fleet, a lifecycle policy, an AWS service) and that creates and
    /// deletes its members.
    Unseen,
}

const STACK: &str = "AWS::CloudFormation::Stack";
const SCALING: &str = "AWS::AutoScaling::AutoScalingGroup";
const EMR: &str = "AWS::EMR::Cluster";
const EKS: &str = "AWS::EKS::Cluster";

/// Types that other resources are part of.
pub(super) const TYPES: [&str; 7] =
    [STACK, SCALING, EMR, EKS, "AWS::EC2::Instance", "AWS::RDS::DBCluster", "AWS::ElastiCache::ReplicationGroup"];

/// Tags on members of parents that are not scanned resources.
const UNLISTED_PARENT_TAGS: [&str; 7] = [
    "aws:ec2spot:fleet-request-id",
    "aws:ec2:fleet-id",
    "aws:dlm:lifecycle-policy-id",
    "aws:backup:source-resource",
    "karpenter.sh/nodepool",
    "karpenter.sh/provisioner-name",
    "aws:batch:compute-environment",
];

fn sibling(of: &ResourceKey, resource_type: &str, id: &str) -> ResourceKey {
    ResourceKey { resource_type: ResourceType::new(resource_type), id: id.into(), ..of.clone() }
}

/// According to its tags, the most specific first.
pub(super) fn in_tags(key: &ResourceKey, tags: &Tags) -> Option<Parent> {
    let tags = tags.known()?;
    let known = |resource_type, id: &str, role| Parent::Known { key: sibling(key, resource_type, id), role };
    if let Some(name) = tags.get("aws:autoscaling:groupName") {
        return Some(known(SCALING, name, Role::Replaces));
    }
    if let Some(id) = tags.get("aws:elasticmapreduce:job-flow-id") {
        return Some(known(EMR, id, Role::Replaces));
    }
    if UNLISTED_PARENT_TAGS.iter().any(|mark| tags.get(mark).is_some()) {
        return Some(Parent::Unseen);
    }
    if let Some(stack) = stack(key, tags) {
        return Some(Parent::Known { key: stack, role: Role::Holds });
    }
    let cluster = cluster(key, tags)?;
    Some(Parent::Known { key: cluster, role: Role::Holds })
}

pub(super) fn stack(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    tags.get("aws:cloudformation:stack-id").map(|id| sibling(key, STACK, id)).filter(|stack| stack != key)
}

pub(super) fn scaling_group(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    tags.get("aws:autoscaling:groupName").map(|name| sibling(key, SCALING, name))
}

pub(super) fn cluster(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    let name = ["aws:eks:cluster-name", "eks:cluster-name"].iter().find_map(|tag| tags.get(tag));
    let name = name.or_else(|| tags.keys().find_map(|tag| tag.strip_prefix("kubernetes.io/cluster/")))?;
    Some(sibling(key, EKS, name)).filter(|cluster| cluster != key)
}

/// Types whose documents contain the parent.
pub(super) const IN_DOCUMENT: [&str; 6] = [
    "AWS::EC2::Volume",
    "AWS::EC2::NetworkInterface",
    "AWS::RDS::DBInstance",
    "AWS::ElastiCache::CacheCluster",
    "AWS::RDS::DBSnapshot",
    "AWS::RDS::DBClusterSnapshot",
];

/// According to its document, for types in [`IN_DOCUMENT`].
pub(super) fn in_document(key: &ResourceKey, document: &Value) -> Option<Parent> {
    let holds = |resource_type: &str, id: &str| {
        Some(Parent::Known { key: sibling(key, resource_type, id), role: Role::Holds })
    };
    // The end of a part that outlives its instance is reported.
    let goes_with_it = |attachment: &Value| attachment["DeleteOnTermination"].as_bool() == Some(true);
    match key.resource_type.as_str() {
        "AWS::EC2::Volume" => {
            let attachments = document["Attachments"].as_array()?;
            let attachment = attachments.iter().find(|attachment| goes_with_it(attachment))?;
            holds("AWS::EC2::Instance", attachment["InstanceId"].as_str()?)
        }
        "AWS::EC2::NetworkInterface" => {
            if document["RequesterManaged"].as_bool() == Some(true) {
                return Some(Parent::Unseen);
            }
            let attachment = document.get("Attachment").filter(|attachment| goes_with_it(attachment))?;
            holds("AWS::EC2::Instance", attachment["InstanceId"].as_str()?)
        }
        "AWS::RDS::DBInstance" => holds("AWS::RDS::DBCluster", document["DBClusterIdentifier"].as_str()?),
        "AWS::ElastiCache::CacheCluster" => {
            holds("AWS::ElastiCache::ReplicationGroup", document["ReplicationGroupId"].as_str()?)
        }
        "AWS::RDS::DBSnapshot" | "AWS::RDS::DBClusterSnapshot" => {
            texts(document, "SnapshotType").contains(&"automated".to_owned()).then_some(Parent::Unseen)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> ResourceKey {
        text.parse().unwrap()
    }

    #[test]
    fn who_replaces_its_own_goes_before_who_holds() {
        let instance = key("aws/1/eu-west-1/AWS::EC2::Instance/i-1");
        let parent = |pairs: &[(&str, &str)]| {
            let tags = Tags::Known(pairs.iter().copied().collect());
            match in_tags(&instance, &tags) {
                Some(Parent::Known { key, role }) => format!("{role:?} {} {}", key.resource_type, key.id),
                Some(Parent::Unseen) => "Unseen".to_owned(),
                None => "-".to_owned(),
            }
        };
        let stack = ("aws:cloudformation:stack-id", "arn:aws:cloudformation:eu-west-1:1:stack/shop/1");
        assert_eq!(parent(&[stack]), format!("Holds {STACK} {}", stack.1));
        assert_eq!(parent(&[stack, ("aws:autoscaling:groupName", "web")]), format!("Replaces {SCALING} web"));
        assert_eq!(parent(&[("karpenter.sh/nodepool", "default")]), "Unseen");
        assert_eq!(parent(&[("kubernetes.io/cluster/prod", "owned")]), format!("Holds {EKS} prod"));
        assert_eq!(parent(&[("owner", "a")]), "-");
    }

    #[test]
    fn every_document_that_says_it_is_read() {
        for resource_type in IN_DOCUMENT {
            assert!(super::super::relations::is_read(resource_type), "{resource_type}");
        }
    }

    #[test]
    fn a_volume_goes_with_its_instance_only_where_it_is_deleted_with_it() {
        let volume = key("aws/1/eu-west-1/AWS::EC2::Volume/vol-1");
        let attached = |goes: bool| json!({"Attachments": [{"InstanceId": "i-1", "DeleteOnTermination": goes}]});
        let Some(Parent::Known { key, role: Role::Holds }) = in_document(&volume, &attached(true)) else {
            panic!("it goes with its instance");
        };
        assert_eq!(&*key.id, "i-1");
        assert_eq!(in_document(&volume, &attached(false)), None);
        assert_eq!(in_document(&volume, &json!({"Attachments": []})), None);
    }
}
