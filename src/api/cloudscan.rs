//! `CloudScan`: the accounts to scan, and which findings to report.
#![allow(clippy::duplicated_attributes)] // printer columns repeat their attributes

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fields::{SecretRef, is_default};
use super::providers::{
    ONE_PROVIDER, ONE_PROVIDER_MESSAGE, Provider, SETTABLE_TAG, SETTABLE_TAG_MESSAGE, TYPE_PATTERNS,
    TYPE_PATTERNS_MESSAGE, TYPES, TYPES_MESSAGE,
};
use crate::inventory::Timestamp;

// The bounds keep an object below etcd's limit of 1.5 MiB (e2e/bounds.rs applies the largest), and every CEL rule
// within the API server's budget. A role has a path of at most 512 characters and a name of at most 64
// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>).

/// A CloudScan names cloud accounts. Elava lists their resources at an interval, records the history, and raises
/// ResourceFindings in the same namespace for resources that disappeared or have no owner. It only reads clouds.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "elava.dev",
    version = "v1alpha1",
    kind = "CloudScan",
    namespaced,
    status = "CloudScanStatus",
    shortname = "cscan",
    category = "elava",
    derive = "PartialEq",
    doc = "A CloudScan names cloud accounts. Elava lists every resource in them on a schedule, records every change, and writes ResourceFindings to the same namespace: resources that disappeared, have no owner, or are orphaned and still billed. It only reads clouds.",
    printcolumn(json_path = ".status.conditions[?(@.type=='Ready')].status", name = "Ready", type_ = "string"),
    printcolumn(
        json_path = ".status.resources",
        name = "Resources",
        type_ = "integer",
        description = "Resources that exist now"
    ),
    printcolumn(
        json_path = ".status.findings.open",
        name = "Findings",
        type_ = "integer",
        description = "Open findings"
    ),
    printcolumn(
        json_path = ".status.findings.monthlyCost",
        name = "Cost/Month",
        type_ = "string",
        priority = 1,
        description = "What they cost a month by list prices, as far as prices are known"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='InventoryComplete')].status",
        name = "Complete",
        type_ = "string",
        description = "Every scope was listed whole the last time"
    ),
    printcolumn(
        json_path = ".status.tagsUnknown",
        name = "Tags Unknown",
        type_ = "integer",
        priority = 1,
        description = "Resources whose tags could not be read the last time"
    ),
    printcolumn(json_path = ".status.lastScan.endTime", name = "Last Scan", type_ = "date"),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        name = "Status",
        type_ = "string",
        priority = 1
    ),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudScanSpec {
    /// interval is the time from one scan to the next, as a duration such as `30s`, `5m` or `1h30m`. Types that
    /// change slowly (VPCs, images, key pairs) are scanned every twelfth interval, types that rarely change
    /// (certificates, keys) every seventy-second. Absent means 5m.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || duration(self) >= duration('1s')").message("an interval is at least 1s"))]
    pub interval: String,

    /// suspend stops scanning while it is true. Recorded data is kept and becomes stale. If another CloudScan's
    /// credentials still list the same scopes, this one stops seeing them after a day. Absent means false.
    #[serde(default)]
    pub suspend: bool,

    /// provider is the cloud to scan, and how to access it. Required.
    #[x_kube(validation = Rule::new(ONE_PROVIDER).message(ONE_PROVIDER_MESSAGE))]
    pub provider: Provider,

    /// resourceTypes selects the types to scan. Absent means all types that Elava supports.
    #[serde(default, skip_serializing_if = "TypeSelection::is_empty")]
    pub resource_types: TypeSelection,

    /// tagPolicy sets which tags every resource must have. Absent means that only resources without any tag are
    /// findings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tag_policy: TagPolicy,

    /// disappearance sets how an absence is confirmed, and how long its finding stays open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disappearance: Disappearance,

    /// ownership sets where a resource's owner is read from. Absent means the tags owner, Owner, team and Team,
    /// then its parent resource.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ownership: Ownership,

    /// management enables findings for resources that appear without an infrastructure as code tag (Unmanaged) or
    /// lose it (DriftedOut). Absent means disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,

    /// orphans sets when an unused resource is a finding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orphans: Orphans,

    /// findings configures the ResourceFindings of this CloudScan.
    #[serde(default, skip_serializing_if = "is_default")]
    pub findings: Findings,
}

const DURATION: &str = "self.matches('^([0-9]{1,9}(ms|s|m|h))+$')";
const DURATION_MESSAGE: &str =
    "a duration is written as whole numbers with units ms, s, m or h, such as 30s, 5m or 1h30m";

fn five_minutes() -> String {
    "5m".to_owned()
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TypeSelection {
    /// include lists the only types to scan, by name or by a pattern that ends in *, such as AWS::EC2::*. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPE_PATTERNS).message(TYPE_PATTERNS_MESSAGE))]
    pub include: Vec<String>,

    /// exclude lists types to skip, by name or by pattern. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPE_PATTERNS).message(TYPE_PATTERNS_MESSAGE))]
    pub exclude: Vec<String>,
}

impl TypeSelection {
    fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagPolicy {
    /// required lists the tags that every resource must have; a resource that lacks any is a TagsMissing finding.
    /// Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub required: Vec<RequiredTag>,

    /// gracePeriod is how long a tag problem must last before it is a finding, as a duration such as 30m. Absent
    /// means 0s.
    #[serde(default = "no_time")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub grace_period: String,

    /// exemptTypes are resource types that tag rules skip. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPES).message(TYPES_MESSAGE))]
    pub exempt_types: Vec<String>,
}

fn no_time() -> String {
    "0s".to_owned()
}

impl Default for TagPolicy {
    fn default() -> Self {
        Self { required: Vec::new(), grace_period: no_time(), exempt_types: Vec::new() }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RequiredTag {
    /// key is the tag key, case-sensitive. Required.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(SETTABLE_TAG).message(SETTABLE_TAG_MESSAGE))]
    pub key: String,

    /// aliases are other keys that count as this one. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,

    /// pattern is a regular expression that the whole value must match; a value that does not is a TagInvalid
    /// finding. Absent means any non-empty value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub pattern: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disappearance {
    /// confirmations is how many complete sweeps in a row must miss a resource before it has disappeared, for
    /// types whose API has no read by id. Absent means 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 10))]
    pub confirmations: u8,

    /// massLoss limits how much may go missing at once. A sweep that reaches it concludes nothing from absence;
    /// the next one must miss the same again.
    #[serde(default)]
    pub mass_loss: MassLoss,

    /// keep is how long a Disappeared finding stays open before it is resolved as Expired, as a
    /// duration. Absent means 168h, seven days.
    #[serde(default = "seven_days")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub keep: String,

    /// ignore lists resources whose disappearance is not a finding: those with the type and all tags of one entry.
    /// Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ignore: Vec<IgnoredEnd>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.type) || has(self.tags)").message("name a type, tags, or both: ignoring everything is a mistake"))]
pub struct IgnoredEnd {
    /// type is a resource type, such as AWS::EC2::Volume. Absent means any.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub resource_type: Option<String>,

    /// tags must all have been on the resource. Absent means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub tags: Vec<TagSelector>,
}

/// A tag to match.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TagSelector {
    /// key is the tag key; a trailing * matches all keys with that prefix. Required.
    #[schemars(length(min = 1, max = 128))]
    pub key: String,

    /// value is the tag value. Absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub value: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ownership {
    /// tagKeys are the tags that name an owner; the first with a value is used. Absent means owner, Owner, team
    /// and Team.
    #[serde(default = "owner_tags")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tag_keys: Vec<String>,

    /// sources lists where the owner is read from, in order: Tags (the resource's own), Stack (the tags of its
    /// CloudFormation stack), AutoScalingGroup, Cluster (the tags of its EKS cluster), VolumeClaim (the Kubernetes
    /// claim that a volume was made for), Account (the account's default, below). Absent means all of them, in
    /// this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(s, s in ['Tags', 'Stack', 'AutoScalingGroup', 'Cluster', 'VolumeClaim', 'Account'])").message("the sources are Tags, Stack, AutoScalingGroup, Cluster, VolumeClaim and Account"))]
    pub sources: Vec<String>,

    /// accounts lists each account's default owner, used last. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub accounts: Vec<AccountOwner>,
}

fn owner_tags() -> Vec<String> {
    crate::inventory::OwnershipSettings::default().tag_keys
}

impl Default for Ownership {
    fn default() -> Self {
        Self { tag_keys: owner_tags(), sources: Vec::new(), accounts: Vec::new() }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct AccountOwner {
    /// id is the account number: twelve digits, in quotes. Required.
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("an account id is twelve digits, such as \"111122223333\""))]
    pub id: String,

    /// owner is the owner: a person or a team. Required.
    #[schemars(length(min = 1, max = 256))]
    pub owner: String,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// marks are tags set by infrastructure as code, such as terraform or ManagedBy. Tags of CloudFormation, the
    /// CDK, Kubernetes and AWS itself always count. Absent means only those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub marks: Vec<TagSelector>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Orphans {
    /// gracePeriod is how long a resource must be orphaned before it is a finding, as a duration. Absent means
    /// 24h.
    #[serde(default = "one_day")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub grace_period: String,

    /// stoppedFor is how long an instance must be stopped before it is a finding, as a duration. Absent means
    /// 168h, seven days.
    #[serde(default = "seven_days")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub stopped_for: String,
}

impl Default for Orphans {
    fn default() -> Self {
        Self { grace_period: one_day(), stopped_for: seven_days() }
    }
}

fn two() -> u8 {
    2
}

fn seven_days() -> String {
    "168h".to_owned()
}

impl Default for Disappearance {
    fn default() -> Self {
        Self { confirmations: two(), mass_loss: MassLoss::default(), keep: seven_days(), ignore: Vec::new() }
    }
}

/// Both must be reached, in a scope, or in an account within the longest cadence in force.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MassLoss {
    /// percent is the percentage of resources above which a loss is held. Absent means 20.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,

    /// minimum is the number of missing resources from which a loss is held. Absent means 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum: u32,
}

fn twenty() -> u8 {
    20
}

fn ten() -> u32 {
    10
}

impl Default for MassLoss {
    fn default() -> Self {
        Self { percent: twenty(), minimum: ten() }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Findings {
    /// maxOpen is the maximum number of open ResourceFindings: the most severe, then the newest; others are only
    /// counted in status. Absent means 2000.
    #[serde(default = "two_thousand")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_open: u16,

    /// keepResolved is how long a resolved ResourceFinding is kept, as a duration. Absent means 24h.
    #[serde(default = "one_day")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub keep_resolved: String,

    /// exclude lists kinds of findings to disable. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(super::kinds_rule()).message(super::kinds_message().as_str()))]
    pub exclude: Vec<String>,

    /// webhook is notified when a finding opens, changes state or is resolved. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// CloudEvents over HTTP, at least once and in order.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.url) || has(self.secretRef)").message("a webhook needs an address: set url, or name a Secret with the key address in secretRef"))]
pub struct Webhook {
    /// url is where each event is posted. The operator rejects URLs that its administrator has not allowed
    /// (`--allow-webhook`, the chart's allowedWebhooks). Everyone who can read the CloudScan can read it: put a
    /// URL with a token in the Secret. Absent means the key address of secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^ ]*)?$')").message("url is an http or https URL, such as https://hooks.example.com/elava"))]
    pub url: Option<String>,

    /// secretRef names a Secret in the CloudScan's own namespace. Its key address, if set, is used in place of
    /// url. Its key signing-key signs each request (headers webhook-id, webhook-timestamp and webhook-signature,
    /// as in Standard Webhooks). Absent means that requests are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

fn two_thousand() -> u16 {
    2000
}

fn one_day() -> String {
    "24h".to_owned()
}

impl Default for Findings {
    fn default() -> Self {
        Self { max_open: two_thousand(), keep_resolved: one_day(), exclude: Vec::new(), webhook: None }
    }
}

/// The state of the accounts and of scanning.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CloudScanStatus {
    /// observedGeneration is the generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// conditions: Ready (the spec is accepted, the credentials of at least one account work, scanning runs),
    /// Reconciling (a spec change is being applied), Stalled (only a user can fix it), FirstScanComplete (every
    /// scope was scanned once), CredentialsValid, InventoryComplete (the inventory is complete as of the last
    /// scan), AttributesReadable and TagsReadable (listed resources could be described and their tags read; else
    /// the missing permission is named), FindingsDecided (every rule was decided for every resource), ClockSkew
    /// (the clocks of operator and cloud differ by more than five minutes), WebhookDelivered (all notifications
    /// are delivered; only with findings.webhook).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// lastScan is the last scan of the accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scan: Option<LastScan>,

    /// nextScanTime is when the next scope is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub next_scan_time: Option<Timestamp>,

    /// lastHandledReconcileAt is the last handled value of the annotation elava.dev/reconcile-requested-at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// revision is the store revision that this status reflects: `elava at REVISION` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// tagsUnknown is the number of resources whose tags could not be read last time. Their last known tags are
    /// kept, and no tag finding is opened or resolved for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags_unknown: Option<i64>,

    /// resources is the number of existing resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<i64>,

    /// awaitingConfirmation is the number of resources that a sweep missed and that are not confirmed gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting_confirmation: Option<i64>,

    /// apiCalls is the number of cloud API calls for this CloudScan since the operator started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls: Option<i64>,

    /// apiCallsPerMonth is their rate per month, set from an hour after the operator started; a second CloudTrail
    /// trail bills 2 USD for 100,000 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls_per_month: Option<i64>,

    /// findings counts the findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<FindingCounts>,

    /// accounts is the state of each account, those with problems first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub accounts: Vec<AccountStatus>,
}

/// The maximum number of accounts in a status: a status must not grow with the cloud.
pub const MAX_ACCOUNTS_IN_STATUS: usize = 20;

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastScan {
    /// startTime is when the scan began.
    #[schemars(with = "Time")]
    pub start_time: Timestamp,
    /// endTime is when it ended.
    #[schemars(with = "Time")]
    pub end_time: Timestamp,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FindingCounts {
    /// open counts open findings.
    pub open: i64,
    /// suppressed counts open findings above findings.maxOpen: `elava findings` lists them.
    pub suppressed: i64,
    /// acknowledged counts acknowledged open findings.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub acknowledged: i64,
    /// exempted counts findings that a FindingExemption exempts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exempted: i64,
    /// kinds are the open findings by kind, suppressed ones too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into()]))]
    pub kinds: Vec<KindCount>,
    /// accounts are the open findings by account, costliest first; from the twentieth on combined as (others).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub accounts: Vec<GroupCount>,
    /// owners are the open findings by owner, like accounts; (nobody) for findings without owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub owners: Vec<GroupCount>,
    /// monthlyCost is what all open findings cost a month by list prices, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,
    /// currency is that of monthlyCost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub currency: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &i64) -> bool {
    *count == 0
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KindCount {
    /// kind is the finding kind.
    pub kind: String,
    /// open counts open findings.
    pub open: i64,
    /// monthlyCost is what they cost a month by list prices, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GroupCount {
    /// name is the account number, or the owner as its source writes it.
    #[schemars(length(max = 256))]
    pub name: String,
    /// open counts open findings.
    pub open: i64,
    /// monthlyCost is what they cost a month by list prices, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// id is the account number.
    pub id: String,
    /// resources is the number of existing resources.
    pub resources: i64,
    /// scopes is the number of listings (region and type) in a full scan.
    pub scopes: i64,
    /// incompleteScopes is how many of them were not listed completely last time.
    pub incomplete_scopes: i64,
    /// message states what is wrong, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
