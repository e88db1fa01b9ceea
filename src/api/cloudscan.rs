//! `CloudScan`: the accounts to watch, and what people want to hear about.
#![allow(clippy::duplicated_attributes)] // printer columns repeat their attributes

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::Timestamp;

// The bounds keep an object below the 1.5 MiB that etcd takes (e2e/bounds.rs applies the largest), and every CEL rule within
// the API server's budget. A role has a path of at most 512 characters and a name of 64
// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>).

/// A CloudScan names cloud accounts. Elava lists every resource in them again and again, remembers
/// what it saw, and raises ResourceFindings in the same namespace for what vanished and what nobody
/// owns. It only reads clouds.
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
    doc = "A CloudScan names cloud accounts. Elava lists every resource in them again and again, remembers what it saw, and raises ResourceFindings in the same namespace for what vanished and what nobody owns. It only reads clouds.",
    printcolumn(json_path = ".status.conditions[?(@.type=='Ready')].status", name = "Ready", type_ = "string"),
    printcolumn(
        json_path = ".status.resources",
        name = "Resources",
        type_ = "integer",
        description = "Resources that are there now"
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
    /// interval is the time from one look to the next, as a duration such as `30s`, `5m` or `1h30m`;
    /// types that change slowly (VPCs, images, key pairs) are looked at every twelfth interval,
    /// those that hardly ever do (certificates, keys) every seventy-second.
    /// Absent means 5m.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || duration(self) >= duration('1s')").message("an interval is at least 1s"))]
    pub interval: String,

    /// suspend stops looking, for as long as it is true. What is known stays, and goes stale; where another CloudScan's
    /// credentials go on showing the same, this one ceases to see it after a day. Absent
    /// means false.
    #[serde(default)]
    pub suspend: bool,

    /// provider is the cloud to look at, and how to get in. Required.
    #[x_kube(validation = Rule::new("has(self.aws)").message("name the cloud to look at: set spec.provider.aws (it may be empty: aws: {})"))]
    pub provider: Provider,

    /// resourceTypes chooses what to look at. Absent means every type that this Elava knows.
    #[serde(default, skip_serializing_if = "TypeSelection::is_empty")]
    pub resource_types: TypeSelection,

    /// tagPolicy says which tags every resource must have. Absent means that only resources without
    /// any tag are findings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tag_policy: TagPolicy,

    /// disappearance says how carefully an absence is concluded, and how long it stays a finding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disappearance: Disappearance,

    /// ownership says where the owner of a resource is read from. Absent means its tags owner, Owner, team
    /// and Team, then what it belongs to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ownership: Ownership,

    /// management asks for findings of what appeared without a mark of infrastructure as code (Unmanaged) or lost
    /// it (DriftedOut).
    /// Absent means that nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,

    /// orphans says when what serves nothing is a finding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orphans: Orphans,

    /// findings bounds the ResourceFindings that this CloudScan raises.
    #[serde(default, skip_serializing_if = "is_default")]
    pub findings: Findings,
}

const DURATION: &str = "self.matches('^([0-9]{1,9}(ms|s|m|h))+$')";
const DURATION_MESSAGE: &str =
    "a duration is written as whole numbers with units ms, s, m or h, such as 30s, 5m or 1h30m";

fn five_minutes() -> String {
    "5m".to_owned()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One of the clouds.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// aws looks at Amazon Web Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsProvider>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.accounts) || self.accounts.filter(a, !has(a.roleARN)).size() <= 1").message("only one account can do without a roleARN: credentials by themselves answer for one account").field_path(".accounts"))]
#[x_kube(validation = Rule::new("!has(self.organization) || !has(self.accounts)").message("name the accounts, or the organization that they are listed from: not both"))]
pub struct AwsProvider {
    /// accounts are the accounts to look at. Absent means the one account that the credentials
    /// answer for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub accounts: Vec<AwsAccount>,

    /// organization looks at the accounts of an AWS organization: those that join are looked at from the
    /// next list on, those that leave are no longer watched. Absent means the accounts that are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<AwsOrganization>,

    /// regions chooses the regions to look at. Absent means every region that is enabled in the
    /// account. What AWS lists account-wide (buckets) is looked at in any case.
    #[serde(default, skip_serializing_if = "is_default")]
    #[x_kube(validation = Rule::new("!has(self.include) || !has(self.exclude) || !self.include.exists(r, r in self.exclude)").message("a region can't be both in include and in exclude"))]
    pub regions: RegionSelection,

    /// endpointURL is asked instead of AWS's own endpoints, for emulators and private gateways. The
    /// operator refuses one that its administrator has not allowed (`--allow-endpoint`, the chart's
    /// allowedEndpoints). Absent means AWS.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "endpointURL")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$')").message("endpointURL is a URL without a path, such as https://aws.example.com or http://127.0.0.1:5000"))]
    pub endpoint_url: Option<String>,

    /// credentialsSecretRef names a Secret in the CloudScan's own namespace with the keys
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where there is one, AWS_SESSION_TOKEN. Absent
    /// means the operator's own credentials: IRSA, Pod Identity, the instance's role, environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.externalID) || has(self.roleARN)").message("externalID is only used to assume a role: set roleARN too"))]
#[x_kube(validation = Rule::new("!has(self.roleARN) || !self.roleARN.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/') || self.roleARN.split(':')[4] == self.id").message("roleARN is a role of another account than id: name the role in the account that is to be looked at"))]
pub struct AwsAccount {
    /// id is the account's number: twelve digits, in quotes. Required.
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("an account id is twelve digits, such as \"111122223333\""))]
    pub id: String,

    /// roleARN is the role to assume in the account. Absent means that the credentials themselves
    /// must answer for it.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "roleARN")]
    #[schemars(length(max = 640))]
    #[x_kube(validation = Rule::new("self.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$')").message("roleARN is the ARN of an IAM role, such as arn:aws:iam::111122223333:role/elava"))]
    pub role_arn: Option<String>,

    /// externalID is presented when the role is assumed. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "externalID")]
    #[schemars(length(max = 1224))]
    #[x_kube(validation = Rule::new("self.size() >= 2 && self.matches('^[A-Za-z0-9+=,.@:/_-]+$')").message("an external id has 2 to 1224 letters, digits or characters of +=,.@:/_-"))]
    pub external_id: Option<String>,
}

/// The credentials, or the listRoleARN that they assume, must belong to the management account or to a
/// delegated administrator of the organization.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsOrganization {
    /// roleName is the role to assume in each account, with its path where it has one: `elava`, or
    /// `audit/elava`. Required.
    #[schemars(length(min = 1, max = 576))]
    #[x_kube(validation = Rule::new("self.matches('^([A-Za-z0-9+=,.@_-]+/)*[A-Za-z0-9+=,.@_-]+$')").message("roleName is the name of an IAM role, such as elava; not its ARN"))]
    pub role_name: String,

    /// externalID is presented when the role of an account is assumed. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "externalID")]
    #[schemars(length(max = 1224))]
    #[x_kube(validation = Rule::new("self.size() >= 2 && self.matches('^[A-Za-z0-9+=,.@:/_-]+$')").message("an external id has 2 to 1224 letters, digits or characters of +=,.@:/_-"))]
    pub external_id: Option<String>,

    /// listRoleARN is a role that may list the accounts. Absent means that the credentials themselves may.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "listRoleARN")]
    #[schemars(length(max = 640))]
    #[x_kube(validation = Rule::new("self.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$')").message("listRoleARN is the ARN of an IAM role, such as arn:aws:iam::111122223333:role/elava-list"))]
    pub list_role_arn: Option<String>,

    /// units are the organizational units (or the root) whose accounts are looked at, with all units below.
    /// Absent means the whole organization.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 68)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(u, u.matches('^(r-[0-9a-z]{4,32}|ou-[0-9a-z]{4,32}-[0-9a-z]{8,32})$'))").message("a unit is written as AWS does, such as ou-ab12-cdef3456, or r-ab12 for the root"))]
    pub units: Vec<String>,

    /// excludeAccounts are accounts to leave out: twelve digits each, in quotes. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), inner(length(max = 12)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(a, a.matches('^[0-9]{12}$'))").message("an account id is twelve digits, such as \"111122223333\""))]
    pub exclude_accounts: Vec<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RegionSelection {
    /// include names the only regions to look at. Absent means all that are enabled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(REGIONS).message(REGIONS_MESSAGE))]
    pub include: Vec<String>,

    /// exclude names regions to leave out. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(REGIONS).message(REGIONS_MESSAGE))]
    pub exclude: Vec<String>,
}

const REGIONS: &str = "self.all(r, r.matches('^[a-z]+(-[a-z]+)+-[0-9]+$'))";
const REGIONS_MESSAGE: &str = "a region is written as AWS does, such as eu-west-1 (no zone letter, no wildcard)";

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// name is the name of the Secret. Required.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9.-]+$') && self.matches('^[a-z0-9]') && self.matches('[a-z0-9]$')").message("the name of a Secret has lower case letters, digits, - and . and begins and ends with a letter or digit"))]
    pub name: String,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TypeSelection {
    /// include names the only types to look at. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPES).message(TYPES_MESSAGE))]
    pub include: Vec<String>,

    /// exclude names types to leave out. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(TYPES).message(TYPES_MESSAGE))]
    pub exclude: Vec<String>,
}

impl TypeSelection {
    fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

pub(super) const TYPES: &str = "self.all(t, t.matches('^[A-Za-z0-9]+::[A-Za-z0-9]+::[A-Za-z0-9]+$'))";
pub(super) const TYPES_MESSAGE: &str =
    "a resource type is written as CloudFormation does, such as AWS::EC2::Instance";

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagPolicy {
    /// required lists the tags that every resource must have; one that lacks some of them is a
    /// TagsMissing finding. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub required: Vec<RequiredTag>,

    /// gracePeriod is how long a resource may lack tags before that is a finding, as a duration such
    /// as 30m. Absent means no time at all.
    #[serde(default = "no_time")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub grace_period: String,

    /// exemptTypes are resource types whose tags are nobody's concern. Absent means none.
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
    /// key is the tag's key; case matters. Required.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("!self.startsWith('aws:')").message("keys that begin with aws: can't be set by users: no resource could ever comply"))]
    pub key: String,

    /// aliases are other keys that count as this one. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,

    /// pattern is a regular expression that the whole value must match; one that does not is a
    /// TagInvalid finding. Absent means any value but the empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub pattern: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disappearance {
    /// confirmations is how many complete looks in a row must miss a resource whose API can't be asked
    /// for one by its id, before it has disappeared. Absent means 2.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 10))]
    pub confirmations: u8,

    /// massLoss says when so much is missing at once that the look is doubted before the cloud is:
    /// such a look concludes nothing, and the next one must miss the same again.
    #[serde(default)]
    pub mass_loss: MassLoss,

    /// keep is how long a Disappeared finding stays open before it is resolved as Expired, as a
    /// duration. Absent means 168h, seven days.
    #[serde(default = "seven_days")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub keep: String,

    /// ignore lists resources whose end is nobody's concern: those of a type and with all tags that one
    /// entry names. Absent means none.
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

    /// tags are tags that it had, all of them. Absent asks for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub tags: Vec<TagSelector>,
}

/// A tag that a resource has.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TagSelector {
    /// key is the tag's key; one that ends in * stands for all that begin so. Required.
    #[schemars(length(min = 1, max = 128))]
    pub key: String,

    /// value is the tag's value. Absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub value: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ownership {
    /// tagKeys are the tags that name an owner; the first that has a value counts. Absent means owner,
    /// Owner, team and Team.
    #[serde(default = "owner_tags")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tag_keys: Vec<String>,

    /// sources are where the owner is read from, in this order: Tags (the resource's own), Stack (the tags
    /// of its CloudFormation stack), AutoScalingGroup, Cluster (the tags of its EKS cluster), VolumeClaim
    /// (the Kubernetes claim that a volume was made for), Account (the account's default, below). Absent
    /// means all of them, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(s, s in ['Tags', 'Stack', 'AutoScalingGroup', 'Cluster', 'VolumeClaim', 'Account'])").message("the sources are Tags, Stack, AutoScalingGroup, Cluster, VolumeClaim and Account"))]
    pub sources: Vec<String>,

    /// accounts name the owner of what nothing else names an owner of. Absent means none.
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
    /// id is the account's number: twelve digits, in quotes. Required.
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("an account id is twelve digits, such as \"111122223333\""))]
    pub id: String,

    /// owner is who owns it: a person or a team. Required.
    #[schemars(length(min = 1, max = 256))]
    pub owner: String,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// marks are tags that show that code made a resource, such as terraform or ManagedBy. What
    /// CloudFormation, the CDK, Kubernetes and AWS itself leave counts in any case. Absent means only that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub marks: Vec<TagSelector>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Orphans {
    /// gracePeriod is how long something must serve nothing before that is a finding, as a duration.
    /// Absent means 24h.
    #[serde(default = "one_day")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub grace_period: String,

    /// stoppedFor is how long an instance must be stopped before that is a finding, as a duration.
    /// Absent means 168h, seven days.
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

/// Both must be reached, in a scope or in an account over one round.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MassLoss {
    /// percent is the share of what was there, above which a loss is held. Absent means 20.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,

    /// minimum is the number of missing resources from which on a loss is held. Absent means 10.
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
    /// maxOpen is the most findings that are open as objects at once: the worst, then the newest; the
    /// others are counted in status. Absent means 2000.
    #[serde(default = "two_thousand")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_open: u16,

    /// keepResolved is how long a resolved finding stays before its object goes, as a duration.
    /// Absent means 24h.
    #[serde(default = "one_day")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION).message(DURATION_MESSAGE))]
    pub keep_resolved: String,

    /// exclude lists kinds of findings that nobody wants to hear of. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(super::KINDS).message(super::KINDS_MESSAGE))]
    pub exclude: Vec<String>,

    /// webhook is told of every finding that opens, changes its state or is resolved. Absent means nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// CloudEvents over HTTP, at least once and in order.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.url) || has(self.secretRef)").message("a webhook needs an address: set url, or name a Secret with the key address in secretRef"))]
pub struct Webhook {
    /// url is where each event is posted. The operator refuses one that its administrator has not allowed
    /// (`--allow-webhook`, the chart's allowedWebhooks). Whoever may read the CloudScan reads it: one that holds a
    /// token belongs into the Secret. Absent means the key address of secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^ ]*)?$')").message("url is an http or https URL, such as https://hooks.example.com/elava"))]
    pub url: Option<String>,

    /// secretRef names a Secret in the CloudScan's own namespace. Its key address, where it has one, is the URL, in
    /// place of url. Its key signing-key signs each request (headers webhook-id, webhook-timestamp and
    /// webhook-signature, as in Standard Webhooks). Absent means that nothing is signed.
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

/// What is known of the accounts, and how the looking goes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CloudScanStatus {
    /// observedGeneration is the generation of the spec that the rest of the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// conditions: Ready (the spec is accepted, at least one account's credentials work, scanning
    /// runs), Reconciling (a change of the spec is being taken up), Stalled (only you can mend it),
    /// FirstScanComplete (every scope was looked at once), CredentialsValid, InventoryComplete (what is
    /// known is the whole truth as of the last scan), AttributesReadable and TagsReadable (what was listed could
    /// also be described, and its tags be read; else the missing permission is named), FindingsDecided (every rule could say yes or no of every
    /// resource), ClockSkew (the clocks of operator and cloud differ by more than five minutes),
    /// WebhookDelivered (what is to be told is told; only with findings.webhook).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// lastScan is the last round over the accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scan: Option<LastScan>,

    /// nextScanTime is when the next scope is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub next_scan_time: Option<Timestamp>,

    /// lastHandledReconcileAt is the value of the annotation elava.dev/reconcile-requested-at that was
    /// acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// revision is the store's revision that this status speaks of: `elava at REVISION` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,

    /// tagsUnknown is how many resources were listed whose tags could not be read the last time. No finding about
    /// tags is opened or resolved for them: what was known of their tags goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags_unknown: Option<i64>,

    /// resources is how many resources are there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<i64>,

    /// awaitingConfirmation is how many resources a look missed, without it being settled that they
    /// are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting_confirmation: Option<i64>,

    /// apiCalls is how many calls to the cloud this CloudScan has cost since the operator started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls: Option<i64>,

    /// apiCallsPerMonth is how many calls a month that comes to, from an hour after the operator started on;
    /// a second CloudTrail trail bills 2 USD for 100,000 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls_per_month: Option<i64>,

    /// findings counts the findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<FindingCounts>,

    /// accounts tells of each account, those with problems first; at most 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub accounts: Vec<AccountStatus>,
}

/// As many accounts as status speaks of; a status must not grow with the cloud.
pub const MAX_ACCOUNTS_IN_STATUS: usize = 20;

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastScan {
    /// startTime is when the round began.
    #[schemars(with = "Time")]
    pub start_time: Timestamp,
    /// endTime is when it ended.
    #[schemars(with = "Time")]
    pub end_time: Timestamp,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FindingCounts {
    /// open is how many findings are open.
    pub open: i64,
    /// suppressed is how many more there are than findings.maxOpen lets through: `elava findings` lists
    /// them.
    pub suppressed: i64,
    /// acknowledged is how many of the open ones somebody knows of.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub acknowledged: i64,
    /// exempted is how many are held back by a FindingExemption.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exempted: i64,
    /// kinds are the open ones by kind, those that are suppressed too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into()]))]
    pub kinds: Vec<KindCount>,
    /// accounts are the open ones by account, the dearest first; from the twentieth on they are one, (others).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub accounts: Vec<PartCount>,
    /// owners are the open ones by who should act, as accounts; (nobody) where nothing names anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub owners: Vec<PartCount>,
    /// monthlyCost is what all open ones cost a month by list prices, as far as prices are known.
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
    /// kind is the kind of the findings.
    pub kind: String,
    /// open is how many are open.
    pub open: i64,
    /// monthlyCost is what they cost a month by list prices, as far as prices are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PartCount {
    /// name is the account's number, or the owner as its source writes it.
    #[schemars(length(max = 256))]
    pub name: String,
    /// open is how many are open.
    pub open: i64,
    /// monthlyCost is what they cost a month by list prices, as far as prices are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub monthly_cost: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// id is the account's number.
    pub id: String,
    /// resources is how many resources are there now.
    pub resources: i64,
    /// scopes is how many listings (region and type) one full look takes.
    pub scopes: i64,
    /// incompleteScopes is how many of them could not be listed whole the last time.
    pub incomplete_scopes: i64,
    /// message says what is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
