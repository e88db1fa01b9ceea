//! The rules: pure functions from what is known to what people must act on.
//!
//! One file per rule; each looks at one resource under the policy that is asked about, with the time of the
//! snapshot as the only clock. What a rule can't know is undecided: that opens nothing and resolves nothing.
//!
//! - `graph`: what the documents say of each other, read once for each version.
//! - [`relations`]: who names whom. `parents`: what is part of what. `owner`: whose it is. [`cost`]: what it
//!   costs by list prices.
//! - [`lifecycle`]: from what holds now to what changes.

mod cost;
mod disappeared;
mod flapping;
mod graph;
pub mod lifecycle;
mod orphaned;
mod owner;
mod ownership_lost;
mod parents;
mod reads;
pub mod relations;
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
    AccountId, Cover, Exemption, Filter, FindingKind, History, Looks, Milestone, OwnershipSettings, Presence,
    Resource, ResourceKey, Revision, RuleSettings, Scope, Severity, Snapshot, TagSet, Timestamp, Viewer,
};
pub use cost::{MonthlyCost, Price, PriceError, PriceList, Prices, Unit};
pub use disappeared::WITHOUT_READ_BY_ID;
use graph::{Graph, Uses};
pub use owner::Owner;
use parents::{Parent, Role};
use reads::{Reading, Reads};

/// A statement that a person should act on, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub severity: Severity,
    pub resource: ResourceKey,
    /// The `Name` tag.
    pub name: Option<String>,
    pub owner: Option<Owner>,
    /// When this life of the resource was first seen, and whether it was there before.
    pub first_seen: Timestamp,
    /// Since when it holds.
    pub since: Timestamp,
    pub revision: Revision,
    /// Nobody knows since when: that is when it was noticed.
    pub is_noticed: bool,
    pub message: String,
    /// What to do about it.
    pub advice: String,
    /// What it rests on, each with its time.
    pub evidence: Vec<String>,
    pub monthly_cost: Option<MonthlyCost>,
    /// The exemption that it falls under.
    pub exempted_by: Option<String>,
}

impl Finding {
    /// Says that the tags on which it rests could not be read since a moment, which is not known where they were read
    /// before the operator began. Of a finding that is not about tags nothing changes.
    pub fn rests_on_earlier_tags(&mut self, read: Option<Timestamp>) {
        use FindingKind::{OwnershipLost, TagInvalid, TagsMissing, Unmanaged, Untagged};
        if !matches!(self.kind, OwnershipLost | TagInvalid | TagsMissing | Unmanaged | Untagged) {
            return;
        }
        let when = read.map_or_else(|| "an earlier scan".to_owned(), |read| read.to_string());
        self.message = format!("{} (as of {when}: its tags could not be read since)", self.message);
        self.evidence.push(format!("its tags were last read: {when}"));
    }
}

/// What a rule says of one resource.
#[derive(Debug)]
enum Verdict {
    No,
    /// Nobody can tell.
    Unknown,
    Holds(Box<Finding>),
}

impl Verdict {
    fn holds(finding: Finding) -> Self {
        Verdict::Holds(Box::new(finding))
    }
}

/// What holds, and what can't be said.
#[derive(Debug, Default)]
pub struct Evaluation {
    pub findings: Vec<Finding>,
    /// How the resources stand that were asked about and that the viewer can see: what is not in here is no
    /// longer watched.
    pub standing: BTreeMap<ResourceKey, Standing>,
    pub undecided: BTreeSet<(FindingKind, ResourceKey)>,
    /// Whose end is told with another's, or is no news.
    pub grouped: BTreeSet<ResourceKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Present,
    /// It was seen again after an end that is thereby shown to be false.
    Retracted,
    Ended,
    Unknown,
}

/// So long an end is seen that is no finding any more: whoever resolves one must still see how it stands.
const EXPIRED: Duration = Duration::from_hours(7 * 24);

/// Everything that the rules see beside the resource that they are asked about.
struct World<'a> {
    reads: &'a dyn Reads,
    /// Those that others are part of, or are billed with.
    parts: HashMap<&'a ResourceKey, &'a Resource>,
    graph: &'a Graph,
    uses: Uses,
    prices: &'a Prices,
    /// None sees everything.
    covered: Option<BTreeMap<Scope, Cover>>,
    looks: RefCell<HashMap<Scope, Option<Looks>>>,
}

const VOLUME: &str = "AWS::EC2::Volume";

impl<'a> World<'a> {
    fn new(
        reads: &'a dyn Reads,
        resources: &'a [Resource],
        graph: &'a Graph,
        prices: &'a Prices,
        covered: Option<BTreeMap<Scope, Cover>>,
    ) -> Self {
        let is_part = |r: &&Resource| {
            let kind = r.key.resource_type.as_str();
            kind == VOLUME || parents::TYPES.contains(&kind)
        };
        Self {
            reads,
            parts: resources.iter().filter(is_part).map(|r| (&r.key, r)).collect(),
            graph,
            uses: graph.uses(resources),
            prices,
            covered,
            looks: RefCell::default(),
        }
    }

    fn resource(&self, key: &ResourceKey) -> Option<&'a Resource> {
        self.parts.get(key).copied()
    }

    fn lives(&self, key: &ResourceKey) -> bool {
        self.resource(key).is_some_and(Resource::is_live)
    }

    fn ended(&self, key: &ResourceKey) -> Option<Timestamp> {
        self.resource(key).and_then(|r| r.end.as_ref()).map(|end| end.first_missed)
    }

    fn looks(&self, scope: &Scope) -> Option<Looks> {
        if self.covered.as_ref().is_some_and(|covered| !covered.contains_key(scope)) {
            return None;
        }
        if let Some(looks) = self.looks.borrow().get(scope) {
            return looks.clone();
        }
        let looks = self.reads.looks(scope);
        self.looks.borrow_mut().insert(scope.clone(), looks.clone());
        looks
    }

    /// Whole, and twice, an interval apart.
    fn looked_twice(&self, scope: &Scope, since: Timestamp, interval: Duration) -> bool {
        self.looks(scope).is_some_and(|looks| looks.twice_since(since, interval))
    }

    /// Whether one of this type would be seen where `near` is.
    fn is_looked_at(&self, key: &ResourceKey, near: &Resource) -> bool {
        let scope = Scope { resource_type: key.resource_type.clone(), ..Scope::clone(&near.scope) };
        self.looks(&scope).is_some()
    }

    fn parent(&self, resource: &Resource) -> Option<Parent> {
        let in_document = || self.graph.facts(resource).and_then(|facts| facts.parent.as_deref()).cloned();
        parents::in_tags(&resource.key, &resource.tags).or_else(in_document)
    }
}

/// What a rule sees.
struct Input<'a> {
    resource: &'a Resource,
    settings: &'a RuleSettings,
    now: Timestamp,
    /// The revision since which the viewer covers the scope.
    covered_from: Revision,
    world: &'a World<'a>,
    owner: Option<Owner>,
    milestones: OnceCell<Vec<Milestone>>,
}

type Rule = fn(&Input) -> Verdict;

const RULES: [(FindingKind, Rule); 8] = [
    (FindingKind::Disappeared, disappeared::rule),
    // Before `Untagged`, in whose place it stands.
    (FindingKind::OwnershipLost, ownership_lost::rule),
    (FindingKind::Untagged, untagged::rule),
    (FindingKind::TagsMissing, tags_missing::rule),
    (FindingKind::TagInvalid, tag_invalid::rule),
    (FindingKind::Orphaned, orphaned::rule),
    (FindingKind::Unmanaged, unmanaged::rule),
    (FindingKind::DriftedOut, unmanaged::drifted_out),
];

/// Evaluates every rule, and remembers what the documents said.
pub struct Evaluator {
    graph: Graph,
    prices: Arc<Prices>,
}

impl Evaluator {
    pub fn new(prices: Arc<Prices>) -> Self {
        Self { graph: Graph::default(), prices }
    }

    pub fn currency(&self) -> &str {
        &self.prices.currency
    }

    /// Over what `viewer` covers at the snapshot; over everything without a viewer. How the resources in
    /// `asked` stand is told too.
    pub fn evaluate<S>(
        &mut self,
        snapshot: &S,
        viewer: Option<&Viewer>,
        settings: &RuleSettings,
        asked: &BTreeSet<ResourceKey>,
    ) -> Result<Evaluation, <S as Snapshot>::Error>
    where
        S: Snapshot + History<Error = <S as Snapshot>::Error>,
    {
        let ended_since = snapshot.time().minus(settings.keep_disappeared + EXPIRED);
        let filter = Filter { ended_since: Some(ended_since), viewer: viewer.cloned(), ..Filter::default() };
        let resources = snapshot.resources(&filter)?;
        let reading = Reading::of(snapshot);
        self.graph.read(&reading, &resources);
        let covered = viewer.map(|viewer| snapshot.covered(viewer));
        let world = World::new(&reading, &resources, &self.graph, &self.prices, covered);
        let now = snapshot.time();

        let mut out = Evaluation::default();
        let mut gone = Vec::new();
        for resource in &resources {
            let standing = standing(resource);
            if asked.contains(&resource.key) {
                out.standing.insert(resource.key.clone(), standing);
            }
            if standing == Standing::Unknown {
                continue;
            }
            let cover = world.covered.as_ref().and_then(|covered| covered.get(&*resource.scope));
            let input = Input {
                resource,
                settings,
                now,
                covered_from: cover.map_or(Revision::ZERO, |cover| cover.from),
                world: &world,
                owner: owner::of(resource, &world, &settings.ownership),
                milestones: OnceCell::new(),
            };
            let mut lost = false;
            for (kind, rule) in RULES {
                if settings.findings.excluded.contains(&kind) || (kind == FindingKind::Untagged && lost) {
                    continue;
                }
                match rule(&input) {
                    Verdict::No => {}
                    Verdict::Unknown => drop(out.undecided.insert((kind, resource.key.clone()))),
                    Verdict::Holds(mut finding) => {
                        lost |= kind == FindingKind::OwnershipLost;
                        finding.exempted_by = exemption(&settings.exemptions, kind, resource, now);
                        if kind == FindingKind::Disappeared {
                            gone.push((resource, *finding));
                        } else {
                            out.findings.push(*finding);
                        }
                    }
                }
            }
        }
        disappeared::together(&world, gone, &mut out);
        // One that nobody ever saw stands as its parts do.
        for resource in resources.iter().filter(|resource| !resource.is_live()) {
            if let Some(Parent::Known { key, .. }) = world.parent(resource)
                && asked.contains(&key)
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
        // A tombstone stands, whether anybody looked lately or not.
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
    fn is_exempt_from_tag_rules(&self) -> bool {
        let is_named = self.settings.exempt_types.iter().any(|t| t == self.resource.key.resource_type.as_str());
        is_named || self.is_made_by_a_service()
    }

    /// Its document says so: what a service makes and takes away by itself is nobody's to tag.
    fn is_made_by_a_service(&self) -> bool {
        let facts = self.world.graph.facts(self.resource);
        facts.is_some_and(|facts| facts.parent.as_deref() == Some(&Parent::Unseen))
    }

    /// Whether something makes and removes it as it likes.
    fn is_replaced(&self) -> bool {
        matches!(
            self.world.parent(self.resource),
            Some(Parent::Unseen | Parent::Known { role: Role::Replaces, .. })
        )
    }

    fn milestones(&self) -> &[Milestone] {
        // Of the past before it was covered the viewer knows what was so when it began to be.
        self.milestones.get_or_init(|| {
            let mut known = self.world.reads.milestones(self.resource);
            let first = known.iter().rposition(|milestone| milestone.revision <= self.covered_from).unwrap_or(0);
            known.split_off(first)
        })
    }

    /// Whether its tags ever were so.
    fn was(&self, held: impl Fn(&TagSet) -> bool) -> bool {
        self.milestones().iter().any(|milestone| milestone.tags.known().is_some_and(&held))
    }

    /// Since when `holds` is true of the tags without a break, with the policy of today.
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
            is_noticed: false,
            message,
            advice: advice.to_owned(),
            evidence,
            monthly_cost: None,
            exempted_by: None,
        }
    }

    /// "Volume vol-1 (data)": what a person calls it.
    fn called(&self) -> String {
        let key = &self.resource.key;
        let kind = key.resource_type.as_str().rsplit("::").next().unwrap_or_default();
        match self.resource.tags.name().filter(|name| *name != &*key.id) {
            Some(name) => format!("{kind} {} ({name})", key.id),
            None => format!("{kind} {}", key.id),
        }
    }
}

/// Who owns how much of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub resources: usize,
    /// Of those whose tags are known.
    pub unowned: usize,
    /// Nobody could read their tags.
    pub unknown: usize,
    pub by_owner: BTreeMap<String, usize>,
}

/// The owner that a set of tags names by itself.
pub fn owner_in_tags<'a>(tags: &'a TagSet, settings: &OwnershipSettings) -> Option<&'a str> {
    owner::in_tags(tags, settings)
}

/// Ownership by account at the snapshot's moment, of what a filter wants. What takes no tags is not counted.
pub fn coverage<S>(
    snapshot: &S,
    filter: &Filter,
    settings: &OwnershipSettings,
) -> Result<BTreeMap<AccountId, Coverage>, <S as Snapshot>::Error>
where
    S: Snapshot + History<Error = <S as Snapshot>::Error>,
{
    let resources = snapshot.resources(filter)?;
    let reading = Reading::of(snapshot);
    let (graph, prices) = (Graph::default(), Prices::default());
    let world = World::new(&reading, &resources, &graph, &prices, None);
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
