//! Queries about findings, owners and the references between resources. Documented in docs/json.md.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::query::{API_VERSION, QueryError, moment, one_within};
use crate::inventory::{
    Facts, Filter, FindingKind, OwnershipSettings, Resource, ResourceKey, Revision, Severity, Snapshot,
    Subscriber, Timestamp,
};
use crate::policy::lifecycle::{self, CURRENCY, FINDINGS, OWNERSHIP, Record, State};
use crate::policy::{Coverage, MonthlyCost, Owner};
use crate::store::{Store, StoreSnapshot};

/// Selects findings. The empty query selects all that are open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingsQuery {
    /// `namespace/name`; absent means all CloudScans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudscan: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Also findings that are resolved, exempted or too young to be reported.
    pub all: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingsResponse {
    pub api_version: String,
    pub time: Timestamp,
    /// The most severe first, then the newest.
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
    /// Whether it has a ResourceFinding.
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
    /// Its cost from `since` until now, by list prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_so_far: Option<f64>,
    /// The currency of both costs.
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

pub fn findings(store: &Store, question: &FindingsQuery) -> Result<FindingsResponse, QueryError> {
    let kind: Option<FindingKind> = match &question.kind {
        None => None,
        Some(kind) => Some(
            kind.parse().map_err(|error: crate::inventory::KindError| QueryError::Malformed(error.to_string()))?,
        ),
    };
    let now = store.now();
    let mut out = Vec::new();
    for subscriber in subscribers(store, question.cloudscan.as_deref())? {
        let currency = store.note(&subscriber, CURRENCY)?;
        let currency = currency.and_then(|noted| String::from_utf8(noted).ok());
        for (_, record) in lifecycle::records(store.notes(&subscriber, FINDINGS)?) {
            let finding = &record.finding;
            let same = |desired: &Option<String>, value: &str| desired.as_deref().is_none_or(|w| w == value);
            let owner = finding.owner.as_ref().map_or("", |owner| owner.name.as_str());
            if (question.all || record.is_open())
                && kind.is_none_or(|kind| kind == finding.kind)
                && same(&question.account, finding.resource.account.as_str())
                && same(&question.owner, owner)
            {
                out.push(FindingView::of(subscriber.to_string(), record, currency.as_deref(), now));
            }
        }
    }
    out.sort_by(|a, b| {
        let rank = |f: &FindingView| (std::cmp::Reverse((f.severity, f.since)), f.resource.clone(), f.kind);
        rank(a).cmp(&rank(b))
    });
    Ok(FindingsResponse { api_version: API_VERSION.to_owned(), time: now, findings: out })
}

/// The selected CloudScans. An unknown name is an error that lists the existing ones.
fn subscribers(store: &Store, cloudscan: Option<&str>) -> Result<BTreeSet<Subscriber>, QueryError> {
    let all = store.subscribers_with_notes()?;
    let Some(name) = cloudscan else { return Ok(all) };
    let subscriber = Subscriber::from(name);
    if all.contains(&subscriber) {
        return Ok([subscriber].into());
    }
    let names: Vec<&str> = all.iter().map(Subscriber::as_str).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(QueryError::NotFound(format!("no CloudScan {name} was ever evaluated here; there are: {known}")))
}

/// Selects the CloudScan whose ownership settings apply, and the moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OwnersQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudscan: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnersResponse {
    pub api_version: String,
    pub revision: Revision,
    pub time: Timestamp,
    /// By account. Resources that take no tags are not counted.
    pub accounts: BTreeMap<String, Coverage>,
}

/// By the current ownership settings of a CloudScan; without one, by the defaults.
pub fn owners(store: &Store, facts: &Facts, question: &OwnersQuery) -> Result<OwnersResponse, QueryError> {
    owners_within(store, facts, question, |_| Filter::default())
}

/// The same, of the resources that the filter selects at that moment.
pub fn owners_within(
    store: &Store,
    facts: &Facts,
    question: &OwnersQuery,
    within: impl FnOnce(&StoreSnapshot) -> Filter,
) -> Result<OwnersResponse, QueryError> {
    let subscriber = match &question.cloudscan {
        None => None,
        Some(name) => subscribers(store, Some(name))?.into_iter().next(),
    };
    let noted = match &subscriber {
        None => None,
        Some(subscriber) => store.note(subscriber, OWNERSHIP)?,
    };
    let settings: OwnershipSettings =
        noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let snapshot = store.snapshot(moment(question.at.as_deref().unwrap_or("now"), store.now())?)?;
    let filter = Filter { subscriber, ..within(&snapshot) };
    let coverage = crate::policy::coverage(&snapshot, facts, &filter, &settings)?;
    Ok(OwnersResponse {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        time: snapshot.time(),
        accounts: coverage.into_iter().map(|(account, coverage)| (account.to_string(), coverage)).collect(),
    })
}

/// Selects the resource and the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeQuery {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeResponse {
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
    /// Present, Gone, or Unknown if it is not seen here.
    pub state: String,
    /// The relation of the branch above to this one, such as `uses`; after `◄ `, the relation of this one to the branch
    /// above.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relation: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
}

/// Maximum depth to which references are followed.
const REFERENCE_DEPTH_MAX: usize = 2;
/// Maximum number of resources that are shown as referring to one.
const REFERRERS_SHOWN_MAX: usize = 100;

pub fn tree(store: &Store, facts: &Facts, question: &TreeQuery) -> Result<TreeResponse, QueryError> {
    tree_within(store, facts, question, |_| Filter::default())
}

/// The same, of the resources that the filter selects at that moment: the rest is shown as not seen.
pub fn tree_within(
    store: &Store,
    facts: &Facts,
    question: &TreeQuery,
    within: impl FnOnce(&StoreSnapshot) -> Filter,
) -> Result<TreeResponse, QueryError> {
    let snapshot = store.snapshot(moment(question.at.as_deref().unwrap_or("now"), store.now())?)?;
    let filter = within(&snapshot);
    let resource = one_within(&snapshot, &question.key, &filter)?;
    let mut root = branch(&snapshot, facts, &filter, &resource, String::new(), REFERENCE_DEPTH_MAX)?;
    root.branches.extend(naming(&snapshot, facts, &filter, &resource)?);
    Ok(TreeResponse {
        api_version: API_VERSION.to_owned(),
        revision: snapshot.revision(),
        time: snapshot.time(),
        root,
    })
}

fn branch(
    snapshot: &StoreSnapshot,
    facts: &Facts,
    filter: &Filter,
    resource: &Resource,
    relation: String,
    depth: usize,
) -> Result<Branch, QueryError> {
    let mut branches = Vec::new();
    if depth > 0 {
        let document = snapshot.attributes(resource)?;
        let references = facts.of_type(&resource.key).map(|facts| facts.references(&document));
        for (edge, id) in references.into_iter().flatten() {
            let key = resource.key.sibling(edge.to, &id);
            let relation = edge.relation.to_owned();
            branches.push(match found(snapshot, filter, &key)? {
                Some(resource) => branch(snapshot, facts, filter, &resource, relation, depth - 1)?,
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

/// Resources in the same account and region whose documents refer to it.
fn naming(
    snapshot: &StoreSnapshot,
    facts: &Facts,
    filter: &Filter,
    resource: &Resource,
) -> Result<Vec<Branch>, QueryError> {
    let key = &resource.key;
    let mut out = Vec::new();
    for from in facts.referring_types(key) {
        let of_type = Filter {
            account: Some(key.account.to_string()),
            region: Some(key.region.to_string()),
            resource_type: Some(from.name.to_owned()),
            ..filter.clone()
        };
        for other in snapshot.resources(&of_type)? {
            let document = snapshot.attributes(&other)?;
            let mut references = from.references(&document).into_iter();
            let names = references.find(|(edge, id)| edge.to == key.resource_type.as_str() && **id == *key.id);
            if let Some((edge, _)) = names
                && other.key != *key
                && out.len() < REFERRERS_SHOWN_MAX
            {
                out.push(branch(snapshot, facts, filter, &other, format!("◄ {}", edge.relation), 0)?);
            }
        }
    }
    Ok(out)
}
