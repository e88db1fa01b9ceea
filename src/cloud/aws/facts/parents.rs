//! The parents of resources: those that replace their members, and those whose parts end with them.

use serde_json::Value;

use super::names::{
    AUTO_SCALING_GROUP, CACHE_CLUSTER, DB_CLUSTER, DB_INSTANCE, EKS_CLUSTER, EMR_CLUSTER, INSTANCE,
    NETWORK_INTERFACE, REPLICATION_GROUP, STACK, VOLUME,
};
use crate::inventory::{OwnerSource, Parent, ResourceKey, Role, TagSet, texts};

/// Types that other resources are part of.
pub(super) const TYPES: [&str; 7] =
    [STACK, AUTO_SCALING_GROUP, EMR_CLUSTER, EKS_CLUSTER, INSTANCE, DB_CLUSTER, REPLICATION_GROUP];
/// Types whose documents name the parent, and that no table of references or cases names.
pub(super) const PARTS: [&str; 3] = [CACHE_CLUSTER, DB_SNAPSHOT, CLUSTER_SNAPSHOT];
const DB_SNAPSHOT: &str = "AWS::RDS::DBSnapshot";
const CLUSTER_SNAPSHOT: &str = "AWS::RDS::DBClusterSnapshot";
/// Instances and similar resources have few parts; stacks and clusters have many.
pub(super) const WITH_MANY_PARTS: [&str; 2] = [STACK, EKS_CLUSTER];

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

/// According to its tags, the most specific first.
pub(super) fn in_tags(key: &ResourceKey, tags: &TagSet) -> Option<Parent> {
    let known = |resource_type, id: &str, role| Parent::Known { key: key.sibling(resource_type, id), role };
    if let Some(name) = tags.get("aws:autoscaling:groupName") {
        return Some(known(AUTO_SCALING_GROUP, name, Role::ManagesMembers));
    }
    if let Some(id) = tags.get("aws:elasticmapreduce:job-flow-id") {
        return Some(known(EMR_CLUSTER, id, Role::ManagesMembers));
    }
    if UNLISTED_PARENT_TAGS.iter().any(|mark| tags.get(mark).is_some()) {
        return Some(Parent::Unseen);
    }
    if let Some(stack) = stack(key, tags) {
        return Some(Parent::Known { key: stack, role: Role::Contains });
    }
    let cluster = cluster(key, tags)?;
    Some(Parent::Known { key: cluster, role: Role::Contains })
}

fn stack(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    tags.get("aws:cloudformation:stack-id").map(|id| key.sibling(STACK, id)).filter(|stack| stack != key)
}

fn scaling_group(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    tags.get("aws:autoscaling:groupName").map(|name| key.sibling(AUTO_SCALING_GROUP, name))
}

fn cluster(key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    let name = ["aws:eks:cluster-name", "eks:cluster-name"].iter().find_map(|tag| tags.get(tag));
    let name = name.or_else(|| tags.keys().find_map(|tag| tag.strip_prefix("kubernetes.io/cluster/")))?;
    Some(key.sibling(EKS_CLUSTER, name)).filter(|cluster| cluster != key)
}

/// The resource whose tags a source of ownership names.
pub(super) fn owning(source: OwnerSource, key: &ResourceKey, tags: &TagSet) -> Option<ResourceKey> {
    match source {
        OwnerSource::Stack => stack(key, tags),
        OwnerSource::AutoScalingGroup => scaling_group(key, tags),
        OwnerSource::Cluster => cluster(key, tags),
        OwnerSource::Tags | OwnerSource::VolumeClaim | OwnerSource::Account => None,
    }
}

type InDocument = fn(&ResourceKey, &Value) -> Option<Parent>;

/// How to read the parent in the document of a type.
pub(super) fn in_document(resource_type: &str) -> Option<InDocument> {
    let read: InDocument = match resource_type {
        VOLUME => |key, document| {
            let attachments = document["Attachments"].as_array()?;
            let attachment = attachments.iter().find(|attachment| goes_with_it(attachment))?;
            Some(holds(key, INSTANCE, attachment["InstanceId"].as_str()?))
        },
        NETWORK_INTERFACE => |key, document| {
            if document["RequesterManaged"].as_bool() == Some(true) {
                return Some(Parent::Unseen);
            }
            let attachment = document.get("Attachment").filter(|attachment| goes_with_it(attachment))?;
            Some(holds(key, INSTANCE, attachment["InstanceId"].as_str()?))
        },
        DB_INSTANCE => |key, document| Some(holds(key, DB_CLUSTER, document["DBClusterIdentifier"].as_str()?)),
        CACHE_CLUSTER => {
            |key, document| Some(holds(key, REPLICATION_GROUP, document["ReplicationGroupId"].as_str()?))
        }
        DB_SNAPSHOT | CLUSTER_SNAPSHOT => |_, document| {
            texts(document, "SnapshotType").contains(&"automated".to_owned()).then_some(Parent::Unseen)
        },
        _ => return None,
    };
    Some(read)
}

fn holds(key: &ResourceKey, resource_type: &str, id: &str) -> Parent {
    Parent::Known { key: key.sibling(resource_type, id), role: Role::Contains }
}

/// The end of a part that outlives its instance is reported.
fn goes_with_it(attachment: &Value) -> bool {
    attachment["DeleteOnTermination"].as_bool() == Some(true)
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
            let tags: TagSet = pairs.iter().copied().collect();
            match in_tags(&instance, &tags) {
                Some(Parent::Known { key, role }) => format!("{role:?} {} {}", key.resource_type, key.id),
                Some(Parent::Unseen) => "Unseen".to_owned(),
                None => "-".to_owned(),
            }
        };
        let stack = ("aws:cloudformation:stack-id", "arn:aws:cloudformation:eu-west-1:1:stack/shop/1");
        assert_eq!(parent(&[stack]), format!("Contains {STACK} {}", stack.1));
        assert_eq!(
            parent(&[stack, ("aws:autoscaling:groupName", "web")]),
            format!("ManagesMembers {AUTO_SCALING_GROUP} web")
        );
        assert_eq!(parent(&[("karpenter.sh/nodepool", "default")]), "Unseen");
        assert_eq!(parent(&[("kubernetes.io/cluster/prod", "owned")]), format!("Contains {EKS_CLUSTER} prod"));
        assert_eq!(parent(&[("owner", "a")]), "-");
    }

    #[test]
    fn a_volume_goes_with_its_instance_only_where_it_is_deleted_with_it() {
        let volume = key("aws/1/eu-west-1/AWS::EC2::Volume/vol-1");
        let attached = |goes: bool| json!({"Attachments": [{"InstanceId": "i-1", "DeleteOnTermination": goes}]});
        let parent = |document: &Value| in_document(VOLUME).expect("it is read")(&volume, document);
        let Some(Parent::Known { key, role: Role::Contains }) = parent(&attached(true)) else {
            panic!("it goes with its instance");
        };
        assert_eq!(&*key.id, "i-1");
        assert_eq!(parent(&attached(false)), None);
        assert_eq!(parent(&json!({"Attachments": []})), None);
    }
}
