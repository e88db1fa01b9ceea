//! A new store under a clock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use elava::inventory::Timestamp;
use elava::store::{Clock, Store};

pub struct Bed {
    /// Removed with the bed.
    pub _dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    pub store: Store,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let now = Arc::new(AtomicI64::new(0));
        let ticking = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_millis(ticking.load(Ordering::Relaxed)));
        let store = Store::open(&dir.path().join("elava.redb"), clock).expect("a new store");
        Self { _dir: dir, now, store }
    }

    /// Five minutes pass. When a look begins that ends before the clock's time.
    pub fn next_look(&self) -> Timestamp {
        Timestamp::from_millis(self.now.fetch_add(300_000, Ordering::Relaxed) + 299_000)
    }
}
