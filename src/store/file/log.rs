//! The log of the file: the entries of every revision, appended in pages.
//!
//! A page holds as many revisions as fit, or a slice of one that is larger than a page. Its key is the first item
//! in it: (revision, 0) if it begins with a whole revision, (revision, rid) if it continues one. Entries are in
//! the order of their rids, each with its document, so reading one resource in one revision is one short read, and
//! a difference is one scan.

use std::ops::RangeInclusive;

use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::inventory::{Revision, Timestamp};
use crate::store::StoreError;
use crate::store::file::tables::{Entry, EntryKind, NO_RID, RevisionRow, Rid, Version, sealed, unsealed};

/// (first revision, first rid) -> page
pub(in crate::store) const LOG: TableDefinition<(u64, Rid), &[u8]> = TableDefinition::new("log");

/// Maximum size of a page: with its key and checksum it fills a page of redb, which has 4 KB. Only a page with a
/// single large document is larger.
const PAGE_MAX_BYTES: usize = 4000;
/// Maximum size of the item that begins a revision.
const PAGE_HEADER_MAX_BYTES: usize = 32;

/// A page is a sequence of items. The first byte of an item states its kind and which fields follow. Numbers are
/// stored as differences from the ones before in the same page, because most then take one byte.
///
/// ```text
/// revision: [0] [revisions on] [millis on] [scope] [entries]; [1] where it has one entry
/// entry:    [kind | MILESTONE | TAGS | BIRTH | SHAPE] [rids on] [revisions back to the one before, 0: none]
///           [revisions back to the milestone before] [fields of the kind] [length] [document]
/// ```
#[derive(Debug)]
enum Item<'a> {
    /// The entries that follow are of this revision.
    Revision {
        revisions_on: u64,
        millis_on: i64,
        scope: u32,
        /// Of the whole revision.
        entries: u32,
    },
    Entry {
        rids_on: Rid,
        /// How many revisions back the resource's entry before this one lies; 0 for none.
        prev_back: u64,
        milestone_back: Option<u64>,
        kind: EntryKind,
        /// Empty for none.
        document: &'a [u8],
    },
}

const REVISION: u8 = 0;
const REVISION_OF_ONE: u8 = 1;
const APPEARED: u8 = 2;
const CHANGED: u8 = 3;
const REBASED: u8 = 4;
const ENDED: u8 = 5;
const RETRACTED: u8 = 6;
const SUSPECTED: u8 = 7;
const CLEARED: u8 = 8;
const SCOPE_OPENED: u8 = 9;
const SCOPE_CLOSED: u8 = 10;
const VISIBILITY_GAINED: u8 = 11;
const VISIBILITY_LOST: u8 = 12;
const KIND: u8 = 0x0F;
const MILESTONE: u8 = 0x10;
const TAGS: u8 = 0x20;
const BIRTH: u8 = 0x40;
const SHAPE: u8 = 0x80;

fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    *out = postcard::to_extend(value, std::mem::take(out)).expect("values can be written to memory");
}

impl Item<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Item::Revision { revisions_on, millis_on, scope, entries: 1 } => {
                out.push(REVISION_OF_ONE);
                put(out, &(revisions_on, millis_on, scope));
            }
            Item::Revision { revisions_on, millis_on, scope, entries } => {
                out.push(REVISION);
                put(out, &(revisions_on, millis_on, scope, entries));
            }
            Item::Entry { rids_on, prev_back, milestone_back, kind, document } => {
                let at = out.len();
                out.push(if milestone_back.is_some() { MILESTONE } else { 0 });
                put(out, &(rids_on, prev_back));
                if let Some(back) = milestone_back {
                    put(out, back);
                }
                out[at] |= match kind {
                    EntryKind::Appeared { version } => APPEARED | write_version(version, out),
                    EntryKind::Changed { version } => CHANGED | write_version(version, out),
                    EntryKind::Rebased { version } => REBASED | write_version(version, out),
                    EntryKind::Retracted { version } => RETRACTED | write_version(version, out),
                    EntryKind::Ended => ENDED,
                    EntryKind::Suspected { last_seen, first_missed, misses, held } => {
                        put(out, &(last_seen, first_missed, misses, held));
                        SUSPECTED
                    }
                    EntryKind::Cleared => CLEARED,
                    EntryKind::ScopeOpened { started } => {
                        put(out, started);
                        SCOPE_OPENED
                    }
                    EntryKind::ScopeClosed => SCOPE_CLOSED,
                    EntryKind::VisibilityGained { subscriber } => {
                        put(out, subscriber);
                        VISIBILITY_GAINED
                    }
                    EntryKind::VisibilityLost { subscriber } => {
                        put(out, subscriber);
                        VISIBILITY_LOST
                    }
                };
                // As postcard writes bytes, but not one by one.
                put(out, &document.len());
                out.extend_from_slice(document);
            }
        }
    }
}

fn write_version(version: &Version, out: &mut Vec<u8>) -> u8 {
    out.extend(version.fingerprint);
    let mut flags = 0;
    if let Some(tags) = &version.tags {
        put(out, tags);
        flags |= TAGS;
    }
    if let Some(birth) = &version.birth {
        put(out, birth);
        flags |= BIRTH;
    }
    if let Some(shape) = &version.shape {
        put(out, shape);
        flags |= SHAPE;
    }
    flags
}

/// Reads the items of a page in order.
struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    fn take<T: Deserialize<'a>>(&mut self) -> Result<T, StoreError> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(|_| damaged())?;
        self.0 = rest;
        Ok(value)
    }

    fn version(&mut self, flags: u8) -> Result<Version, StoreError> {
        Ok(Version {
            fingerprint: self.take()?,
            tags: if flags & TAGS != 0 { Some(self.take()?) } else { None },
            birth: if flags & BIRTH != 0 { Some(self.take()?) } else { None },
            shape: if flags & SHAPE != 0 { Some(self.take()?) } else { None },
        })
    }

    fn next(&mut self) -> Result<Option<Item<'a>>, StoreError> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        if let kind @ (REVISION | REVISION_OF_ONE) = *first {
            let (revisions_on, millis_on, scope) = self.take()?;
            let entries = if kind == REVISION { self.take()? } else { 1 };
            return Ok(Some(Item::Revision { revisions_on, millis_on, scope, entries }));
        }
        let (rids_on, prev_back) = self.take()?;
        let milestone_back = if first & MILESTONE != 0 { Some(self.take()?) } else { None };
        let kind = match first & KIND {
            APPEARED => EntryKind::Appeared { version: self.version(*first)? },
            CHANGED => EntryKind::Changed { version: self.version(*first)? },
            REBASED => EntryKind::Rebased { version: self.version(*first)? },
            RETRACTED => EntryKind::Retracted { version: self.version(*first)? },
            ENDED => EntryKind::Ended,
            SUSPECTED => {
                let (last_seen, first_missed, misses, held) = self.take()?;
                EntryKind::Suspected { last_seen, first_missed, misses, held }
            }
            CLEARED => EntryKind::Cleared,
            SCOPE_OPENED => EntryKind::ScopeOpened { started: self.take()? },
            SCOPE_CLOSED => EntryKind::ScopeClosed,
            VISIBILITY_GAINED => EntryKind::VisibilityGained { subscriber: self.take::<&str>()?.into() },
            VISIBILITY_LOST => EntryKind::VisibilityLost { subscriber: self.take::<&str>()?.into() },
            _ => return Err(damaged()),
        };
        Ok(Some(Item::Entry { rids_on, prev_back, milestone_back, kind, document: self.take()? }))
    }
}

/// An entry and its document, as [`crate::store::file::documents`] encodes it; empty for none.
#[derive(Clone, Debug)]
pub(in crate::store) struct Logged {
    pub entry: Entry,
    pub document: Vec<u8>,
}

/// Splits revisions into pages.
#[derive(Default)]
pub(in crate::store) struct Pages {
    done: Vec<((u64, Rid), Vec<u8>)>,
    key: (u64, Rid),
    bytes: Vec<u8>,
    /// Revision and milliseconds of the last revision item.
    last: (u64, i64),
}

impl Pages {
    /// Adds a revision. Entries of one resource keep their order.
    pub fn add(&mut self, revision: Revision, row: &RevisionRow, mut entries: Vec<Logged>) {
        entries.sort_by_key(|logged| logged.entry.rid);
        let mut before = None;
        // All entries of one resource stay on one page, which is found by its rid.
        for of_one in entries.chunk_by(|a, b| a.entry.rid == b.entry.rid) {
            let rid = of_one[0].entry.rid;
            let mut items = packed(revision, before, of_one);
            let opening = if before.is_none() { PAGE_HEADER_MAX_BYTES } else { 0 };
            let is_full = self.bytes.len() + opening + items.len() > PAGE_MAX_BYTES;
            if is_full {
                self.cut();
            }
            if before.is_none() || is_full {
                self.begin(revision, if before.is_none() { NO_RID } else { rid }, row);
                items = packed(revision, None, of_one);
            }
            self.bytes.extend(items);
            before = Some(rid);
        }
    }

    fn begin(&mut self, revision: Revision, first: Rid, row: &RevisionRow) {
        if self.bytes.is_empty() {
            self.key = (revision.0, first);
            self.last = (revision.0, 0);
        }
        let (last_revision, last_millis) = self.last;
        let time = row.time.as_millis();
        let item = Item::Revision {
            revisions_on: revision.0 - last_revision,
            millis_on: time - last_millis,
            scope: row.scope,
            entries: row.entries,
        };
        item.write(&mut self.bytes);
        self.last = (revision.0, time);
    }

    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.bytes.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.done.iter().map(|(_, page)| page.len()).sum::<usize>() + self.bytes.len()
    }

    fn cut(&mut self) {
        if !self.bytes.is_empty() {
            self.done.push((self.key, std::mem::take(&mut self.bytes)));
        }
    }

    pub fn write(mut self, table: &mut redb::Table<'_, (u64, Rid), &'static [u8]>) -> Result<(), StoreError> {
        self.cut();
        for (key, bytes) in self.done {
            // The checksum includes the key: a page is never read as another.
            let page = sealed(|out| {
                out.extend(postcard::to_stdvec(&key).expect("numbers can be written to memory"));
                out.extend(bytes);
            });
            table.insert(key, page.as_slice())?;
        }
        Ok(())
    }
}

/// `before` is the resource before these entries in the page.
fn packed(revision: Revision, before: Option<Rid>, entries: &[Logged]) -> Vec<u8> {
    let back = |at: u64| if at == 0 { 0 } else { revision.0 - at };
    let mut bytes = Vec::new();
    let mut before = before.unwrap_or(0);
    for Logged { entry, document } in entries {
        let item = Item::Entry {
            rids_on: entry.rid - before,
            prev_back: back(entry.prev),
            milestone_back: entry.milestone.map(back),
            kind: entry.kind.clone(),
            document,
        };
        item.write(&mut bytes);
        before = entry.rid;
    }
    bytes
}

/// The part of one revision that one page holds.
#[derive(Debug)]
pub(in crate::store) struct Slice {
    pub revision: u64,
    pub row: RevisionRow,
    pub entries: Vec<Logged>,
}

fn damaged() -> StoreError {
    StoreError::Damaged { table: "log" }
}

/// Which part of a page is read.
#[derive(Clone, Copy, Debug)]
enum Read {
    /// All entries, without documents.
    Entries,
    /// The entries of one resource in one revision, with their documents.
    Step(u64, Rid),
    /// Everything.
    All,
}

fn decode(key: (u64, Rid), sealed: &[u8], read: Read) -> Result<Vec<Slice>, StoreError> {
    let (own, rest) = postcard::take_from_bytes::<(u64, Rid)>(unsealed("log", sealed)?).map_err(|_| damaged())?;
    if own != key {
        return Err(damaged());
    }
    let mut slices: Vec<Slice> = Vec::new();
    let (mut revision, mut millis, mut rid) = (key.0, 0, 0);
    let mut items = Items(rest);
    while let Some(item) = items.next()? {
        match item {
            Item::Revision { revisions_on, millis_on, scope, entries } => {
                (revision, millis, rid) = (revision + revisions_on, millis + millis_on, 0);
                if matches!(read, Read::Step(target, _) if target < revision) {
                    break;
                }
                let row = RevisionRow { time: Timestamp::from_millis(millis), scope, entries };
                slices.push(Slice { revision, row, entries: Vec::new() });
            }
            Item::Entry { rids_on, prev_back, milestone_back, kind, document } => {
                rid += rids_on;
                let has_document = !document.is_empty();
                let document = match read {
                    Read::Entries => Vec::new(),
                    Read::Step(target, of) if target == revision && of == rid => document.to_vec(),
                    Read::Step(..) => continue,
                    Read::All => document.to_vec(),
                };
                let back = |by: u64| if by == 0 { 0 } else { revision - by };
                let milestone = milestone_back.map(back);
                let entry = Entry { rid, prev: back(prev_back), milestone, kind, has_document };
                slices.last_mut().ok_or_else(damaged)?.entries.push(Logged { entry, document });
            }
        }
    }
    Ok(slices)
}

/// Decodes a whole page. Returns the revision and row number of each of its documents.
pub(in crate::store) fn whole_page(key: (u64, Rid), sealed: &[u8]) -> Result<Vec<(u64, Rid)>, StoreError> {
    let slices = decode(key, sealed, Read::All)?;
    let of_slice = |slice: &Slice| {
        let with_document = slice.entries.iter().filter(|logged| !logged.document.is_empty());
        with_document.map(|logged| (slice.revision, logged.entry.rid)).collect::<Vec<_>>()
    };
    Ok(slices.iter().flat_map(of_slice).collect())
}

/// The log entries of a resource (or of the scope, for [`NO_RID`]) in a revision, with its row.
pub(in crate::store) fn step(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    revision: u64,
    rid: Rid,
) -> Result<Slice, StoreError> {
    let (key, page) = log.range(..=(revision, rid))?.next_back().ok_or_else(damaged)??;
    let slices = decode(key.value(), page.value(), Read::Step(revision, rid))?;
    slices.into_iter().find(|s| s.revision == revision).ok_or_else(damaged)
}

/// The document of a resource in a revision, as [`crate::store::file::documents`] encodes it.
pub(in crate::store) fn document(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    revision: u64,
    rid: Rid,
) -> Result<Vec<u8>, StoreError> {
    let entries = step(log, revision, rid)?.entries;
    entries.into_iter().rev().map(|l| l.document).find(|d| !d.is_empty()).ok_or_else(damaged)
}

/// The time of the first kept revision; `None` if there is none.
pub(in crate::store) fn first_time(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
) -> Result<Option<Timestamp>, StoreError> {
    let Some((key, page)) = log.first()? else { return Ok(None) };
    let slices = decode(key.value(), page.value(), Read::Entries)?;
    Ok(Some(slices.first().ok_or_else(damaged)?.row.time))
}

/// The time of a revision.
pub(in crate::store) fn time_of(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    revision: u64,
) -> Result<Timestamp, StoreError> {
    Ok(step(log, revision, NO_RID)?.row.time)
}

/// Consecutive pages that begin with a whole revision, with their full content.
#[derive(Default)]
pub(in crate::store) struct Stretch {
    pub keys: Vec<(u64, Rid)>,
    pub bytes: usize,
    /// Oldest first. A revision on several pages is joined.
    pub slices: Vec<Slice>,
}

/// Passes the pages that hold any revision of the range to `each`, newest first, in stretches of at least `bytes`.
pub(in crate::store) fn stretches_back(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    range: RangeInclusive<u64>,
    bytes: usize,
    mut each: impl FnMut(Stretch) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (first, last) = range.into_inner();
    let mut stretch = Stretch::default();
    for page in log.range(..=(last, Rid::MAX))?.rev() {
        let (key, page) = page?;
        let key = key.value();
        let mut slices = decode(key, page.value(), Read::All)?;
        // Newest first until the stretch is complete.
        while let Some(slice) = slices.pop() {
            match stretch.slices.last_mut() {
                Some(later) if later.revision == slice.revision => {
                    let tail = std::mem::replace(&mut later.entries, slice.entries);
                    later.entries.extend(tail);
                }
                _ => stretch.slices.push(slice),
            }
        }
        stretch.keys.push(key);
        stretch.bytes += page.value().len();
        let is_whole = key.1 == NO_RID;
        let is_last = key.0 < first || key <= (first, NO_RID);
        if is_whole && (stretch.bytes >= bytes || is_last) {
            stretch.slices.reverse();
            each(std::mem::take(&mut stretch))?;
        }
        if is_whole && is_last {
            return Ok(());
        }
    }
    if stretch.keys.is_empty() {
        return Ok(());
    }
    stretch.slices.reverse();
    each(stretch)
}

/// Passes every revision in the range to `each`, whole, oldest first, without documents.
pub(in crate::store) fn revisions(
    log: &impl ReadableTable<(u64, Rid), &'static [u8]>,
    range: RangeInclusive<u64>,
    mut each: impl FnMut(Revision, &RevisionRow, Vec<Entry>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (first, last) = range.into_inner();
    if first > last {
        return Ok(());
    }
    // The page with the beginning of the first revision may begin before it.
    let from = match log.range(..=(first, NO_RID))?.next_back() {
        Some(row) => row?.0.value(),
        // The log begins after it, as in a store that was restored while empty.
        None => (first, NO_RID),
    };
    let mut open: Option<(u64, RevisionRow, Vec<Entry>)> = None;
    let mut close = |open: Option<(u64, RevisionRow, Vec<Entry>)>| match open {
        None => Ok(()),
        Some((_, row, entries)) if entries.len() != row.entries as usize => Err(damaged()),
        Some((revision, row, entries)) => each(Revision(revision), &row, entries),
    };
    for page in log.range(from..=(last, Rid::MAX))? {
        let (key, page) = page?;
        for slice in decode(key.value(), page.value(), Read::Entries)? {
            if slice.revision < first || slice.revision > last {
                continue;
            }
            let entries = slice.entries.into_iter().map(|logged| logged.entry);
            match &mut open {
                Some((revision, _, before)) if *revision == slice.revision => before.extend(entries),
                _ => close(open.replace((slice.revision, slice.row, entries.collect())))?,
            }
        }
    }
    close(open)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase};

    use super::*;

    /// (milliseconds since the revision before, entries as (rid, length of the document))
    type Drawn = (i64, Vec<(Rid, usize)>);

    fn revision() -> impl Strategy<Value = Drawn> {
        // Some fill a page alone, and some span many.
        let document = prop_oneof![4 => 0..60usize, 1 => 3000..9000usize];
        let entries = prop::collection::btree_map(NO_RID..40, document, 1..30);
        // And some resources have two entries in one revision: an end and another life.
        let twice = |(rid, length)| if rid % 5 == 0 { vec![(rid, 0), (rid, length)] } else { vec![(rid, length)] };
        (0..100_000i64, entries.prop_map(move |drawn| drawn.into_iter().flat_map(twice).collect()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn what_was_logged_is_read_back(drawn in prop::collection::vec(revision(), 1..40), commits in 1..5usize) {
            let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
            let mut millis = 0;
            let mut selected = Vec::new();
            for (revision, (on, entries)) in (1u64..).zip(drawn) {
                millis += on;
                let time = Timestamp::from_millis(millis);
                let entries: Vec<Logged> = entries
                    .into_iter()
                    .map(|(rid, length)| Logged {
                        entry: Entry {
                            rid,
                            prev: revision / 2,
                            milestone: (rid % 2 == 0).then_some(revision / 3),
                            kind: EntryKind::Cleared,
                            has_document: length > 0,
                        },
                        document: vec![u8::try_from(rid).unwrap(); length],
                    })
                    .collect();
                let count = u32::try_from(entries.len()).unwrap();
                selected.push((revision, RevisionRow { time, scope: 7, entries: count }, entries));
            }
            for commit in selected.chunks(selected.len().div_ceil(commits)) {
                let txn = db.begin_write().unwrap();
                let mut pages = Pages::default();
                for (revision, row, entries) in commit {
                    pages.add(Revision(*revision), row, entries.clone());
                }
                pages.write(&mut txn.open_table(LOG).unwrap()).unwrap();
                txn.commit().unwrap();
            }

            let log = db.begin_read().unwrap().open_table(LOG).unwrap();
            for page in log.iter().unwrap() {
                let (key, page) = page.unwrap();
                let slices = decode(key.value(), page.value(), Read::Entries).unwrap();
                let rids: std::collections::BTreeSet<Rid> =
                    slices.iter().flat_map(|s| &s.entries).map(|l| l.entry.rid).collect();
                prop_assert!(page.value().len() < PAGE_MAX_BYTES + 60 || rids.len() == 1, "{}", page.value().len());
            }
            for (revision, row, entries) in &selected {
                prop_assert_eq!(time_of(&log, *revision).unwrap(), row.time);
                for rid in NO_RID..40 {
                    let of_it: Vec<&Logged> = entries.iter().filter(|l| l.entry.rid == rid).collect();
                    let found = step(&log, *revision, rid).unwrap();
                    prop_assert_eq!(format!("{:?}", found.entries.iter().collect::<Vec<_>>()), format!("{of_it:?}"));
                    let held = of_it.iter().rev().find(|l| !l.document.is_empty());
                    prop_assert_eq!(document(&log, *revision, rid).ok(), held.map(|l| l.document.clone()));
                }
            }
            let last = selected.len() as u64;
            let (first, until) = (last.div_ceil(3), last - last / 4);
            let mut reported = Vec::new();
            revisions(&log, first..=until, |revision, row, entries| {
                reported.push((revision.0, row.time, entries.len()));
                Ok(())
            })
            .unwrap();
            let within = selected.iter().filter(|w| (first..=until).contains(&w.0));
            prop_assert_eq!(reported, within.map(|(r, row, entries)| (*r, row.time, entries.len())).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_damaged_or_misplaced_page_is_an_error_and_never_other_data() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let time = Timestamp::from_millis(5);
        let row = RevisionRow { time, scope: 0, entries: 1 };
        let entry = Entry { rid: 3, prev: 0, milestone: None, kind: EntryKind::Cleared, has_document: true };
        let txn = db.begin_write().unwrap();
        {
            let mut log = txn.open_table(LOG).unwrap();
            let mut pages = Pages::default();
            pages.add(Revision(1), &row, vec![Logged { entry, document: b"document".to_vec() }]);
            pages.write(&mut log).unwrap();
            let good = log.get((1, 0)).unwrap().unwrap().value().to_vec();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode((1, 0), &bad, Read::Step(1, 0)).is_err(), "bit {bit}");
            }
            assert!(decode((1, 1), &good, Read::Step(1, 1)).is_err(), "under the key of another");
        }
    }
}
