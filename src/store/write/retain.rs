//! What one commit does for retention: pages of the log that replace others, and rows that go.

use redb::{ReadableTable, WriteTransaction};

use crate::store::StoreError;
use crate::store::file::log::{LOG, Pages};
use crate::store::file::tables::{KEPT, RUN, Rid, ScopeNo, encode};
use crate::store::state::checkpoint;
use crate::store::state::kept::{Kept, MomentChange};

/// What one commit does for retention.
#[derive(Default)]
pub(in crate::store) struct RetentionStep {
    pub moments: MomentChange,
    pub old_pages: Vec<(u64, Rid)>,
    pub new_pages: Pages,
    pub runs: Vec<(ScopeNo, i64)>,
    pub checkpoints: Vec<u64>,
}

impl RetentionStep {
    pub fn bytes(&self) -> usize {
        self.new_pages.bytes()
    }

    /// `kept` is the result of the step.
    pub fn write(self, txn: &WriteTransaction, kept: &Kept) -> Result<(), StoreError> {
        let mut pages = txn.open_table(LOG)?;
        for key in self.old_pages {
            pages.remove(key)?;
        }
        self.new_pages.write(&mut pages)?;
        let mut runs = txn.open_table(RUN)?;
        for key in self.runs {
            runs.remove(key)?;
        }
        for revision in self.checkpoints {
            checkpoint::remove(txn, revision)?;
        }
        if !matches!(self.moments, MomentChange::AsBefore) {
            let mut table = txn.open_table(KEPT)?;
            let stale: Vec<u64> =
                table.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, StoreError>>()?;
            for revision in stale.into_iter().filter(|revision| !kept.rows.contains_key(revision)) {
                table.remove(revision)?;
            }
            for row in &kept.rows {
                table.insert(row.0, encode(&row).as_slice())?;
            }
        }
        Ok(())
    }
}
