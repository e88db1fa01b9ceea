//! Lists: resources at a moment, changes between two moments, the history of one resource. They are written while they
//! are read, so the memory of a request does not grow with its answer.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::discovery::{CHANGES, HISTORIES, Kind, RESOURCES};
use super::objects::{self, Object};
use super::question::{Form, Options, Owners, Place, Selection, each, namespace_of, not_current, warning};
use super::refusal::Refusal;
use super::table::{self, Rows};
use crate::inventory::{
    Change, Facts, Filter, Moment, Presence, Resource, ResourceKey, Revision, Scope, Snapshot, Subscriber,
    Timestamp,
};
use crate::server::findings::{self, OwnersQuery, TreeQuery};
use crate::server::{query, stream};
use crate::store::{ScopeNo, Store, StoreSnapshot, VisibilityIntervals, VisibleScope};

/// The start of a list of changes without `from`.
const DEFAULT_FROM: &str = "24h";

/// Writes one list.
struct Writer<'a> {
    out: &'a mut (dyn Write + Send),
    form: Form,
    include: Option<String>,
    items: usize,
}

fn io(error: std::io::Error) -> Refusal {
    Refusal::internal(error.to_string())
}

impl<'a> Writer<'a> {
    fn begin<S>(
        out: &'a mut (dyn Write + Send),
        form: Form,
        include: Option<String>,
        kind: &Kind,
    ) -> Result<Self, Refusal>
    where
        S: Serialize,
        Object<S>: Rows,
    {
        let (list, version) = match form {
            Form::Object => (format!("{}List", kind.name), objects::api_version()),
            Form::Table => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
            Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        write!(out, r#"{{"kind":"{list}","apiVersion":"{version}","#).map_err(io)?;
        if form == Form::Table {
            write!(out, r#""columnDefinitions":{},"rows":["#, table::columns(Object::<S>::COLUMNS)).map_err(io)?;
        } else {
            write!(out, r#""items":["#).map_err(io)?;
        }
        Ok(Self { out, form, include, items: 0 })
    }

    fn add<S: Serialize>(&mut self, object: &Object<S>) -> Result<(), Refusal>
    where
        Object<S>: Rows,
    {
        match self.form {
            Form::Object => self.item(object),
            Form::Metadata => self.item(&table::metadata_only(object)),
            Form::Table => {
                for row in table::rows(object, self.include.as_deref()) {
                    self.item(&row)?;
                }
                Ok(())
            }
        }
    }

    fn item(&mut self, item: &impl Serialize) -> Result<(), Refusal> {
        if self.items > 0 {
            self.out.write_all(b",").map_err(io)?;
        }
        self.items += 1;
        serde_json::to_writer(&mut *self.out, item).map_err(|error| Refusal::internal(error.to_string()))
    }

    /// The list's metadata is written at its end: only then is it known where the list continues.
    fn end(self, revision: Revision, next: Option<Place>) -> Result<(), Refusal> {
        self.end_with(revision, next, &Value::Null)
    }

    /// Adds fields beside the items, in object form only: other clients don't know them, and don't need them.
    fn end_with(self, revision: Revision, next: Option<Place>, beside: &Value) -> Result<(), Refusal> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(place) = next {
            metadata["continue"] = Value::from(place.token());
        }
        write!(self.out, r#"],"metadata":{metadata}"#).map_err(io)?;
        for (name, value) in beside.as_object().into_iter().flatten().filter(|_| self.form == Form::Object) {
            write!(self.out, r#","{name}":{value}"#).map_err(io)?;
        }
        writeln!(self.out, "}}").map_err(io)
    }
}

/// Adds a warning to an answer. kubectl shows it.
pub(super) fn with_warning(mut response: Response, warning: Option<String>) -> Response {
    let Some(warning) = warning else { return response };
    let quoted: String = warning.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect();
    let quoted = quoted.replace('\\', r"\\").replace('"', r#"\""#);
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        response.headers_mut().insert("warning", value);
    }
    response
}

/// A streamed body of JSON.
fn json_stream(answer: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Refusal> + Send + 'static) -> Response {
    let mut response = stream(answer);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

/// An earlier namespace may have had the same name: what it saw is not shown.
pub(super) fn check_tenant(snapshot: &StoreSnapshot, since: Revision) -> Result<(), Refusal> {
    if snapshot.revision() >= since {
        return Ok(());
    }
    Err(Refusal::expired(format!(
        "the namespace was made again under this name, and what its predecessor saw until revision {since} is not shown: \
         ask for a later moment, or, where you may, in all namespaces"
    )))
}

/// The moment that a list is requested for.
fn moment(
    store: &Store,
    options: &Options,
    selection: &Selection,
    place: Option<&Place>,
) -> Result<Moment, Refusal> {
    let requested = options.revision()?;
    let exactly = match (options.resource_version_match.as_deref(), requested) {
        (None, requested) => requested.filter(|_| options.limit.is_some()),
        (Some("NotOlderThan"), _) if options.resource_version.is_some() => None,
        (Some("Exact"), Some(revision)) => Some(revision),
        (Some("Exact" | "NotOlderThan"), _) => {
            return Err(Refusal::bad_request(
                "resourceVersionMatch goes with a resourceVersion, Exact not with 0",
            ));
        }
        (Some(other), _) => {
            let other = other.escape_debug();
            let message = format!("resourceVersionMatch is '{other}': it is Exact or NotOlderThan");
            return Err(Refusal::bad_request(message));
        }
    };
    if let Some(place) = place {
        if requested.is_some() {
            return Err(Refusal::bad_request("a continue token contains the revision: leave resourceVersion out"));
        }
        return Ok(Moment::Revision(place.revision));
    }
    if let Some(as_of) = &selection.as_of {
        if requested.is_some() {
            return Err(Refusal::bad_request("asOf and resourceVersion both name a moment: leave one out"));
        }
        return Ok(query::moment(as_of, store.now())?);
    }
    if let Some(revision) = exactly {
        return Ok(Moment::Revision(revision));
    }
    // Any revision that is not older. A requested revision must not be newer than the newest.
    if let Some(requested) = requested {
        store.revision_at(Moment::Revision(requested.max(store.revision())))?;
    }
    Ok(Moment::Now)
}

pub(super) fn resources(
    store: &Store,
    facts: Facts,
    selection: Selection,
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let place = options.continue_token.as_deref().map(Place::parse).transpose()?;
    let snapshot = store.snapshot(moment(store, &options, &selection, place.as_ref())?)?;
    check_tenant(&snapshot, selection.tenant_since)?;
    let unknown = not_current(&snapshot, &selection);
    // A list that is continued has warned already.
    let warning_text = if place.is_none() { warning(&unknown, snapshot.time()) } else { None };
    let store = store.clone();
    let answer = move |out: &mut (dyn Write + Send)| {
        let mut writer =
            Writer::begin::<objects::CloudResourceStatus>(out, form, options.include_object, &RESOURCES)?;
        let revision = snapshot.revision();
        let (mut count, mut last) = (0, None);
        let mut owners = Owners::new(&store);
        let is_whole = each(&snapshot, &selection, &mut owners, place.as_ref(), &mut |namespace, found| {
            if options.limit.is_some_and(|limit| count >= limit) {
                return Ok(false);
            }
            count += 1;
            if options.limit == Some(count) {
                let id = found.resource.key.id.to_string();
                last = Some(Place { revision, scope: found.scope, namespace: namespace.to_owned(), id });
            }
            // A table shows no attributes, and reading them takes most of the time.
            let described = if form == Form::Object {
                Some(facts.described(&found.resource, snapshot.described(found.rid)?))
            } else {
                None
            };
            let changed = found.resource.changed;
            writer.add(&objects::cloud_resource(namespace, found.resource, found.owner, described, changed))?;
            Ok(true)
        })?;
        let beside = json!({"time": snapshot.time(), "unknown": unknown});
        writer.end_with(revision, last.filter(|_| !is_whole), &beside)
    };
    Ok(with_warning(json_stream(answer), warning_text))
}

/// One resource by its name, as it is now.
pub(super) fn resource(
    store: &Store,
    facts: &Facts,
    selection: &Selection,
    name: &str,
    form: Form,
) -> Result<Response, Refusal> {
    let snapshot = store.snapshot(Moment::Now)?;
    let mut found = None;
    each(&snapshot, selection, &mut Owners::new(store), None, &mut |namespace, resource| {
        found = Some((namespace.to_owned(), resource));
        Ok(false)
    })?;
    let Some((namespace, found)) = found else {
        return Err(Refusal::not_found(format!(
            "cloudresources.{} \"{name}\" not found: no resource of this name exists now; kubectl get resourcehistory {name} shows whether one ever did, --field-selector asOf=... lists the past",
            super::GROUP
        )));
    };
    let described = facts.described(&found.resource, snapshot.described(found.rid)?);
    let changed = found.resource.changed;
    let object = objects::cloud_resource(&namespace, found.resource, found.owner, Some(described), changed);
    one(&object, form, snapshot.revision(), &RESOURCES)
}

fn one<S: Serialize>(object: &Object<S>, form: Form, revision: Revision, kind: &Kind) -> Result<Response, Refusal>
where
    Object<S>: Rows,
{
    if form == Form::Table {
        let mut body = Vec::new();
        let mut writer = Writer::begin::<S>(&mut body, form, None, kind)?;
        writer.add(object)?;
        writer.end(revision, None)?;
        return Ok(([("content-type", "application/json")], body).into_response());
    }
    let value = if form == Form::Metadata { table::metadata_only(object) } else { json!(object) };
    Ok(axum::Json(value).into_response())
}

/// Answers that are not objects, for the command line: owners, and references between resources, as far as a namespace
/// sees them.
pub(super) fn report(
    store: &Store,
    facts: &Facts,
    (namespace, tenant_since): (Option<&str>, Revision),
    name: &str,
    query: &str,
) -> Result<Response, Refusal> {
    let within = |snapshot: &StoreSnapshot| {
        if snapshot.revision() < tenant_since {
            return Filter { scopes: Some(Arc::default()), ..Filter::default() };
        }
        let is_visible = |seen: &VisibleScope<'_>| {
            let mut namespaces =
                seen.subscribers.iter().filter_map(|subscriber| namespace_of(subscriber.as_str()));
            namespace.is_none_or(|desired| namespaces.any(|own| own == desired))
        };
        let seen = snapshot.visible_scopes().filter(is_visible).map(|seen| Scope::clone(seen.scope)).collect();
        Filter { scopes: Some(Arc::new(seen)), ..Filter::default() }
    };
    let malformed = |error: serde_urlencoded::de::Error| Refusal::bad_request(error.to_string());
    match name {
        "owners" => {
            let question: OwnersQuery = serde_urlencoded::from_str(query).map_err(malformed)?;
            let of_others = |scan: &String| namespace.is_some_and(|own| namespace_of(scan) != Some(own));
            if question.cloudscan.as_ref().is_some_and(of_others) {
                return Err(Refusal::bad_request("the CloudScan is of another namespace: ask there"));
            }
            // CloudScans of other namespaces are not named.
            if let (Some(_), Some(scan)) = (namespace, &question.cloudscan)
                && !store.subscribers_with_notes()?.contains(&Subscriber::from(scan.as_str()))
            {
                return Err(Refusal::not_found(format!("no CloudScan {scan} was ever evaluated here")));
            }
            Ok(axum::Json(findings::owners_within(store, facts, &question, within)?).into_response())
        }
        "tree" => {
            let question: TreeQuery = serde_urlencoded::from_str(query).map_err(malformed)?;
            Ok(axum::Json(findings::tree_within(store, facts, &question, within)?).into_response())
        }
        _ => Err(Refusal::not_found("the reports are owners and tree")),
    }
}

/// What is visible to a namespace, and what was.
pub(super) struct PastVisibility {
    by_namespace: BTreeMap<String, VisibilityIntervals>,
}

impl PastVisibility {
    pub fn of(snapshot: &StoreSnapshot, selection: &Selection) -> Result<Self, Refusal> {
        let namespace = |subscriber: &str, from: Revision| {
            let own = namespace_of(subscriber)?;
            let is_meant = selection.namespace.as_deref().is_none_or(|desired| desired == own);
            (is_meant && from > selection.tenant_since).then(|| own.to_owned())
        };
        Ok(Self { by_namespace: snapshot.visibility_intervals(namespace)? })
    }

    /// The namespaces to which a scope was visible in a revision.
    pub fn namespaces(&self, scope: ScopeNo, revision: Revision) -> impl Iterator<Item = &str> {
        let seeing = self.by_namespace.iter().filter(move |(_, times)| times.has(scope, revision));
        seeing.map(|(namespace, _)| namespace.as_str())
    }

    /// The selected changes after one revision and up to another at most, for each namespace that may know them; and
    /// the revision that they reach.
    pub fn steps(
        &self,
        snapshot: &StoreSnapshot,
        selection: &Selection,
        after: Revision,
        until: Revision,
    ) -> Result<(Revision, Vec<Step>), Refusal> {
        let scope = |number| snapshot.scope_name(number).filter(|scope| selection.has_scope(scope));
        let sees =
            |number, revision| scope(number).is_some() && self.namespaces(number, revision).next().is_some();
        let (reached, steps) = snapshot.steps_after(after, until, &sees)?;
        let mut out = Vec::new();
        for (number, change) in steps {
            let Some(scope) = scope(number).filter(|scope| selection.has_change(scope, &change)) else { continue };
            for namespace in self.namespaces(number, change.revision) {
                out.push(Step { namespace: namespace.to_owned(), scope: scope.clone(), change: change.clone() });
            }
        }
        Ok((reached.max(after.next()), out))
    }

    pub fn object(&self, snapshot: &StoreSnapshot, step: &Step) -> Object<objects::ResourceChangeStatus> {
        let may_know = |key: &ResourceKey| self.may_know(snapshot, &step.namespace, key);
        objects::resource_change(&step.namespace, &step.scope, step.change.clone(), &may_know)
    }

    /// Whether the scope of a key was ever visible to a namespace.
    pub fn may_know(&self, snapshot: &StoreSnapshot, namespace: &str, key: &ResourceKey) -> bool {
        let scopes = self.by_namespace.get(namespace).into_iter().flat_map(VisibilityIntervals::scopes);
        scopes.filter_map(|number| snapshot.scope_name(number)).any(|scope| scope.key(&key.id) == *key)
    }
}

/// A change as it is reported to a namespace.
pub(super) struct Step {
    namespace: String,
    scope: Arc<Scope>,
    pub change: Change,
}

/// The revision after which, and the one up to which, changes are requested.
pub(super) fn span(store: &Store, selection: &Selection) -> Result<(Revision, Revision), Refusal> {
    let to = match &selection.to {
        None => Moment::Now,
        Some(to) => query::moment(to, store.now())?,
    };
    let to = store.revision_at(to)?.0;
    let from = query::since(store, selection.from.as_deref().unwrap_or(DEFAULT_FROM))?;
    let from = store.revision_at(from)?.0;
    if from > to {
        return Err(Refusal::bad_request("from lies after to: name the earlier moment first"));
    }
    Ok((from, to))
}

pub(super) fn changes(
    store: &Store,
    selection: Selection,
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let place = options.continue_token.as_deref().map(Place::parse).transpose()?;
    let (from, until) = match &place {
        None => span(store, &selection)?,
        // It contains how many changes of its revision were returned, and where the list ends.
        Some(place) => {
            let until = place.id.parse().map(Revision);
            let until = until.map_err(|_| Refusal::bad_request("the continue token is of another list"))?;
            (Revision(place.revision.0.saturating_sub(1)), until)
        }
    };
    let snapshot = store.snapshot(Moment::Now)?;
    // A token is not signed: one that names a later end would have every revision up to it read.
    if until > snapshot.revision() {
        return Err(Refusal::bad_request("the continue token is of another list"));
    }
    let visibility = PastVisibility::of(&snapshot, &selection)?;
    let unknown = not_current(&snapshot, &selection);
    let warning = if place.is_none() { warning(&unknown, snapshot.time()) } else { None };
    // Revisions that are no longer kept are refused before the answer begins.
    snapshot.steps_after(from, from, &|_, _| false)?;
    let answer = move |out: &mut (dyn Write + Send)| {
        let mut writer =
            Writer::begin::<objects::ResourceChangeStatus>(out, form, options.include_object, &CHANGES)?;
        let mut skipped = place.map_or(0, |place| place.scope as usize);
        let (mut count, mut reached) = (0, from);
        while reached < until {
            let (revision, steps) = visibility.steps(&snapshot, &selection, reached, until)?;
            // How many changes of a revision were returned before this one.
            let mut before = (Revision::ZERO, 0);
            for step in steps {
                if before.0 != step.change.revision {
                    before = (step.change.revision, 0);
                }
                if skipped > 0 {
                    skipped -= 1;
                } else if options.limit.is_some_and(|limit| count >= limit) {
                    let id = until.to_string();
                    let place = Place { revision: before.0, scope: before.1, namespace: String::new(), id };
                    return writer.end(until, Some(place));
                } else {
                    count += 1;
                    writer.add(&visibility.object(&snapshot, &step))?;
                }
                before.1 += 1;
            }
            reached = revision;
        }
        writer.end_with(until, None, &json!({"from": from, "unknown": unknown}))
    };
    Ok(with_warning(json_stream(answer), warning))
}

/// The net difference between two moments, of what was visible at both.
pub(super) fn difference(
    store: &Store,
    selection: Selection,
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let (from, until) = span(store, &selection)?;
    let snapshot = store.snapshot(Moment::Now)?;
    let visibility = PastVisibility::of(&snapshot, &selection)?;
    let both = |number: ScopeNo| -> Vec<&str> {
        let before: Vec<&str> = visibility.namespaces(number, from).collect();
        visibility.namespaces(number, until).filter(|namespace| before.contains(namespace)).collect()
    };
    let is_requested = |number: ScopeNo| {
        snapshot.scope_name(number).is_some_and(|scope| selection.has_scope(scope)) && !both(number).is_empty()
    };
    let diff = store.diff_of(Moment::Revision(from), Moment::Revision(until), &is_requested)?;
    let mut unknown = diff.unknown;
    unknown.retain(|view| snapshot.scope_number(&view.scope).is_some_and(is_requested));
    let mut body = Vec::new();
    let mut writer =
        Writer::begin::<objects::ResourceChangeStatus>(&mut body, form, options.include_object, &CHANGES)?;
    for (number, change) in diff.changes {
        let scope = snapshot.scope_name(number);
        let Some(scope) = scope.filter(|scope| selection.has_change(scope, &change)) else { continue };
        for namespace in both(number) {
            let step = Step { namespace: namespace.to_owned(), scope: scope.clone(), change: change.clone() };
            writer.add(&visibility.object(&snapshot, &step))?;
        }
    }
    writer.end_with(until, None, &json!({"from": from, "unknown": unknown}))?;
    let response = ([("content-type", "application/json")], body).into_response();
    Ok(with_warning(response, warning(&unknown, snapshot.time())))
}

/// The history of one resource by the name of its CloudResource, or of those that a selector names.
pub(super) fn histories(
    store: &Store,
    selection: Selection,
    options: Options,
    form: Form,
) -> Result<Response, Refusal> {
    let named = ["metadata.name", "id", "key"].into_iter().find(|field| selection.exactly(field).is_some());
    if named.is_none() {
        return Err(Refusal::bad_request(
            "a history is of one resource: kubectl get resourcehistory NAME, or --field-selector id=vol-1; what \
             happened to all of them is in resourcechanges",
        ));
    }
    let snapshot = store.snapshot(Moment::Now)?;
    let objects = history_objects(&snapshot, &selection)?;
    let answer = move |out: &mut (dyn Write + Send)| {
        let mut writer =
            Writer::begin::<objects::ResourceHistoryStatus>(out, form, options.include_object, &HISTORIES)?;
        for object in &objects {
            writer.add(object)?;
        }
        writer.end(snapshot.revision(), None)
    };
    Ok(json_stream(answer))
}

pub(super) fn history(store: &Store, selection: &Selection, name: &str, form: Form) -> Result<Response, Refusal> {
    let snapshot = store.snapshot(Moment::Now)?;
    match history_objects(&snapshot, selection)?.first() {
        Some(object) => one(object, form, snapshot.revision(), &HISTORIES),
        None => Err(Refusal::not_found(format!(
            "resourcehistories.{} \"{name}\" not found: nothing of this name was ever seen by a CloudScan of this \
             namespace; kubectl get cloudresources lists what is there",
            super::GROUP
        ))),
    }
}

fn history_objects(
    snapshot: &StoreSnapshot,
    selection: &Selection,
) -> Result<Vec<Object<objects::ResourceHistoryStatus>>, Refusal> {
    let visibility = PastVisibility::of(snapshot, selection)?;
    let mut out = Vec::new();
    for (namespace, times) in &visibility.by_namespace {
        let scopes: Vec<(ScopeNo, &Scope)> = times
            .scopes()
            .filter_map(|number| Some((number, &**snapshot.scope_name(number)?)))
            .filter(|(_, scope)| selection.has_scope(scope))
            .collect();
        for (number, resource) in existing_and_past(snapshot, selection, &scopes)? {
            let may_know = |key: &ResourceKey| visibility.may_know(snapshot, namespace, key);
            let changes = snapshot.history(&resource)?;
            let seen = changes.into_iter().filter(|change| times.has(number, change.revision));
            let seen: Vec<_> = seen.map(|change| objects::change_status(change, &may_know)).collect();
            let is_visible = times.has(number, snapshot.revision());
            // A resource that was gone before any CloudScan of the namespace scanned its scope was never seen here.
            if (is_visible && resource.is_live()) || !seen.is_empty() {
                let presence = if is_visible { resource.presence } else { Presence::Unknown };
                let resource = Resource { presence, ..resource };
                out.push(objects::resource_history(namespace, &resource, seen, snapshot.revision()));
            }
        }
    }
    Ok(out)
}

/// Existing and past resources in some scopes with the selected name, id or key.
fn existing_and_past(
    snapshot: &StoreSnapshot,
    selection: &Selection,
    scopes: &[(ScopeNo, &Scope)],
) -> Result<Vec<(ScopeNo, Resource)>, Refusal> {
    let mut found = Vec::new();
    for (number, scope) in scopes {
        for id in selection.ids(scope, true).unwrap_or_default() {
            found.extend(snapshot.find_in(*number, &id)?.map(|resource| (*number, resource)));
        }
    }
    if !found.is_empty() || selection.exactly("metadata.name").is_none() {
        return Ok(found);
    }
    // An id that is not its own slug: each resource of the type must be checked.
    for (number, scope) in scopes.iter().filter(|(_, scope)| selection.ids(scope, false).is_none()) {
        let filter = Filter {
            account: Some(scope.account.to_string()),
            region: Some(scope.region.to_string()),
            resource_type: Some(scope.resource_type.to_string()),
            ended_since: Some(Timestamp::MIN),
            include_unwatched: true,
            ..Filter::default()
        };
        let all = snapshot.resources(&filter)?.into_iter();
        let of_name = all.filter(|resource| *resource.scope == **scope && selection.has(resource, None));
        found.extend(of_name.map(|resource| (*number, resource)));
    }
    Ok(found)
}
