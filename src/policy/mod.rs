//! The rules: pure functions from what is known to what people must act on.
//!
//! One file per rule; each looks at one resource and its milestones under the policy that is asked
//! about, with the time of the snapshot as the only clock. What a rule can't know is undecided: that
//! opens nothing and resolves nothing. [`lifecycle`] turns what holds now into what changes.

mod disappeared;
pub mod lifecycle;
mod tags_missing;
mod untagged;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::inventory::{
    Filter, History, Milestone, Presence, Resource, ResourceKey, Revision, RuleSettings, Scope, ScopeStatus,
    Snapshot, TagSet, Timestamp, Viewer,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FindingKind {
    Disappeared,
    Untagged,
    TagsMissing,
}

impl FindingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Disappeared => "Disappeared",
            FindingKind::Untagged => "Untagged",
            FindingKind::TagsMissing => "TagsMissing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    Low,
    Medium,
    High,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "Low",
            Severity::Medium => "Medium",
            Severity::High => "High",
        }
    }
}

/// A statement that a person should act on, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub severity: Severity,
    pub resource: ResourceKey,
    /// The `Name` tag.
    pub name: Option<String>,
    /// When this life of the resource was first seen, and whether it was there before.
    pub first_seen: Timestamp,
    /// Since when it holds.
    pub since: Timestamp,
    pub revision: Revision,
    pub message: String,
    /// What it rests on, each with its time.
    pub evidence: Vec<String>,
}

/// What a rule sees.
struct Input<'a> {
    resource: &'a Resource,
    milestones: &'a [Milestone],
    settings: &'a RuleSettings,
    now: Timestamp,
    /// The revision since which the viewer covers the scope.
    covered_from: Revision,
}

/// What holds, and what can't be said.
#[derive(Debug, Default)]
pub struct Evaluation {
    pub findings: Vec<Finding>,
    /// How each resource stands that the viewer can see: what is not in here is no longer watched.
    pub standing: BTreeMap<ResourceKey, Standing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Present,
    /// It was seen again after an end that is thereby shown to be false.
    Retracted,
    Ended,
    Unknown,
}

/// So long an end is seen that is no finding any more.
const EXPIRED: Duration = Duration::from_hours(7 * 24);

/// Evaluates every rule over what `viewer` covers at the snapshot; over everything without a viewer.
pub fn evaluate<S>(
    snapshot: &S,
    viewer: Option<&Viewer>,
    settings: &RuleSettings,
) -> Result<Evaluation, <S as Snapshot>::Error>
where
    S: Snapshot + History<Error = <S as Snapshot>::Error>,
{
    // A while longer than they are findings: whoever resolves one must still see how it stands.
    let ended_since = snapshot.time().minus(settings.keep_disappeared + EXPIRED);
    let filter = Filter { ended_since: Some(ended_since), viewer: viewer.cloned(), ..Filter::default() };
    let covers = viewer.map(|viewer| snapshot.covered(viewer));
    let current: BTreeMap<Scope, bool> =
        snapshot.scopes().into_iter().map(|s| (s.scope, s.status == ScopeStatus::Current)).collect();
    let mut out = Evaluation::default();
    for resource in snapshot.resources(&filter)? {
        let known = current.get(&*resource.scope).copied().unwrap_or(false);
        let standing = match (&resource.end, resource.presence) {
            // A tombstone stands, whether anybody looked lately or not.
            (Some(_), _) => Standing::Ended,
            (None, Presence::Present) if resource.retracted => Standing::Retracted,
            (None, Presence::Present) if known => Standing::Present,
            _ => Standing::Unknown,
        };
        out.standing.insert(resource.key.clone(), standing);
        if standing == Standing::Unknown {
            continue;
        }
        let covered_from =
            covers.as_ref().and_then(|c| c.get(&*resource.scope)).map_or(Revision::ZERO, |cover| cover.from);
        let milestones = snapshot.milestones(&resource)?;
        let input =
            Input { resource: &resource, milestones: &milestones, settings, now: snapshot.time(), covered_from };
        let rules = [disappeared::rule, untagged::rule, tags_missing::rule];
        out.findings.extend(rules.into_iter().filter_map(|rule| rule(&input)));
    }
    Ok(out)
}

impl Input<'_> {
    fn is_exempt_from_tag_rules(&self) -> bool {
        self.settings.exempt_types.iter().any(|t| t == self.resource.key.resource_type.as_str())
    }

    /// Since when `holds` is true of the tags without a break, with the policy of today.
    fn since(&self, holds: impl Fn(&TagSet) -> bool) -> (Timestamp, Revision) {
        let mut since = (self.resource.first_seen, self.resource.changed);
        let newest_first = self.milestones.iter().rev();
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
        evidence: Vec<String>,
    ) -> Finding {
        let resource = self.resource;
        Finding {
            kind,
            severity,
            resource: resource.key.clone(),
            name: resource.tags.name().map(str::to_owned),
            first_seen: resource.first_seen,
            since,
            revision,
            message,
            evidence,
        }
    }

    /// "volume vol-1 (data)": what a person calls it.
    fn called(&self) -> String {
        let key = &self.resource.key;
        let kind = key.resource_type.as_str().rsplit("::").next().unwrap_or_default();
        match self.resource.tags.name().filter(|name| *name != &*key.id) {
            Some(name) => format!("{kind} {} ({name})", key.id),
            None => format!("{kind} {}", key.id),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Values that the rules' tables are written with.

    use std::sync::Arc;

    use super::*;
    use crate::inventory::{AccountId, End, EndCause, MilestoneKind, Region, ResourceType, Tags};

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    pub fn tags(pairs: &[(&str, &str)]) -> Tags {
        Tags::Known(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    pub fn volume(tags: Tags) -> Resource {
        let scope = Scope {
            provider: "aws".into(),
            partition: "aws".into(),
            endpoint: "".into(),
            account: AccountId::new("111122223333"),
            region: Region::new("eu-west-1"),
            resource_type: ResourceType::new("AWS::EC2::Volume"),
        };
        Resource {
            key: scope.key("vol-1"),
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

    /// Appeared at 100 with the first set, then one change every 100 s.
    pub fn milestones(sets: &[Tags]) -> Vec<Milestone> {
        let mut before = Tags::Unknown;
        let mut out = Vec::new();
        for (i, set) in (1_u32..).zip(sets) {
            let kind = match i {
                1 => MilestoneKind::Appeared { baseline: true },
                _ => MilestoneKind::TagsChanged { before, after: set.clone() },
            };
            out.push(Milestone {
                revision: Revision(i.into()),
                time: at(i64::from(i) * 100),
                kind,
                tags: set.clone(),
            });
            before = set.clone();
        }
        out
    }

    pub(in crate::policy) fn run(
        rule: fn(&Input) -> Option<Finding>,
        resource: &Resource,
        milestones: &[Milestone],
        settings: &RuleSettings,
        now: i64,
    ) -> Option<Finding> {
        rule(&Input { resource, milestones, settings, now: at(now), covered_from: Revision(1) })
    }
}
