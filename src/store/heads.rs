//! The heads of all lives that go on, in memory: a million of them, so each field takes what it needs.
//!
//! A chunk holds those of 256 row numbers that follow each other, shared between states until one of
//! them changes. Ended lives are not in here: their tombstones are in the file.

use std::sync::Arc;

use imbl::Vector;

use super::record::{Rid, ScopeNo, TagsRef};
use crate::inventory::{Revision, Timestamp};

const CHUNK: Rid = 256;
const WORDS: usize = CHUNK as usize / 64;

/// How a life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub scope: ScopeNo,
    /// Revision of its newest entry: where its history begins to be walked back.
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
}

/// 48 bits: revisions and milliseconds of the next four thousand years.
type Six = [u8; 6];

fn six(number: u64) -> Six {
    let [low @ .., a, b] = number.to_le_bytes();
    assert!(a == 0 && b == 0, "{number} takes more than 48 bits");
    low
}

fn whole([a, b, c, d, e, f]: Six) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Times before 1970 count, too.
const EPOCH: i64 = 1 << 46;
const NO_TIME: Six = [0xFF; 6];

fn time_six(time: Timestamp) -> Six {
    six(u64::try_from(time.as_millis().clamp(1 - EPOCH, EPOCH) + EPOCH).expect("clamped"))
}

fn whole_time(time: Six) -> Timestamp {
    Timestamp::from_millis(i64::try_from(whole(time)).expect("48 bits") - EPOCH)
}

/// A head as it is kept; its tags stand in a column of their own.
#[derive(Clone, Copy, Debug)]
struct Row {
    scope: [u8; 4],
    last_entry: Six,
    milestone: Six,
    document: Six,
    changed: Six,
    fingerprint: [u8; 8],
    first_seen: Six,
    birth: Six,
    shape: [u8; 2],
    flags: u8,
    /// Where its id ends in the chunk's ids.
    id_end: [u8; 4],
}

const BASELINE: u8 = 1;
const RETRACTED: u8 = 2;

impl Row {
    fn of(head: &Head, id_end: u32) -> Self {
        Self {
            scope: head.scope.to_le_bytes(),
            last_entry: six(head.last_entry),
            milestone: six(head.milestone),
            document: six(head.document),
            changed: six(head.changed.0),
            fingerprint: head.fingerprint.to_le_bytes(),
            first_seen: time_six(head.first_seen),
            birth: head.birth.map_or(NO_TIME, time_six),
            shape: head.shape.to_le_bytes(),
            flags: if head.baseline { BASELINE } else { 0 } | if head.retracted { RETRACTED } else { 0 },
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
            first_seen: whole_time(self.first_seen),
            birth: (self.birth != NO_TIME).then(|| whole_time(self.birth)),
            shape: u16::from_le_bytes(self.shape),
            baseline: self.flags & BASELINE != 0,
            retracted: self.flags & RETRACTED != 0,
        }
    }

    fn id_end(&self) -> usize {
        u32::from_le_bytes(self.id_end) as usize
    }
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// Which of its row numbers are here.
    present: [u64; WORDS],
    tags: Vec<TagsRef>,
    rows: Vec<Row>,
    ids: Vec<u8>,
}

impl Chunk {
    fn has(&self, at: usize) -> bool {
        self.present[at / 64] >> (at % 64) & 1 == 1
    }

    /// How many stand before.
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
pub(super) struct Heads {
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

    /// Changes a head that is here.
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

    /// A chunk that is empty leaves memory.
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
