//! Queries about the past, and the formats of the answers. Documented in docs/json.md.

use std::io::Write;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inventory::{
    Change, Diff, End, Facts, Filter, Moment, Presence, Resource, ResourceKey, Revision, ScopeStatus, ScopeView,
    Snapshot, Suspect, TagSet, Tags, Timestamp,
};
use crate::store::{CheckReport, ExportFormat, ExportTable, Store, StoreError, StoreSnapshot, StoreStats};

/// The version of the format of every answer.
pub const API_VERSION: &str = "elava.dev/v1alpha1";

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{}", message_of(.0))]
    Store(#[from] StoreError),
}

/// The error with its cause, which users see only here.
pub(in crate::server) fn message_of(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl QueryError {
    pub fn status(&self) -> StatusCode {
        match self {
            QueryError::Malformed(_) => StatusCode::BAD_REQUEST,
            QueryError::NotFound(_) => StatusCode::NOT_FOUND,
            QueryError::Store(
                StoreError::Future { .. }
                | StoreError::TooEarly { .. }
                | StoreError::NotKept { .. }
                | StoreError::Compacted { .. },
            ) => StatusCode::GONE,
            QueryError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The answer to a query that failed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
}

/// Selects resources and the moment. The empty query selects all that exist now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // independent flags of a query string
pub struct ResourcesQuery {
    /// A key or a bare id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// `key` or `key=value`; several as a JSON list, because a value may contain any character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    pub untagged: bool,
    pub ended: bool,
    pub attributes: bool,
    /// Also take later sweeps into account.
    pub hindsight: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesResponse {
    pub api_version: String,
    pub revision: Revision,
    pub time: Timestamp,
    pub resources: Vec<ResourceView>,
    /// Scopes that were not current at that moment: what the answer contains of them may be outdated.
    pub unknown: Vec<ScopeView>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceView {
    #[serde(flatten)]
    pub resource: ResourceKey,
    pub presence: Presence,
    /// Absent if the type has none, and null if they could not be read.
    #[serde(default, with = "tags_or_null", skip_serializing_if = "Tags::is_untaggable")]
    pub tags: Tags,
    pub first_seen: Timestamp,
    /// It existed before the first sweep.
    pub baseline: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth: Option<Timestamp>,
    /// The revision of its last change.
    pub changed: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<Suspect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The account that owns it, if that is another one; set only with the attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Value>,
}

mod tags_or_null {
    use super::{TagSet, Tags};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(tags: &Tags, s: S) -> Result<S::Ok, S::Error> {
        tags.known().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Tags, D::Error> {
        Ok(Option::<TagSet>::deserialize(d)?.map_or(Tags::Unknown, Tags::Known))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    pub key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryResponse {
    pub api_version: String,
    pub revision: Revision,
    pub resource: ResourceKey,
    pub presence: Presence,
    /// Newest first.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    pub from: String,
    pub to: String,
    /// Every step, not the net difference.
    #[serde(default)]
    pub steps: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffResponse {
    pub api_version: String,
    #[serde(flatten)]
    pub diff: Diff,
}

/// The revision after which to start; absent means from now on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Revision>,
}

/// One line of the answer to it. An error is the last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WatchLine {
    Change(Box<Change>),
    Error(String),
}

/// A query without parameters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Nothing {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResponse {
    pub api_version: String,
    #[serde(flatten)]
    pub report: CheckReport,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsResponse {
    pub api_version: String,
    #[serde(flatten)]
    pub stats: StoreStats,
}

/// Selects the table and the format.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    pub table: ExportTable,
    pub format: ExportFormat,
}

pub fn backup(store: &Store, out: &mut (dyn Write + Send)) -> Result<(), QueryError> {
    store.backup(out)?;
    Ok(())
}

pub fn export(store: &Store, question: &ExportQuery, out: &mut (dyn Write + Send)) -> Result<(), QueryError> {
    store.export(question.table, question.format, out)?;
    Ok(())
}

pub fn check(store: &Store) -> Result<CheckResponse, QueryError> {
    Ok(CheckResponse { api_version: API_VERSION.to_owned(), report: store.check()? })
}

pub fn stats(store: &Store) -> Result<StatsResponse, QueryError> {
    Ok(StatsResponse { api_version: API_VERSION.to_owned(), stats: store.stats()? })
}

pub fn resources(
    store: &Store,
    facts: &Facts,
    question: &ResourcesQuery,
) -> Result<ResourcesResponse, QueryError> {
    let moment = moment(question.at.as_deref().unwrap_or("now"), store.now())?;
    let snapshot =
        if question.hindsight { store.snapshot_in_hindsight(moment)? } else { store.snapshot(moment)? };
    let tags: Vec<String> = match &question.tags {
        None => Vec::new(),
        Some(text) => serde_json::from_str(text).map_err(|_| {
            QueryError::Malformed(format!("tags is '{text}': write a JSON list of key or key=value"))
        })?,
    };
    let tag = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    };
    let filter = Filter {
        account: question.account.clone(),
        region: question.region.clone(),
        resource_type: question.resource_type.clone(),
        tags: tags.iter().map(tag).collect(),
        untagged: question.untagged,
        ended_since: question.ended.then_some(Timestamp::MIN),
        ..Filter::default()
    };
    let mut resources = match &question.key {
        None => snapshot.resources(&filter)?,
        Some(_) if filter.is_narrow() => {
            let message = "name a resource or filter, not both".to_owned();
            return Err(QueryError::Malformed(message));
        }
        Some(name) => vec![one(&snapshot, name)?],
    };
    resources.sort_by(|a, b| a.key.cmp(&b.key));
    let resources = resources
        .into_iter()
        .map(|resource| view(&snapshot, facts, resource, question.attributes))
        .collect::<Result<_, StoreError>>()?;
    let mut unknown = snapshot.scopes();
    unknown.retain(|view| {
        !matches!(view.status, ScopeStatus::Current | ScopeStatus::NotWatched) && filter.matches_scope(&view.scope)
    });
    Ok(ResourcesResponse {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        time: snapshot.time(),
        resources,
        unknown,
    })
}

fn view(
    snapshot: &StoreSnapshot,
    facts: &Facts,
    resource: Resource,
    attributes: bool,
) -> Result<ResourceView, StoreError> {
    let (attributes, shared_by) = if attributes {
        let described = facts.described(&resource, snapshot.attributes(&resource)?);
        (Some(described.attributes), described.shared_by)
    } else {
        (None, None)
    };
    Ok(ResourceView {
        presence: resource.presence,
        tags: resource.tags,
        first_seen: resource.first_seen,
        baseline: resource.baseline,
        birth: resource.birth,
        changed: resource.changed,
        suspect: resource.suspect,
        end: resource.end,
        shared_by,
        attributes,
        resource: resource.key,
    })
}

pub fn history(store: &Store, question: &HistoryQuery) -> Result<HistoryResponse, QueryError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let resource = one(&snapshot, &question.key)?;
    Ok(HistoryResponse {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        presence: resource.presence,
        changes: snapshot.history(&resource)?,
        resource: resource.key,
    })
}

pub fn diff(store: &Store, question: &DiffQuery) -> Result<DiffResponse, QueryError> {
    let (from, to) = (since(store, &question.from)?, moment(&question.to, store.now())?);
    let diff = if question.steps { store.steps(from, to, None)? } else { store.diff(from, to, None)? };
    if question.steps && diff.from > diff.to {
        let message = format!("{} lies after {}: name the earlier moment first", question.from, question.to);
        return Err(QueryError::Malformed(message));
    }
    Ok(DiffResponse { api_version: API_VERSION.to_owned(), diff })
}

pub(super) fn moment(text: &str, now: Timestamp) -> Result<Moment, QueryError> {
    Moment::read(text, now).map_err(|_| {
        let text = text.escape_debug();
        QueryError::Malformed(format!(
            "'{text}' is not a moment: write a revision (41), a time (2026-11-24T08:30:00Z), how long ago (2h, 3 days \
             ago, yesterday) or now"
        ))
    })
}

/// The start of a range: a time before the first record means from the beginning.
pub(super) fn since(store: &Store, text: &str) -> Result<Moment, QueryError> {
    let moment = moment(text, store.now())?;
    match store.revision_at(moment) {
        Err(StoreError::TooEarly { revision, .. }) => Ok(Moment::Revision(Revision(revision.0.saturating_sub(1)))),
        _ => Ok(moment),
    }
}

/// The one resource that a key or a bare id names.
pub(super) fn one(snapshot: &StoreSnapshot, name: &str) -> Result<Resource, QueryError> {
    one_within(snapshot, name, &Filter::default())
}

/// The same, within the scopes that a filter selects.
pub(super) fn one_within(snapshot: &StoreSnapshot, name: &str, filter: &Filter) -> Result<Resource, QueryError> {
    let mut found = snapshot.find(name, None)?;
    found.retain(|resource| filter.matches_scope(&resource.scope));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(QueryError::NotFound(format!(
            "nothing called {name} was ever seen: name a key such as \
             aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-1, or a bare id; elava get lists what is there"
        ))),
        _ => {
            let candidates: Vec<String> = found
                .iter()
                .map(|r| match &*r.scope.endpoint {
                    "" => r.key.to_string(),
                    endpoint => format!("{} (at {endpoint})", r.key),
                })
                .collect();
            Err(QueryError::Malformed(format!(
                "{name} is the name of {} resources; name one of\n  {}",
                candidates.len(),
                candidates.join("\n  ")
            )))
        }
    }
}
