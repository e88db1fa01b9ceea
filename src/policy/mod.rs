//! The rules: pure functions from the recorded state to findings that people must act on.
//!
//! One file per rule, two in `unmanaged`; `lifecycle` derives `Flapping`. Each rule checks one resource under the
//! given policy, with the time of the snapshot as the only clock. If a rule lacks information its result is
//! undecided: that opens nothing and resolves nothing.
//!
//! - `graph`: the references between documents, read once for each version.
//! - `owner`: the owner of a resource. `cost`: its cost by list prices.
//! - [`lifecycle`]: from the causes that hold now to transitions.
//!
//! What differs from provider to provider (which field references which type, what is part of what, how a type can be
//! unused) is in [`Facts`], which the provider supplies.

mod cost;
mod disappeared;
mod flapping;
mod graph;
pub mod lifecycle;
mod orphaned;
mod owner;
mod ownership_lost;
mod reads;
mod tag_invalid;
mod tags_missing;
mod unmanaged;
mod untagged;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::inventory::{
    AccountId, CompleteSweeps, Exemption, Facts, Filter, FindingKind, History, Milestone, OwnershipSettings,
    Parent, Presence, ProviderFacts, Resource, ResourceKey, Revision, Role, RuleSettings, Scope, Severity,
    Snapshot, Subscriber, TagSet, Timestamp, Visibility,
};
pub use cost::{MonthlyCost, Price, PriceError, PriceList, Prices, Unit};
use graph::{Graph, Uses};
pub use owner::Owner;
use reads::{Reading, Reads};

/// A statement that a person should act on, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind of the finding.
    pub kind: FindingKind,
    /// How urgent it is.
    pub severity: Severity,
    /// The resource that it is about. For a group of resources: the one that they are part of.
    pub resource: ResourceKey,
    /// The `Name` tag.
    pub name: Option<String>,
    /// Who should act; `None` if nothing names an owner.
    pub owner: Option<Owner>,
    /// When this life of the resource was first seen.
    pub first_seen: Timestamp,
    /// When the cause began to hold.
    pub since: Timestamp,
    /// The revision in which the cause began. If that is unknown: the one in which the resource last changed.
    pub revision: Revision,
    /// It is unknown since when it holds: `since` is when it was noticed.
    pub since_is_estimate: bool,
    /// What is the case, as a text that names the resource.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// The facts it is based on, each with its time.
    pub evidence: Vec<String>,
    /// The cost of an `Orphaned` resource by list prices, in [`Evaluator::currency`]; `None` if it is unknown, and
    /// for all other kinds.
    pub monthly_cost: Option<MonthlyCost>,
    /// The exemption that applies.
    pub exempted_by: Option<String>,
}

impl Finding {
    /// Notes that the tags it is based on could not be read since `read`; `None` if they were read before the
    /// operator started. A finding that is not about tags is left unchanged.
    pub fn note_stale_tags(&mut self, read: Option<Timestamp>) {
        if !self.kind.is_about_tags() {
            return;
        }
        let when = read.map_or_else(|| "an earlier scan".to_owned(), |read| read.to_string());
        self.message = format!("{} (as of {when}: its tags could not be read since)", self.message);
        self.evidence.push(format!("its tags were last read: {when}"));
    }
}

/// The result of a rule for one resource.
#[derive(Debug)]
enum Verdict {
    No,
    /// It can't be decided.
    Unknown,
    Holds(Box<Finding>),
}

impl Verdict {
    fn holds(finding: Finding) -> Self {
        Verdict::Holds(Box::new(finding))
    }
}

/// The findings that hold, and what could not be decided.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// The findings whose causes hold, including exempted ones, in no particular order.
    pub findings: Vec<Finding>,
    /// The standing of the requested resources that the subscriber can see. A resource that is missing here is no
    /// longer watched.
    pub standing: BTreeMap<ResourceKey, Standing>,
    /// The kinds and resources for which a rule lacks information. Their findings are neither opened nor resolved.
    pub undecided: BTreeSet<(FindingKind, ResourceKey)>,
    /// Resources whose end is reported with another's, or is not reported.
    pub grouped: BTreeSet<ResourceKey>,
}

/// What the snapshot shows of a resource that has a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It exists, and its scope is current.
    Present,
    /// It was seen again after its end, which was therefore false.
    Retracted,
    /// It has ended, even if its scope is no longer current.
    Ended,
    /// It is a suspect, or its scope is not current.
    Unknown,
}

/// How much longer than its finding an ended resource is evaluated: its standing is needed to resolve the finding.
const ENDED_VISIBLE_FOR: Duration = Duration::from_hours(7 * 24);

/// Everything that the rules see beside the resource that they check.
struct EvaluationContext<'a> {
    facts: &'a Facts,
    reads: &'a dyn Reads,
    /// Resources that others are part of, or are billed with.
    by_key: HashMap<&'a ResourceKey, &'a Resource>,
    graph: &'a Graph,
    uses: Uses<'a>,
    prices: &'a Prices,
    /// `None` sees everything.
    visible: Option<BTreeMap<Scope, Visibility>>,
    complete_sweeps: RefCell<HashMap<Scope, Option<CompleteSweeps>>>,
}

impl<'a> EvaluationContext<'a> {
    fn new(
        reads: &'a dyn Reads,
        resources: &'a [Resource],
        graph: &'a Graph,
        prices: &'a Prices,
        visible: Option<BTreeMap<Scope, Visibility>>,
    ) -> Self {
        let facts = &graph.known;
        let is_read_by_key = |r: &&Resource| facts.of_type(&r.key).is_some_and(|facts| facts.is_read_by_key);
        Self {
            facts,
            reads,
            by_key: resources.iter().filter(is_read_by_key).map(|r| (&r.key, r)).collect(),
            graph,
            uses: graph.uses(resources),
            prices,
            visible,
            complete_sweeps: RefCell::default(),
        }
    }

    fn resource(&self, key: &ResourceKey) -> Option<&'a Resource> {
        self.by_key.get(key).copied()
    }

    fn lives(&self, key: &ResourceKey) -> bool {
        self.resource(key).is_some_and(Resource::is_live)
    }

    fn ended(&self, key: &ResourceKey) -> Option<Timestamp> {
        self.resource(key).and_then(|r| r.end.as_ref()).map(|end| end.first_missed)
    }

    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps> {
        if self.visible.as_ref().is_some_and(|visible| !visible.contains_key(scope)) {
            return None;
        }
        if let Some(complete_sweeps) = self.complete_sweeps.borrow().get(scope) {
            return complete_sweeps.clone();
        }
        let complete_sweeps = self.reads.complete_sweeps(scope);
        self.complete_sweeps.borrow_mut().insert(scope.clone(), complete_sweeps.clone());
        complete_sweeps
    }

    /// Whether two complete sweeps began after `since`, an interval apart.
    fn swept_twice(&self, scope: &Scope, since: Timestamp, interval: Duration) -> bool {
        self.complete_sweeps(scope)
            .is_some_and(|complete_sweeps| complete_sweeps.has_two_sweeps_since(since, interval))
    }

    /// Whether a resource with this key's type would be seen in the account and region of `near`.
    fn is_swept(&self, key: &ResourceKey, near: &Resource) -> bool {
        let scope = Scope { resource_type: key.resource_type.clone(), ..Scope::clone(&near.scope) };
        self.complete_sweeps(&scope).is_some()
    }

    fn parent(&self, resource: &Resource) -> Option<Parent> {
        let in_document = || self.graph.facts(resource).and_then(|facts| facts.parent.as_deref()).cloned();
        let in_tags = || {
            let facts = self.facts.provider(&resource.key)?;
            (facts.parent_in_tags)(&resource.key, resource.tags.known()?)
        };
        in_tags().or_else(in_document)
    }
}

/// The input of a rule.
struct Input<'a> {
    resource: &'a Resource,
    settings: &'a RuleSettings,
    now: Timestamp,
    /// The revision since which the scope is visible to the subscriber.
    visible_from: Revision,
    world: &'a EvaluationContext<'a>,
    provider: Option<&'a ProviderFacts>,
    owner: Option<Owner>,
    milestones: OnceCell<Vec<Milestone>>,
}

/// How one kind of finding comes about.
struct Rule {
    kind: FindingKind,
    evaluate: fn(&Input) -> Verdict,
    /// Kinds, of earlier rows, that say more of the same resource.
    suppressed_by: &'static [FindingKind],
    /// Groups related findings; without it each is reported by itself.
    group: Option<Group>,
}

type Group = fn(&EvaluationContext, Vec<(&Resource, Finding)>, &mut Evaluation);

const fn rule(kind: FindingKind, evaluate: fn(&Input) -> Verdict) -> Rule {
    Rule { kind, evaluate, suppressed_by: &[], group: None }
}

const RULES: &[Rule] = &[
    Rule { group: Some(disappeared::together), ..rule(FindingKind::Disappeared, disappeared::rule) },
    rule(FindingKind::OwnershipLost, ownership_lost::rule),
    Rule { suppressed_by: &[FindingKind::OwnershipLost], ..rule(FindingKind::Untagged, untagged::rule) },
    rule(FindingKind::TagsMissing, tags_missing::rule),
    rule(FindingKind::TagInvalid, tag_invalid::rule),
    rule(FindingKind::Orphaned, orphaned::rule),
    rule(FindingKind::Unmanaged, unmanaged::rule),
    rule(FindingKind::DriftedOut, unmanaged::drifted_out),
];

/// Evaluates every rule, and caches what it read from the documents.
pub struct Evaluator {
    graph: Graph,
    prices: Arc<Prices>,
}

impl Evaluator {
    /// An evaluator that has read nothing yet: its first evaluation reads every document that the rules use.
    pub fn new(facts: Facts, prices: Arc<Prices>) -> Self {
        Self { graph: Graph::new(facts), prices }
    }

    /// The currency of the costs in its findings: an ISO 4217 code; empty if it has no prices.
    pub fn currency(&self) -> &str {
        &self.prices.currency
    }

    /// Evaluates what `subscriber` can see at the snapshot, or everything without a subscriber. Also reports the
    /// standing of the resources in `requested`.
    ///
    /// # Errors
    ///
    /// The first error of the snapshot. The evaluation is then discarded as a whole.
    pub fn evaluate<S>(
        &mut self,
        snapshot: &S,
        subscriber: Option<&Subscriber>,
        settings: &RuleSettings,
        requested: &BTreeSet<ResourceKey>,
    ) -> Result<Evaluation, <S as Snapshot>::Error>
    where
        S: Snapshot + History<Error = <S as Snapshot>::Error>,
    {
        let ended_since = snapshot.time().minus(settings.keep_disappeared + ENDED_VISIBLE_FOR);
        let filter =
            Filter { ended_since: Some(ended_since), subscriber: subscriber.cloned(), ..Filter::default() };
        let resources = snapshot.resources(&filter)?;
        let reading = Reading::of(snapshot);
        self.graph.read(&reading, &resources);
        let visible = subscriber.map(|subscriber| snapshot.visible(subscriber));
        let world = EvaluationContext::new(&reading, &resources, &self.graph, &self.prices, visible);
        let now = snapshot.time();

        let mut out = Evaluation::default();
        let mut to_group: Vec<Vec<(&Resource, Finding)>> = RULES.iter().map(|_| Vec::new()).collect();
        for resource in &resources {
            let standing = standing(resource);
            if requested.contains(&resource.key) {
                out.standing.insert(resource.key.clone(), standing);
            }
            if standing == Standing::Unknown {
                continue;
            }
            let visibility = world.visible.as_ref().and_then(|visible| visible.get(&*resource.scope));
            let input = Input {
                resource,
                settings,
                now,
                visible_from: visibility.map_or(Revision::ZERO, |visibility| visibility.from),
                world: &world,
                provider: world.facts.provider(&resource.key),
                owner: owner::of(resource, &world, &settings.ownership),
                milestones: OnceCell::new(),
            };
            let mut held: Vec<FindingKind> = Vec::new();
            for (rule, to_group) in RULES.iter().zip(&mut to_group) {
                let is_suppressed = rule.suppressed_by.iter().any(|kind| held.contains(kind));
                if settings.findings.excluded.contains(&rule.kind) || is_suppressed {
                    continue;
                }
                match (rule.evaluate)(&input) {
                    Verdict::No => {}
                    Verdict::Unknown => drop(out.undecided.insert((rule.kind, resource.key.clone()))),
                    Verdict::Holds(mut finding) => {
                        held.push(rule.kind);
                        finding.exempted_by = exemption(&settings.exemptions, rule.kind, resource, now);
                        match rule.group {
                            Some(_) => to_group.push((resource, *finding)),
                            None => out.findings.push(*finding),
                        }
                    }
                }
            }
        }
        for (rule, findings) in RULES.iter().zip(to_group) {
            if let Some(group) = rule.group {
                group(&world, findings, &mut out);
            }
        }
        // A parent that was never seen has the standing of its parts.
        for resource in resources.iter().filter(|resource| !resource.is_live()) {
            if let Some(Parent::Known { key, .. }) = world.parent(resource)
                && requested.contains(&key)
            {
                out.standing.entry(key).or_insert(Standing::Ended);
            }
        }
        reading.done()?;
        Ok(out)
    }
}

fn standing(resource: &Resource) -> Standing {
    match (&resource.end, resource.presence) {
        // A tombstone is final, even if the scope was not swept lately.
        (Some(_), _) => Standing::Ended,
        (None, Presence::Present) if resource.retracted => Standing::Retracted,
        (None, Presence::Present) => Standing::Present,
        (None, Presence::Absent | Presence::Unknown) => Standing::Unknown,
    }
}

fn exemption(exemptions: &[Exemption], kind: FindingKind, resource: &Resource, now: Timestamp) -> Option<String> {
    let in_force = |exemption: &&Exemption| exemption.expires.is_none_or(|expires| now < expires);
    let fits = |exemption: &&Exemption| {
        (exemption.kinds.is_empty() || exemption.kinds.contains(&kind))
            && exemption.selector.matches(&resource.key, &resource.tags)
    };
    exemptions.iter().filter(in_force).find(fits).map(|exemption| exemption.name.clone())
}

impl Input<'_> {
    /// What people call the provider.
    fn provider_title(&self) -> &str {
        self.provider.map_or(&self.resource.key.provider, |facts| facts.title)
    }

    fn is_exempt_from_tag_rules(&self) -> bool {
        let is_named = self.settings.exempt_types.iter().any(|t| t == self.resource.key.resource_type.as_str());
        is_named || self.is_made_by_a_service()
    }

    /// Its document shows that a service created it: users need not tag what a service creates and deletes by
    /// itself.
    fn is_made_by_a_service(&self) -> bool {
        let facts = self.world.graph.facts(self.resource);
        facts.is_some_and(|facts| facts.parent.as_deref() == Some(&Parent::Unseen))
    }

    /// Whether its parent creates and deletes it as needed.
    fn is_replaced(&self) -> bool {
        matches!(
            self.world.parent(self.resource),
            Some(Parent::Unseen | Parent::Known { role: Role::ManagesMembers, .. })
        )
    }

    fn milestones(&self) -> &[Milestone] {
        // Of the time before the scope was visible, the subscriber knows only the state at the start of
        // visibility.
        self.milestones.get_or_init(|| {
            let mut known = self.world.reads.milestones(self.resource);
            let first = known.iter().rposition(|milestone| milestone.revision <= self.visible_from).unwrap_or(0);
            known.split_off(first)
        })
    }

    /// Whether `held` was ever true of its tags.
    fn was(&self, held: impl Fn(&TagSet) -> bool) -> bool {
        self.milestones().iter().any(|milestone| milestone.tags.known().is_some_and(&held))
    }

    /// Since when `holds` has been true of the tags without a break, under the current policy.
    fn since(&self, holds: impl Fn(&TagSet) -> bool) -> (Timestamp, Revision) {
        let mut since = (self.resource.first_seen, self.resource.changed);
        let newest_first = self.milestones().iter().rev();
        for milestone in newest_first.take_while(|m| m.tags.known().is_some_and(&holds)) {
            since = (milestone.time, milestone.revision);
        }
        since
    }

    fn finding(
        &self,
        kind: FindingKind,
        severity: Severity,
        (since, revision): (Timestamp, Revision),
        message: String,
        advice: &str,
        evidence: Vec<String>,
    ) -> Finding {
        let resource = self.resource;
        Finding {
            kind,
            severity,
            resource: resource.key.clone(),
            name: resource.tags.name().map(str::to_owned),
            owner: self.owner.clone(),
            first_seen: resource.first_seen,
            since,
            revision,
            since_is_estimate: false,
            message,
            advice: advice.to_owned(),
            evidence,
            monthly_cost: None,
            exempted_by: None,
        }
    }

    /// The resource as a person would call it: "Volume vol-1 (data)".
    fn called(&self) -> String {
        let key = &self.resource.key;
        let kind = key.resource_type.short();
        match self.resource.tags.name().filter(|name| *name != &*key.id) {
            Some(name) => format!("{kind} {} ({name})", key.id),
            None => format!("{kind} {}", key.id),
        }
    }
}

/// How many resources of an account have an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// All resources that can have tags.
    pub resources: usize,
    /// Resources without an owner. Only those whose tags are known.
    pub unowned: usize,
    /// Resources without an owner whose tags could not be read: they may have one.
    pub unknown: usize,
    /// The number of resources by the name of their owner.
    pub by_owner: BTreeMap<String, usize>,
}

/// The owner that a set of tags names on its own.
pub fn owner_in_tags<'a>(tags: &'a TagSet, settings: &OwnershipSettings) -> Option<&'a str> {
    owner::in_tags(tags, settings)
}

/// Ownership by account at the snapshot's moment, for the resources that match the filter. Resources of types
/// without tags are not counted.
///
/// # Errors
///
/// The first error of the snapshot.
pub fn coverage<S>(
    snapshot: &S,
    facts: &Facts,
    filter: &Filter,
    settings: &OwnershipSettings,
) -> Result<BTreeMap<AccountId, Coverage>, <S as Snapshot>::Error>
where
    S: Snapshot + History<Error = <S as Snapshot>::Error>,
{
    let resources = snapshot.resources(filter)?;
    let reading = Reading::of(snapshot);
    let (graph, prices) = (Graph::new(facts.clone()), Prices::default());
    let world = EvaluationContext::new(&reading, &resources, &graph, &prices, None);
    let mut out: BTreeMap<AccountId, Coverage> = BTreeMap::new();
    for resource in resources.iter().filter(|resource| !resource.tags.is_untaggable()) {
        let account = out.entry(resource.key.account.clone()).or_default();
        account.resources += 1;
        match owner::of(resource, &world, settings) {
            Some(owner) => *account.by_owner.entry(owner.name).or_default() += 1,
            None if resource.tags.known().is_none() => account.unknown += 1,
            None => account.unowned += 1,
        }
    }
    reading.done()?;
    Ok(out)
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_rule_and_is_suppressed_by_earlier_ones_alone() {
        let kinds: Vec<FindingKind> = RULES.iter().map(|rule| rule.kind).collect();
        let derived = FindingKind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect::<Vec<_>>();
        assert_eq!((kinds.len(), derived), (FindingKind::ALL.len() - 1, vec![&FindingKind::Flapping]));
        for (at, rule) in RULES.iter().enumerate() {
            assert!(rule.suppressed_by.iter().all(|kind| kinds[..at].contains(kind)), "{}", rule.kind);
        }
    }
}
