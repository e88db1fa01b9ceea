//! Readers hold redb's snapshot of the file on a lease: as long as one is open, redb can use none of the
//! room that was freed since. Who reads for longer than a lease lasts is told so, and asks again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use redb::ReadTransaction;

use super::StoreError;

/// A list of a million takes less than a second. A backup or an export is bounded by what there is.
pub(super) const READER_LIFETIME: Duration = Duration::from_mins(5);

pub(super) struct Lease {
    txn: Mutex<Option<Arc<ReadTransaction>>>,
    ends: Instant,
}

impl Lease {
    /// One that nobody takes back.
    pub fn without_end(txn: Arc<ReadTransaction>) -> Arc<Self> {
        Arc::new(Self { txn: Mutex::new(Some(txn)), ends: Instant::now() })
    }

    /// Gives the file back before its time.
    pub fn end(&self) {
        drop(self.txn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub fn txn(&self) -> Result<Arc<ReadTransaction>, StoreError> {
        let txn = self.txn.lock().unwrap_or_else(PoisonError::into_inner).clone();
        txn.ok_or(StoreError::ReaderExpired { lifetime: READER_LIFETIME })
    }
}

/// All that are lent.
#[derive(Default)]
pub(super) struct Leases(Mutex<Vec<Weak<Lease>>>);

impl Leases {
    pub fn lend(&self, txn: Arc<ReadTransaction>) -> Arc<Lease> {
        let lease = Arc::new(Lease { txn: Mutex::new(Some(txn)), ends: Instant::now() + READER_LIFETIME });
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lent.len() == lent.capacity() {
            lent.retain(|lease| lease.strong_count() > 0);
        }
        lent.push(Arc::downgrade(&lease));
        lease
    }

    /// Takes all back.
    pub fn end(&self) {
        let lent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        lent.iter().filter_map(Weak::upgrade).for_each(|lease| lease.end());
    }

    /// Takes back what has been lent for too long; returns how many.
    pub fn revoke(&self, now: Instant) -> usize {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|lease| lease.strong_count() > 0);
        let over = lent.iter().filter_map(Weak::upgrade).filter(|lease| lease.ends <= now);
        over.filter_map(|lease| lease.txn.lock().unwrap_or_else(PoisonError::into_inner).take()).count()
    }
}
