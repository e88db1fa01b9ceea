//! What a request selects: its options, the form of the answer, and which resources.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kube::core::{Selector, SelectorExt};
use serde::{Deserialize, Serialize};

use super::objects;
use super::refusal::Refusal;
use super::selector::{self, Term};
use crate::inventory::{
    ChangeKind, OwnershipSettings, Resource, Revision, Scope, ScopeStatus, ScopeView, Subscriber, Tags, Timestamp,
    is_untagged,
};
use crate::policy;
use crate::policy::lifecycle::OWNERSHIP;
use crate::store::{Rid, Store, StoreError, StoreSnapshot, VisibleScope};

/// Kubernetes' own options of list and watch, as far as they apply here.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub field_selector: String,
    pub label_selector: String,
    pub limit: Option<usize>,
    pub continue_token: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub is_watch: bool,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: bool,
    pub timeout: Option<Duration>,
    /// For rows: None, Metadata or Object.
    pub include_object: Option<String>,
}

impl Options {
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
            .map_err(|_| Refusal::bad_request("the query of the URL can't be read"))?;
        let mut options = Self::default();
        for (key, value) in pairs {
            let flag = || match value.as_str() {
                "1" | "true" | "True" | "" => Ok(true),
                "0" | "false" | "False" => Ok(false),
                _ => Err(Refusal::bad_request(format!("{key} is true or false"))),
            };
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| Refusal::bad_request(format!("{key} is a number that is not negative")))
            };
            let text = || Some(value.clone()).filter(|value| !value.is_empty());
            match key.as_str() {
                "fieldSelector" => options.field_selector = value,
                "labelSelector" => options.label_selector = value,
                "limit" => options.limit = usize::try_from(number()?).ok().filter(|limit| *limit > 0),
                "continue" => options.continue_token = text(),
                "resourceVersion" => options.resource_version = text(),
                "resourceVersionMatch" => options.resource_version_match = text(),
                "watch" => options.is_watch = flag()?,
                "allowWatchBookmarks" => options.allow_watch_bookmarks = flag()?,
                "sendInitialEvents" => options.send_initial_events = flag()?,
                "timeoutSeconds" => {
                    options.timeout = Some(Duration::from_secs(number()?)).filter(|t| !t.is_zero());
                }
                "includeObject" => options.include_object = text(),
                // Such as pretty, and options of later versions of Kubernetes.
                _ => {}
            }
        }
        Ok(options)
    }

    /// The revision that a resource version names; none if any revision will do.
    pub fn revision(&self) -> Result<Option<Revision>, Refusal> {
        match self.resource_version.as_deref() {
            None | Some("0") => Ok(None),
            Some(text) => {
                let revision = text.parse().map_err(|_| {
                    let text = text.escape_debug();
                    Refusal::bad_request(format!("resourceVersion is '{text}': it is a revision, a number"))
                })?;
                Ok(Some(Revision(revision)))
            }
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Table,
    /// Only the metadata.
    Metadata,
}

impl Form {
    /// The first accepted form that is supported.
    pub fn accepted(headers: &HeaderMap) -> Result<Self, Refusal> {
        let accept =
            headers.get(axum::http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        accept.split(',').find_map(Self::of).ok_or_else(Refusal::not_acceptable)
    }

    fn of(accepted: &str) -> Option<Self> {
        let mut parts = accepted.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*" | "") {
            return None;
        }
        let (mut kind, mut group, mut version) = (None, None, None);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "as" => kind = Some(value),
                "g" => group = Some(value),
                "v" => version = Some(value),
                _ => {}
            }
        }
        let is_meta = group == Some("meta.k8s.io") && version == Some("v1");
        match kind {
            None => Some(Form::Object),
            Some("Table") if is_meta => Some(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if is_meta => Some(Form::Metadata),
            Some(_) => None,
        }
    }
}

/// Selects resources of one namespace, or of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub namespace: Option<String>,
    /// What was seen up to this revision belongs to an earlier namespace of the same name.
    pub tenant_since: Revision,
    terms: Vec<Term>,
    labels: Selector,
    /// The requested moment; none for now.
    pub as_of: Option<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    /// The net difference between the two, not each step.
    pub is_net: bool,
}

/// The fields that a field selector may name for all kinds.
const FIELDS: [&str; 12] = [
    "metadata.name",
    "metadata.namespace",
    "id",
    "key",
    "provider",
    "account",
    "region",
    "type",
    "owner",
    "state",
    "tag",
    "untagged",
];

impl Selection {
    /// `moments` are the fields that name a moment, `more` the other fields of the kind.
    pub fn parse(
        namespace: Option<String>,
        options: &Options,
        moments: &[&str],
        more: &[&str],
    ) -> Result<Self, Refusal> {
        let mut selection =
            Self { namespace, labels: selector::labels(&options.label_selector)?, ..Self::default() };
        for term in selector::fields(&options.field_selector)? {
            let moment = match term.key.as_str() {
                "asOf" => &mut selection.as_of,
                "net" if more.contains(&"net") => {
                    selection.is_net = term.is_equal == boolean(&term)?;
                    continue;
                }
                "untagged" => {
                    boolean(&term)?;
                    selection.terms.push(term);
                    continue;
                }
                "from" => &mut selection.from,
                "to" => &mut selection.to,
                key if FIELDS.contains(&key) || more.contains(&key) || key.starts_with("tag.") => {
                    selection.terms.push(term);
                    continue;
                }
                key => return Err(unknown_field(key, moments, more)),
            };
            if !moments.contains(&term.key.as_str()) {
                return Err(unknown_field(&term.key, moments, more));
            }
            if !term.is_equal || moment.is_some() {
                return Err(Refusal::bad_request(format!("{} names one moment, with =", term.key)));
            }
            *moment = Some(term.value);
        }
        Ok(selection)
    }

    /// The exact value that a field must have.
    pub fn exactly(&self, key: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.key == key && term.is_equal).map(|term| term.value.as_str())
    }

    fn holds(&self, key: &str, is_value: impl Fn(&str) -> bool) -> bool {
        self.terms.iter().filter(|term| term.key == key).all(|term| is_value(&term.value) == term.is_equal)
    }

    /// Whether anything in a scope may match. All labels come from the scope.
    pub fn has_scope(&self, scope: &Scope) -> bool {
        self.holds("provider", |value| value == &*scope.provider)
            && self.holds("account", |value| value == scope.account.as_str())
            && self.holds("region", |value| value == scope.region.as_str())
            && self.holds("type", |value| value == scope.resource_type.as_str())
            && (self.labels.selects_all() || self.labels.matches(&objects::labels(scope)))
    }

    /// The selected namespaces to which a scope is visible.
    pub fn namespaces<'a>(&self, seen: &VisibleScope<'a>) -> Vec<&'a str> {
        let mut names: Vec<&str> =
            seen.subscribers.iter().filter_map(|subscriber| namespace_of(subscriber.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| {
            self.namespace.as_deref().is_none_or(|selection| selection == *name)
                && self.holds("metadata.namespace", |value| value == *name)
        });
        names
    }

    /// Whether a resource matches, in a scope that does.
    pub fn has(&self, resource: &Resource, owner: Option<&str>) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let key = &resource.key;
        let name = OnceCell::new();
        let is_state = |value: &str| value == objects::presence(resource.presence);
        let tags = resource.tags.known();
        self.holds("id", |value| value == &*key.id)
            && self.holds("key", |value| value == key.to_string())
            && self.holds("metadata.name", |value| {
                value == name.get_or_init(|| objects::name(&resource.scope, key)).as_str()
            })
            && self.holds("owner", |value| value == owner.unwrap_or_default())
            && self.holds("state", is_state)
            && self.holds("tag", |value| tags.is_some_and(|tags| tags.get(value).is_some()))
            && self.holds("untagged", |value| {
                let is_untagged = matches!(&resource.tags, Tags::Known(set) if is_untagged(set));
                value.eq_ignore_ascii_case("true") == is_untagged
            })
            && self.terms.iter().all(|term| {
                let Some(tag) = term.key.strip_prefix("tag.") else { return true };
                (tags.and_then(|tags| tags.get(tag)) == Some(term.value.as_str())) == term.is_equal
            })
    }

    /// Whether a change matches, in a scope that does.
    pub fn has_change(&self, scope: &Scope, change: &crate::inventory::Change) -> bool {
        let key = &change.resource;
        let kind = |value: &str| value == objects::word(change.change);
        self.holds("change", kind)
            && self.holds("id", |value| value == &*key.id)
            && self.holds("key", |value| value == key.to_string())
            && self.holds("resource", |value| value == objects::name(scope, key))
    }

    /// Checks the kinds of change that are selected.
    pub fn check_change(&self) -> Result<(), Refusal> {
        let known = [ChangeKind::Appeared, ChangeKind::Changed, ChangeKind::Disappeared].map(objects::word);
        match self.terms.iter().find(|term| term.key == "change" && !known.contains(&term.value.as_str())) {
            Some(term) => {
                let value = term.value.escape_debug();
                Err(Refusal::bad_request(format!("change is '{value}': it is one of {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// The ids in a scope that may match; none if each resource must be checked. Most ids are their own slug, so that
    /// the name contains the id; `is_slug` assumes this of all.
    pub fn ids(&self, scope: &Scope, is_slug: bool) -> Option<Vec<String>> {
        if let Some(id) = self.exactly("id") {
            return Some(vec![id.to_owned()]);
        }
        if let Some(key) = self.exactly("key") {
            let own = scope.key("").to_string();
            return Some(key.strip_prefix(&own).map(str::to_owned).into_iter().collect());
        }
        let name = self.exactly("metadata.name")?;
        let rest = name.strip_prefix(&objects::type_slug(scope)).and_then(|rest| rest.strip_prefix('-'));
        let Some((slug, _)) = rest.and_then(|rest| rest.rsplit_once('-')) else { return Some(Vec::new()) };
        is_slug.then(|| {
            let is_it = objects::name(scope, &scope.key(slug)) == name;
            Some(slug.to_owned()).filter(|_| is_it).into_iter().collect()
        })
    }
}

fn boolean(term: &Term) -> Result<bool, Refusal> {
    match term.value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Refusal::bad_request(format!(
            "{} is true or false, not '{}'",
            term.key,
            term.value.escape_debug()
        ))),
    }
}

fn unknown_field(key: &str, moments: &[&str], more: &[&str]) -> Refusal {
    let known: Vec<&str> = FIELDS.iter().chain(more).chain(moments).copied().collect();
    let key = key.escape_debug();
    Refusal::bad_request(format!("'{key}' is no field to select by: there are {} and tag.KEY", known.join(", ")))
}

/// A subscriber is a CloudScan: `namespace/name`.
pub(super) fn namespace_of(subscriber: &str) -> Option<&str> {
    subscriber.split_once('/').map(|(namespace, _)| namespace)
}

/// Finds the owner that a resource's tags name, by the settings of the CloudScan to which it is visible.
pub(super) struct Owners {
    store: Store,
    settings: HashMap<Subscriber, Arc<OwnershipSettings>>,
}

impl Owners {
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), settings: HashMap::new() }
    }

    /// The settings of the first CloudScan of a namespace to which a scope is visible.
    pub fn settings_for(
        &mut self,
        seen: &VisibleScope<'_>,
        namespace: &str,
    ) -> Result<Arc<OwnershipSettings>, StoreError> {
        let seeing =
            seen.subscribers.iter().find(|subscriber| namespace_of(subscriber.as_str()) == Some(namespace));
        let Some(subscriber) = seeing else { return Ok(Arc::default()) };
        if let Some(settings) = self.settings.get(*subscriber) {
            return Ok(settings.clone());
        }
        let noted = self.store.note(subscriber, OWNERSHIP)?;
        let settings: OwnershipSettings =
            noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let settings = Arc::new(settings);
        self.settings.insert((*subscriber).clone(), settings.clone());
        Ok(settings)
    }
}

pub(super) fn owner(resource: &Resource, settings: &OwnershipSettings) -> Option<String> {
    policy::owner_in_tags(resource.tags.known()?, settings).map(str::to_owned)
}

/// Where a list was cut: it continues after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub revision: Revision,
    pub scope: u32,
    pub namespace: String,
    pub id: String,
}

impl Place {
    pub fn token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(postcard::to_stdvec(self).expect("it can be written to memory"))
    }

    pub fn parse(token: &str) -> Result<Self, Refusal> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        let place = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        place.ok_or_else(|| {
            Refusal::bad_request("the continue token is none that was given out: list from the start")
        })
    }
}

/// A matching resource in a namespace.
pub(super) struct ResourceMatch {
    pub scope: u32,
    pub rid: Rid,
    pub resource: Resource,
    pub owner: Option<String>,
}

/// Passes all matches after a place to `report`, scope by scope, until `report` returns false.
pub(super) fn each(
    snapshot: &StoreSnapshot,
    selection: &Selection,
    owners: &mut Owners,
    behind: Option<&Place>,
    report: &mut dyn FnMut(&str, ResourceMatch) -> Result<bool, Refusal>,
) -> Result<bool, Refusal> {
    if selection.exactly("metadata.name").is_some() {
        let mut is_found = false;
        let keep_going = each_of(snapshot, selection, owners, behind, true, &mut |namespace, found| {
            is_found = true;
            report(namespace, found)
        })?;
        if is_found {
            return Ok(keep_going);
        }
    }
    each_of(snapshot, selection, owners, behind, false, report)
}

fn each_of(
    snapshot: &StoreSnapshot,
    selection: &Selection,
    owners: &mut Owners,
    behind: Option<&Place>,
    is_slug: bool,
    report: &mut dyn FnMut(&str, ResourceMatch) -> Result<bool, Refusal>,
) -> Result<bool, Refusal> {
    let from = behind.map_or(0, |place| place.scope);
    for seen in snapshot.visible_scopes().filter(|seen| seen.number >= from && selection.has_scope(seen.scope)) {
        let namespaces = selection.namespaces(&seen);
        if namespaces.is_empty() {
            continue;
        }
        let ids = selection.ids(seen.scope, is_slug);
        for namespace in namespaces {
            let behind = behind.filter(|place| place.scope == seen.number);
            if behind.is_some_and(|place| namespace < place.namespace.as_str()) {
                continue;
            }
            let behind = behind.filter(|place| place.namespace == namespace).map(|place| place.id.as_str());
            let settings = owners.settings_for(&seen, namespace)?;
            let mut report = |rid, resource: Resource| {
                let owner = owner(&resource, &settings);
                if !selection.has(&resource, owner.as_deref()) {
                    return Ok(true);
                }
                report(namespace, ResourceMatch { scope: seen.number, rid, resource, owner })
            };
            let keep_going = match &ids {
                None => snapshot.page(seen.number, behind, &mut report)?,
                Some(ids) => {
                    let mut keep_going = true;
                    for id in ids.iter().filter(|id| behind.is_none_or(|behind| id.as_str() > behind)) {
                        if let Some((rid, resource)) = snapshot.lookup(seen.number, id) {
                            keep_going = keep_going && report(rid, resource)?;
                        }
                    }
                    keep_going
                }
            };
            if !keep_going {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The selected scopes that were not current at the moment of a snapshot.
pub(super) fn not_current(snapshot: &StoreSnapshot, selection: &Selection) -> Vec<ScopeView> {
    let is_selected =
        |seen: &VisibleScope<'_>| selection.has_scope(seen.scope) && !selection.namespaces(seen).is_empty();
    let views = snapshot.visible_scopes().filter(is_selected).map(|seen| snapshot.view_of(seen.number));
    views.filter(|view| view.status != ScopeStatus::Current).collect()
}

/// The same as a line for people; none if all were current.
pub(super) fn warning(unknown: &[ScopeView], at: Timestamp) -> Option<String> {
    /// More would make the line too long to read.
    const SCOPES_NAMED_MAX: usize = 3;
    let named = unknown.iter().take(SCOPES_NAMED_MAX).map(|view| match view.watermark {
        Some(watermark) => format!("{} (last complete sweep {})", view.scope, watermark.to),
        None => format!("{} (never swept completely)", view.scope),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if unknown.len() > SCOPES_NAMED_MAX { ", ..." } else { "" };
    let are = if unknown.len() == 1 { "scope was" } else { "scopes were" };
    (!unknown.is_empty()).then(|| format!("{} {are} not current at {at}: {named}{more}", unknown.len()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_the_first_that_is_accepted() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, form) in [
            (kubectl, Some(Form::Table)),
            ("application/json", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, */*", Some(Form::Object)),
            ("application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList", Some(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("accept", HeaderValue::from_str(accept).unwrap());
            assert_eq!(Form::accepted(&headers).ok(), form, "{accept}");
        }
        assert_eq!(Form::accepted(&HeaderMap::new()).unwrap(), Form::Object);
    }

    #[test]
    fn what_can_be_selected_by_is_in_the_docs() {
        let page = include_str!("../../../docs/query-api.md");
        for field in FIELDS.iter().filter(|field| **field != "metadata.namespace") {
            assert!(page.contains(&format!("`{field}`")), "docs/query-api.md does not name {field}");
        }
    }

    #[test]
    fn a_place_survives_its_token_and_nothing_else_is_one() {
        let place = Place { revision: Revision(7), scope: 3, namespace: "team-a".into(), id: "vol-1".into() };
        assert_eq!(Place::parse(&place.token()).unwrap(), place);
        for bad in ["", "x", "eyJ2IjoibWV0YSJ9", "%%%"] {
            assert_eq!(Place::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn an_invalid_request_names_the_valid_ones() {
        let options = |fields: &str| Options { field_selector: fields.to_owned(), ..Options::default() };
        let parse = |fields: &str, moments: &[&str]| Selection::parse(None, &options(fields), moments, &[]);
        let unknown = parse("status.phase=x", &["asOf"]).unwrap_err();
        assert!(unknown.message.contains("'status.phase' is no field") && unknown.message.contains("asOf"));
        assert!(parse("asOf=1", &[]).is_err(), "not of this kind");
        let neither = parse("untagged=maybe", &[]).unwrap_err();
        assert_eq!(neither.message, "untagged is true or false, not 'maybe'");
        assert!(parse("asOf!=1", &["asOf"]).is_err() && parse("asOf=1,asOf=2", &["asOf"]).is_err());
        let selection = parse("asOf=1,id=vol-1,tag.owner!=x", &["asOf"]).unwrap();
        assert_eq!((selection.as_of.as_deref(), selection.exactly("id")), (Some("1"), Some("vol-1")));
        assert!(Options::parse("limit=x").is_err() && Options::parse("watch=perhaps").is_err());
        let options = Options::parse("watch=1&limit=0&resourceVersion=0&pretty=true").unwrap();
        assert!(options.is_watch && options.limit.is_none() && options.revision().unwrap().is_none());
        let bad = Options::parse("resourceVersion=abc").unwrap().revision().unwrap_err();
        assert_eq!(bad.code, 400);
    }

    proptest! {
        #[test]
        fn no_query_is_a_panic(query in ".{0,80}", fields in "[a-zA-Z.!=,\\\\]{0,40}", token in "[A-Za-z0-9_-]{0,60}") {
            if let Ok(options) = Options::parse(&query) {
                drop((options.revision(), Selection::parse(None, &options, &["asOf"], &["change"])));
            }
            let options = Options { label_selector: fields.clone(), field_selector: fields, ..Options::default() };
            drop((Selection::parse(None, &options, &["from", "to"], &["net"]), Place::parse(&token)));
        }
    }
}
