//! Observations and sweeps: what one listing of one scope showed, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Scope, Tags, Timestamp};

/// One resource as one listing showed it.
#[derive(Clone, Debug)]
pub struct Observation {
    pub id: String,
    pub tags: Tags,
    /// The described object in the service model's own names, without its tags and without the
    /// fields that the type declares volatile.
    pub attributes: Value,
    /// When the cloud says that it was made, for types that have such a field.
    pub birth: Option<Timestamp>,
    /// The end state that it was listed in (`terminated`), if it was.
    pub end_state: Option<String>,
}

/// 16 bytes of BLAKE3 over the canonical JSON (object keys sorted): equal means unchanged.
pub fn fingerprint(attributes: &Value) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    // serde_json's maps are sorted (its `preserve_order` feature is off), so this is canonical.
    serde_json::to_writer(&mut hasher, attributes).expect("hashing a JSON value does no I/O");
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
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
    /// Yes (bucket names): the birth field tells one life from the next.
    Reusable,
}

/// How an absence becomes an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The API can be asked for one id, and says that it does not exist.
    ReadById,
    /// It can't: so many complete sweeps in a row must miss it.
    Sweeps(u32),
}

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
    pub shape: u32,
    pub ids: IdReuse,
    pub confirmation: Confirmation,
    pub outcome: Outcome,
    pub observations: Vec<Observation>,
    /// Only for ids that the listing missed.
    pub absences: BTreeMap<String, Absence>,
    /// The mass-loss breaker tripped: this sweep concludes nothing from absence.
    pub held: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_fingerprint_does_not_depend_on_the_order_of_fields() {
        let a: Value = serde_json::from_str(r#"{"a": 1, "b": [1, 2]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"b": [1, 2], "a": 1}"#).unwrap();
        assert_eq!(fingerprint(&a), fingerprint(&b));
        assert_ne!(fingerprint(&a), fingerprint(&json!({"a": 1, "b": [2, 1]})));
    }
}
