//! Tags, and whether they are known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of tags in one allocation, sorted by key: sets are equal if their bytes are equal, and a copy is free.
/// The store compares a million sets in every round.
///
/// Each tag is `[length of the key, length of the value: u32 LE] [key] [value]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TagSet(Arc<[u8]>);

/// The size of the two lengths before each key and value.
const LENGTHS: usize = 8;

impl TagSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are no tags at all, including those that only the provider sets.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of tags. It reads the whole set.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Keys and values as bytes, sorted by key.
    fn pieces(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (lengths, after) = rest.split_at_checked(LENGTHS)?;
            let length = |at: usize| {
                let bytes = lengths[at..at + 4].try_into().expect("four bytes");
                u32::from_le_bytes(bytes) as usize
            };
            let (key, after) = after.split_at(length(0));
            let (value, after) = after.split_at(length(4));
            rest = after;
            Some((key, value))
        })
    }

    /// Sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pieces().map(|(key, value)| (text(key), text(value)))
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// The value of the tag with this key; `None` if there is no such tag. A value may be empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pieces().find(|(k, _)| *k == key.as_bytes()).map(|(_, value)| text(value))
    }

    /// A copy in an allocation of its own: keeping it keeps no neighbouring memory alive.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self(Arc::from(&*self.0))
    }

    /// Equal if and only if the sets are equal.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it was made of text")
}

impl Default for TagSet {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for TagSet {
    /// If two tags have the same key, the later one is used.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(tags: I) -> Self {
        let tags: BTreeMap<String, String> = tags.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let mut bytes = Vec::with_capacity(tags.iter().map(|(k, v)| LENGTHS + k.len() + v.len()).sum());
        for (key, value) in &tags {
            for text in [key, value] {
                let length = u32::try_from(text.len()).expect("a tag is shorter than 4 GB");
                bytes.extend(length.to_le_bytes());
            }
            bytes.extend(key.as_bytes());
            bytes.extend(value.as_bytes());
        }
        Self(bytes.into())
    }
}

impl fmt::Debug for TagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Serialized as a map.
impl Serialize for TagSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter().collect::<Vec<_>>())
    }
}

impl<'de> Deserialize<'de> for TagSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(d).map(Self::from_iter)
    }
}

/// The tags of a resource, or why there are none. A failed tag call must not be taken for an untagged resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tags {
    /// The tags were read; the set may be empty.
    Known(TagSet),
    /// The tags could not be read. The last known set, if any, is kept.
    Unknown,
    /// The type has no tags, so it never has tag findings.
    #[default]
    Untaggable,
}

impl Tags {
    /// The set, if the tags were read.
    pub fn known(&self) -> Option<&TagSet> {
        match self {
            Tags::Known(set) => Some(set),
            Tags::Unknown | Tags::Untaggable => None,
        }
    }

    /// Whether the type has no tags, or another account owns the resource and its tags.
    pub fn is_untaggable(&self) -> bool {
        *self == Tags::Untaggable
    }

    /// The `Name` tag, which AWS consoles show as the name of a resource.
    pub fn name(&self) -> Option<&str> {
        self.known()?.get("Name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_with_the_same_tags_are_the_same_bytes_whatever_order_they_came_in() {
        let one: TagSet = [("owner", "a"), ("Name", "größer"), ("empty", "")].into_iter().collect();
        let other: TagSet =
            [("empty", ""), ("owner", "b"), ("Name", "größer"), ("owner", "a")].into_iter().collect();
        assert_eq!(one, other);
        assert_eq!(one.iter().collect::<Vec<_>>(), [("Name", "größer"), ("empty", ""), ("owner", "a")]);
        assert_eq!((one.get("owner"), one.get("own"), one.len()), (Some("a"), None, 3));
        let split: TagSet = [("a", "bc")].into_iter().collect();
        assert_ne!(split, [("ab", "c")].into_iter().collect());
    }

    #[test]
    fn a_set_survives_text_and_binary_as_a_map() {
        let set: TagSet = [("owner", "a"), ("Name", "x")].into_iter().collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"{"Name":"x","owner":"a"}"#);
        assert_eq!(serde_json::from_str::<TagSet>(&text).unwrap(), set);
        assert_eq!(postcard::from_bytes::<TagSet>(&postcard::to_stdvec(&set).unwrap()).unwrap(), set);
    }
}
