//! The heads of all live resources, in memory: there may be a million, so each field takes only the bytes it
//! needs.
//!
//! A chunk holds the heads of 256 consecutive row numbers, shared between states until one of them changes it.
//! Ended lives are not included: their tombstones are in the file.
//!
//! In checkpoints, many chunks form a part, stored as columns: those that readers can see, which every checkpoint
//! keeps, and the rest, which only the newest checkpoint needs.

use std::sync::Arc;

use imbl::Vector;
use serde::{Deserialize, Serialize};

use crate::inventory::{Revision, Timestamp};
use crate::store::StoreError;
use crate::store::file::lives::Life;
use crate::store::file::tables::{Rid, ScopeNo, TagsRef};
use crate::store::state::tag_index::TagMatches;

const CHUNK: Rid = 256;
/// From this number on, a second thread is worth its start.
const PARALLEL_MIN_CHUNKS: usize = if cfg!(test) { 2 } else { 512 };
const CHUNK_WORDS: usize = CHUNK as usize / 64;

/// The current state of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Head {
    pub scope: ScopeNo,
    /// Revision of its newest entry, from which its history is walked back.
    pub last_entry: u64,
    /// Revision of its newest milestone.
    pub milestone: u64,
    /// Revision that holds its newest document.
    pub document: u64,
    pub changed: Revision,
    pub fingerprint: u64,
    pub tags: TagsRef,
    pub first_seen: Timestamp,
    pub birth: Option<Timestamp>,
    pub shape: u16,
    pub baseline: bool,
    pub retracted: bool,
    /// Its birth is not in its life: it was reported later.
    pub late_birth: bool,
}

/// A live resource.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Living<'a> {
    pub rid: Rid,
    pub head: Head,
    pub id: &'a str,
}

/// 48 bits: revisions and milliseconds of the next four thousand years.
type U48 = [u8; 6];

fn to_u48(number: u64) -> U48 {
    let [low @ .., a, b] = number.to_le_bytes();
    assert!(a == 0 && b == 0, "{number} takes more than 48 bits");
    low
}

fn whole(to_u48: U48) -> u64 {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&to_u48);
    u64::from_le_bytes(bytes)
}

/// Offset for times before 1970.
const EPOCH: i64 = 1 << 46;
const NO_TIME: U48 = [0xFF; 6];

fn time_to_u48(time: Timestamp) -> U48 {
    to_u48(u64::try_from(time.as_millis().clamp(1 - EPOCH, EPOCH) + EPOCH).expect("clamped"))
}

fn time_from_u48(time: U48) -> Timestamp {
    Timestamp::from_millis(i64::try_from(whole(time)).expect("48 bits") - EPOCH)
}

/// A head as it is stored; its tags are in a column of their own.
#[derive(Clone, Copy, Debug)]
struct Row {
    scope: [u8; 4],
    last_entry: U48,
    milestone: U48,
    document: U48,
    changed: U48,
    fingerprint: [u8; 8],
    first_seen: U48,
    birth: U48,
    shape: [u8; 2],
    flags: u8,
    /// Where its id ends in the chunk's ids.
    id_end: [u8; 4],
}

const BASELINE: u8 = 1;
const RETRACTED: u8 = 2;
const LATE_BIRTH: u8 = 4;

impl Row {
    fn of(head: &Head, id_end: u32) -> Self {
        Self {
            scope: head.scope.to_le_bytes(),
            last_entry: to_u48(head.last_entry),
            milestone: to_u48(head.milestone),
            document: to_u48(head.document),
            changed: to_u48(head.changed.0),
            fingerprint: head.fingerprint.to_le_bytes(),
            first_seen: time_to_u48(head.first_seen),
            birth: head.birth.map_or(NO_TIME, time_to_u48),
            shape: head.shape.to_le_bytes(),
            flags: [(head.baseline, BASELINE), (head.retracted, RETRACTED), (head.late_birth, LATE_BIRTH)]
                .into_iter()
                .filter_map(|(is_set, flag)| is_set.then_some(flag))
                .sum(),
            id_end: id_end.to_le_bytes(),
        }
    }

    fn head(&self, tags: TagsRef) -> Head {
        Head {
            scope: ScopeNo::from_le_bytes(self.scope),
            last_entry: whole(self.last_entry),
            milestone: whole(self.milestone),
            document: whole(self.document),
            changed: Revision(whole(self.changed)),
            fingerprint: u64::from_le_bytes(self.fingerprint),
            tags,
            first_seen: time_from_u48(self.first_seen),
            birth: (self.birth != NO_TIME).then(|| time_from_u48(self.birth)),
            shape: u16::from_le_bytes(self.shape),
            baseline: self.flags & BASELINE != 0,
            retracted: self.flags & RETRACTED != 0,
            late_birth: self.flags & LATE_BIRTH != 0,
        }
    }

    fn id_end(&self) -> usize {
        u32::from_le_bytes(self.id_end) as usize
    }
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// Which of its row numbers are here.
    present: [u64; CHUNK_WORDS],
    tags: Vec<TagsRef>,
    rows: Vec<Row>,
    ids: Vec<u8>,
}

impl Chunk {
    fn has(&self, at: usize) -> bool {
        self.present[at / 64] >> (at % 64) & 1 == 1
    }

    /// Number of rows before this one.
    fn rank(&self, at: usize) -> usize {
        let whole: u32 = self.present[..at / 64].iter().map(|word| word.count_ones()).sum();
        let part = self.present[at / 64] & ((1 << (at % 64)) - 1);
        (whole + part.count_ones()) as usize
    }

    fn id(&self, rank: usize) -> &str {
        let start = if rank == 0 { 0 } else { self.rows[rank - 1].id_end() };
        std::str::from_utf8(&self.ids[start..self.rows[rank].id_end()]).expect("it was made of text")
    }

    fn insert(&mut self, at: usize, head: &Head, id: &str) {
        assert!(!self.has(at), "a life begins once");
        let rank = self.rank(at);
        let start = if rank == 0 { 0 } else { self.rows[rank - 1].id_end() };
        self.ids.splice(start..start, id.bytes());
        self.move_ids(rank, |end| end + id.len());
        self.rows.insert(rank, Row::of(head, u32::try_from(start + id.len()).expect("ids are short")));
        self.tags.insert(rank, head.tags);
        self.present[at / 64] |= 1 << (at % 64);
        if self.rows.len() == CHUNK as usize {
            self.ids.shrink_to_fit();
        }
    }

    fn remove(&mut self, at: usize) {
        let rank = self.rank(at);
        let start = if rank == 0 { 0 } else { self.rows[rank - 1].id_end() };
        let end = self.rows[rank].id_end();
        self.ids.drain(start..end);
        self.rows.remove(rank);
        self.tags.remove(rank);
        self.present[at / 64] &= !(1 << (at % 64));
        self.move_ids(rank, |at| at - (end - start));
    }

    fn move_ids(&mut self, from: usize, to: impl Fn(usize) -> usize) {
        for row in &mut self.rows[from..] {
            row.id_end = u32::try_from(to(row.id_end())).expect("ids are short").to_le_bytes();
        }
    }
}

/// Heads by their row numbers. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Heads {
    chunks: Vector<Option<Arc<Chunk>>>,
    len: usize,
}

fn place(rid: Rid) -> (usize, usize) {
    ((rid / CHUNK) as usize, (rid % CHUNK) as usize)
}

impl Heads {
    pub fn len(&self) -> usize {
        self.len
    }

    fn find(&self, rid: Rid) -> Option<(&Chunk, usize)> {
        let (number, at) = place(rid);
        let chunk = self.chunks.get(number)?.as_deref()?;
        chunk.has(at).then(|| (chunk, chunk.rank(at)))
    }

    pub fn get(&self, rid: Rid) -> Option<Head> {
        self.find(rid).map(|(chunk, rank)| chunk.rows[rank].head(chunk.tags[rank]))
    }

    pub fn id(&self, rid: Rid) -> Option<&str> {
        self.find(rid).map(|(chunk, rank)| chunk.id(rank))
    }

    pub fn insert(&mut self, rid: Rid, head: &Head, id: &str) {
        let (number, at) = place(rid);
        while self.chunks.len() <= number {
            self.chunks.push_back(None);
        }
        let chunk = self.chunks[number].get_or_insert_default();
        Arc::make_mut(chunk).insert(at, head, id);
        self.len += 1;
    }

    /// Changes an existing head.
    pub fn update(&mut self, rid: Rid, change: impl FnOnce(&mut Head)) {
        let (number, at) = place(rid);
        let chunk = self.chunks.get_mut(number).and_then(Option::as_mut).expect("a life that goes on has a head");
        let chunk = Arc::make_mut(chunk);
        assert!(chunk.has(at), "a life that goes on has a head");
        let rank = chunk.rank(at);
        let row = chunk.rows[rank];
        let mut head = row.head(chunk.tags[rank]);
        change(&mut head);
        chunk.tags[rank] = head.tags;
        chunk.rows[rank] = Row { id_end: row.id_end, ..Row::of(&head, 0) };
    }

    /// Removes a head. An empty chunk is freed.
    pub fn remove(&mut self, rid: Rid) {
        let (number, at) = place(rid);
        let chunk = self.chunks.get_mut(number).expect("a life that goes on has a head");
        let inner = Arc::make_mut(chunk.as_mut().expect("a life that goes on has a head"));
        assert!(inner.has(at), "a life that goes on has a head");
        inner.remove(at);
        if inner.rows.is_empty() {
            *chunk = None;
        }
        self.len -= 1;
    }
}

/// Number of chunks in a part of a checkpoint.
const CHECKPOINT_PART_CHUNKS: usize = if cfg!(test) { 1 } else { 64 };

/// The columns of a part that readers can see, in the order of the row numbers.
#[derive(Default, Serialize, Deserialize)]
struct Shown {
    present: Vec<[u64; CHUNK_WORDS]>,
    tags: Vec<TagsRef>,
    /// Each relative to the one before.
    last_entries: Vec<i64>,
    /// Relative to the last entry.
    documents: Vec<u64>,
    changed: Vec<u64>,
    flags: Vec<u8>,
    /// Only of heads with `late_birth`.
    births: Vec<Option<Timestamp>>,
}

/// The columns that only the newest state needs, or that can be found elsewhere in the file.
#[derive(Default, Serialize, Deserialize)]
struct Rest<'a> {
    scopes: Vec<ScopeNo>,
    milestones: Vec<u64>,
    first_seen: Vec<Timestamp>,
    births: Vec<Option<Timestamp>>,
    shapes: Vec<u16>,
    fingerprints: Vec<[u8; 8]>,
    #[serde(borrow)]
    ids: Vec<&'a str>,
}

fn damaged() -> StoreError {
    StoreError::Damaged { table: "ckpt" }
}

/// Iterates over the rows of a part: chunk, and place in it.
fn rows(present: &[[u64; CHUNK_WORDS]]) -> impl Iterator<Item = (usize, usize)> {
    present.iter().enumerate().flat_map(|(chunk, words)| {
        (0..CHUNK as usize).filter(|at| words[at / 64] >> (at % 64) & 1 == 1).map(move |at| (chunk, at))
    })
}

fn rid_of(part: usize, chunk: usize, at: usize) -> Rid {
    Rid::try_from((part * CHECKPOINT_PART_CHUNKS + chunk) * CHUNK as usize + at)
        .expect("it is the number of a row")
}

/// Heads of a part of a checkpoint.
pub(in crate::store) struct Part {
    chunks: Vec<Option<Arc<Chunk>>>,
    len: usize,
}

/// Restores heads from the visible columns; `complete` adds the rest, given the row and its place in the part.
fn restore(
    shown: &[u8],
    mut complete: impl FnMut(usize, (usize, usize), &mut Head, &mut Vec<u8>) -> Result<(), StoreError>,
) -> Result<Part, StoreError> {
    let shown: Shown = postcard::from_bytes(shown).map_err(|_| damaged())?;
    if shown.present.len() > CHECKPOINT_PART_CHUNKS {
        return Err(damaged());
    }
    let mut births = shown.births.iter();
    let mut last_entry = 0_i64;
    let mut len = 0;
    let room = |words: &[u64; CHUNK_WORDS]| {
        let rows = words.iter().map(|word| word.count_ones()).sum::<u32>() as usize;
        Chunk { tags: Vec::with_capacity(rows), rows: Vec::with_capacity(rows), ..Chunk::default() }
    };
    let mut chunks: Vec<Chunk> = shown.present.iter().map(room).collect();
    for (row, (chunk, at)) in rows(&shown.present).enumerate() {
        last_entry += shown.last_entries.get(row).ok_or_else(damaged)?;
        let newest = u64::try_from(last_entry).map_err(|_| damaged())?;
        let back = |column: &[u64]| newest.checked_sub(*column.get(row)?);
        let flags = *shown.flags.get(row).ok_or_else(damaged)?;
        let late_birth = flags & LATE_BIRTH != 0;
        let mut head = Head {
            scope: 0,
            last_entry: newest,
            milestone: 0,
            document: back(&shown.documents).ok_or_else(damaged)?,
            changed: Revision(back(&shown.changed).ok_or_else(damaged)?),
            fingerprint: 0,
            tags: *shown.tags.get(row).ok_or_else(damaged)?,
            first_seen: Timestamp::default(),
            birth: if late_birth { *births.next().ok_or_else(damaged)? } else { None },
            shape: 0,
            baseline: flags & BASELINE != 0,
            retracted: flags & RETRACTED != 0,
            late_birth,
        };
        let place = (chunk, at);
        let chunk = &mut chunks[chunk];
        complete(row, place, &mut head, &mut chunk.ids)?;
        chunk.present[at / 64] |= 1 << (at % 64);
        chunk.rows.push(Row::of(&head, u32::try_from(chunk.ids.len()).expect("ids are short")));
        chunk.tags.push(head.tags);
        len += 1;
    }
    let shared = |mut chunk: Chunk| {
        chunk.ids.shrink_to_fit();
        (!chunk.rows.is_empty()).then(|| Arc::new(chunk))
    };
    Ok(Part { chunks: chunks.into_iter().map(shared).collect(), len })
}

impl Heads {
    pub fn parts(&self) -> usize {
        self.chunks.len().div_ceil(CHECKPOINT_PART_CHUNKS)
    }

    /// A part as the two pieces that a checkpoint stores.
    pub fn part(&self, number: usize) -> (Vec<u8>, Vec<u8>) {
        let chunks = self.chunks.iter().skip(number * CHECKPOINT_PART_CHUNKS).take(CHECKPOINT_PART_CHUNKS);
        let (mut shown, mut rest) = (Shown::default(), Rest::default());
        let mut last_entry = 0;
        for chunk in chunks {
            let Some(chunk) = chunk.as_deref() else {
                shown.present.push([0; CHUNK_WORDS]);
                continue;
            };
            shown.present.push(chunk.present);
            for (rank, row) in chunk.rows.iter().enumerate() {
                let head = row.head(chunk.tags[rank]);
                shown.tags.push(head.tags);
                shown.last_entries.push(head.last_entry.cast_signed() - last_entry);
                last_entry = head.last_entry.cast_signed();
                shown.documents.push(head.last_entry - head.document);
                shown.changed.push(head.last_entry - head.changed.0);
                shown.flags.push(row.flags);
                if head.late_birth {
                    shown.births.push(head.birth);
                }
                rest.scopes.push(head.scope);
                rest.milestones.push(head.last_entry - head.milestone);
                rest.first_seen.push(head.first_seen);
                rest.births.push(head.birth);
                rest.shapes.push(head.shape);
                rest.fingerprints.push(row.fingerprint);
                rest.ids.push(chunk.id(rank));
            }
        }
        let bytes = |result: Result<Vec<u8>, postcard::Error>| result.expect("columns can be written to memory");
        (bytes(postcard::to_stdvec(&shown)), bytes(postcard::to_stdvec(&rest)))
    }

    /// Loads a part of the newest checkpoint.
    pub fn load(shown: &[u8], rest: &[u8]) -> Result<Part, StoreError> {
        let rest: Rest<'_> = postcard::from_bytes(rest).map_err(|_| damaged())?;
        restore(shown, |row, _, head, ids| {
            head.scope = *rest.scopes.get(row).ok_or_else(damaged)?;
            let back = rest.milestones.get(row).ok_or_else(damaged)?;
            head.milestone = head.last_entry.checked_sub(*back).ok_or_else(damaged)?;
            head.first_seen = *rest.first_seen.get(row).ok_or_else(damaged)?;
            head.birth = *rest.births.get(row).ok_or_else(damaged)?;
            head.shape = *rest.shapes.get(row).ok_or_else(damaged)?;
            head.fingerprint = u64::from_le_bytes(*rest.fingerprints.get(row).ok_or_else(damaged)?);
            ids.extend(rest.ids.get(row).ok_or_else(damaged)?.as_bytes());
            Ok(())
        })
    }

    /// Loads a part of an older checkpoint. Fields that only the newest state needs stay zero. Fields that never
    /// change are taken from `newest` if the life is still live there.
    pub fn load_past(
        number: usize,
        shown: &[u8],
        newest: &Heads,
        life: &mut impl FnMut(Rid) -> Result<Life, StoreError>,
    ) -> Result<Part, StoreError> {
        let chunks: Vec<Option<&Chunk>> = newest
            .chunks
            .iter()
            .skip(number * CHECKPOINT_PART_CHUNKS)
            .take(CHECKPOINT_PART_CHUNKS)
            .map(Option::as_deref)
            .collect();
        restore(shown, |_, (chunk, at), head, ids| {
            let rid = rid_of(number, chunk, at);
            if let Some(chunk) = chunks.get(chunk).copied().flatten().filter(|chunk| chunk.has(at)) {
                let rank = chunk.rank(at);
                let now = chunk.rows[rank].head(chunk.tags[rank]);
                (head.scope, head.first_seen) = (now.scope, now.first_seen);
                head.birth = match (head.late_birth, now.late_birth) {
                    (true, _) => head.birth,
                    (false, false) => now.birth,
                    // It was reported after that.
                    (false, true) => life(rid)?.birth,
                };
                ids.extend(chunk.id(rank).as_bytes());
                return Ok(());
            }
            let life = life(rid)?;
            (head.scope, head.first_seen) = (life.scope, life.first_seen);
            head.birth = if head.late_birth { head.birth } else { life.birth };
            ids.extend(life.id.as_bytes());
            Ok(())
        })
    }

    /// Appends parts.
    pub fn extend(&mut self, parts: impl IntoIterator<Item = Part>) {
        for part in parts {
            self.len += part.len;
            self.chunks.extend(part.chunks);
        }
    }

    /// The heads of these lives, all of which must be live. Lives that began together are read together.
    pub fn each<'a>(&'a self, rids: &'a [Rid]) -> impl Iterator<Item = Living<'a>> {
        self.each_tagged(rids, |_| true)
    }

    /// As [`Heads::each`], for lives whose tags are selected: nothing else is read of the others.
    pub fn each_tagged<'a>(
        &'a self,
        rids: &'a [Rid],
        mut selected: impl FnMut(TagsRef) -> bool + 'a,
    ) -> impl Iterator<Item = Living<'a>> {
        let mut at: Option<(usize, &Chunk)> = None;
        rids.iter().filter_map(move |rid| {
            let (number, place) = place(*rid);
            let chunk = match at {
                Some((here, chunk)) if here == number => chunk,
                _ => self.chunks.get(number).and_then(Option::as_deref).expect("a life that goes on has a head"),
            };
            at = Some((number, chunk));
            let rank = chunk.rank(place);
            let tags = chunk.tags[rank];
            selected(tags).then(|| Living { rid: *rid, head: chunk.rows[rank].head(tags), id: chunk.id(rank) })
        })
    }

    /// The lives whose tags are selected, in the order of the row numbers: one scan of the tags alone, on two
    /// threads if there are many.
    pub fn with_tags(&self, selected: &TagMatches) -> Vec<Rid> {
        let chunks: Vec<Option<&Chunk>> = self.chunks.iter().map(Option::as_deref).collect();
        let walk = |first: usize, chunks: &[Option<&Chunk>]| -> Vec<Rid> {
            let mut found = Vec::new();
            for (number, chunk) in chunks.iter().enumerate().filter_map(|(n, chunk)| Some((first + n, (*chunk)?)))
            {
                if !chunk.tags.iter().any(|tags| selected.has(*tags)) {
                    continue;
                }
                let start = rid_of(0, number, 0);
                if chunk.tags.len() == CHUNK as usize {
                    found.extend(
                        (start..).zip(&chunk.tags).filter(|(_, tags)| selected.has(**tags)).map(|(rid, _)| rid),
                    );
                } else {
                    let places = rows(std::slice::from_ref(&chunk.present));
                    let here = places.zip(&chunk.tags).filter(|(_, tags)| selected.has(**tags));
                    found.extend(here.map(|((_, at), _)| start + Rid::try_from(at).expect("chunks are short")));
                }
            }
            found
        };
        if chunks.len() < PARALLEL_MIN_CHUNKS {
            return walk(0, &chunks);
        }
        let half = chunks.len() / 2;
        std::thread::scope(|threads| {
            let second = threads.spawn(|| walk(half, &chunks[half..]));
            let mut found = walk(0, &chunks[..half]);
            found.extend(second.join().expect("it only reads"));
            found
        })
    }

    pub fn has(&self, rid: Rid) -> bool {
        self.find(rid).is_some()
    }

    /// The lives that are live here and not in `other`, with their scopes.
    pub fn without<'a>(&'a self, other: &'a Heads) -> impl Iterator<Item = (Rid, ScopeNo)> + 'a {
        let nothing = [0; CHUNK_WORDS];
        let others = other.chunks.iter().map(Option::as_deref).chain(std::iter::repeat(None));
        let pairs = self.chunks.iter().enumerate().zip(others);
        pairs.filter_map(|((n, chunk), there)| Some((n, chunk.as_deref()?, there))).flat_map(
            move |(n, chunk, there)| {
                let there = there.map_or(nothing, |there| there.present);
                let mut only = chunk.present;
                only.iter_mut().zip(there).for_each(|(here, there)| *here &= !there);
                let found = rows(std::slice::from_ref(&only));
                let of = |at| (rid_of(0, n, at), ScopeNo::from_le_bytes(chunk.rows[chunk.rank(at)].scope));
                found.map(|(_, at)| of(at)).collect::<Vec<_>>()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn head(n: u64) -> Head {
        Head {
            scope: u32::try_from(n % 7).unwrap(),
            last_entry: n + 3,
            milestone: n,
            document: n + 2,
            changed: Revision((1 << 47) + n),
            fingerprint: n.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            tags: TagsRef::set(u32::try_from(n).unwrap()),
            first_seen: Timestamp::from_millis(-1 - i64::try_from(n).unwrap()),
            birth: n.is_multiple_of(2).then(|| Timestamp::from_millis(1_700_000_000_000)),
            shape: u16::try_from(n % 3).unwrap(),
            baseline: n.is_multiple_of(3),
            retracted: n.is_multiple_of(5),
            late_birth: n.is_multiple_of(7),
        }
    }

    proptest! {
        #[test]
        fn heads_are_a_map(steps in prop::collection::vec((1..700u32, 0..1000u64), 1..300)) {
            let (mut heads, mut map) = (Heads::default(), BTreeMap::new());
            let mut kept = None;
            for (i, (rid, n)) in steps.iter().enumerate() {
                if map.contains_key(rid) {
                    if n % 2 == 0 {
                        heads.remove(*rid);
                        map.remove(rid);
                    } else {
                        heads.update(*rid, |h| *h = head(*n));
                        map.entry(*rid).and_modify(|(h, _): &mut (Head, String)| *h = head(*n));
                    }
                } else {
                    let id = format!("vol-{}", "x".repeat(usize::try_from(*n % 40).unwrap()));
                    heads.insert(*rid, &head(*n), &id);
                    map.insert(*rid, (head(*n), id));
                }
                if i == steps.len() / 2 {
                    kept = Some((heads.clone(), map.clone()));
                }
            }
            for (heads, map) in [(heads, map), kept.unwrap()] {
                prop_assert_eq!(heads.len(), map.len());
                for rid in 0..800 {
                    prop_assert_eq!(heads.get(rid), map.get(&rid).map(|(head, _)| *head));
                    prop_assert_eq!(heads.id(rid), map.get(&rid).map(|(_, id)| id.as_str()));
                }
            }
        }
    }

    #[test]
    fn a_head_takes_less_than_sixty_bytes() {
        assert_eq!(size_of::<Row>() + size_of::<TagsRef>(), 59);
    }
}
