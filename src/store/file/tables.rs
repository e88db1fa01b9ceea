//! The small tables of the file, and their records. The others are in [`crate::store::file::log`],
//! [`crate::store::file::lives`] and `state::checkpoint`; `each_table!` in the store's module lists all. Integer keys are
//! fixed-width big-endian in redb, so ranges scan in order. Records are postcard. Each has a checksum that every
//! read verifies, because redb does not verify its own on plain reads.

use std::sync::Arc;

use redb::TableDefinition;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::inventory::{Outcome, Timestamp};
use crate::store::StoreError;

/// Version 0 was before the first release. Each version from 1 on has a file in tests/stores that must open for
/// ever.
pub(in crate::store) const SCHEMA: u32 = 1;

/// number -> (resource type, zstd dictionary)
pub(in crate::store) const DICT: TableDefinition<u32, &[u8]> = TableDefinition::new("dict");
/// scope number -> Scope
pub(in crate::store) const SCOPE: TableDefinition<u32, &[u8]> = TableDefinition::new("scope");
/// (scope number, end of the first sweep) -> [`Run`]
pub(in crate::store) const RUN: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("run");
/// rid -> Suspect
pub(in crate::store) const SUSPECT: TableDefinition<u32, &[u8]> = TableDefinition::new("suspect");
/// number -> interned tag set
pub(in crate::store) const SYM: TableDefinition<u32, &[u8]> = TableDefinition::new("sym");
/// (subscriber, scope number, from revision) -> [`VisibilityRow`]; the table has had this name since schema 1
pub(in crate::store) const VISIBILITY: TableDefinition<(&str, u32, u64), &[u8]> = TableDefinition::new("cover");
/// scope number -> [`OpenSweepRow`]: sweeps of which only some pages are recorded; named so since schema 1
pub(in crate::store) const OPEN_SWEEP: TableDefinition<u32, &[u8]> = TableDefinition::new("look");
/// revision -> [`KeptRow`]: the last revision of each day that is thinned
pub(in crate::store) const KEPT: TableDefinition<u64, &[u8]> = TableDefinition::new("kept");
/// (subscriber, name) -> bytes
pub(in crate::store) const NOTE: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("note");
/// name -> bytes: schema, id of the store, the revisions that restores skipped
pub(in crate::store) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The maximum lengths of ids and documents. AWS ids and ARNs have at most 2,048 characters, 50 tags of 128 + 256
/// characters at most 77 KB; no described object comes near a megabyte.
pub(in crate::store) const ID_MAX_BYTES: usize = 4096;
pub(in crate::store) const DOCUMENT_MAX_BYTES: usize = 4 << 20;

/// The number of a life in its file, from 1 on. It is never reused.
pub type Rid = u32;
/// The number of a scope in its file, from 0 on in the order in which scopes were first recorded.
pub type ScopeNo = u32;

#[derive(Clone, Debug)]
pub(in crate::store) struct RevisionRow {
    pub time: Timestamp,
    pub scope: ScopeNo,
    pub entries: u32,
}

/// Tags as the log stores them: sets are interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::store) struct TagsRef(u32);

impl TagsRef {
    pub const UNKNOWN: Self = Self(0);
    pub const UNTAGGABLE: Self = Self(1);

    pub fn set(number: u32) -> Self {
        Self(number + 2)
    }

    /// Index from 0 on, over all references.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The number of the set, if it is a set.
    pub fn number(self) -> Option<u32> {
        self.0.checked_sub(2)
    }
}

/// A version of a resource without its document. Optional fields are `None` if they are as in the version before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Version {
    /// [`crate::store::write::plan::fingerprint`] as bytes: a varint of it would be longer.
    pub fingerprint: [u8; 8],
    pub tags: Option<TagsRef>,
    pub birth: Option<Timestamp>,
    pub shape: Option<u16>,
}

/// One entry of the log. `prev` is the revision of the resource's entry before this one, 0 for none. `milestone`
/// is set on milestones only: it is the revision of the milestone before. Entries about the scope itself have
/// `NO_RID`.
#[derive(Clone, Debug)]
pub(in crate::store) struct Entry {
    pub rid: Rid,
    pub prev: u64,
    pub milestone: Option<u64>,
    pub kind: EntryKind,
    /// Its document is kept. Retention drops the documents of milestones and keeps the milestones.
    pub has_document: bool,
}

/// Sorts before all row numbers, which begin at 1.
pub(in crate::store) const NO_RID: Rid = 0;

#[derive(Clone, Debug)]
pub(in crate::store) enum EntryKind {
    /// A life begins: [`crate::store::file::lives::Life`].
    Appeared {
        version: Version,
    },
    Changed {
        version: Version,
    },
    /// First seen under a new shape: stored, but in no difference, history or finding.
    Rebased {
        version: Version,
    },
    /// A life ends: [`crate::store::file::lives::Tombstone`].
    Ended,
    Retracted {
        version: Version,
    },
    Suspected {
        last_seen: Timestamp,
        first_missed: Timestamp,
        misses: u32,
        held: bool,
    },
    Cleared,
    /// `started` is when the sweep that opened it began.
    ScopeOpened {
        started: Timestamp,
    },
    ScopeClosed,
    VisibilityGained {
        subscriber: Arc<str>,
    },
    VisibilityLost {
        subscriber: Arc<str>,
    },
}

impl EntryKind {
    /// Whether it is kept exactly and for ever.
    pub fn is_milestone(&self) -> bool {
        match self {
            EntryKind::Appeared { .. } | EntryKind::Ended | EntryKind::Retracted { .. } => true,
            EntryKind::Changed { version } => version.tags.is_some(),
            _ => false,
        }
    }

    pub fn version(&self) -> Option<&Version> {
        match self {
            EntryKind::Appeared { version }
            | EntryKind::Changed { version }
            | EntryKind::Rebased { version }
            | EntryKind::Retracted { version } => Some(version),
            _ => None,
        }
    }

    pub fn version_mut(&mut self) -> Option<&mut Version> {
        match self {
            EntryKind::Appeared { version }
            | EntryKind::Changed { version }
            | EntryKind::Rebased { version }
            | EntryKind::Retracted { version } => Some(version),
            _ => None,
        }
    }
}

/// A moment that is kept where others were thinned: the end of a day (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct KeptRow {
    pub time: Timestamp,
    /// The end of the day. Nothing more happened until then.
    pub until: Timestamp,
    /// Everything since the kept moment before it has been thinned.
    pub is_thinned: bool,
}

/// A sweep that is too large for one commit, until its last commit. A row that is found when the file is opened is
/// of a sweep that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct OpenSweepRow {
    pub started: Timestamp,
    pub ended: Timestamp,
    pub cadence_seconds: Option<u64>,
}

/// A run of sweeps of one scope with the same outcome, instead of one row per sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Run {
    pub first_started: Timestamp,
    pub first_ended: Timestamp,
    pub last_started: Timestamp,
    pub last_ended: Timestamp,
    pub sweeps: u64,
    /// The longest time between the ends of two consecutive sweeps.
    pub longest_gap_millis: u64,
    pub cadence_seconds: Option<u64>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::store) struct VisibilityRow {
    /// The revision from which the scope is no longer visible.
    pub to: Option<u64>,
    pub proven: Timestamp,
}

/// Prefixes a checksum, which [`unsealed`] verifies.
pub(in crate::store) fn sealed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; 4];
    write(&mut out);
    let checksum = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&checksum.to_be_bytes());
    out
}

pub(in crate::store) fn unsealed<'a>(table: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match bytes.split_at_checked(4) {
        Some((checksum, record)) if checksum == crc32fast::hash(record).to_be_bytes() => Ok(record),
        _ => Err(StoreError::Damaged { table }),
    }
}

pub(in crate::store) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    sealed(|out| {
        postcard::to_io(value, out).expect("records have no type that postcard refuses");
    })
}

pub(in crate::store) fn decode<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(unsealed(table, bytes)?).map_err(|_| StoreError::Damaged { table })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_in_a_record_is_an_error_never_other_data() {
        let good = sealed(|out| out.extend(b"a record"));
        assert_eq!(unsealed("log", &good).unwrap(), b"a record");
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(unsealed("log", &bad).is_err(), "byte {byte} bit {bit}");
            }
        }
        assert!(unsealed("log", &good[..3]).is_err());
    }
}
