//! What the rules and queries know of AWS's resource types.
//!
//! - [`edges`]: which field references which type. [`templates`]: references that lead through a template.
//! - [`parents`]: what a resource is part of. [`orphans`]: how it can be unused, and what it is billed for.

mod edges;
mod names;
mod orphans;
mod parents;
mod templates;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::declarations;
use super::declare::{Declaration, TAG_LIST, TagSource};
use crate::inventory::{ProviderFacts, TagField, TypeFacts};
use names::{
    DB_CLUSTER, DB_INSTANCE, IMAGE, LAUNCH_TEMPLATE, LOAD_BALANCER, SNAPSHOT, STACK, TARGET_GROUP, VOLUME,
};

/// Tags that Kubernetes and its controllers set on what they create.
const CONTROLLER_TAG_PREFIXES: [&str; 12] = [
    "eks:",
    "kubernetes.io/",
    "k8s.io/",
    "karpenter.sh/",
    "ebs.csi.aws.com/",
    "elbv2.k8s.aws/",
    "ingress.k8s.aws/",
    "service.k8s.aws/",
    "node.k8s.amazonaws.com/",
    "cluster.k8s.amazonaws.com/",
    "services.k8s.aws/",
    "sigs.k8s.io/",
];
/// Keys that only AWS itself can set.
const RESERVED_TAG_PREFIX: &str = "aws:";
/// Also records who created a resource by hand.
const CREATED_BY: &str = "aws:createdBy";

/// AWS's own services (CloudFormation, Auto Scaling, EC2 Fleet, Batch, Data Lifecycle Manager, AWS Backup and others)
/// set tags whose keys begin with `aws:`.
fn is_managed_tag(key: &str) -> bool {
    CONTROLLER_TAG_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || (key.starts_with(RESERVED_TAG_PREFIX) && key != CREATED_BY)
}

/// The account that owns a described object: another one than the account that lists it if AWS Resource Access Manager
/// shares the object, or if both accounts take part in it.
pub(super) fn owner_account(document: &Value) -> Option<&str> {
    let text = |field: &str| document.get(field).and_then(Value::as_str);
    // A placement group states its owner only in its ARN.
    let in_arn = || text("GroupArn")?.split(':').nth(4);
    let owner = text("ResourceOwnerId").or_else(|| text("OwnerId")).or_else(in_arn)?;
    // The field may also contain a name such as `amazon`.
    let is_account = owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit());
    is_account.then_some(owner)
}

/// The name in a stack's ARN: `arn:aws:cloudformation:REGION:ACCOUNT:stack/NAME/UUID`.
fn name_of_stack(id: &str) -> &str {
    if id.starts_with("arn:") { id.split('/').nth(1).unwrap_or(id) } else { id }
}

fn recovery_advice(resource_type: &str) -> &'static str {
    match resource_type {
        VOLUME | SNAPSHOT | IMAGE => {
            "If it was not intended, check the Recycle Bin at once (aws ec2 list-snapshots-in-recycle-bin and its like); CloudTrail shows who did it (aws cloudtrail lookup-events, by ResourceName)"
        }
        DB_INSTANCE | DB_CLUSTER | "AWS::Redshift::Cluster" => {
            "If it was not intended, restore its final snapshot or a retained automated backup, before that expires; CloudTrail shows who did it (aws cloudtrail lookup-events, by ResourceName)"
        }
        _ => {
            "If it was not intended, create it again from code or a backup; CloudTrail shows who did it (aws cloudtrail lookup-events, by \
             ResourceName, in its region; in us-east-1 for IAM, CloudFront and Route 53)"
        }
    }
}

fn extra_fields(resource_type: &str) -> &'static [&'static str] {
    match resource_type {
        LAUNCH_TEMPLATE => &["Versions"],
        LOAD_BALANCER => &["Listeners"],
        TARGET_GROUP => &["HasTargets"],
        _ => &[],
    }
}

fn tag_field(declaration: &Declaration) -> Option<TagField> {
    if let TagSource::Inline(name, form) = declaration.tags {
        return Some(TagField { name, form });
    }
    // The described object contains them too, but not reliably: they are read by a call of their own.
    let name = declaration.volatile.iter().find(|path| ["Tags", "TagList"].contains(path))?;
    Some(TagField { name, form: TAG_LIST })
}

fn of_type(name: &'static str, declaration: Option<&Declaration>) -> TypeFacts {
    let has_unique_ids = ["AWS::EC2::", "AWS::ElasticLoadBalancingV2::", "AWS::CloudFormation::"];
    TypeFacts {
        name,
        tag_field: declaration.and_then(tag_field),
        has_unique_ids: has_unique_ids.iter().any(|prefix| name.starts_with(prefix)),
        has_read_by_id: declaration.is_none_or(Declaration::has_read_by_id),
        edges: edges::EDGES.iter().filter(|edge| edge.from == name).collect(),
        is_read_by_key: name == VOLUME || parents::TYPES.contains(&name),
        has_many_parts: parents::WITH_MANY_PARTS.contains(&name),
        parent: parents::in_document(name),
        orphan: orphans::CASES.iter().find(|case| case.resource_type == name),
        usage: orphans::usage(name),
        extra_fields: extra_fields(name),
        is_opaque: templates::is_opaque(name),
        pins: templates::pins(name),
        versions: templates::versions(name),
        recovery_advice: recovery_advice(name),
        short_name: (name == STACK).then_some(name_of_stack),
    }
}

pub(super) fn facts() -> ProviderFacts {
    let declared: BTreeMap<&str, &Declaration> = declarations().map(|one| (one.name, one)).collect();
    // Tables name types too that are not declared.
    let in_edges = edges::EDGES.iter().flat_map(|edge| [edge.from, edge.to]);
    let in_cases = orphans::CASES.iter().map(|case| case.resource_type);
    let names = declared
        .values()
        .map(|one| one.name)
        .chain(in_edges)
        .chain(in_cases)
        .chain(parents::TYPES)
        .chain(parents::PARTS);
    let types: HashMap<&str, TypeFacts> =
        names.map(|name| (name, of_type(name, declared.get(name).copied()))).collect();
    ProviderFacts {
        provider: "aws",
        title: "AWS",
        types,
        parent_in_tags: parents::in_tags,
        owning_resource: parents::owning,
        is_managed_tag,
        owner_account,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::declare::tag_set;
    use super::names::{INSTANCE, SECURITY_GROUP};
    use super::*;
    use crate::inventory::{Facts, OrphanCase, SinceSource, TagSet, Tags};
    use crate::policy::testing::of_type as resource_of;

    #[test]
    fn every_reference_and_case_is_about_types_that_are_scanned() {
        let known: Vec<&str> = declarations().map(|declaration| declaration.name).collect();
        for edge in edges::EDGES {
            assert!(known.contains(&edge.from) && known.contains(&edge.to), "{edge:?}");
        }
        for case in orphans::CASES {
            assert!(known.contains(&case.resource_type), "{case:?}");
            assert!(case.referring_types.iter().all(|read| known.contains(read)), "{case:?}");
        }
        assert!(parents::TYPES.iter().all(|parent| known.contains(parent)));
    }

    /// A resource is unused only if everything that may give it a purpose was swept.
    #[test]
    fn a_case_reads_every_type_that_gives_its_resources_a_purpose() {
        // In the other cases the resource's own document shows what uses it.
        let by_reference = |case: &&OrphanCase| case.since_source == SinceSource::LastReference;
        for case in orphans::CASES.iter().filter(by_reference) {
            for edge in edges::EDGES.iter().filter(|edge| edge.gives_purpose && edge.to == case.resource_type) {
                // The security groups of an instance are those of its network interfaces, which the case reads.
                if (edge.from, edge.to) == (INSTANCE, SECURITY_GROUP) {
                    continue;
                }
                let is_read = case.referring_types.contains(&edge.from);
                assert!(is_read, "{} is used by {}, which its case does not read", edge.to, edge.from);
            }
        }
    }

    /// ADR 1: a document is shown as the AWS CLI prints it.
    #[test]
    fn tags_of_a_listing_are_put_back_in_the_form_in_which_they_came() {
        let facts = Facts::of([facts()]);
        let set: TagSet = [("owner", "a"), ("Name", "x")].into_iter().collect();
        let mut inline = 0;
        for declaration in declarations() {
            let resource = resource_of(declaration.name, "x", Tags::Known(set.clone()));
            let mut document = json!({});
            facts.show_tags(&mut document, &resource);
            let Some(TagField { name: field, .. }) = tag_field(declaration) else {
                assert_eq!(document, json!({}), "{}: they come by another call", declaration.name);
                continue;
            };
            inline += 1;
            assert_eq!(tag_set(document.get(field)), set, "{}: {document}", declaration.name);
        }
        assert!(inline > 20, "{inline}");
        let shown = |resource_type: &str| {
            let mut document = json!({});
            facts.show_tags(&mut document, &resource_of(resource_type, "x", Tags::Known(set.clone())));
            document
        };
        assert_eq!(shown("AWS::EKS::Cluster"), json!({"tags": {"Name": "x", "owner": "a"}}));
        assert_eq!(shown("AWS::MSK::Cluster"), json!({"Tags": {"Name": "x", "owner": "a"}}));
        assert_eq!(shown("AWS::ECS::Cluster")["tags"][0], json!({"key": "Name", "value": "x"}));
        assert_eq!(shown("AWS::EC2::NetworkInterface")["TagSet"][0], json!({"Key": "Name", "Value": "x"}));
    }

    #[test]
    fn a_document_references_others_through_lists_and_commas() {
        let document = json!({
            "ImageId": "ami-1",
            "BlockDeviceMappings": [{"Ebs": {"VolumeId": "vol-1"}}, {"Ebs": {"VolumeId": "vol-2"}}],
            "SecurityGroups": [{"GroupId": "sg-1"}],
        });
        let facts = facts();
        let named = |resource_type: &str, document: &Value| -> Vec<String> {
            let references = facts.types[resource_type].references(document).into_iter();
            references.map(|(edge, id)| format!("{} {id}", edge.relation)).collect()
        };
        assert_eq!(
            named("AWS::EC2::Instance", &document),
            ["uses vol-1", "uses vol-2", "was started from ami-1", "is guarded by sg-1"]
        );
        let subnets = json!({"VPCZoneIdentifier": "subnet-1,subnet-2"});
        assert_eq!(
            named("AWS::AutoScaling::AutoScalingGroup", &subnets),
            ["lies in subnet-1", "lies in subnet-2"]
        );
    }

    #[test]
    fn an_address_that_its_owner_brought_along_costs_nothing() {
        let usage = orphans::usage("AWS::EC2::EIP").unwrap();
        let of_pool = |pool: &str| usage(&json!({"PublicIpv4Pool": pool}));
        assert!(of_pool("amazon").is_some() && of_pool("ipv4pool-ec2-1").is_none());
    }

    #[test]
    fn what_another_account_shares_names_it() {
        let facts = Facts::of([facts()]);
        let here = resource_of("AWS::EC2::Subnet", "s", Tags::Untaggable).key;
        let by = |object: Value| facts.shared_by(&here, &object).map(str::to_owned);
        let other = Some("444455556666".to_owned());
        assert_eq!(by(json!({"SubnetId": "s", "OwnerId": "444455556666"})), other);
        assert_eq!(by(json!({"OwnerId": "111122223333", "ResourceOwnerId": "444455556666"})), other);
        let group =
            |account: &str| json!({"GroupArn": format!("arn:aws:ec2:eu-west-1:{account}:placement-group/p")});
        assert_eq!(by(group("444455556666")), other);
        for own in [group("111122223333"), json!({"OwnerId": "amazon"}), json!({})] {
            assert_eq!(by(own.clone()), None, "{own}");
        }
    }
}
