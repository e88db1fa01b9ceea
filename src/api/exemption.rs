//! `FindingExemption`: findings that need no action, for a reason, until a date.
#![allow(clippy::duplicated_attributes)] // printer columns repeat their attributes

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::cloudscan::TagSelector;
use super::providers::{TYPES, TYPES_MESSAGE};
use super::{kinds_message, kinds_rule};
use crate::inventory::Timestamp;

/// A FindingExemption marks findings that need no action: they stay in the state Exempted until their cause ends,
/// the exemption expires, or it is deleted. It applies to the ResourceFindings of its own namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "elava.dev",
    version = "v1alpha1",
    kind = "FindingExemption",
    namespaced,
    status = "FindingExemptionStatus",
    shortname = "fex",
    category = "elava",
    derive = "PartialEq",
    doc = "A FindingExemption sets matching ResourceFindings of its namespace to the state Exempted until their cause ends, the exemption expires, or it is deleted.",
    printcolumn(json_path = ".status.conditions[?(@.type=='Active')].status", name = "Active", type_ = "string"),
    printcolumn(
        json_path = ".status.findings",
        name = "Findings",
        type_ = "integer",
        description = "Findings that are exempted by it now"
    ),
    printcolumn(json_path = ".spec.expiresAt", name = "Expires", type_ = "string"),
    printcolumn(json_path = ".spec.requester", name = "Requester", type_ = "string"),
    printcolumn(json_path = ".spec.reason", name = "Reason", type_ = "string", priority = 1),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FindingExemptionSpec {
    /// selector selects the findings; absent fields match all. Required, and at least one field must be set.
    #[x_kube(validation = Rule::new("has(self.kinds) || has(self.resourceTypes) || has(self.accounts) || has(self.regions) || has(self.tags) || has(self.keyPattern)").message("name what is exempted: kinds, resourceTypes, accounts, regions, tags or keyPattern"))]
    pub selector: FindingSelector,

    /// reason explains the exemption. Required.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,

    /// requester is who requested it: a person or a team. Required.
    #[schemars(length(min = 1, max = 256))]
    pub requester: String,

    /// expiresAt is when it ends, as RFC 3339; a week before, the condition ExpiringSoon is set. Absent means
    /// never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>", regex(pattern = TIME))]
    pub expires_at: Option<Timestamp>,
}

/// The API server's own check of a time is weaker: it accepts an offset of +99:99, and years that have no moment
/// in UTC.
const TIME: &str = concat!(
    r"^([0-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])-[0-9]{2}-[0-9]{2}",
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{1}(\.[0-9]{1,9})?(Z|[+-]{1}([01][0-9]|2[0-3]):[0-5][0-9])$"
);

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FindingSelector {
    /// kinds are finding kinds, such as Orphaned. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(kinds_rule()).message(kinds_message().as_str()))]
    pub kinds: Vec<String>,

    /// resourceTypes are resource types, such as AWS::EC2::Volume. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPES).message(TYPES_MESSAGE))]
    pub resource_types: Vec<String>,

    /// accounts are account numbers, in quotes. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 12)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(a, a.matches('^[0-9]{12}$'))").message("an account id is twelve digits, such as \"111122223333\""))]
    pub accounts: Vec<String>,

    /// regions are region codes; global if listed account-wide. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub regions: Vec<String>,

    /// tags must all be on the resource. Absent means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub tags: Vec<TagSelector>,

    /// keyPattern is a regular expression that the whole resource key must match, such as
    /// `aws/111122223333/.*/AWS::S3::Bucket/scratch-.*`. Absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub key_pattern: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FindingExemptionStatus {
    /// observedGeneration is the generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// conditions: Active (it is in force), ExpiringSoon (it ends within a week).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// findings counts the findings it exempts now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<i64>,
}
