//! The plain settings of the rules: `api` converts the policy of a CloudScan into these.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Expression, FindingKind, ResourceKey, TagSet, Tags, Timestamp};

/// A tag key that must be present, under its own name or an alias.
#[derive(Clone, Debug)]
pub struct RequiredTag {
    /// The key under which the tag is reported as missing.
    pub key: String,
    /// Other keys that count as well. Empty for none.
    pub aliases: Vec<String>,
    /// A value that does not match is a `TagInvalid` finding.
    pub pattern: Option<Expression>,
}

/// Which findings are published, and for how long.
#[derive(Clone, Debug)]
pub struct FindingSettings {
    /// The maximum number of findings that are published as open at once; the rest are only counted.
    pub max_open: usize,
    /// How long a resolved finding is kept before its object is deleted.
    pub keep_resolved: Duration,
    /// Kinds of findings that are disabled.
    pub excluded: BTreeSet<FindingKind>,
    /// How long a cause must last before it is a finding.
    pub grace: BTreeMap<FindingKind, Duration>,
}

impl RuleSettings {
    /// The memory that the compiled expressions take.
    pub fn expression_bytes(&self) -> usize {
        self.required_tags.iter().filter_map(|tag| tag.pattern.as_ref()).map(Expression::bytes).sum()
    }
}

impl FindingSettings {
    /// How long a cause of this kind must last; zero if nothing is set.
    pub fn grace(&self, kind: FindingKind) -> Duration {
        self.grace.get(&kind).copied().unwrap_or_default()
    }
}

/// Matches a tag by its key, which may end in `*`, and by its value if one is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMatch {
    /// The key, or its beginning followed by `*`. No other wildcard has a meaning.
    pub key: String,
    /// The exact value; `None` matches any.
    pub value: Option<String>,
}

impl TagMatch {
    /// Matches a key, or its beginning followed by `*`, with any value.
    pub fn key(key: &str) -> Self {
        Self { key: key.to_owned(), value: None }
    }

    /// Whether at least one tag of the set matches.
    pub fn matches(&self, tags: &TagSet) -> bool {
        let is_value = |value: &str| self.value.as_deref().is_none_or(|desired| desired == value);
        match self.key.strip_suffix('*') {
            Some(prefix) => tags.iter().any(|(key, value)| key.starts_with(prefix) && is_value(value)),
            None => tags.get(&self.key).is_some_and(is_value),
        }
    }
}

/// Selects resources by their properties. An empty field matches all.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// Names of types, exactly.
    pub types: Vec<String>,
    /// Ids of accounts, exactly.
    pub accounts: Vec<String>,
    /// Names of regions, exactly.
    pub regions: Vec<String>,
    /// All of these must match.
    pub tags: Vec<TagMatch>,
    /// Matches the whole resource key.
    pub key: Option<Expression>,
}

impl Selector {
    /// Whether the resource with this key and these tags is selected. Unknown tags match only if no tags are
    /// required.
    pub fn matches(&self, key: &ResourceKey, tags: &Tags) -> bool {
        let named = |list: &[String], value: &str| list.is_empty() || list.iter().any(|item| item == value);
        named(&self.types, key.resource_type.as_str())
            && named(&self.accounts, key.account.as_str())
            && named(&self.regions, key.region.as_str())
            && self.key.as_ref().is_none_or(|pattern| pattern.is_match(&key.to_string()))
            && self.tags.iter().all(|tag| tags.known().is_some_and(|set| tag.matches(set)))
    }
}

/// Findings that a user has exempted from action, and until when.
#[derive(Clone, Debug)]
pub struct Exemption {
    /// The name of the object that declares it, as findings name it.
    pub name: String,
    /// The kinds that are exempted. Empty for all.
    pub kinds: Vec<FindingKind>,
    /// The resources that are exempted.
    pub selector: Selector,
    /// The time from which on it no longer applies; `None` for never.
    pub expires: Option<Timestamp>,
}

/// Where an owner is read from. The first source that names an owner is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OwnerSource {
    /// The resource's own tags.
    Tags,
    /// The tags of its CloudFormation stack.
    Stack,
    /// The tags of its Auto Scaling group.
    AutoScalingGroup,
    /// The tags of its EKS cluster.
    Cluster,
    /// The Kubernetes volume claim that it was created for: `namespace/name`.
    VolumeClaim,
    /// The account's default.
    Account,
}

impl OwnerSource {
    /// All sources, in the default order.
    pub const ALL: [OwnerSource; 6] = [
        OwnerSource::Tags,
        OwnerSource::Stack,
        OwnerSource::AutoScalingGroup,
        OwnerSource::Cluster,
        OwnerSource::VolumeClaim,
        OwnerSource::Account,
    ];

    /// The name of the source, as in specs and findings.
    pub fn as_str(self) -> &'static str {
        match self {
            OwnerSource::Tags => "Tags",
            OwnerSource::Stack => "Stack",
            OwnerSource::AutoScalingGroup => "AutoScalingGroup",
            OwnerSource::Cluster => "Cluster",
            OwnerSource::VolumeClaim => "VolumeClaim",
            OwnerSource::Account => "Account",
        }
    }
}

/// Also kept in the store, so that a coverage query uses the same settings at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnershipSettings {
    /// The sources that are used, in this order.
    pub sources: Vec<OwnerSource>,
    /// The first of these tags with a value names the owner.
    pub tag_keys: Vec<String>,
    /// The default owners, by account id.
    pub accounts: BTreeMap<String, String>,
}

impl Default for OwnershipSettings {
    fn default() -> Self {
        Self {
            sources: OwnerSource::ALL.to_vec(),
            tag_keys: ["owner", "Owner", "team", "Team"].map(str::to_owned).to_vec(),
            accounts: BTreeMap::new(),
        }
    }
}

/// How much may be missing at once before the sweep is doubted rather than the cloud.
#[derive(Clone, Copy, Debug)]
pub struct LossLimits {
    /// The share of the live resources, from 0 to 100, that may be missing.
    pub percent: u32,
    /// With fewer missing resources the share does not matter.
    pub minimum: u32,
}

impl LossLimits {
    /// The default limits.
    pub const DEFAULT: LossLimits = LossLimits { percent: 20, minimum: 10 };

    /// The strictest of both, for a scope that two CloudScans share.
    #[must_use]
    pub fn strictest(self, other: LossLimits) -> LossLimits {
        LossLimits { percent: self.percent.min(other.percent), minimum: self.minimum.min(other.minimum) }
    }

    /// Whether `missing` of `live` resources is more than may be missing at once.
    pub fn exceeded(self, missing: usize, live: usize) -> bool {
        missing >= self.minimum as usize && missing * 100 > live * self.percent as usize
    }
}

/// The settings of all rules for one CloudScan.
#[derive(Clone, Debug)]
pub struct RuleSettings {
    /// The interval between sweeps.
    pub interval: Duration,
    /// The tags that each taggable resource must have. Empty: the rules `TagsMissing` and `TagInvalid` find
    /// nothing.
    pub required_tags: Vec<RequiredTag>,
    /// Types that the tag rules skip.
    pub exempt_types: Vec<String>,
    /// How long a `Disappeared` finding stays open.
    pub keep_disappeared: Duration,
    /// Ends that are not reported.
    pub ignored_ends: Vec<Selector>,
    /// How owners are determined.
    pub ownership: OwnershipSettings,
    /// Tags that show that infrastructure as code manages a resource. `None`: these rules are disabled.
    pub managed_by: Option<Vec<TagMatch>>,
    /// How long an instance must be stopped before it counts as unused.
    pub stopped_for: Duration,
    /// The exemptions of the namespace; the first that applies is named. Expired ones have no effect.
    pub exemptions: Vec<Exemption>,
    /// Which findings are published, and for how long.
    pub findings: FindingSettings,
}

impl Default for RuleSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            interval: Duration::from_mins(5),
            required_tags: Vec::new(),
            exempt_types: Vec::new(),
            keep_disappeared: 7 * DAY,
            ignored_ends: Vec::new(),
            ownership: OwnershipSettings::default(),
            managed_by: None,
            stopped_for: 7 * DAY,
            exemptions: Vec::new(),
            findings: FindingSettings {
                max_open: 2000,
                keep_resolved: DAY,
                excluded: BTreeSet::new(),
                grace: BTreeMap::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_lets_through_what_all_of_it_names() {
        let key: ResourceKey = "aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-1".parse().unwrap();
        let tags = Tags::Known([("team", "a"), ("k8s.io/cluster", "x")].into_iter().collect());
        let tag =
            |key: &str, value: Option<&str>| TagMatch { key: key.to_owned(), value: value.map(str::to_owned) };
        let with = |tags: &[TagMatch]| Selector { tags: tags.to_vec(), ..Selector::default() };
        for (selector, expected) in [
            (Selector::default(), true),
            (with(&[tag("team", None)]), true),
            (with(&[tag("team", Some("b"))]), false),
            (with(&[tag("team", Some("a")), tag("k8s.io/*", None)]), true),
            (with(&[tag("k8s*", Some("y"))]), false),
            (Selector { regions: vec!["eu-west-2".to_owned()], ..Selector::default() }, false),
            (Selector { key: Expression::whole("aws/.*/vol-.*").ok(), ..Selector::default() }, true),
            (Selector { key: Expression::whole("aws/.*/vol-2").ok(), ..Selector::default() }, false),
        ] {
            assert_eq!(selector.matches(&key, &tags), expected, "{selector:?}");
        }
        assert!(!with(&[tag("team", None)]).matches(&key, &Tags::Unknown), "what is not known matches nothing");
    }

    #[test]
    fn the_breaker_needs_both_the_share_and_the_number() {
        let limits = LossLimits::DEFAULT;
        assert!(!limits.exceeded(9, 9), "a handful is not a mass");
        assert!(!limits.exceeded(20, 100), "exactly the share is allowed");
        assert!(limits.exceeded(21, 100));
        assert!(limits.exceeded(10, 10));
    }
}
