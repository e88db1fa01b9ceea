//! Values for the rules' test tables, and a fake snapshot made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Evaluation, Evaluator, Finding, Prices};
use crate::cloud::Provider;
use crate::cloud::aws::Aws;
use crate::inventory::{
    AccountId, CompleteSweeps, End, EndCause, Expression, Facts, Filter, FindingKind, History, Milestone,
    MilestoneKind, Presence, Region, RequiredTag, Resource, ResourceType, Revision, RuleSettings, Scope,
    ScopeStatus, ScopeView, Snapshot, Subscriber, Tags, Timestamp, Version, Visibility,
};

/// The rules are tested with what AWS supplies.
pub fn facts() -> Facts {
    Facts::of([Aws::default().facts()])
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    Tags::Known(pairs.iter().copied().collect())
}

pub fn volume(tags: Tags) -> Resource {
    of_type("AWS::EC2::Volume", "vol-1", tags)
}

/// First seen at 100 s, in revision 1.
pub fn of_type(resource_type: &str, id: &str, tags: Tags) -> Resource {
    let scope = Scope {
        provider: "aws".into(),
        partition: "aws".into(),
        endpoint: "".into(),
        account: AccountId::new("111122223333"),
        region: Region::new("eu-west-1"),
        resource_type: ResourceType::new(resource_type),
    };
    Resource {
        key: scope.key(id),
        scope: Arc::new(scope),
        presence: Presence::Present,
        tags,
        first_seen: at(100),
        baseline: true,
        birth: None,
        changed: Revision(1),
        suspect: None,
        end: None,
        retracted: false,
    }
}

pub fn ended(mut resource: Resource, concluded: i64, revision: u64) -> Resource {
    resource.presence = Presence::Absent;
    resource.end = Some(End {
        cause: EndCause::Absent,
        last_seen: at(concluded - 600),
        first_missed: at(concluded - 300),
        concluded: at(concluded),
        revision: Revision(revision),
    });
    resource
}

/// `Owner` or an alias, and a `CostCenter` of four digits.
pub fn requiring() -> RuleSettings {
    let required = |key: &str, aliases: &[&str], pattern: Option<&str>| RequiredTag {
        key: key.to_owned(),
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        pattern: pattern.map(|p| Expression::whole(p).unwrap()),
    };
    RuleSettings {
        required_tags: vec![
            required("Owner", &["owner", "team"], None),
            required("CostCenter", &[], Some("^(?:[0-9]{4})$")),
        ],
        ..RuleSettings::default()
    }
}

struct Placed {
    resource: Resource,
    /// Oldest first: from revision 1 on, one every 100 s.
    versions: Vec<Value>,
    milestones: Vec<Milestone>,
}

/// A fake snapshot. Every scope was swept completely from 50 s on, every 300 s.
pub struct Bed {
    placed: Vec<Placed>,
    without_scan_of: BTreeSet<String>,
    swept_until: Option<i64>,
    settings: RuleSettings,
}

impl Bed {
    pub fn of(resource: Resource) -> Self {
        let bed = Bed {
            placed: Vec::new(),
            without_scan_of: BTreeSet::new(),
            swept_until: None,
            settings: RuleSettings::default(),
        };
        bed.and(resource, json!({}))
    }

    pub fn and(mut self, resource: Resource, document: Value) -> Self {
        self.placed.push(Placed { resource, versions: vec![document], milestones: Vec::new() });
        self
    }

    pub fn with_settings(self, settings: RuleSettings) -> Self {
        Self { settings, ..self }
    }

    /// Sets the documents of the last added resource, oldest first.
    pub fn with_versions(mut self, versions: &[Value]) -> Self {
        let placed = self.placed.last_mut().unwrap();
        placed.versions = versions.to_vec();
        placed.resource.changed = Revision(versions.len() as u64);
        self
    }

    /// Sets the milestones of the last added resource: appeared at 100 s with the first set, then one change every
    /// 100 s.
    pub fn with_milestones(mut self, sets: &[Tags]) -> Self {
        let mut before = Tags::Unknown;
        let placed = self.placed.last_mut().unwrap();
        for (i, set) in (1_u32..).zip(sets) {
            let kind = match i {
                1 => MilestoneKind::Appeared { baseline: true },
                _ => MilestoneKind::TagsChanged { before, after: set.clone() },
            };
            let time = at(i64::from(i) * 100);
            placed.milestones.push(Milestone { revision: Revision(i.into()), time, kind, tags: set.clone() });
            before = set.clone();
        }
        self
    }

    /// This type could not be scanned.
    pub fn without_scan_of(mut self, resource_type: &str) -> Self {
        self.without_scan_of.insert(resource_type.to_owned());
        self
    }

    /// When the last sweep began.
    pub fn swept_until(self, seconds: i64) -> Self {
        Self { swept_until: Some(seconds), ..self }
    }

    pub fn evaluate(&self, now: i64) -> Evaluation {
        let viewed = FixtureSnapshot { bed: self, now: at(now) };
        let requested = self.placed.iter().map(|placed| placed.resource.key.clone()).collect();
        let mut evaluator = Evaluator::new(facts(), Arc::new(Prices::parse(PRICES).unwrap()));
        evaluator.evaluate(&viewed, Some(&Subscriber::new("a/b")), &self.settings, &requested).unwrap()
    }

    pub fn findings(&self, kind: FindingKind, now: i64) -> Vec<Finding> {
        self.evaluate(now).findings.into_iter().filter(|finding| finding.kind == kind).collect()
    }
}

const PRICES: &str = "
currency: USD
asOf: 2026-11-01
prices:
  - {item: ebs.gp3, region: eu-west-1, unit: GB-month, price: 0.1}
  - {item: ipv4, region: '*', unit: hour, price: 0.01}
";

struct FixtureSnapshot<'a> {
    bed: &'a Bed,
    now: Timestamp,
}

impl FixtureSnapshot<'_> {
    fn placed(&self, resource: &Resource) -> &Placed {
        self.bed.placed.iter().find(|placed| placed.resource.key == resource.key).unwrap()
    }
}

impl Snapshot for FixtureSnapshot<'_> {
    type Error = Infallible;

    fn revision(&self) -> Revision {
        Revision(9)
    }

    fn time(&self) -> Timestamp {
        self.now
    }

    fn scopes(&self) -> Vec<ScopeView> {
        let scopes: BTreeSet<Scope> =
            self.bed.placed.iter().map(|placed| Scope::clone(&placed.resource.scope)).collect();
        let view = |scope| ScopeView { scope, status: ScopeStatus::Current, watermark: None };
        scopes.into_iter().map(view).collect()
    }

    fn resources(&self, filter: &Filter) -> Result<Vec<Resource>, Infallible> {
        let desired = |r: &Resource| {
            r.end.as_ref().is_none_or(|end| filter.ended_since.is_some_and(|since| end.concluded >= since))
        };
        Ok(self.bed.placed.iter().map(|placed| placed.resource.clone()).filter(desired).collect())
    }

    fn attributes(&self, resource: &Resource) -> Result<Value, Infallible> {
        Ok(self.placed(resource).versions.last().cloned().unwrap_or_default())
    }

    /// Everything in the account and region of the first resource, from revision 1 on.
    fn visible(&self, _: &Subscriber) -> BTreeMap<Scope, Visibility> {
        let scope = &self.bed.placed[0].resource.scope;
        let placed = self.bed.placed.iter().map(|placed| placed.resource.key.resource_type.as_str());
        let facts = facts();
        let known: Vec<&str> =
            facts.provider(&self.bed.placed[0].resource.key).unwrap().types.keys().copied().collect();
        let types = known.into_iter().chain(placed);
        let visible = |resource_type: &str| {
            let scope = Scope { resource_type: ResourceType::new(resource_type), ..Scope::clone(scope) };
            (scope, Visibility { from: Revision(1), proven: at(0) })
        };
        types.map(visible).collect()
    }

    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps> {
        if self.bed.without_scan_of.contains(scope.resource_type.as_str()) {
            return None;
        }
        let last = self.bed.swept_until.map_or(self.now, at);
        Some(CompleteSweeps {
            first: at(50),
            last,
            longest_gap: std::time::Duration::from_mins(5),
            earlier: Vec::new(),
        })
    }

    fn time_of(&self, revision: Revision) -> Result<Timestamp, Infallible> {
        Ok(at(i64::try_from(revision.0).unwrap() * 100))
    }
}

impl History for FixtureSnapshot<'_> {
    type Error = Infallible;

    fn milestones(&self, resource: &Resource) -> Result<Vec<Milestone>, Infallible> {
        Ok(self.placed(resource).milestones.clone())
    }

    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool) -> Result<(), Infallible> {
        let versions = &self.placed(resource).versions;
        for (i, document) in versions.iter().enumerate().rev() {
            let i = u32::try_from(i + 1).unwrap();
            let version = Version {
                revision: Revision(i.into()),
                time: at(i64::from(i) * 100),
                attributes: document.clone(),
            };
            if !more(version) {
                break;
            }
        }
        Ok(())
    }
}
