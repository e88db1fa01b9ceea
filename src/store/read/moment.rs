//! Which revision a moment names.

use std::ops::RangeInclusive;

use redb::ReadTransaction;

use crate::inventory::{Moment, Revision, Timestamp};
use crate::store::StoreError;
use crate::store::file::log::{self, LOG};
use crate::store::file::tables::Rid;
use crate::store::state::State;
use crate::store::state::kept::Kept;

/// The revision of a moment, and its time.
pub(in crate::store) fn revision_at(
    txn: &ReadTransaction,
    newest: &State,
    moment: Moment,
    now: Timestamp,
) -> Result<(Revision, Timestamp), StoreError> {
    Ok(match moment {
        Moment::Now => (newest.revision, now.max(newest.time)),
        Moment::Revision(requested) if requested > newest.revision => {
            return Err(StoreError::Future { requested, newest: newest.revision });
        }
        Moment::Revision(requested) => {
            newest.kept.check(requested)?;
            (requested, time_of(txn, Revision(newest.kept.logged(requested.0)))?)
        }
        Moment::Time(requested) => (last_at(txn, newest, requested)?, requested),
    })
}

pub(super) fn time_of(txn: &ReadTransaction, revision: Revision) -> Result<Timestamp, StoreError> {
    let table = txn.open_table(LOG)?;
    match revision {
        // The empty state before everything.
        Revision::ZERO => Ok(log::first_time(&table)?.unwrap_or_default()),
        _ => log::time_of(&table, revision.0),
    }
}

/// The last revision whose time is at or before `requested`.
pub(super) fn last_at(
    txn: &ReadTransaction,
    current: &State,
    requested: Timestamp,
) -> Result<Revision, StoreError> {
    if requested >= current.time {
        return Ok(current.revision);
    }
    if let Some(kept) = current.kept.at(requested)? {
        return Ok(kept);
    }
    let log = txn.open_table(LOG)?;
    let floor = current.kept.floor();
    let first = if floor == Revision::ZERO { Revision(current.kept.after(0)) } else { floor };
    let earliest = log::time_of(&log, first.0)?;
    if requested < earliest {
        return Err(StoreError::TooEarly { requested, earliest, revision: first });
    }
    last_between(&log, &current.kept, first.0..=current.revision.0, requested)
}

/// The last revision of a range whose time is at or before `requested`. All of them must be kept, and the first
/// must qualify. Binary search, because times never go back.
pub(in crate::store) fn last_between(
    log: &impl redb::ReadableTable<(u64, Rid), &'static [u8]>,
    kept: &Kept,
    range: RangeInclusive<u64>,
    requested: Timestamp,
) -> Result<Revision, StoreError> {
    let (mut low, mut high) = range.into_inner();
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if log::time_of(log, kept.logged(middle))? <= requested {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(Revision(kept.logged(low)))
}
