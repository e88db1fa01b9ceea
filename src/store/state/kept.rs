//! Which revisions can be read: how much of the past is kept, and the gaps that a restore left.

use std::collections::BTreeMap;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};

use crate::inventory::{Moment, RetainedMoment, Revision, Timestamp};
use crate::store::StoreError;
use crate::store::file::tables::{KEPT, KeptRow, META, decode};

const DAY: Duration = Duration::from_hours(24);

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long every revision is kept.
    pub detail: Duration,
    /// How long the last revision of each day is kept.
    pub horizon: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { detail: 30 * DAY, horizon: 400 * DAY }
    }
}

/// Revisions that a restore skipped: no data was ever returned for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Gap {
    /// The newest revision of the backup, and its time.
    pub last: u64,
    pub time: Timestamp,
    /// The same state, from which the restored store continues.
    pub next: u64,
}

pub(in crate::store) fn gaps(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<Gap>, StoreError> {
    match meta.get("gaps")? {
        Some(bytes) => decode("meta", bytes.value()),
        None => Ok(Vec::new()),
    }
}

/// Which revisions can be read.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Kept {
    /// The moments that are kept below the detail floor.
    pub rows: BTreeMap<u64, KeptRow>,
    pub gaps: Vec<Gap>,
}

impl Kept {
    pub fn load(txn: &ReadTransaction) -> Result<Self, StoreError> {
        let mut rows = BTreeMap::new();
        for row in txn.open_table(KEPT)?.iter()? {
            let (revision, bytes) = row?;
            let (own, kept): (u64, KeptRow) = decode("kept", bytes.value())?;
            if own != revision.value() {
                return Err(StoreError::Damaged { table: "kept" });
            }
            rows.insert(own, kept);
        }
        Ok(Self { rows, gaps: gaps(&txn.open_table(META)?)? })
    }

    /// The detail floor: above it every revision is kept.
    pub fn floor(&self) -> Revision {
        Revision(self.rows.keys().next_back().copied().unwrap_or_default())
    }

    pub fn is_kept(&self, revision: Revision) -> bool {
        let is_detail = revision >= self.floor() && self.gap(revision.0).is_none();
        is_detail || revision == Revision::ZERO || self.rows.contains_key(&revision.0)
    }

    /// The gap that contains a revision.
    fn gap(&self, revision: u64) -> Option<&Gap> {
        self.gaps.iter().find(|gap| gap.last < revision && revision < gap.next)
    }

    /// The newest revision at or before this one that the log may hold.
    pub fn logged(&self, revision: u64) -> u64 {
        let newest_first = self.gaps.iter().rev();
        newest_first.fold(revision, |at, gap| if gap.last < at && at <= gap.next { gap.last } else { at })
    }

    /// The newest revision at or before this one that can be read: not one that a restore skipped.
    pub fn real(&self, revision: u64) -> u64 {
        self.gap(revision).map_or(revision, |gap| gap.last)
    }

    /// The first revision after this one that the log may hold.
    pub fn after(&self, revision: u64) -> u64 {
        self.gaps.iter().fold(revision, |at, gap| if at == gap.last { gap.next } else { at }) + 1
    }

    /// The newest revision: where a restored store continues, even if nothing was recorded in it yet.
    pub fn newest(&self, folded: Revision) -> Revision {
        Revision(self.gaps.last().map_or(folded.0, |gap| gap.next.max(folded.0)))
    }

    pub fn rows(&self) -> impl DoubleEndedIterator<Item = (u64, &KeptRow)> {
        self.rows.iter().map(|(revision, row)| (*revision, row))
    }

    /// The kept revision for a time before the end of the floor's day; `None` for later times. The error names the
    /// nearest ones.
    pub fn at(&self, requested: Timestamp) -> Result<Option<Revision>, StoreError> {
        let before = self.rows.iter().rev().find(|(_, row)| row.time <= requested);
        match before {
            Some((revision, row)) if requested < row.until => Ok(Some(Revision(*revision))),
            // Above the floor's day everything is kept.
            Some((revision, _)) if *revision == self.floor().0 => Ok(None),
            None if self.rows.is_empty() => Ok(None),
            _ => Err(self.not_kept(Moment::Time(requested), |_, row| row.time <= requested)),
        }
    }

    pub fn check(&self, requested: Revision) -> Result<(), StoreError> {
        if self.is_kept(requested) {
            return Ok(());
        }
        if let Some(gap) = self.gap(requested.0).filter(|gap| gap.last >= self.floor().0) {
            let [before, after] =
                [gap.last, gap.next].map(|r| Some(RetainedMoment { revision: Revision(r), time: gap.time }));
            return Err(StoreError::NotKept { requested: Moment::Revision(requested), before, after });
        }
        Err(self.not_kept(Moment::Revision(requested), |revision, _| revision <= requested.0))
    }

    fn not_kept(&self, requested: Moment, is_before: impl Fn(u64, &KeptRow) -> bool) -> StoreError {
        let named =
            |(revision, row): (&u64, &KeptRow)| RetainedMoment { revision: Revision(*revision), time: row.time };
        let before = self.rows.iter().rev().find(|(revision, row)| is_before(**revision, row)).map(named);
        let after = self.rows.iter().find(|(revision, row)| !is_before(**revision, row)).map(named);
        StoreError::NotKept { requested, before, after }
    }

    /// Single changes are available only from the floor on.
    pub fn check_raw(&self, from: Revision) -> Result<(), StoreError> {
        let floor = self.floor();
        if let Some(gap) = self.gap(from.0) {
            let floor = RetainedMoment { revision: Revision(gap.next), time: gap.time };
            return Err(StoreError::Compacted { requested: from, floor });
        }
        match self.rows.get(&floor.0) {
            Some(row) if from < floor => {
                let floor = RetainedMoment { revision: floor, time: row.time };
                Err(StoreError::Compacted { requested: from, floor })
            }
            _ => Ok(()),
        }
    }

    /// The kept moment before this one, and when the range above it began.
    pub fn range_of(&self, revision: u64) -> (u64, Timestamp) {
        let before = self.rows.range(..revision).next_back();
        before.map_or((0, Timestamp::MIN), |(before, row)| (*before, row.until))
    }

    pub fn apply(&mut self, change: &MomentChange) {
        match change {
            MomentChange::AsBefore => {}
            MomentChange::Floor(revision, row) => {
                self.rows.insert(*revision, *row);
            }
            MomentChange::Horizon(revision) => {
                self.rows = self.rows.split_off(revision);
                if let Some(row) = self.rows.get_mut(revision) {
                    row.is_thinned = false;
                }
            }
            MomentChange::Thinned(revision) => {
                if let Some(row) = self.rows.get_mut(revision) {
                    row.is_thinned = true;
                }
            }
        }
    }
}

/// How the kept moments change.
#[derive(Debug, Default)]
pub(in crate::store) enum MomentChange {
    #[default]
    AsBefore,
    /// Below this revision only kept moments can be read.
    Floor(u64, KeptRow),
    /// The kept moments below it are dropped.
    Horizon(u64),
    Thinned(u64),
}
