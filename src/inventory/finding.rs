//! The kinds and severities of findings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        /// The kind of a finding. Each kind is one row of `policy::RULES`, except `Flapping`, which `policy::lifecycle`
        /// derives from how often another kind begins. Each has a section in docs/findings.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum FindingKind {
            $($(#[$doc])* $kind),+
        }

        impl FindingKind {
            /// All kinds, in the order in which the documentation lists them.
            pub const ALL: &[FindingKind] = &[$(FindingKind::$kind),+];

            /// The name of the kind, as in specs, statuses and metric labels.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(FindingKind::$kind => stringify!($kind)),+
                }
            }
        }
    };
}

kinds!(
    /// The resource ended.
    Disappeared,
    /// The tags of the resource named an owner, and now nothing does.
    OwnershipLost,
    /// The resource has no tags except those that the provider sets.
    Untagged,
    /// The resource lacks required tags, or their values are empty.
    TagsMissing,
    /// A required tag is present, and its value does not match its pattern.
    TagInvalid,
    /// The resource costs money or is in the way, and no scanned resource uses it.
    Orphaned,
    /// The resource appeared after the first sweep, without a mark of infrastructure as code.
    Unmanaged,
    /// The resource had a mark of infrastructure as code, and no longer has one.
    DriftedOut,
    /// The cause of another kind began at least three times within a day. It replaces that kind of finding.
    Flapping,
);

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

/// A text that is not the name of a kind. The message lists all names.
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

/// How urgent a finding is. The most urgent is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// To be put in order at some time: a missing tag, a small cost.
    Low,
    /// To be handled soon: an avoidable cost, or a resource without an owner.
    Medium,
    /// To be handled at once: a resource disappeared.
    High,
}

impl Severity {
    /// The name of the severity, as in statuses and metric labels.
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
