//! A new store with its own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use elava::inventory::Timestamp;
use elava::store::{Clock, Store};

pub struct Bed {
    /// Removed together with the bed.
    #[allow(dead_code)] // Held, never read.
    pub dir: tempfile::TempDir,
    pub now: Arc<AtomicI64>,
    pub store: Store,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let now = Arc::new(AtomicI64::new(0));
        let ticking = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_millis(ticking.load(Ordering::Relaxed)));
        let store = Store::open(&dir.path().join("elava.redb"), clock).expect("a new store");
        Self { dir, now, store }
    }

    /// The bed's clock, for opening another store.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn clock(&self) -> Clock {
        let now = self.now.clone();
        Arc::new(move || Timestamp::from_millis(now.load(Ordering::Relaxed)))
    }

    /// Advances the clock by `span`.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn pass(&self, span: std::time::Duration) {
        let millis = i64::try_from(span.as_millis()).expect("a span is short");
        self.now.fetch_add(millis, Ordering::Relaxed);
    }

    /// Advances the clock by five minutes. Returns the start of a sweep that ends before the clock's time.
    pub fn next_sweep(&self) -> Timestamp {
        Timestamp::from_millis(self.now.fetch_add(300_000, Ordering::Relaxed) + 299_000)
    }
}
