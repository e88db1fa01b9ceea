//! Questions about findings, owners and what belongs together. Documented in docs/json.md.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::query::{API_VERSION, QueryError, moment, one_within};
use crate::inventory::{
    Filter, FindingKind, OwnershipSettings, Resource, ResourceKey, ResourceType, Revision, Severity, Snapshot,
    Timestamp, Viewer,
};
use crate::policy::lifecycle::{self, CURRENCY, FINDINGS, OWNERSHIP, Record, State};
use crate::policy::{Coverage, MonthlyCost, Owner, relations};
use crate::store::{Store, StoreSnapshot};

/// Which findings. The empty one asks for all that are open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingsQuestion {
    /// `namespace/name`; absent means everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudscan: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Those that are resolved, exempted or too young to be told, too.
    pub all: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingsAnswer {
    pub api_version: String,
    pub time: Timestamp,
    /// The worst first, then the newest.
    pub findings: Vec<FindingView>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// `namespace/name` of the CloudScan that raises it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cloudscan: String,
    pub kind: FindingKind,
    pub severity: Severity,
    /// Pending, Open, Acknowledged, Exempted or Resolved.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// There is a ResourceFinding of it.
    pub published: bool,
    pub resource: ResourceKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub since: Timestamp,
    pub message: String,
    pub advice: String,
    pub evidence: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_cost: Option<f64>,
    /// What it has cost from `since` until now, by list prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_so_far: Option<f64>,
    /// Of both costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

impl FindingView {
    pub fn of(cloudscan: String, record: Record, currency: Option<&str>, now: Timestamp) -> Self {
        let acknowledged = record.acknowledged.is_some();
        let (state, resolution) = match &record.state {
            State::Pending => ("Pending", None),
            State::Open if acknowledged => ("Acknowledged", None),
            State::Open => ("Open", None),
            State::Exempted => ("Exempted", None),
            State::Resolved { reason, .. } => ("Resolved", Some(reason.as_str().to_owned())),
        };
        let until = if let State::Resolved { at, .. } = record.state { at } else { now };
        let finding = record.finding;
        Self {
            cloudscan,
            kind: finding.kind,
            severity: finding.severity,
            state: state.to_owned(),
            resolution,
            published: record.published,
            resource: finding.resource,
            name: finding.name,
            owner: finding.owner,
            since: finding.since,
            message: finding.message,
            advice: finding.advice,
            evidence: finding.evidence,
            monthly_cost: finding.monthly_cost.map(MonthlyCost::amount),
            cost_so_far: finding.monthly_cost.map(|cost| cost.over(until.since(finding.since))),
            currency: finding.monthly_cost.and(currency).map(str::to_owned),
        }
    }
}

pub fn findings(store: &Store, question: &FindingsQuestion) -> Result<FindingsAnswer, QueryError> {
    let kind: Option<FindingKind> = match &question.kind {
        None => None,
        Some(kind) => Some(
            kind.parse().map_err(|error: crate::inventory::KindError| QueryError::Malformed(error.to_string()))?,
        ),
    };
    let now = store.now();
    let mut out = Vec::new();
    for viewer in viewers(store, question.cloudscan.as_deref())? {
        let currency = store.note(&viewer, CURRENCY)?;
        let currency = currency.and_then(|noted| String::from_utf8(noted).ok());
        for (_, record) in lifecycle::records(store.notes(&viewer, FINDINGS)?) {
            let finding = &record.finding;
            let same = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
            let owner = finding.owner.as_ref().map_or("", |owner| owner.name.as_str());
            if (question.all || record.is_open())
                && kind.is_none_or(|kind| kind == finding.kind)
                && same(&question.account, finding.resource.account.as_str())
                && same(&question.owner, owner)
            {
                out.push(FindingView::of(viewer.to_string(), record, currency.as_deref(), now));
            }
        }
    }
    out.sort_by(|a, b| {
        let rank = |f: &FindingView| (std::cmp::Reverse((f.severity, f.since)), f.resource.clone(), f.kind);
        rank(a).cmp(&rank(b))
    });
    Ok(FindingsAnswer { api_version: API_VERSION.to_owned(), time: now, findings: out })
}

/// The CloudScans that are meant; an error that names those that there are.
fn viewers(store: &Store, cloudscan: Option<&str>) -> Result<BTreeSet<Viewer>, QueryError> {
    let all = store.note_viewers()?;
    let Some(name) = cloudscan else { return Ok(all) };
    let viewer = Viewer::from(name);
    if all.contains(&viewer) {
        return Ok([viewer].into());
    }
    let names: Vec<&str> = all.iter().map(Viewer::as_str).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(QueryError::NotFound(format!("no CloudScan {name} was ever evaluated here; there are: {known}")))
}

/// Whose coverage, and as of when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnersQuestion {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudscan: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnersAnswer {
    pub api_version: String,
    pub revision: Revision,
    pub time: Timestamp,
    /// By account. What takes no tags is not counted.
    pub accounts: BTreeMap<String, Coverage>,
}

/// By the measure of a CloudScan as it is today; without one, by the default.
pub fn owners(store: &Store, question: &OwnersQuestion) -> Result<OwnersAnswer, QueryError> {
    owners_within(store, question, |_| Filter::default())
}

/// Of what somebody sees, as the filter says for a moment.
pub fn owners_within(
    store: &Store,
    question: &OwnersQuestion,
    within: impl FnOnce(&StoreSnapshot) -> Filter,
) -> Result<OwnersAnswer, QueryError> {
    let viewer = match &question.cloudscan {
        None => None,
        Some(name) => viewers(store, Some(name))?.into_iter().next(),
    };
    let noted = match &viewer {
        None => None,
        Some(viewer) => store.note(viewer, OWNERSHIP)?,
    };
    let settings: OwnershipSettings =
        noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let snapshot = store.snapshot(moment(question.at.as_deref().unwrap_or("now"), store.now())?)?;
    let filter = Filter { viewer, ..within(&snapshot) };
    let coverage = crate::policy::coverage(&snapshot, &filter, &settings)?;
    Ok(OwnersAnswer {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        time: snapshot.time(),
        accounts: coverage.into_iter().map(|(account, coverage)| (account.to_string(), coverage)).collect(),
    })
}

/// What of, and as of when.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeQuestion {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeAnswer {
    pub api_version: String,
    pub revision: Revision,
    pub time: Timestamp,
    pub root: Branch,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    pub resource: ResourceKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Present, Gone or Unknown: not seen here.
    pub state: String,
    /// What the one above does with it, such as `uses`; with `◄ ` before it, what it does with the one above.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relation: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
}

/// What it names is followed so far.
const DEPTH: usize = 2;
/// More than so many that name one are not shown.
const MAX_NAMING: usize = 100;

pub fn tree(store: &Store, question: &TreeQuestion) -> Result<TreeAnswer, QueryError> {
    tree_within(store, question, |_| Filter::default())
}

/// Of what somebody sees, as the filter says for a moment: the rest is shown as not seen.
pub fn tree_within(
    store: &Store,
    question: &TreeQuestion,
    within: impl FnOnce(&StoreSnapshot) -> Filter,
) -> Result<TreeAnswer, QueryError> {
    let snapshot = store.snapshot(moment(question.at.as_deref().unwrap_or("now"), store.now())?)?;
    let filter = within(&snapshot);
    let resource = one_within(&snapshot, &question.key, &filter)?;
    let mut root = branch(&snapshot, &filter, &resource, String::new(), DEPTH)?;
    root.branches.extend(naming(&snapshot, &filter, &resource)?);
    Ok(TreeAnswer {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        time: snapshot.time(),
        root,
    })
}

fn branch(
    snapshot: &StoreSnapshot,
    filter: &Filter,
    resource: &Resource,
    relation: String,
    depth: usize,
) -> Result<Branch, QueryError> {
    let mut branches = Vec::new();
    if depth > 0 {
        let document = snapshot.attributes(resource)?;
        for related in relations::of(&resource.key, &document) {
            let key = ResourceKey {
                resource_type: ResourceType::new(related.edge.to),
                id: related.id.as_str().into(),
                ..resource.key.clone()
            };
            let relation = related.edge.relation.to_owned();
            branches.push(match found(snapshot, filter, &key)? {
                Some(resource) => branch(snapshot, filter, &resource, relation, depth - 1)?,
                None => Branch {
                    resource: key,
                    name: None,
                    state: "Unknown".to_owned(),
                    relation,
                    branches: Vec::new(),
                },
            });
        }
    }
    Ok(Branch {
        resource: resource.key.clone(),
        name: resource.tags.name().map(str::to_owned),
        state: if resource.is_live() { "Present" } else { "Gone" }.to_owned(),
        relation,
        branches,
    })
}

fn found(snapshot: &StoreSnapshot, filter: &Filter, key: &ResourceKey) -> Result<Option<Resource>, QueryError> {
    let found = snapshot.find(&key.to_string(), None)?;
    Ok(found.into_iter().find(|resource| filter.matches_scope(&resource.scope)))
}

/// Those in the same account and region whose documents name it.
fn naming(snapshot: &StoreSnapshot, filter: &Filter, resource: &Resource) -> Result<Vec<Branch>, QueryError> {
    let key = &resource.key;
    let to_it: Vec<&relations::Edge> =
        relations::EDGES.iter().filter(|edge| edge.to == key.resource_type.as_str()).collect();
    let types: BTreeSet<&str> = to_it.iter().map(|edge| edge.from).collect();
    let mut out = Vec::new();
    for from in types {
        let of_type = Filter {
            account: Some(key.account.to_string()),
            region: Some(key.region.to_string()),
            resource_type: Some(from.to_owned()),
            ..filter.clone()
        };
        for other in snapshot.resources(&of_type)? {
            let document = snapshot.attributes(&other)?;
            let names = relations::of(&other.key, &document)
                .find(|related| related.edge.to == key.resource_type.as_str() && *related.id == *key.id);
            if let Some(related) = names
                && other.key != *key
                && out.len() < MAX_NAMING
            {
                out.push(branch(snapshot, filter, &other, format!("◄ {}", related.edge.relation), 0)?);
            }
        }
    }
    Ok(out)
}
