//! How a resource type is declared: what all services share. Each type is declared in the file of its service.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::Regional;
use super::call::Answered;
use super::error::Failure;
use crate::cloud::{CadenceClass, CloudError, TypeInfo};
use crate::inventory::{
    CONFIRMATION_SPACING_MIN, Confirmation, IdReuse, Reason, TagForm, TagSet, Tags, Timestamp,
};

/// A listing: an operation of a service and its parameters, by the names of the service's model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub service: &'static str,
    pub operation: &'static str,
    /// Parameters of every call, as a JSON object.
    with: &'static str,
    /// Takes the token of the next page.
    token: Option<&'static str>,
    /// Takes the size of a page.
    size: Option<(&'static str, i64)>,
    /// Takes one id.
    id: Option<&'static str>,
    /// Takes the parent, if [`Declaration::within`] is set.
    parent: Option<&'static str>,
}

/// The call of an operation.
pub(super) const fn call(service: &'static str, operation: &'static str) -> Call {
    Call { service, operation, with: "", token: None, size: None, id: None, parent: None }
}

impl Call {
    /// Sends these parameters with every call.
    pub const fn with(self, with: &'static str) -> Self {
        Self { with, ..self }
    }

    pub const fn paged(self, token: &'static str, size: &'static str, largest: i64) -> Self {
        Self { token: Some(token), size: Some((size, largest)), ..self }
    }

    /// Its pages have a size that the service chooses.
    pub const fn with_token(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }

    pub const fn by_id(self, id: &'static str) -> Self {
        Self { id: Some(id), ..self }
    }

    pub const fn in_parent(self, parent: &'static str) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// One input of each kind that it takes.
    pub fn samples(&self) -> Vec<Value> {
        let sample = |name: Option<&str>| name.map(|_| "x".to_owned());
        let page = ListRequest::Page { within: sample(self.parent), token: sample(self.token) };
        let id = self.id.map(|_| ListRequest::Id("x".to_owned()));
        std::iter::once(page).chain(id).map(|which| self.input(&which)).collect()
    }

    /// The parameters of one call.
    pub fn input(&self, which: &ListRequest) -> Value {
        let mut input = match self.with {
            "" => Map::new(),
            with => serde_json::from_str(with).expect("a test reads it"),
        };
        let mut set = |name: Option<&str>, value: Value| {
            let name = name.unwrap_or_else(|| unreachable!("{} takes no {value}", self.operation));
            input.insert(name.to_owned(), value);
        };
        match which {
            ListRequest::Id(id) => set(self.id, id.as_str().into()),
            ListRequest::Page { within, token } => {
                if let Some(within) = within {
                    set(self.parent, within.as_str().into());
                }
                if let Some(token) = token {
                    set(self.token, token.as_str().into());
                }
                if let Some((name, largest)) = self.size {
                    set(Some(name), largest.into());
                }
            }
        }
        Value::Object(input)
    }
}

/// What a call requests: a page of all, or one id.
#[derive(Clone, Debug)]
pub(super) enum ListRequest {
    Page {
        /// The parent that it is listed in, if [`Declaration::within`] is set.
        within: Option<String>,
        token: Option<String>,
    },
    Id(String),
}

/// What a call returns.
pub(super) enum ListAnswer {
    Raw(Answered),
    /// If its type had to add something.
    Completed(Value),
}

impl From<Answered> for ListAnswer {
    fn from(answered: Answered) -> Self {
        Self::Raw(answered)
    }
}

/// Checks that an id exists, by a call whose answer is another document than the listing's.
pub(super) type Exists = for<'a> fn(&'a Regional, &'a str) -> BoxFuture<'a, Result<(), Failure>>;

/// Makes a listing whose request or answer needs more than its declaration says.
pub(super) type Fetch = for<'a> fn(&'a Regional, &'a Call, ListRequest) -> Answer<'a>;

pub(super) type Answer<'a> = BoxFuture<'a, Result<ListAnswer, Failure>>;

/// The usual form of tags in a described object.
pub(super) const TAG_LIST: TagForm = TagForm::List { key: "Key", value: "Value" };

/// Where the tags of a type are.
#[derive(Clone, Copy)]
pub(super) enum TagSource {
    /// In the described object, under this field and in this form.
    Inline(&'static str, TagForm),
    /// In a separate answer, for one object at a time.
    Call(for<'a> fn(&'a Regional, &'a Value) -> BoxFuture<'a, Result<Tags, Failure>>),
    /// In a separate answer for up to this many ids at once, by id.
    Calls(
        usize,
        for<'a> fn(&'a Regional, Vec<String>) -> BoxFuture<'a, Result<BTreeMap<String, TagSet>, Failure>>,
    ),
    /// The type takes no tags.
    Untaggable,
}

/// How a resource that a listing missed is read by its id.
#[derive(Clone, Copy)]
pub(super) enum ById {
    /// The listing takes an id.
    Listing,
    /// Starts from the fields that a listing would have shown of the id; [`Declaration::describe`] completes them.
    Describe(fn(&str) -> Value),
    /// By a call that proves only whether it exists: its answer is another document.
    Exists(Exists),
    /// Not at all: two complete sweeps must agree.
    Sweeps,
}

/// Completes a listed object by a further call.
pub(super) type Describe = for<'a> fn(&'a Regional, &'a mut Value) -> BoxFuture<'a, Result<(), Failure>>;

/// The tags of each of some ids.
pub(super) type VerifyTags =
    for<'a> fn(&'a Regional, &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, TagSet>, Failure>>;

/// The parents that resources are listed in, such as the clusters of services.
pub(super) type Within = for<'a> fn(&'a Regional) -> BoxFuture<'a, Result<Vec<String>, Failure>>;

#[allow(clippy::struct_excessive_bools)] // independent facts about a type
pub(super) struct Declaration {
    /// The name that CloudFormation uses.
    pub name: &'static str,
    /// The IAM actions that a scan of it needs.
    pub actions: &'static [&'static str],
    pub within: Option<Within>,
    pub list: Call,
    pub fetch: Option<Fetch>,
    /// The path of the list in the answer; each step but the last is a list too, or an object.
    pub items: &'static [&'static str],
    /// The path of the token of the next page.
    pub next_page: &'static str,
    /// Without it there is no document: the listing contains only names.
    pub describe: Option<Describe>,
    /// Adds fields that are not required.
    pub enrich: Option<Describe>,
    pub by_id: ById,
    /// The error codes with which the call that reads a resource by its id reports that it does not exist, and nothing
    /// else. Each is a code of that call, from the service's model or its documentation. Any other "not found" proves
    /// nothing.
    pub not_found: &'static [&'static str],
    pub id: &'static str,
    pub tags: TagSource,
    /// Reads tags again by a call that fails where the listing returns none under load.
    pub verify_tags: Option<VerifyTags>,
    /// The path of the creation time; through lists, the earliest of them.
    pub birth: Option<&'static str>,
    pub reusable_ids: bool,
    /// Listed by several accounts or regions at once, so that seeing it twice is not a move.
    pub is_shared: bool,
    pub global: bool,
    /// The path of its state, and the states that end a life.
    pub end_states: Option<(&'static str, &'static [&'static str])>,
    /// States that come and go by themselves (every night's backup), each with the one that is recorded in its place.
    pub passing_states: &'static [(&'static str, &'static str)],
    /// Paths that change by themselves and are no information about the resource: not kept.
    pub volatile: &'static [&'static str],
    /// Paths that may contain secrets: never kept.
    pub secret: &'static [&'static str],
    /// An AWS emulator supports it.
    pub is_emulated: bool,
    pub shape: u16,
    pub cadence: CadenceClass,
}

impl Declaration {
    /// What most types have in common; each type declares how it differs.
    pub const USUAL: Declaration = Declaration {
        name: "",
        actions: &[],
        within: None,
        list: call("", ""),
        fetch: None,
        items: &[],
        next_page: "NextToken",
        describe: None,
        enrich: None,
        by_id: ById::Listing,
        not_found: &[],
        id: "",
        tags: TagSource::Inline("Tags", TAG_LIST),
        verify_tags: None,
        birth: None,
        reusable_ids: false,
        is_shared: false,
        global: false,
        end_states: None,
        passing_states: &[],
        volatile: &[],
        secret: &[],
        is_emulated: true,
        shape: 1,
        cadence: CadenceClass::Fast,
    };

    pub fn has_read_by_id(&self) -> bool {
        !matches!(self.by_id, ById::Sweeps)
    }

    /// Whether a listing contains everything that is kept of an object, without further calls.
    pub fn lists_all(&self) -> bool {
        let has_tags = matches!(self.tags, TagSource::Inline(..) | TagSource::Untaggable);
        has_tags && self.describe.is_none() && self.enrich.is_none()
    }

    /// The call that completes a listed object. Among the actions it comes after those that list, and before the one
    /// that reads tags.
    pub fn further_action(&self) -> &'static str {
        let has_tag_call =
            matches!(self.tags, TagSource::Call(_) | TagSource::Calls(..)) || self.verify_tags.is_some();
        let further = if has_tag_call {
            self.actions.split_last().map_or(self.actions, |(_, rest)| rest)
        } else {
            self.actions
        };
        further.last().copied().unwrap_or_default()
    }

    /// The call that reads tags.
    pub fn tag_action(&self) -> &'static str {
        self.actions.last().copied().unwrap_or_default()
    }

    /// Whether an error code of the call that reads a resource by its id means that it does not exist.
    pub fn is_absence(&self, code: &str) -> bool {
        // Some protocols prefix the code with the namespace of the service.
        let code = code.rsplit('#').next().unwrap_or_default();
        self.not_found.iter().any(|known| known.eq_ignore_ascii_case(code))
    }

    /// Whether the listed fields of an object contain its id, in case its further call is denied.
    pub fn contains_id(&self, object: &mut Value) -> bool {
        if object.is_string() {
            *object = serde_json::json!({ self.id: object.take() });
        }
        !text(object, self.id).is_empty()
    }

    /// The paths of a resource's parts in the answers, for comparing them with the models of the services.
    pub fn paths(&self) -> Value {
        serde_json::json!({
            "type": self.name,
            "actions": self.actions,
            "items": self.items,
            "nextPage": self.next_page,
            "id": self.id,
            "notFound": self.not_found,
            "tags": match self.tags {
                TagSource::Inline(field, _) => Some(field),
                _ => None,
            },
            "birth": self.birth,
            "state": self.end_states.map(|(path, _)| path),
            "endStates": self.end_states.map_or(&[][..], |(_, states)| states),
            "passingStates": self.passing_states.iter().flat_map(|(passing, lasting)| [passing, lasting]).collect::<Vec<_>>(),
            "volatile": self.volatile,
            "secret": self.secret,
        })
    }

    pub fn info(&self) -> TypeInfo {
        TypeInfo {
            name: self.name,
            global: self.global,
            ids: match (self.reusable_ids, self.is_shared) {
                (true, _) => IdReuse::Reusable,
                (false, true) => IdReuse::Shared,
                (false, false) => IdReuse::Unique,
            },
            confirmation: match self.by_id {
                ById::Listing | ById::Describe(_) | ById::Exists(_) => Confirmation::ReadById,
                ById::Sweeps => Confirmation::Sweeps { needed: 2, apart: CONFIRMATION_SPACING_MIN },
            },
            shape: self.shape,
            is_emulated: self.is_emulated,
            cadence: self.cadence,
            actions: self.actions,
            tags: match self.tags {
                TagSource::Inline(..) => "with the listing",
                TagSource::Call(_) => "a call for each",
                TagSource::Calls(..) => "a call for many",
                TagSource::Untaggable => "has none",
            },
            volatile: self.volatile,
            secret: self.secret,
            verify_tag_loss: self.verify_tags.map(|_| self.tag_action()),
        }
    }
}

pub(super) use super::convert::items;

pub(super) fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, step| value.get(step))
}

/// The time at a path; the earliest, if lists are on it.
pub(super) fn time_field(object: &Value, path: &str) -> Option<Timestamp> {
    match (object, path.split_once('.')) {
        (Value::Array(items), _) => items.iter().filter_map(|item| time_field(item, path)).min(),
        (_, Some((step, rest))) => time_field(object.get(step)?, rest),
        (_, None) => object.get(path)?.as_str()?.parse().ok(),
    }
}

/// The text at a path; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at_path(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The token of the next page; none after the last.
pub(super) fn next_page(answer: &Value, path: &str) -> Option<String> {
    Some(text(answer, path).to_owned()).filter(|token| !token.is_empty())
}

/// The described object in the answer of a further call. An answer without it proves nothing: AWS reports by an error
/// that a resource does not exist.
pub(super) fn described(mut answer: Value, member: &str) -> Result<Value, Failure> {
    match answer.get_mut(member) {
        Some(described) if !described.is_null() => Ok(described.take()),
        _ => {
            let message = format!("an answer came without its {member}");
            Err(Failure::Error(CloudError::new(Reason::Malformed, message)))
        }
    }
}

/// The member of an answer that contains tags, in any service's notation.
pub(super) fn tags_in(answer: &Value, path: &str) -> Tags {
    Tags::Known(tag_set(at_path(answer, path)))
}

/// The same for an answer that may have a further page. Incomplete tags are treated as unread: the missing ones would
/// be taken for removed.
pub(super) fn tags_unless_more(answer: &Value, path: &str, token: &str) -> Result<Tags, Failure> {
    match next_page(answer, token) {
        None => Ok(tags_in(answer, path)),
        Some(_) => Err(more_tags()),
    }
}

pub(super) fn more_tags() -> Failure {
    Failure::Error(CloudError::new(Reason::Malformed, "it has more tags than one answer holds"))
}

/// `[{Key, Value}]`, the notation of most services, or a map, that of the others.
pub(super) fn tag_set(tags: Option<&Value>) -> TagSet {
    match tags {
        Some(Value::Array(tags)) => tags.iter().map(tag).collect(),
        Some(Value::Object(tags)) => {
            tags.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
        }
        _ => TagSet::new(),
    }
}

pub(super) fn tag(tag: &Value) -> (String, String) {
    let one_of = |names: [&str; 3]| {
        let found = names.iter().find_map(|name| tag.get(*name)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    (one_of(["Key", "key", "TagKey"]), one_of(["Value", "value", "TagValue"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud::remove;

    #[test]
    fn tags_are_the_same_however_they_are_written() {
        let set = |tags: Value| tag_set(Some(&tags));
        let expected = set(json!([{"Key": "owner", "Value": "a"}, {"Key": "empty", "Value": ""}]));
        assert_eq!(expected.get("owner"), Some("a"));
        for tags in [
            json!([{"key": "owner", "value": "a"}, {"key": "empty"}]),
            json!([{"TagKey": "owner", "TagValue": "a"}, {"TagKey": "empty", "TagValue": ""}]),
            json!({"owner": "a", "empty": ""}),
        ] {
            assert_eq!(set(tags), expected);
        }
    }

    #[test]
    fn a_path_goes_through_lists_and_reaches_every_object() {
        let mut vpn = json!({"Options": {"TunnelOptions": [{"Key": "s", "Ike": 1}, {"Key": "t"}]}, "Id": "v"});
        remove(&mut vpn, "Options.TunnelOptions.Key");
        assert_eq!(vpn, json!({"Options": {"TunnelOptions": [{"Ike": 1}, {}]}, "Id": "v"}));
        let mut page = json!({"DistributionList": {"Items": [{"Id": "E1"}]}});
        assert_eq!(items(&mut page, &["DistributionList", "Items"]), [json!({"Id": "E1"})]);
        let nothing = described(json!({"Other": 1}), "Cluster");
        assert!(matches!(nothing, Err(Failure::Error(error)) if error.reason == Reason::Malformed));
    }
}
