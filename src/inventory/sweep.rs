//! Observations and sweeps: what one listing of one scope showed, and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Scope, Tags, Timestamp};

/// One resource as one listing showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub id: String,
    pub tags: Tags,
    /// The described object in the service model's own names, without its tags and without the
    /// fields that the type declares volatile.
    pub attributes: Document,
    /// When the cloud says that it was made, for types that have such a field.
    pub birth: Option<Timestamp>,
    /// The end state that it was listed in (`terminated`), if it was.
    pub end_state: Option<String>,
    /// What of it could not be read this time, and why. Empty for nearly all, and then it takes no memory.
    pub unread: Vec<Unread>,
}

impl Observation {
    /// Of a resource that is there, without anything else that is known of it.
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

/// A part of a resource that could not be read although the resource is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unread {
    pub part: Part,
    pub reason: Reason,
    /// The call that was refused or failed, as IAM names it: `kms:DescribeKey`.
    pub action: String,
}

/// The parts of a resource that take calls of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// All of them, or those that the listing does not have.
    Attributes,
    Tags,
}

/// A described object as canonical JSON text (the fields of objects in order): equal means unchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Arc<[u8]>);

impl Document {
    /// Of a resource that is there although nobody could read its attributes. A described object is never empty.
    pub fn unknown() -> Self {
        Self::from(&Value::Object(serde_json::Map::new()))
    }

    /// What was known before goes on.
    pub fn is_unknown(&self) -> bool {
        &*self.0 == b"{}"
    }

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

/// Why a sweep was not complete. A bounded set: conditions, events and metric labels all use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    Throttled,
    Denied,
    DeniedByPolicy,
    WrongAccount,
    InvalidCredentials,
    RegionDisabled,
    Unreachable,
    TimedOut,
    ServerError,
    Malformed,
    Interrupted,
}

impl Reason {
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
    Complete,
    /// Some of it was seen.
    Partial(Reason),
    /// None of it was seen.
    Failed(Reason),
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Complete => "Complete",
            Outcome::Partial(_) => "Partial",
            Outcome::Failed(_) => "Failed",
        }
    }

    pub fn reason(self) -> Option<Reason> {
        match self {
            Outcome::Complete => None,
            Outcome::Partial(reason) | Outcome::Failed(reason) => Some(reason),
        }
    }

    pub fn is_complete(self) -> bool {
        self == Outcome::Complete
    }
}

/// Whether ids of a type can come back for another thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdReuse {
    /// Never (`vol-...`): what is seen again after its end never ended.
    Unique,
    /// Never, and it may be listed in several accounts or regions at once: a shared subnet, both ends of a peering.
    Shared,
    /// Yes (bucket names): the birth field tells one life from the next.
    Reusable,
}

/// How an absence becomes an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The API can be asked for one id, and says that it does not exist.
    ReadById,
    /// It can't: so many complete sweeps in a row must miss it, each so long after the one before.
    Sweeps { needed: u32, apart: Duration },
}

/// Complete sweeps that are to confirm each other lie at least so far apart: an answer that is behind shows the same
/// twice. `ListSecrets` may be five minutes behind.
/// <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html>
pub const SWEEPS_APART: Duration = Duration::from_mins(5);

/// What the read by id of a missing resource said. One that is still there is an observation instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    NotFound,
    /// The read itself failed: neither here nor there.
    Unconfirmed,
}

/// One listing of one scope with its outcome, and what was asked again about what it missed.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub scope: Scope,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// The time until the next sweep of this scope that is in force now; none for a one-off scan.
    pub cadence: Option<Duration>,
    /// The version of the set of fields that the type keeps.
    pub shape: u16,
    pub ids: IdReuse,
    pub confirmation: Confirmation,
    pub outcome: Outcome,
    pub observations: Vec<Observation>,
    /// Only for ids that the listing missed.
    pub absences: BTreeMap<String, Absence>,
    /// The mass-loss breaker tripped: this sweep concludes nothing from absence.
    pub held: bool,
    /// How far the cloud's clock (its `Date` headers) was ahead of ours, negative for behind; zero where
    /// the two agree within [`CLOCK_TOLERANCE`].
    pub skew_millis: i64,
}

/// Clocks that differ by more are a condition, and nothing is dated more precisely than both allow.
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
