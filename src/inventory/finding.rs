//! The kinds and severities of findings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kind of a finding. Each kind has a rule in `policy/` (`Unmanaged` and `DriftedOut` share a file), except `Flapping`, which
/// `policy::lifecycle` derives from how often another kind begins. Each has a section in docs/findings.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FindingKind {
    Disappeared,
    OwnershipLost,
    Untagged,
    TagsMissing,
    TagInvalid,
    Orphaned,
    Unmanaged,
    DriftedOut,
    Flapping,
}

impl FindingKind {
    pub const ALL: [FindingKind; 9] = [
        FindingKind::Disappeared,
        FindingKind::OwnershipLost,
        FindingKind::Untagged,
        FindingKind::TagsMissing,
        FindingKind::TagInvalid,
        FindingKind::Orphaned,
        FindingKind::Unmanaged,
        FindingKind::DriftedOut,
        FindingKind::Flapping,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Disappeared => "Disappeared",
            FindingKind::OwnershipLost => "OwnershipLost",
            FindingKind::Untagged => "Untagged",
            FindingKind::TagsMissing => "TagsMissing",
            FindingKind::TagInvalid => "TagInvalid",
            FindingKind::Orphaned => "Orphaned",
            FindingKind::Unmanaged => "Unmanaged",
            FindingKind::DriftedOut => "DriftedOut",
            FindingKind::Flapping => "Flapping",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is no kind of finding: there are Disappeared, OwnershipLost, Untagged, TagsMissing, TagInvalid, Orphaned, Unmanaged, DriftedOut and Flapping"
)]
pub struct KindError(String);

impl FromStr for FindingKind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = FindingKind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| KindError(text.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_from_its_name_and_others_are_refused_with_the_list() {
        for kind in FindingKind::ALL {
            assert_eq!(kind.as_str().to_lowercase().parse::<FindingKind>().unwrap(), kind);
            assert!("x".parse::<FindingKind>().unwrap_err().to_string().contains(kind.as_str()));
        }
    }
}
