//! Tags, and what is known of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub type TagSet = BTreeMap<String, String>;

/// A tag call that failed is not an untagged resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tags {
    Known(TagSet),
    /// Nobody could look. The last known set, if there is one, goes on.
    Unknown,
    /// The type has no tags: no tag finding ever.
    #[default]
    Untaggable,
}

impl Tags {
    pub fn known(&self) -> Option<&TagSet> {
        match self {
            Tags::Known(set) => Some(set),
            Tags::Unknown | Tags::Untaggable => None,
        }
    }

    pub fn is_untaggable(&self) -> bool {
        *self == Tags::Untaggable
    }

    /// The `Name` tag, which AWS consoles show as the name of a resource.
    pub fn name(&self) -> Option<&str> {
        self.known()?.get("Name").map(String::as_str)
    }
}
