//! The objects of the group, as clients receive them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{GROUP, VERSION};
use crate::inventory::{
    Change, ChangeKind, Described, End, EndCause, FieldChange, Presence, Resource, ResourceKey, Revision, Scope,
    TagSet, Tags, Timestamp,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

/// The fields of Kubernetes' object metadata that these objects have.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    pub resource_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<S> {
    pub kind: &'static str,
    pub api_version: String,
    pub metadata: Metadata,
    pub status: S,
}

/// Identifies a resource, as a whole and in parts.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// key names the resource everywhere: provider/account/region/type/id.
    pub key: String,
    /// provider is the cloud that holds it.
    pub provider: String,
    /// account is the account that holds it.
    pub account: String,
    /// region is the region that holds it; global for what AWS lists account-wide.
    pub region: String,
    /// type is its CloudFormation type, such as AWS::EC2::Volume.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// id is the resource's own id.
    pub id: String,
}

impl Subject {
    fn of(key: &ResourceKey) -> Self {
        Self {
            key: key.to_string(),
            provider: key.provider.to_string(),
            account: key.account.to_string(),
            region: key.region.to_string(),
            resource_type: key.resource_type.to_string(),
            id: key.id.to_string(),
        }
    }
}

/// The known state of a resource, and since when it is known.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudResourceStatus {
    #[serde(flatten)]
    pub subject: Subject,
    /// endpoint is where it was seen, if that is not the provider's own endpoint. Absent otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// name is the value of its Name tag. Absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// owner is the owner that its tags name, by the tag keys of the CloudScan. Absent when they name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// state is Present, or Unknown: the last complete sweep is too old, or it missed the resource and nothing has
    /// confirmed yet that the resource is gone. Resources that are gone are not listed.
    #[schemars(with = "String")]
    pub state: Presence,
    /// tags are its tags. Absent when they could not be read, and when its type has none: see tagState.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub tags: Option<TagSet>,
    /// tagState is Known, Unknown (they could not be read) or Untaggable (its type has none).
    pub tag_state: String,
    /// firstSeen is when it was first seen.
    #[schemars(with = "Time")]
    pub first_seen: Timestamp,
    /// baseline is true when it existed before the first sweep: it may be older than firstSeen.
    pub baseline: bool,
    /// birth is when the cloud reports that it was created. Absent when the cloud does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub birth: Option<Timestamp>,
    /// changed is the revision of its last change.
    #[schemars(with = "i64")]
    pub changed: Revision,
    /// suspect is present when a complete sweep missed it. Absent when none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspect: Option<Suspicion>,
    /// sharedBy is the account that owns it, if that is not the account that lists it: it is shared by AWS Resource
    /// Access Manager. Its tags are not shown here then, and no rule is applied to it. Absent otherwise, and in answers
    /// without attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_by: Option<String>,
    /// attributes are the described object, with the names of the cloud's own API, as the cloud's command line prints
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub attributes: Option<Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suspicion {
    /// lastSeen is when a sweep last showed it.
    #[schemars(with = "Time")]
    pub last_seen: Timestamp,
    /// firstMissed is when a complete sweep first missed it.
    #[schemars(with = "Time")]
    pub first_missed: Timestamp,
    /// misses is the number of complete sweeps that missed it and counted.
    pub misses: u32,
    /// held is true when a sweep missed so many resources at once that its result is doubted.
    pub held: bool,
}

/// One change of one resource.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools)] // independent flags of an answer
pub struct ResourceChangeStatus {
    /// change is Appeared, Changed or Disappeared.
    #[schemars(with = "String")]
    pub change: ChangeKind,
    /// revision is the revision in which it was concluded: asOf=REVISION shows the state as it was then.
    #[schemars(with = "i64")]
    pub revision: Revision,
    /// time is the time of that revision.
    #[schemars(with = "Time")]
    pub time: Timestamp,
    #[serde(flatten)]
    pub subject: Subject,
    /// message is the change in one line, for people.
    pub message: String,
    /// baseline is true on Appeared when it existed before the first sweep. Absent means false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
    /// replaced is true on both changes of a replacement: another life under the same id. Absent means false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// moved is true on both changes of a move: an id that is never reused is seen in another account or
    /// region. Absent means false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// movedFrom is the key under which it was seen before, if you may know it. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<String>,
    /// retracted is true on Appeared when a disappearance was retracted. Absent means false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retracted: bool,
    /// end is how it ended. Absent unless change is Disappeared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Ending>,
    /// fields are the differences, with tags under Tags.KEY. Absent unless change is Changed, or a disappearance was
    /// retracted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Field>")]
    pub fields: Vec<FieldChange>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// cause is Listed (in an end state), Absent (missed by a complete sweep, and confirmed), Replaced or Moved.
    pub cause: String,
    /// detail is the end state, or where it is seen now. Absent when there is none, or when you may not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// lastSeen is when a sweep last showed it.
    #[schemars(with = "Time")]
    pub last_seen: Timestamp,
    /// firstMissed is when a complete sweep first missed it.
    #[schemars(with = "Time")]
    pub first_missed: Timestamp,
    /// concluded is when its end was confirmed.
    #[schemars(with = "Time")]
    pub concluded: Timestamp,
}

/// The schema of [`FieldChange`].
#[derive(JsonSchema)]
#[allow(dead_code)] // Only its schema is used.
struct Field {
    /// path is the field, with dots between names and [n] for the nth entry of a list.
    path: String,
    /// before is its value before. Absent when it did not exist.
    #[schemars(schema_with = "any_value")]
    before: Value,
    /// after is its value after. Absent when it no longer exists.
    #[schemars(schema_with = "any_value")]
    after: Value,
}

/// All changes of one resource, while it was visible to CloudScans of the namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceHistoryStatus {
    /// key names the resource everywhere: provider/account/region/type/id.
    pub key: String,
    /// state is Present, Unknown or Absent.
    #[schemars(with = "String")]
    pub state: Presence,
    /// changes are its changes, newest first, including those of earlier lives under the same id.
    pub changes: Vec<ResourceChangeStatus>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn any_value(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

/// The prefix of the names of all resources of a type.
pub(super) fn type_slug(scope: &Scope) -> String {
    scope
        .resource_type
        .short()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .take(30)
        .collect()
}

/// `<type>-<slug of the id>-<16 hex>`: it never changes. Resources with the same key at different endpoints have
/// different names.
pub(super) fn name(scope: &Scope, key: &ResourceKey) -> String {
    format!("{}-{}-{}", type_slug(scope), key.slug(), &hash(scope, key).to_hex()[..16])
}

fn hash(scope: &Scope, key: &ResourceKey) -> blake3::Hash {
    let Scope { partition, endpoint, .. } = scope;
    match &**endpoint {
        "" => blake3::hash(key.to_string().as_bytes()),
        endpoint => blake3::hash(format!("{key}\0{partition}\0{endpoint}").as_bytes()),
    }
}

/// The uid of one life in one namespace.
fn uid(namespace: &str, scope: &Scope, key: &ResourceKey, salt: &str) -> String {
    let seed = format!("{namespace}\0{}\0{salt}", hash(scope, key));
    let hash = blake3::hash(seed.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    // RFC 9562 reserves version 8 for custom UUIDs.
    bytes[6] = bytes[6] & 0x0F | 0x80;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// All labels come from the scope.
pub(super) fn labels(scope: &Scope) -> BTreeMap<String, String> {
    let label = |name: &str, value: String| (format!("{}/{name}", crate::api::GROUP), value);
    BTreeMap::from([
        label("account", scope.account.to_string()),
        label("region", scope.region.to_string()),
        // A label value can't contain a colon.
        label("type", scope.resource_type.as_str().replace("::", ".")),
    ])
}

/// Kubernetes' times have whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_millis(time.as_millis().div_euclid(1_000) * 1_000).to_string()
}

pub(super) fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Present => "Present",
        Presence::Absent => "Absent",
        Presence::Unknown => "Unknown",
    }
}

pub(super) fn cloud_resource(
    namespace: &str,
    resource: Resource,
    owner: Option<String>,
    described: Option<Described>,
    resource_version: Revision,
) -> Object<CloudResourceStatus> {
    let Resource { key, scope, .. } = &resource;
    let metadata = Metadata {
        name: name(scope, key),
        namespace: namespace.to_owned(),
        uid: uid(namespace, scope, key, &resource.first_seen.to_string()),
        resource_version: resource_version.to_string(),
        creation_timestamp: Some(seconds(resource.first_seen)),
        labels: labels(scope),
        annotations: BTreeMap::new(),
    };
    let (attributes, shared_by) = described.map(|described| (described.attributes, described.shared_by)).unzip();
    let tag_state = match &resource.tags {
        Tags::Known(_) => "Known",
        Tags::Unknown => "Unknown",
        Tags::Untaggable => "Untaggable",
    };
    let status = CloudResourceStatus {
        subject: Subject::of(key),
        endpoint: scope.endpoint.to_string(),
        name: resource.tags.name().map(str::to_owned),
        owner,
        state: resource.presence,
        tags: resource.tags.known().cloned(),
        tag_state: tag_state.to_owned(),
        first_seen: resource.first_seen,
        baseline: resource.baseline,
        birth: resource.birth,
        changed: resource.changed,
        suspect: resource.suspect.map(|suspect| Suspicion {
            last_seen: suspect.last_seen,
            first_missed: suspect.first_missed,
            misses: suspect.misses,
            held: suspect.held,
        }),
        shared_by: shared_by.flatten(),
        attributes,
    };
    Object { kind: "CloudResource", api_version: api_version(), metadata, status }
}

/// `may_know` returns whether the caller may know where another resource is.
pub(super) fn change_status(change: Change, may_know: &dyn Fn(&ResourceKey) -> bool) -> ResourceChangeStatus {
    let message = message(&change, may_know);
    let key = &change.resource;
    let known = |key: &ResourceKey| may_know(key).then(|| key.to_string());
    let end = change.end.as_ref().map(|end| {
        let (cause, detail) = match &end.cause {
            EndCause::Listed(state) => ("Listed", Some(state.clone())),
            EndCause::Absent => ("Absent", None),
            EndCause::Replaced => ("Replaced", None),
            EndCause::Moved(to) => ("Moved", known(to)),
        };
        Ending {
            cause: cause.to_owned(),
            detail,
            last_seen: end.last_seen,
            first_missed: end.first_missed,
            concluded: end.concluded,
        }
    });
    ResourceChangeStatus {
        change: change.change,
        revision: change.revision,
        time: change.time,
        subject: Subject::of(key),
        message,
        baseline: change.baseline,
        replaced: change.replaced,
        moved: change.moved,
        moved_from: change.moved_from.as_ref().and_then(known),
        retracted: change.retracted,
        end,
        fields: change.fields,
    }
}

pub(super) fn word(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Appeared => "Appeared",
        ChangeKind::Changed => "Changed",
        ChangeKind::Disappeared => "Disappeared",
    }
}

/// The change as one line of a table; the fields themselves are shown beside it.
fn message(change: &Change, may_know: &dyn Fn(&ResourceKey) -> bool) -> String {
    const MESSAGE_MAX_CHARS: usize = 200;
    let elsewhere = match &change.end {
        Some(End { cause: EndCause::Moved(to), .. }) => Some(to),
        _ => change.moved_from.as_ref(),
    };
    if elsewhere.is_some_and(|key| !may_know(key)) {
        return "moved from or to another account or region".to_owned();
    }
    let text = change.remark();
    if text.chars().count() <= MESSAGE_MAX_CHARS {
        return text;
    }
    text.chars().take(MESSAGE_MAX_CHARS - 1).chain(['…']).collect()
}

pub(super) fn resource_change(
    namespace: &str,
    scope: &Scope,
    change: Change,
    may_know: &dyn Fn(&ResourceKey) -> bool,
) -> Object<ResourceChangeStatus> {
    let Change { resource: key, revision, .. } = &change;
    let what = word(change.change).to_ascii_lowercase();
    let metadata = Metadata {
        name: format!("{revision}-{what}-{}", name(scope, key)),
        namespace: namespace.to_owned(),
        uid: uid(namespace, scope, key, &format!("{revision} {what}")),
        resource_version: revision.to_string(),
        creation_timestamp: Some(seconds(change.time)),
        labels: labels(scope),
        annotations: BTreeMap::new(),
    };
    let status = change_status(change, may_know);
    Object { kind: "ResourceChange", api_version: api_version(), metadata, status }
}

pub(super) fn resource_history(
    namespace: &str,
    resource: &Resource,
    changes: Vec<ResourceChangeStatus>,
    revision: Revision,
) -> Object<ResourceHistoryStatus> {
    let Resource { key, scope, .. } = resource;
    let metadata = Metadata {
        name: name(scope, key),
        namespace: namespace.to_owned(),
        uid: uid(namespace, scope, key, "history"),
        resource_version: revision.to_string(),
        creation_timestamp: Some(seconds(resource.first_seen)),
        labels: labels(scope),
        annotations: BTreeMap::new(),
    };
    let status = ResourceHistoryStatus { key: key.to_string(), state: resource.presence, changes };
    Object { kind: "ResourceHistory", api_version: api_version(), metadata, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(endpoint: &str, resource_type: &str) -> Scope {
        Scope {
            provider: "aws".into(),
            partition: "aws".into(),
            endpoint: endpoint.into(),
            account: "111122223333".into(),
            region: "eu-west-1".into(),
            resource_type: resource_type.into(),
        }
    }

    #[test]
    fn names_are_names_of_objects_and_the_same_for_ever() {
        for (endpoint, resource_type, id, selection) in [
            ("", "AWS::EC2::Volume", "vol-0abc", "volume-vol-0abc-6e380da3"),
            ("http://127.0.0.1:1", "AWS::EC2::Volume", "vol-0abc", "volume-vol-0abc-"),
            ("", "AWS::IAM::Role", "Path/to:Rôle", "role-path-to-r-le-"),
            ("", "AWS::S3::Bucket", "...", "bucket-resource-"),
            ("", "AWS::SNS::Topic", &"X".repeat(600), "topic-xxxxxxxx"),
        ] {
            let scope = scope(endpoint, resource_type);
            let key = scope.key(id);
            let name = name(&scope, &key);
            assert!(name.starts_with(selection), "{name}");
            assert!(name.len() <= 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
            assert!(uid("team-a", &scope, &key, "").split('-').map(str::len).eq([8, 4, 4, 4, 12]));
        }
        let key = scope("", "AWS::EC2::Volume").key("vol-1");
        assert_ne!(name(&scope("", "AWS::EC2::Volume"), &key), name(&scope("http://b", "AWS::EC2::Volume"), &key));
        assert_ne!(uid("a", &scope("", "x"), &key, ""), uid("b", &scope("", "x"), &key, ""));
    }
}
