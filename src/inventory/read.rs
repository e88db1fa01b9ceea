//! Queries about the past: the types of the answers, and the traits that `store` implements and `policy` uses.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ResourceKey, Revision, Scope, Subscriber, Tags, Timestamp, TimestampError};

/// The moment of a query. "At T" means the last revision with time <= T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The newest revision, judged by the current time.
    Now,
    /// The state at a revision, and the time of that revision.
    Revision(Revision),
    /// The last revision at or before a time, judged by that time.
    Time(Timestamp),
}

impl FromStr for Moment {
    type Err = TimestampError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s == "now" {
            return Ok(Moment::Now);
        }
        match s.parse::<u64>() {
            Ok(revision) => Ok(Moment::Revision(Revision(revision))),
            Err(_) => s.parse().map(Moment::Time),
        }
    }
}

impl Moment {
    /// Parses user input: what [`Moment::from_str`] accepts, or a time before `now`, such as `2h`, `3 days ago` or
    /// `yesterday`.
    ///
    /// # Errors
    ///
    /// [`TimestampError`] if the text is none of these.
    pub fn read(text: &str, now: Timestamp) -> Result<Self, TimestampError> {
        let text = text.trim();
        if let Ok(moment) = text.parse() {
            return Ok(moment);
        }
        let ago = if text == "yesterday" { "24h" } else { text };
        let span: jiff::Span = ago.parse().map_err(|_| TimestampError::of(text))?;
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let duration = span.to_duration(days).map_err(|_| TimestampError::of(text))?;
        Ok(Moment::Time(now.minus(duration.unsigned_abs())))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Now => f.write_str("now"),
            Moment::Revision(r) => r.fmt(f),
            Moment::Time(t) => t.fmt(f),
        }
    }
}

/// A moment that is retained although its neighbours are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedMoment {
    /// The revision: the last one of a day, or one next to the revisions that a restore skipped.
    pub revision: Revision,
    /// The time of that revision.
    pub time: Timestamp,
}

impl fmt::Display for RetainedMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} ({})", self.revision, self.time)
    }
}

/// The end of the last complete sweep at or before a moment. It is a range if the moment lies inside a run of
/// unchanged sweeps, of which only the longest gap is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The sweep ended no earlier than this.
    pub from: Timestamp,
    /// The sweep ended no later than this; the same as `from` if its end is known exactly.
    pub to: Timestamp,
}

/// Whether a scope can answer "present" or "absent" at a moment. Only `Current` can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScopeStatus {
    /// The last complete sweep is at most three cadences old, or was a one-off scan, which has no cadence.
    Current,
    /// The last complete sweep is more than three cadences ago.
    Stale,
    /// No sweep of the scope was complete yet.
    NeverScanned,
    /// The scope was closed at the moment.
    NotWatched,
}

/// A scope, and how well it is known at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScopeView {
    /// The scope itself.
    pub scope: Scope,
    /// Whether it can answer for its resources.
    pub status: ScopeStatus,
    /// When its last complete sweep ended; `None` if there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
}

/// Whether a resource exists at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// The scope is current, and its last complete sweep listed the resource.
    Present,
    /// The scope is current, and the resource has ended.
    Absent,
    /// The scope is not current, or the resource is a suspect.
    Unknown,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndCause {
    /// It was listed in this end state.
    Listed(String),
    /// A complete sweep missed it, and its absence was confirmed.
    Absent,
    /// Another resource was created under the same id.
    Replaced,
    /// Its id is never reused, and now belongs to this resource.
    Moved(ResourceKey),
}

/// A tombstone. Users see "between last seen and first missed".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How the end came about.
    pub cause: EndCause,
    /// The end of the last complete sweep that listed it; earlier by the difference if the cloud's clock was
    /// behind.
    #[serde(rename = "lastSeen")]
    pub last_seen: Timestamp,
    /// The end of the first sweep that missed it, or listed its end state; later by the difference if the cloud's
    /// clock was ahead.
    #[serde(rename = "firstMissed")]
    pub first_missed: Timestamp,
    /// The time of the revision that records the end.
    pub concluded: Timestamp,
    /// The revision that records the end.
    pub revision: Revision,
}

/// A resource that a complete sweep missed and that is not yet confirmed as gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The end of the last complete sweep that listed it.
    #[serde(rename = "lastSeen")]
    pub last_seen: Timestamp,
    /// The end of the first complete sweep that missed it.
    #[serde(rename = "firstMissed")]
    pub first_missed: Timestamp,
    /// How many sweeps count towards the confirmation of its end so far. Held sweeps do not count.
    pub misses: u32,
    /// The mass-loss breaker holds it.
    pub held: bool,
}

/// One resource at a moment. Its document is read separately: [`Snapshot::attributes`].
#[derive(Clone, Debug)]
pub struct Resource {
    /// The key, which identifies the resource to users.
    pub key: ResourceKey,
    /// The scope that lists it, with the partition and the endpoint that the key does not contain.
    pub scope: Arc<Scope>,
    /// Whether it exists at the moment.
    pub presence: Presence,
    /// The last known tags.
    pub tags: Tags,
    /// When this life was first seen: the end of the sweep that listed it first.
    pub first_seen: Timestamp,
    /// No complete sweep of the scope had ended before it was first seen, so its creation was not observed.
    pub baseline: bool,
    /// The creation time that the cloud reports; `None` if it reports none for the type.
    pub birth: Option<Timestamp>,
    /// The revision of its last change.
    pub changed: Revision,
    /// Set if a complete sweep missed it and its end is not confirmed yet.
    pub suspect: Option<Suspect>,
    /// How this life ended; `None` while it is live.
    pub end: Option<End>,
    /// The end was retracted: the resource was seen again as the same life.
    pub retracted: bool,
}

impl Resource {
    /// Whether this life has not ended. A suspect is live, and so is a resource of a stale scope.
    pub fn is_live(&self) -> bool {
        self.end.is_none()
    }
}

/// Selects the resources of an answer. Empty selects all live resources.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this account; `None` selects all.
    pub account: Option<String>,
    /// Only this region; `None` selects all.
    pub region: Option<String>,
    /// Only this type; `None` selects all.
    pub resource_type: Option<String>,
    /// Only resources with this id, in any scope; `None` selects all.
    pub id: Option<String>,
    /// Only resources that are known to have all of these tags: a key with any value, or with this value.
    pub tags: Vec<(String, Option<String>)>,
    /// Only resources that are known to have no tags except those that the provider sets.
    pub untagged: bool,
    /// Also the last life of each id, if it ended at or after this moment.
    pub ended_since: Option<Timestamp>,
    /// Also scopes that are no longer watched.
    pub include_unwatched: bool,
    /// Only what is visible to this subscriber.
    pub subscriber: Option<Subscriber>,
    /// Only these scopes.
    pub scopes: Option<Arc<BTreeSet<Scope>>>,
}

impl Filter {
    /// Whether a key has the selected account, region, type and id. The other fields are not checked.
    pub fn matches_key(&self, key: &ResourceKey) -> bool {
        let same = |desired: &Option<String>, value: &str| desired.as_deref().is_none_or(|w| w == value);
        same(&self.account, key.account.as_str())
            && same(&self.region, key.region.as_str())
            && same(&self.resource_type, key.resource_type.as_str())
            && same(&self.id, &key.id)
    }

    /// Whether a scope has the selected account, region and type, and is one of [`Filter::scopes`].
    pub fn matches_scope(&self, scope: &Scope) -> bool {
        let same = |desired: &Option<String>, value: &str| desired.as_deref().is_none_or(|w| w == value);
        same(&self.account, scope.account.as_str())
            && same(&self.region, scope.region.as_str())
            && same(&self.resource_type, scope.resource_type.as_str())
            && self.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope))
    }

    /// Whether it leaves out any live resource.
    pub fn is_narrow(&self) -> bool {
        let named = [&self.account, &self.region, &self.resource_type, &self.id];
        named.iter().any(|f| f.is_some()) || !self.tags.is_empty() || self.untagged
    }

    /// Whether tags are as selected. Unknown tags match only if nothing is required of them.
    pub fn matches_tags(&self, tags: &Tags) -> bool {
        let has = |(key, value): &(String, Option<String>)| {
            tags.known().and_then(|set| set.get(key)).is_some_and(|v| value.as_ref().is_none_or(|w| w == v))
        };
        self.tags.iter().all(has) && (!self.untagged || tags.known().is_some_and(is_untagged))
    }
}

/// Prefixes of tag keys that users of a provider can neither add nor remove. They are here and not in
/// [`super::Facts`], because the store's index of untagged resources depends on them.
const RESERVED_TAG_PREFIXES: [&str; 1] = ["aws:"];

/// No tag except those that only the provider itself can set.
pub fn is_untagged(set: &super::TagSet) -> bool {
    set.keys().all(|key| RESERVED_TAG_PREFIXES.iter().any(|prefix| key.starts_with(prefix)))
}

/// What happened to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChangeKind {
    /// A life began, or its end was retracted.
    Appeared,
    /// The document or the tags differ.
    Changed,
    /// A life ended.
    Disappeared,
}

/// One change of a resource, or its net difference between two moments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // independent flags of an answer
pub struct Change {
    /// What happened.
    pub change: ChangeKind,
    /// The resource that it happened to.
    pub resource: ResourceKey,
    /// The revision that records it. Of a net difference: the revision of the last change.
    pub revision: Revision,
    /// The time of that revision.
    pub time: Timestamp,
    /// It existed before the first scan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
    /// One of the two entries of a replacement under the same id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// One of the two entries of a move: the same id in another account or region.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// Where it was before; set on the `Appeared` entry.
    #[serde(default, rename = "movedFrom", skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<ResourceKey>,
    /// A disappearance was retracted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retracted: bool,
    /// How the resource ended. Set if it disappeared, and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The changed fields, those of tags as `Tags.KEY`. Empty if the resource was new or ended; only tags if the
    /// documents are not retained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<super::FieldChange>,
}

impl Change {
    /// A change with only its kind, resource, revision and time.
    pub fn new(change: ChangeKind, resource: ResourceKey, revision: Revision, time: Timestamp) -> Self {
        Self {
            change,
            resource,
            revision,
            time,
            baseline: false,
            replaced: false,
            moved: false,
            moved_from: None,
            retracted: false,
            end: None,
            fields: Vec::new(),
        }
    }

    /// The details beside the kind of change, for people.
    pub fn remark(&self) -> String {
        if let Some(end) = &self.end {
            return match &end.cause {
                EndCause::Listed(state) => format!("listed as {state}, last seen before that {}", end.last_seen),
                EndCause::Absent => format!("between {} and {}", end.last_seen, end.first_missed),
                EndCause::Replaced => "replaced by another under the same id".to_owned(),
                EndCause::Moved(to) => format!("moved: it is {to} now"),
            };
        }
        if let Some(from) = &self.moved_from {
            return format!("moved: it was {from} before");
        }
        match (self.change, self.baseline, self.replaced, self.retracted) {
            (ChangeKind::Appeared, true, ..) => "existed before the first scan".to_owned(),
            (ChangeKind::Appeared, _, true, _) => "replaces another under the same id".to_owned(),
            (ChangeKind::Appeared, _, _, true) => "seen again: it had not disappeared".to_owned(),
            _ => self.fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// Adds how the resource ended.
    #[must_use]
    pub fn ended(self, end: End) -> Self {
        let replaced = end.cause == EndCause::Replaced;
        let moved = matches!(end.cause, EndCause::Moved(_));
        Self { replaced, moved, end: Some(end), ..self }
    }
}

/// The differences between two moments, and the scopes for which they are unknown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Diff {
    /// The revision of the first moment.
    pub from: Revision,
    /// The revision of the second moment.
    pub to: Revision,
    /// Single steps oldest first, or net differences sorted by key.
    pub changes: Vec<Change>,
    /// Scopes that were not current at one of the two moments.
    pub unknown: Vec<ScopeView>,
}

/// What happened at a milestone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MilestoneKind {
    /// The life began.
    Appeared {
        /// It existed before the first scan.
        baseline: bool,
    },
    /// The tags became others, or became known.
    TagsChanged {
        /// The tags until then.
        before: Tags,
        /// The tags from then on.
        after: Tags,
    },
    /// The life ended.
    Ended,
    /// The end was false: the resource was seen again as the same life.
    Retracted,
}

/// A moment that is kept exactly and forever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// The revision that records it.
    pub revision: Revision,
    /// The time of that revision.
    pub time: Timestamp,
    /// What happened.
    pub kind: MilestoneKind,
    /// The tags from here on.
    pub tags: Tags,
}

/// Since when a scope is visible to a subscriber, and when that was last proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visibility {
    /// The revision from which on the subscriber sees the scope.
    pub from: Revision,
    /// When a complete sweep with the subscriber's own credentials was last recorded.
    pub proven: Timestamp,
}

/// The newest run of complete sweeps of a scope: when the first and the last of them began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteSweeps {
    /// When the first sweep of the run began.
    pub first: Timestamp,
    /// When the last sweep of the run began, as far as it is known at the moment: equal to `first` if the run goes
    /// on after it.
    pub last: Timestamp,
    /// The longest time between the ends of two consecutive sweeps of the run; zero for a single sweep.
    pub longest_gap: Duration,
    /// When complete sweeps of earlier runs began, as far as known: a scope that is swept less and less often has
    /// a run for each cadence.
    pub earlier: Vec<Timestamp>,
}

impl CompleteSweeps {
    /// Whether two sweeps could have seen the resource: a complete sweep began after `moment`, and another one at
    /// least `apart` later. Within a run only the longest gap is known, so the result may turn true one sweep too
    /// late.
    pub fn has_two_sweeps_since(&self, moment: Timestamp, apart: Duration) -> bool {
        let first = if self.first > moment { self.first } else { moment.plus(self.longest_gap) };
        let first = self.earlier.iter().copied().filter(|began| *began > moment).fold(first, Timestamp::min);
        self.last >= first.plus(apart)
    }
}

/// The document of one resource from a revision on.
#[derive(Clone, Debug)]
pub struct Version {
    /// The revision that records the document.
    pub revision: Revision,
    /// The time of that revision.
    pub time: Timestamp,
    /// The described object, without its tags.
    pub attributes: Value,
}

/// State at one moment.
pub trait Snapshot {
    /// Why a read failed.
    type Error;

    /// The revision of the state.
    fn revision(&self) -> Revision;
    /// The moment of the snapshot.
    fn time(&self) -> Timestamp;
    /// All scopes that were ever watched until then, with their status at the moment.
    fn scopes(&self) -> Vec<ScopeView>;
    /// Sorted by key.
    fn resources(&self, filter: &Filter) -> Result<Vec<Resource>, Self::Error>;
    /// The described object of a resource of this snapshot, without its tags; an empty object if it was never
    /// read.
    fn attributes(&self, resource: &Resource) -> Result<Value, Self::Error>;
    /// The scopes that the subscriber has proven its own credentials on, with the revision since when.
    fn visible(&self, subscriber: &Subscriber) -> std::collections::BTreeMap<Scope, Visibility>;
    /// `None` unless the scope is current.
    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps>;
    /// The time of a revision that the snapshot's resources or changes name.
    fn time_of(&self, revision: Revision) -> Result<Timestamp, Self::Error>;

    /// The scopes whose part of the answer is unknown.
    fn not_current(&self) -> BTreeSet<Scope> {
        self.scopes().into_iter().filter(|s| s.status != ScopeStatus::Current).map(|s| s.scope).collect()
    }
}

/// The history of one resource.
pub trait History {
    /// Why a read failed.
    type Error;

    /// Oldest first, up to the moment of the snapshot.
    fn milestones(&self, resource: &Resource) -> Result<Vec<Milestone>, Self::Error>;
    /// The retained documents of this life, newest first, as long as `more` returns true.
    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool) -> Result<(), Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-24T08:30:00Z".parse().unwrap();
        for (text, desired) in [
            ("now", Moment::Now),
            ("41", Moment::Revision(Revision(41))),
            ("2026-11-24T08:30:00Z", Moment::Time(now)),
            ("2h", Moment::Time("2026-11-24T06:30:00Z".parse().unwrap())),
            ("2h ago", Moment::Time("2026-11-24T06:30:00Z".parse().unwrap())),
            ("1 day 30 minutes ago", Moment::Time("2026-11-23T08:00:00Z".parse().unwrap())),
            ("yesterday", Moment::Time("2026-11-23T08:30:00Z".parse().unwrap())),
            ("3d", Moment::Time("2026-11-21T08:30:00Z".parse().unwrap())),
        ] {
            assert_eq!(Moment::read(text, now).unwrap(), desired, "{text}");
        }
        for bad in ["", "soon", "2 months", "-", "2026-11-24"] {
            assert!(Moment::read(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn twice_is_two_sweeps_an_interval_apart_that_both_began_after_the_moment() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let complete_sweeps = |first, last, gap: u64| CompleteSweeps {
            first: at(first),
            last: at(last),
            longest_gap: Duration::from_secs(gap),
            earlier: Vec::new(),
        };
        for (complete_sweeps, moment, expected) in [
            (complete_sweeps(100, 100, 0), 50, false), // one sweep
            (complete_sweeps(100, 399, 299), 50, false),
            (complete_sweeps(100, 400, 300), 50, true),
            (complete_sweeps(100, 400, 300), 100, false), // the first began no later than the moment
            (complete_sweeps(100, 700, 300), 100, true),
            (complete_sweeps(100, 100_000, 300), 99_500, false),
        ] {
            let twice = complete_sweeps.has_two_sweeps_since(at(moment), Duration::from_mins(5));
            assert_eq!(twice, expected, "{complete_sweeps:?} since {moment}");
        }
        // Runs of one sweep each: a scope whose cadence changes every time.
        let rare = CompleteSweeps { earlier: vec![at(100), at(400)], ..complete_sweeps(1000, 1000, 0) };
        let twice = |moment| rare.has_two_sweeps_since(at(moment), Duration::from_mins(5));
        assert_eq!((twice(50), twice(399), twice(400)), (true, true, false));
    }
}
