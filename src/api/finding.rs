//! `ResourceFinding`: one problem that a person should act on.
#![allow(clippy::duplicated_attributes)] // printer columns repeat their attributes

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::Timestamp;

/// Only `status` beside the metadata. It is not a subresource (see [`super::crds`]): the operator is the only
/// writer, and one apply writes all of it.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "elava.dev",
    version = "v1alpha1",
    kind = "ResourceFinding",
    namespaced,
    no_spec,
    status = "FindingStatus",
    shortname = "rf",
    category = "elava",
    derive = "PartialEq",
    doc = "A ResourceFinding is a statement that a person should act on, with its evidence: a resource that disappeared, has no owner, or is orphaned and still billed. Elava creates and deletes it; one that is deleted by hand is created again while its cause lasts.",
    selectable = ".status.kind",
    selectable = ".status.severity",
    selectable = ".status.state",
    selectable = ".status.account",
    selectable = ".status.region",
    selectable = ".status.type",
    selectable = ".status.owner.name",
    printcolumn(json_path = ".status.kind", name = "Kind", type_ = "string"),
    printcolumn(json_path = ".status.severity", name = "Severity", type_ = "string"),
    printcolumn(json_path = ".status.state", name = "State", type_ = "string"),
    printcolumn(json_path = ".status.id", name = "Resource", type_ = "string"),
    printcolumn(json_path = ".status.resourceName", name = "Named", type_ = "string"),
    printcolumn(json_path = ".status.account", name = "Account", type_ = "string"),
    printcolumn(json_path = ".status.region", name = "Region", type_ = "string"),
    printcolumn(json_path = ".status.owner.name", name = "Owner", type_ = "string"),
    printcolumn(json_path = ".status.since.time", name = "Since", type_ = "date"),
    printcolumn(json_path = ".status.monthlyCost", name = "Cost/Month", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.message", name = "Message", type_ = "string", priority = 1)
)]
#[serde(deny_unknown_fields)]
pub struct ResourceFindingFields {}

/// What was found, since when, and on what evidence. It does not change while nothing happens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FindingStatus {
    /// kind is what is wrong: Disappeared (it existed, and is confirmed gone), OwnershipLost (its tags named an
    /// owner, and nothing does any more), Untagged (it has no tags except those that AWS sets), TagsMissing (it
    /// lacks tags that the CloudScan's tagPolicy requires), TagInvalid (a required tag has a value that is not
    /// allowed), Orphaned (nothing uses it any more; most such resources cost money), Unmanaged (it appeared
    /// without an infrastructure as code tag), DriftedOut (it lost that tag), Flapping (a cause begins again and
    /// again), MoreFindings (there are more than the CloudScan's maxOpen).
    #[schemars(length(max = 64))]
    pub kind: String,

    /// severity is Low, Medium or High.
    #[schemars(length(max = 16))]
    pub severity: String,

    /// state is Open while the cause holds and needs action; Acknowledged when a user has acknowledged it (kubectl
    /// annotate resourcefinding NAME elava.dev/acknowledged=WHO); Exempted while a FindingExemption applies; then
    /// Resolved.
    pub state: FindingState,

    /// resolution is why it is resolved: Fixed (the cause was fixed), Expired (it was open as long as
    /// disappearance.keep), FalseAlarm (the same resource is back), ResourceGone, NoLongerWatched, Grouped (it is
    /// reported with its parent resource), Flapping (a Flapping finding replaces it). Absent while it is not
    /// resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub resolution: Option<String>,

    /// resolvedAt is when it was resolved. Absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub resolved_at: Option<Timestamp>,

    /// reopened is the number of times it was reopened. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopened: Option<i64>,

    /// acknowledgement is the text that the user wrote. It outlives the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub acknowledgement: Option<String>,

    /// exemption is the name of the FindingExemption that applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub exemption: Option<String>,

    /// message describes what was found.
    #[schemars(length(max = 512))]
    pub message: String,

    /// advice is what to do about it.
    #[schemars(length(max = 256))]
    pub advice: String,

    /// owner is who should act, and the source of it. Absent if no owner is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FindingOwner>,

    /// monthlyCost is what it costs a month by list prices. Absent if it costs nothing, or the operator does not
    /// know the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,

    /// currency is that of monthlyCost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub currency: Option<String>,

    /// resource is the resource key: provider/account/region/type/id. `elava history KEY` shows its history.
    #[schemars(length(max = 600))]
    pub resource: String,

    /// resourceName is the value of the resource's Name tag. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub resource_name: Option<String>,

    /// provider is the resource's cloud.
    #[schemars(length(max = 16))]
    pub provider: String,

    /// account is the resource's account.
    #[schemars(length(max = 32))]
    pub account: String,

    /// region is the resource's region; global for what AWS lists account-wide.
    #[schemars(length(max = 32))]
    pub region: String,

    /// type is the resource's CloudFormation type.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub resource_type: String,

    /// id is the resource's own id.
    #[schemars(length(max = 512))]
    pub id: String,

    /// firstSeen is when the resource was first seen.
    #[schemars(with = "Time")]
    pub first_seen: Timestamp,

    /// since is when the cause began to hold.
    pub since: Since,

    /// evidence lists what it is based on, with times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    pub evidence: Vec<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingState {
    Open,
    Acknowledged,
    Exempted,
    Resolved,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FindingOwner {
    /// name is the owner as the source writes it.
    #[schemars(length(max = 256))]
    pub name: String,
    /// source is where it is set: Tags, Stack, AutoScalingGroup, Cluster, VolumeClaim or Account.
    #[schemars(length(max = 32))]
    pub source: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// revision is the store revision: `elava at REVISION` shows the state at that time.
    pub revision: i64,
    /// time is its timestamp.
    #[schemars(with = "Time")]
    pub time: Timestamp,
}
