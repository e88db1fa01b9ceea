//! Lives: the immutable part of each, and the tombstones of those that ended. Both are kept for ever.
//!
//! A row number is one life: a resource that begins again under the same id is another life, linked to the one
//! before. Lives are appended in pages, in the order in which they began.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::inventory::{End, EndCause, Revision, Scope, Timestamp};
use crate::store::StoreError;
use crate::store::file::tables::{Rid, ScopeNo, TagsRef, decode, encode};

/// first rid -> page of [`Life`]
pub(in crate::store) const LIFE: TableDefinition<Rid, &[u8]> = TableDefinition::new("life");
/// (revision of the end, rid) -> [`Tombstone`]
pub(in crate::store) const END: TableDefinition<(u64, Rid), &[u8]> = TableDefinition::new("end");
/// 16-byte hash of (scope, id) -> (rid, revision of the end) of its last life; only for ids that are not live
pub(in crate::store) const KEY: TableDefinition<[u8; 16], (Rid, u64)> = TableDefinition::new("key");

/// Lives per page: with their checksum they fill about one page of redb.
const LIVES_PER_PAGE: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Life {
    pub scope: ScopeNo,
    pub id: Arc<str>,
    pub first_seen: Timestamp,
    pub birth: Option<Timestamp>,
    pub baseline: bool,
    /// The life before under the same id, and the revision in which it ended.
    pub before: Option<(Rid, u64)>,
    /// The life of the same id in another scope that was live when this one was first seen. The resource moved if
    /// that life ends with this cause.
    pub moved_from: Option<Rid>,
}

/// The record of a life at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Tombstone {
    /// Ends are numbered from 1, so that a missing row is detected.
    pub number: u64,
    /// Its birth is the last one that was reported. The life before it is only in the life table.
    pub life: Life,
    pub cause: EndCause,
    pub last_seen: Timestamp,
    pub first_missed: Timestamp,
    pub concluded: Timestamp,
    pub tags: TagsRef,
    pub shape: u16,
    /// Revision that holds its last document.
    pub document: u64,
    /// The revision that retracted the end.
    pub retracted: Option<u64>,
}

impl Tombstone {
    pub fn end(&self, revision: u64) -> End {
        End {
            cause: self.cause.clone(),
            last_seen: self.last_seen,
            first_missed: self.first_missed,
            concluded: self.concluded,
            revision: Revision(revision),
        }
    }

    /// Whether the end was in force at a revision, which must not be before it.
    pub fn stands_at(&self, revision: Revision) -> bool {
        self.retracted.is_none_or(|retracted| retracted > revision.0)
    }
}

pub(in crate::store) fn key_hash(scope: &Scope, id: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&encode(&(scope, id))).as_bytes()[..16]);
    out
}

/// Appends consecutive lives.
pub(in crate::store) fn append(
    table: &mut redb::Table<'_, Rid, &'static [u8]>,
    first: Rid,
    lives: &[Life],
) -> Result<(), StoreError> {
    let mut at = first;
    for page in lives.chunks(LIVES_PER_PAGE) {
        // The checksum includes the key.
        table.insert(at, encode(&(at, page)).as_slice())?;
        at += Rid::try_from(page.len()).expect("a page is short");
    }
    Ok(())
}

fn damaged() -> StoreError {
    StoreError::Damaged { table: "life" }
}

/// Reads lives of a file. Consecutive lives cost one read per page.
pub(in crate::store) struct Lives {
    table: redb::ReadOnlyTable<Rid, &'static [u8]>,
    page: Option<(Rid, Vec<Life>)>,
}

impl Lives {
    pub fn open(txn: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(Self { table: txn.open_table(LIFE)?, page: None })
    }

    pub fn get(&mut self, rid: Rid) -> Result<&Life, StoreError> {
        let is_here = |page: &Option<(Rid, Vec<Life>)>| {
            page.as_ref().is_some_and(|(first, lives)| rid >= *first && ((rid - first) as usize) < lives.len())
        };
        if !is_here(&self.page) {
            let (key, bytes) = self.table.range(..=rid)?.next_back().ok_or_else(damaged)??;
            let (first, lives): (Rid, Vec<Life>) = decode("life", bytes.value())?;
            if first != key.value() {
                return Err(damaged());
            }
            self.page = Some((first, lives));
        }
        let (first, lives) = self.page.as_ref().ok_or_else(damaged)?;
        lives.get((rid - first) as usize).ok_or_else(damaged)
    }
}

/// The tombstone of a life that ended in a revision.
pub(in crate::store) fn tombstone(
    table: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    revision: u64,
    rid: Rid,
) -> Result<Tombstone, StoreError> {
    let row = table.get((revision, rid))?.ok_or(StoreError::Damaged { table: "end" })?;
    open_tombstone((revision, rid), row.value())
}

fn open_tombstone(key: (u64, Rid), bytes: &[u8]) -> Result<Tombstone, StoreError> {
    let (own, tombstone): ((u64, Rid), Tombstone) = decode("end", bytes)?;
    if own == key { Ok(tombstone) } else { Err(StoreError::Damaged { table: "end" }) }
}

/// Passes tombstones to `each`, newest first. `last` is the number of the last one at or before `until`.
pub(in crate::store) fn tombstones_back(
    txn: &ReadTransaction,
    until: Revision,
    last: u64,
    mut each: impl FnMut(u64, Rid, Tombstone) -> bool,
) -> Result<(), StoreError> {
    let mut next = last;
    for row in txn.open_table(END)?.range(..=(until.0, Rid::MAX))?.rev() {
        let (key, bytes) = row?;
        let tombstone = open_tombstone(key.value(), bytes.value())?;
        if tombstone.number != next {
            return Err(StoreError::Damaged { table: "end" });
        }
        next -= 1;
        let (revision, rid) = key.value();
        if !each(revision, rid, tombstone) {
            return Ok(());
        }
    }
    if next == 0 { Ok(()) } else { Err(StoreError::Damaged { table: "end" }) }
}

/// A life that ended, with the revision of its end.
#[derive(Clone, Debug)]
pub(in crate::store) struct Ended {
    pub rid: Rid,
    pub revision: u64,
    pub tombstone: Tombstone,
}

pub(in crate::store) fn seal_tombstone(key: (u64, Rid), tombstone: &Tombstone) -> Vec<u8> {
    encode(&(key, tombstone))
}

/// The last life of an id that has ended: row number, revision of the end, tombstone.
pub(in crate::store) fn last_ended(
    txn: &ReadTransaction,
    (number, scope): (ScopeNo, &Scope),
    id: &str,
) -> Result<Option<(Rid, u64, Tombstone)>, StoreError> {
    let Some((rid, revision)) = txn.open_table(KEY)?.get(key_hash(scope, id))?.map(|row| row.value()) else {
        return Ok(None);
    };
    let tombstone = tombstone(&txn.open_table(END)?, revision, rid)?;
    if tombstone.life.scope != number || *tombstone.life.id != *id {
        return Err(StoreError::Damaged { table: "key" });
    }
    Ok(Some((rid, revision, tombstone)))
}
