//! Readers hold redb's snapshot of the file on a lease: while one is open, redb can't reuse the space that was
//! freed since. A reader that exceeds its lease gets an error, and must query again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use redb::ReadTransaction;

use crate::store::StoreError;

/// A list of a million takes less than a second. Backups and exports have no limit: they are bounded by the
/// content.
pub(in crate::store) const READER_LIFETIME: Duration = Duration::from_mins(5);

pub(in crate::store) struct Lease {
    txn: Mutex<Option<Arc<ReadTransaction>>>,
    ends: Instant,
}

impl Lease {
    /// A lease that is never revoked.
    pub fn without_end(txn: Arc<ReadTransaction>) -> Arc<Self> {
        Arc::new(Self { txn: Mutex::new(Some(txn)), ends: Instant::now() })
    }

    /// Gives the file back before the lease expires.
    pub fn end(&self) {
        drop(self.txn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub fn txn(&self) -> Result<Arc<ReadTransaction>, StoreError> {
        let txn = self.txn.lock().unwrap_or_else(PoisonError::into_inner).clone();
        txn.ok_or(StoreError::ReaderExpired { lifetime: READER_LIFETIME })
    }
}

/// All leases that were granted.
#[derive(Default)]
pub(in crate::store) struct Leases(Mutex<Vec<Weak<Lease>>>);

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

    /// Revokes all leases.
    pub fn end(&self) {
        let lent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        lent.iter().filter_map(Weak::upgrade).for_each(|lease| lease.end());
    }

    /// Revokes leases that have expired; returns how many.
    pub fn revoke(&self, now: Instant) -> usize {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|lease| lease.strong_count() > 0);
        let over = lent.iter().filter_map(Weak::upgrade).filter(|lease| lease.ends <= now);
        over.filter_map(|lease| lease.txn.lock().unwrap_or_else(PoisonError::into_inner).take()).count()
    }
}
