//! Checkpoints: the state at a revision, so that opening the file and reading the past fold only the entries after
//! the nearest one.
//!
//! They are derived from the log: a file without any is the same file, only slower. A checkpoint is written in
//! slices between other commits. It is complete when its header exists, which is written last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::inventory::{Revision, Subscriber, Suspect, Timestamp, Visibility};
use crate::store::StoreError;
use crate::store::file::lives::Lives;
use crate::store::file::tables::{Rid, ScopeNo, decode, encode, sealed, unsealed};
use crate::store::state::fold::{State, Visibilities};
use crate::store::state::heads::{Heads, Part};

/// revision -> [`Header`]
pub(in crate::store) const CKPT: TableDefinition<u64, &[u8]> = TableDefinition::new("ckpt");
/// (revision, part) -> the columns of its lives that readers can see, compressed with zstd
pub(in crate::store) const CKPT_SHOWN: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("ckpt_shown");
/// (revision, part) -> the other columns; only of the newest checkpoint
pub(in crate::store) const CKPT_REST: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("ckpt_rest");

/// Checkpoints are read more often than written, and most of their bytes are random.
const ZSTD_LEVEL: i32 = 1;
/// Maximum size of a part before compression: 16,384 lives with the longest ids that are accepted.
const PART_MAX_BYTES: usize = 128 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Header {
    revision: Revision,
    time: Timestamp,
    next_rid: Rid,
    ends: u64,
    pub parts: u32,
    /// Over the visible columns: two states with the same hash give the same answers.
    pub hash: u64,
    scopes: Vec<ScopeRow>,
    suspects: Vec<(Rid, Suspect)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ScopeRow {
    number: ScopeNo,
    intervals: Vec<(Timestamp, Option<Timestamp>)>,
    visibilities: Vec<(Subscriber, Visibility)>,
    has_ends: bool,
}

/// A slice of a checkpoint, written in one commit.
pub(in crate::store) struct Slice {
    pub revision: Revision,
    /// [`State::folded`] of the state that is written.
    pub folded: usize,
    pub part: u32,
    shown: Vec<u8>,
    rest: Vec<u8>,
    /// Only with the last part.
    header: Option<Header>,
}

impl Slice {
    pub fn bytes(&self) -> usize {
        self.shown.len() + self.rest.len()
    }

    /// The checkpoint is complete once this is durable.
    pub fn is_last(&self) -> bool {
        self.header.is_some()
    }

    pub fn write(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut headers = txn.open_table(CKPT)?;
        let mut shown = txn.open_table(CKPT_SHOWN)?;
        let mut rest = txn.open_table(CKPT_REST)?;
        let key = (self.revision.0, self.part);
        let before = headers.last()?.map_or(0, |(revision, _)| revision.value());
        if self.part == 0 {
            // What a crash left of an unfinished checkpoint.
            for stale in keys(&shown, before + 1)? {
                shown.remove(stale)?;
                rest.remove(stale)?;
            }
        }
        shown.insert(key, self.shown.as_slice())?;
        rest.insert(key, self.rest.as_slice())?;
        if let Some(header) = &self.header {
            headers.insert(self.revision.0, compressed(&encode(header)).as_slice())?;
            let old = headers.get(before)?.map(|bytes| read_header(bytes.value())).transpose()?;
            for part in 0..old.map_or(0, |old| old.parts) {
                rest.remove((before, part))?;
            }
        }
        Ok(())
    }
}

fn keys(table: &impl ReadableTable<(u64, u32), &'static [u8]>, from: u64) -> Result<Vec<(u64, u32)>, StoreError> {
    table.range((from, 0)..)?.map(|row| Ok(row?.0.value())).collect()
}

/// A state in slices, lowest row numbers first.
pub(in crate::store) fn slices(state: State) -> impl Iterator<Item = Slice> {
    // An empty state has a checkpoint, too.
    let parts = u32::try_from(state.heads.parts().max(1)).expect("parts are large");
    let mut hash = Xxh3::new();
    (0..parts).map(move |part| {
        let (shown, rest) = state.heads.part(part as usize);
        hash.update(&shown);
        let is_last = part + 1 == parts;
        let revision = state.revision;
        Slice {
            revision,
            folded: state.folded,
            part,
            shown: compressed_part((revision.0, part), &shown),
            rest: compressed_part((revision.0, part), &rest),
            header: is_last.then(|| header(&state, parts, hash.digest())),
        }
    })
}

fn header(state: &State, parts: u32, hash: u64) -> Header {
    let scope = |(number, scope): (&ScopeNo, &Arc<crate::store::state::fold::ScopeState>)| ScopeRow {
        number: *number,
        intervals: scope.intervals.clone(),
        visibilities: scope.visibilities.iter().cloned().collect(),
        has_ends: scope.has_ends,
    };
    Header {
        revision: state.revision,
        time: state.time,
        next_rid: state.next_rid,
        ends: state.ends,
        parts,
        hash,
        scopes: state.scopes.iter().map(scope).collect(),
        suspects: state.suspects.iter().map(|(rid, suspect)| (*rid, suspect.clone())).collect(),
    }
}

/// With the length in front.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("parts are shorter than 4 GB").to_be_bytes();
    let frame = zstd::bulk::compress(bytes, ZSTD_LEVEL).expect("memory can be compressed to memory");
    [&length[..], &frame].concat()
}

fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (length, frame) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > PART_MAX_BYTES {
        return Err(damaged());
    }
    zstd::bulk::decompress(frame, length).map_err(|_| damaged())
}

/// The checksum includes the key.
fn compressed_part(key: (u64, u32), bytes: &[u8]) -> Vec<u8> {
    sealed(|out| {
        out.extend(postcard::to_stdvec(&key).expect("numbers can be written to memory"));
        out.extend(compressed(bytes));
    })
}

fn damaged() -> StoreError {
    StoreError::Damaged { table: "ckpt" }
}

fn read_header(bytes: &[u8]) -> Result<Header, StoreError> {
    decode("ckpt", &decompressed(bytes)?)
}

fn read_part(
    table: &impl ReadableTable<(u64, u32), &'static [u8]>,
    key: (u64, u32),
) -> Result<Vec<u8>, StoreError> {
    let row = table.get(key)?.ok_or_else(damaged)?;
    let (own, rest) =
        postcard::take_from_bytes::<(u64, u32)>(unsealed("ckpt", row.value())?).map_err(|_| damaged())?;
    if own != key {
        return Err(damaged());
    }
    decompressed(rest)
}

pub(in crate::store) fn is_there(txn: &ReadTransaction, revision: Revision) -> Result<bool, StoreError> {
    Ok(txn.open_table(CKPT)?.get(revision.0)?.is_some())
}

/// The newest checkpoint at or before a revision, if there is one.
fn nearest(txn: &ReadTransaction, until: Revision) -> Result<Option<Header>, StoreError> {
    match txn.open_table(CKPT)?.range(..=until.0)?.next_back() {
        Some(row) => {
            let (revision, bytes) = row?;
            let header = read_header(bytes.value())?;
            if header.revision.0 == revision.value() { Ok(Some(header)) } else { Err(damaged()) }
        }
        None => Ok(None),
    }
}

/// Loads the newest checkpoint into a state that holds only names.
pub(in crate::store) fn load_newest(txn: &ReadTransaction, state: &mut State) -> Result<(), StoreError> {
    let Some(header) = nearest(txn, Revision(u64::MAX))? else { return Ok(()) };
    let heads = load_on_two_threads(header.parts, |parts| {
        let (shown, rest) = (txn.open_table(CKPT_SHOWN)?, txn.open_table(CKPT_REST)?);
        let load = |part| {
            let key = (header.revision.0, part);
            Heads::load(&read_part(&shown, key)?, &read_part(&rest, key)?)
        };
        parts.map(load).collect()
    })?;
    restore(state, header, heads, None)
}

/// Loads the nearest checkpoint at or before `until` into a state that holds only names.
pub(in crate::store) fn load_past(
    txn: &ReadTransaction,
    state: &mut State,
    newest: &State,
    until: Revision,
) -> Result<(), StoreError> {
    let Some(header) = nearest(txn, until)? else { return Ok(()) };
    let heads = load_on_two_threads(header.parts, |parts| {
        let shown = txn.open_table(CKPT_SHOWN)?;
        let mut lives = Lives::open(txn)?;
        let load = |part| {
            let columns = read_part(&shown, (header.revision.0, part))?;
            Heads::load_past(part as usize, &columns, &newest.heads, &mut |rid| lives.get(rid).cloned())
        };
        parts.map(load).collect()
    })?;
    restore(state, header, heads, Some(newest))
}

/// Loads parts on two threads, half of them each.
fn load_on_two_threads(
    parts: u32,
    load: impl Fn(std::ops::Range<u32>) -> Result<Vec<Part>, StoreError> + Sync,
) -> Result<Heads, StoreError> {
    let half = parts / 2;
    let (first, second) = std::thread::scope(|threads| {
        let first = (half > 0).then(|| threads.spawn(|| load(0..half)));
        let second = load(half..parts);
        // A panic there means damage, as it would here.
        (first.map(|first| first.join().unwrap_or_else(|_| Err(damaged()))), second)
    });
    let mut heads = Heads::default();
    heads.extend(first.transpose()?.into_iter().flatten());
    heads.extend(second?);
    Ok(heads)
}

/// The live resources of a scope.
#[derive(Default)]
struct Order {
    /// In the order of the ids, as in the newest state.
    sorted: Arc<[Rid]>,
    /// Lives that are not live in the newest state, unordered.
    others: Vec<Rid>,
}

/// Lives that are still live in the newest state are ordered there.
fn orders(heads: &Heads, newest: Option<&State>) -> BTreeMap<ScopeNo, Order> {
    let mut orders: BTreeMap<ScopeNo, Order> = BTreeMap::new();
    let nothing = Heads::default();
    let then = newest.map_or(&nothing, |newest| &newest.heads);
    let mut came: Vec<u64> = Vec::new();
    let mut changed: BTreeSet<ScopeNo> = BTreeSet::new();
    for (rid, scope) in then.without(heads) {
        let word = rid as usize / 64;
        came.resize(came.len().max(word + 1), 0);
        came[word] |= 1 << (rid % 64);
        changed.insert(scope);
    }
    for (number, scope) in newest.iter().flat_map(|newest| &newest.scopes) {
        let sorted = if changed.contains(number) {
            let has_come = |rid: Rid| came.get(rid as usize / 64).is_some_and(|word| word >> (rid % 64) & 1 == 1);
            scope.order.iter().copied().filter(|rid| !has_come(*rid)).collect()
        } else {
            scope.order.clone()
        };
        if !sorted.is_empty() {
            orders.insert(*number, Order { sorted, others: Vec::new() });
        }
    }
    for (rid, scope) in heads.without(then) {
        orders.entry(scope).or_default().others.push(rid);
    }
    orders
}

fn restore(state: &mut State, header: Header, heads: Heads, newest: Option<&State>) -> Result<(), StoreError> {
    let mut orders = orders(&heads, newest);
    state.revision = header.revision;
    state.time = header.time;
    state.next_rid = header.next_rid;
    state.ends = header.ends;
    state.heads = heads;
    state.suspects = header.suspects.into_iter().collect();
    for row in header.scopes {
        let Order { sorted, others } = orders.remove(&row.number).unwrap_or_default();
        let order = if others.is_empty() {
            sorted
        } else {
            let mut others: Vec<(&str, Rid)> = others.into_iter().map(|rid| (state.id(rid), rid)).collect();
            others.sort_unstable();
            state.merged(&sorted, &others).into()
        };
        let scope = state.scopes.get_mut(&row.number).ok_or_else(damaged)?;
        let scope = Arc::make_mut(scope);
        scope.intervals = row.intervals;
        scope.visibilities = Visibilities::of(row.visibilities);
        scope.has_ends = row.has_ends;
        scope.order = order;
    }
    if orders.is_empty() { Ok(()) } else { Err(damaged()) }
}

/// The revisions of the checkpoints in a range, oldest first.
pub(in crate::store) fn revisions(
    txn: &ReadTransaction,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Vec<u64>, StoreError> {
    txn.open_table(CKPT)?.range(range)?.map(|row| Ok(row?.0.value())).collect()
}

pub(in crate::store) fn remove(txn: &WriteTransaction, revision: u64) -> Result<(), StoreError> {
    // The header last: without it the rest is never read.
    for name in [CKPT_SHOWN, CKPT_REST] {
        let mut table = txn.open_table(name)?;
        let parts: Vec<(u64, u32)> = table
            .range((revision, 0)..=(revision, u32::MAX))?
            .map(|row| Ok(row?.0.value()))
            .collect::<Result<_, StoreError>>()?;
        for part in parts {
            table.remove(part)?;
        }
    }
    txn.open_table(CKPT)?.remove(revision)?;
    Ok(())
}

/// The hash that a checkpoint of a state has.
pub(in crate::store) fn hash(state: &State) -> u64 {
    slices(state.clone()).last().and_then(|slice| slice.header).expect("the last slice has it").hash
}

/// Every checkpoint's revision and hash, oldest first.
pub(in crate::store) fn headers(
    txn: &ReadTransaction,
) -> Result<Vec<Result<(Revision, u64), StoreError>>, StoreError> {
    let table = txn.open_table(CKPT)?;
    let header = |row: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &'static [u8]>), _>| {
        let header = read_header(row?.1.value())?;
        Ok((header.revision, header.hash))
    };
    Ok(table.iter()?.map(header).collect())
}
