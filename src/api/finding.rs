//! `ResourceFinding`: one thing that a person should act on.
#![allow(clippy::duplicated_attributes)] // printer columns repeat their attributes

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::Timestamp;

/// Nothing but `status` beside the metadata. It is no subresource (see [`super::crds`]): the operator
/// is the only writer, and one apply writes it whole.
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
    doc = "A ResourceFinding is a statement that a person should act on, with its evidence: a resource that disappeared, one that nobody owns. Elava writes it and takes it away; deleted by hand it comes back while its cause lasts.",
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

/// What was found, since when, and on what evidence. Nothing in it changes while nothing happens.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FindingStatus {
    /// kind is what is wrong: Disappeared (it was there, and a complete look confirmed that it is gone),
    /// OwnershipLost (its tags named an owner, and nothing does any more), Untagged (it has no tag besides
    /// those that AWS sets), TagsMissing (it lacks tags that the CloudScan's tagPolicy requires), TagInvalid
    /// (a required tag has a value that is not allowed), Orphaned (it serves nothing any more, and most such
    /// things cost), Unmanaged (it appeared without a mark of infrastructure as code), DriftedOut (it lost that mark), Flapping
    /// (a cause begins again and again), MoreFindings (there are more than the CloudScan's maxOpen).
    #[schemars(length(max = 64))]
    pub kind: String,

    /// severity is Low, Medium or High.
    #[schemars(length(max = 16))]
    pub severity: String,

    /// state is Open while it holds and somebody should act; Acknowledged when somebody said that they know
    /// (kubectl annotate resourcefinding NAME elava.dev/acknowledged=WHO); Exempted when a FindingExemption
    /// holds it back; then Resolved.
    pub state: FindingState,

    /// resolution is why it is resolved: Fixed (the cause was mended), Expired (it was told for as long as
    /// such findings are), FalseAlarm (what was gone is back as the same thing), ResourceGone,
    /// NoLongerWatched, Grouped (it is told with what it belonged to), Flapping (that is told in its place).
    /// Absent while it is not resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub resolution: Option<String>,

    /// resolvedAt is when it was resolved. Absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub resolved_at: Option<Timestamp>,

    /// reopened is how often it came back after it was resolved. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reopened: Option<i64>,

    /// acknowledgement is what whoever knows of it wrote. It outlives the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub acknowledgement: Option<String>,

    /// exemption is the name of the FindingExemption that holds it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub exemption: Option<String>,

    /// message says what was found, for people.
    #[schemars(length(max = 512))]
    pub message: String,

    /// advice says what to do about it.
    #[schemars(length(max = 256))]
    pub advice: String,

    /// owner is who should act, and where that is said. Absent when nothing names anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FindingOwner>,

    /// monthlyCost is what it costs a month by list prices. Absent when it costs nothing, or the price is
    /// not known to the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,

    /// currency is that of monthlyCost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub currency: Option<String>,

    /// resource is the resource's key: provider/account/region/type/id. `elava history KEY` tells
    /// its story.
    #[schemars(length(max = 600))]
    pub resource: String,

    /// resourceName is the value of the resource's Name tag. Absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub resource_name: Option<String>,

    /// provider is the cloud that holds it.
    #[schemars(length(max = 16))]
    pub provider: String,

    /// account is the account that holds it.
    #[schemars(length(max = 32))]
    pub account: String,

    /// region is the region that holds it; global for what AWS lists account-wide.
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

    /// since is the moment since which it holds.
    pub since: Since,

    /// evidence is what it rests on, each with its time.
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
    /// source is where it is said: Tags, Stack, AutoScalingGroup, Cluster, VolumeClaim or Account.
    #[schemars(length(max = 32))]
    pub source: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// revision is the store's revision: `elava at REVISION` shows the world as it was then.
    pub revision: i64,
    /// time is when that was.
    #[schemars(with = "Time")]
    pub time: Timestamp,
}
