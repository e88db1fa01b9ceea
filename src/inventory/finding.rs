//! The kinds and severities of findings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {
        /// The kind of a finding. Each kind is one row of `policy::RULES`, except `Flapping`, which `policy::lifecycle`
        /// derives from how often another kind begins. Each has a section in docs/findings.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum FindingKind {
            $($kind),+
        }

        impl FindingKind {
            pub const ALL: &[FindingKind] = &[$(FindingKind::$kind),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(FindingKind::$kind => stringify!($kind)),+
                }
            }
        }
    };
}

kinds!(Disappeared, OwnershipLost, Untagged, TagsMissing, TagInvalid, Orphaned, Unmanaged, DriftedOut, Flapping,);

impl FindingKind {
    /// All kinds in a sentence: "A, B and C".
    pub fn list() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
        match names.split_last() {
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }

    /// Whether it says something about tags, and is outdated if they can't be read any more.
    pub fn is_about_tags(self) -> bool {
        use FindingKind::{DriftedOut, OwnershipLost, TagInvalid, TagsMissing, Unmanaged, Untagged};
        matches!(self, OwnershipLost | Untagged | TagsMissing | TagInvalid | Unmanaged | DriftedOut)
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{} is no kind of finding: there are {}", .0, FindingKind::list())]
pub struct KindError(String);

impl FromStr for FindingKind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = FindingKind::ALL.iter().copied().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
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
            assert_eq!(kind.as_str().to_lowercase().parse::<FindingKind>().unwrap(), *kind);
            assert!("x".parse::<FindingKind>().unwrap_err().to_string().contains(kind.as_str()));
        }
    }
}
