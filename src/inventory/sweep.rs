//! Observations and sweeps: what one listing of one scope returned, and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Scope, Tags, Timestamp};

/// One resource as one listing returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The provider's identifier of the resource, unique within the scope.
    pub id: String,
    /// Its tags; `Unknown` if they could not be read this time.
    pub tags: Tags,
    /// The described object in the field names of the service model, without its tags and the fields that the type
    /// declares volatile.
    pub attributes: Document,
    /// The creation time that the cloud reports, for types with such a field.
    pub birth: Option<Timestamp>,
    /// The end state that it was listed in (`terminated`), if any.
    pub end_state: Option<String>,
    /// The parts that could not be read this time, and why. Empty for nearly all resources; empty takes no memory.
    pub unread: Vec<Unread>,
}

impl Observation {
    /// A resource that exists, with nothing else known about it.
    pub fn unread(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            tags: Tags::Unknown,
            attributes: Document::unknown(),
            birth: None,
            end_state: None,
            unread: Vec::new(),
        }
    }
}

/// A part of an existing resource that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unread {
    /// The part that is missing.
    pub part: Part,
    /// Why its call failed.
    pub reason: Reason,
    /// The call that was denied or failed, by its IAM name: `kms:DescribeKey`.
    pub action: String,
}

/// The parts of a resource that take separate calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// All attributes, or those that the listing does not contain.
    Attributes,
    /// The tags of a type that has a call for them, or whose empty tags are verified by a call.
    Tags,
}

/// A described object as canonical JSON text (object fields sorted): equal means unchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Arc<[u8]>);

impl Document {
    /// For an existing resource whose attributes could not be read. A described object is never empty.
    pub fn unknown() -> Self {
        Self::from(&Value::Object(serde_json::Map::new()))
    }

    /// If so, the last known attributes are kept.
    pub fn is_unknown(&self) -> bool {
        &*self.0 == b"{}"
    }

    /// The JSON text, in UTF-8; `{}` if the document is unknown.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        // serde_json's maps are sorted (its `preserve_order` feature is off), so this is canonical.
        Self(serde_json::to_vec(value).expect("a JSON value can be written to memory").into())
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Why a sweep was not complete. A bounded set, used by conditions, events and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The cloud limits the rate of calls, and the retries were limited as well.
    Throttled,
    /// The credentials lack the permission for a call.
    Denied,
    /// A policy of the organization denies a call, whatever the credentials permit.
    DeniedByPolicy,
    /// The credentials belong to another account than the one to be scanned.
    WrongAccount,
    /// The credentials are missing, refused or expired, or the role can't be assumed.
    InvalidCredentials,
    /// The region is not enabled in the account, or does not exist.
    RegionDisabled,
    /// No connection to the endpoint: DNS, network, proxy, or a region that lacks the service.
    Unreachable,
    /// A call exceeded its deadline.
    TimedOut,
    /// The cloud failed, or returned an error that has no other reason here.
    ServerError,
    /// A request, a response or a sequence of pages was not as the service's API model describes it.
    Malformed,
    /// The operator stopped during the sweep, or the store accepted no more of it.
    Interrupted,
}

impl Reason {
    /// The name of the reason, as in conditions, events and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Throttled => "Throttled",
            Reason::Denied => "Denied",
            Reason::DeniedByPolicy => "DeniedByPolicy",
            Reason::WrongAccount => "WrongAccount",
            Reason::InvalidCredentials => "InvalidCredentials",
            Reason::RegionDisabled => "RegionDisabled",
            Reason::Unreachable => "Unreachable",
            Reason::TimedOut => "TimedOut",
            Reason::ServerError => "ServerError",
            Reason::Malformed => "Malformed",
            Reason::Interrupted => "Interrupted",
        }
    }
}

/// How a sweep ended. Only `Complete` may conclude anything from absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every page was read.
    Complete,
    /// Some resources were listed.
    Partial(Reason),
    /// No resources were listed.
    Failed(Reason),
}

impl Outcome {
    /// The name of the outcome, without the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Complete => "Complete",
            Outcome::Partial(_) => "Partial",
            Outcome::Failed(_) => "Failed",
        }
    }

    /// Why the sweep was not complete; `None` if it was.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Outcome::Complete => None,
            Outcome::Partial(reason) | Outcome::Failed(reason) => Some(reason),
        }
    }

    /// Whether something may be concluded from absence.
    pub fn is_complete(self) -> bool {
        self == Outcome::Complete
    }
}

/// Whether an id can be reused for another resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdReuse {
    /// Never (`vol-...`): a resource that is seen after its end never ended.
    Unique,
    /// Never, and several accounts or regions may list it at once: a shared subnet, both ends of a peering.
    Shared,
    /// Yes (bucket names): the birth field separates one life from the next.
    Reusable,
}

/// How an absence is confirmed as an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The API can read one id, and report that it does not exist.
    ReadById,
    /// The API can't: `needed` complete sweeps in a row must miss it, each at least `apart` after the one before.
    Sweeps {
        /// How many sweeps must miss it, at least one.
        needed: u32,
        /// The minimum time between two sweeps that count.
        apart: Duration,
    },
}

/// The minimum time between complete sweeps that confirm each other: a delayed answer repeats itself.
/// `ListSecrets` may be five minutes behind.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html>
pub const CONFIRMATION_SPACING_MIN: Duration = Duration::from_mins(5);

/// The result of reading a missing resource by id. A resource that still exists becomes an observation instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The API reports that there is no resource with this id.
    NotFound,
    /// The read itself failed: whether the resource exists is unknown.
    Unconfirmed,
}

/// One listing of one scope with its outcome, and the results of reading what it missed by id.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// What was listed.
    pub scope: Scope,
    /// When the listing began, by the operator's clock.
    pub started: Timestamp,
    /// When the last call ended, including reads by id, by the operator's clock.
    pub ended: Timestamp,
    /// The interval to the next sweep of this scope that is in force now; `None` for a one-off scan.
    pub cadence: Option<Duration>,
    /// The version of the set of fields that is kept for the type.
    pub shape: u16,
    /// Whether ids of the type can be reused.
    pub ids: IdReuse,
    /// How absences of the type are confirmed.
    pub confirmation: Confirmation,
    /// How the listing ended.
    pub outcome: Outcome,
    /// What the listing and the reads by id returned, in any order. Of two observations with the same id the later
    /// counts.
    pub observations: Vec<Observation>,
    /// Only for ids that the listing missed.
    pub absences: BTreeMap<String, Absence>,
    /// The mass-loss breaker tripped: nothing is concluded from absence in this sweep.
    pub held: bool,
    /// How far the cloud's clock (its `Date` headers) was ahead of ours, negative if behind; zero if they agree
    /// within [`CLOCK_TOLERANCE`].
    pub skew_millis: i64,
}

/// Clocks that differ by more are reported as a condition, and no time is recorded more precisely than both clocks
/// allow.
pub const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_does_not_depend_on_the_order_of_fields() {
        let a: Value = serde_json::from_str(r#"{"a": 1, "b": [1, 2]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b": [1, 2], "a": 1}"#).unwrap();
        assert_eq!(Document::from(&a), Document::from(&b));
        assert_ne!(Document::from(&a), Document::from(&json!({"a": 1, "b": [2, 1]})));
    }
}
