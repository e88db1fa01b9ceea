//! The goals of the store, measured: `make bench-store`.

mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use elava::inventory::{Filter, Moment, Snapshot, Sweep, Timestamp};
use elava::store::{Clock, Store};
use workload::Cloud;

const SCOPES: usize = 1_000;
const TASKS: usize = 64;

struct Bed {
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    store: Store,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let path = dir.path().join("elava.redb");
        let now = Arc::new(AtomicI64::new(1_000_000_000_000));
        let store = Store::open(&path, clock(&now)).expect("a new store");
        Self { path, _dir: dir, now, store }
    }

    fn start(&self) -> Timestamp {
        Timestamp::from_millis(self.now.fetch_add(300_000, Ordering::Relaxed) + 299_000)
    }

    /// Commits sweeps by as many tasks as scan at once.
    fn commit(&self, sweeps: &[Sweep]) -> Duration {
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|threads| {
            for _ in 0..TASKS {
                threads.spawn(|| {
                    while let Some(sweep) = sweeps.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.store.commit(sweep, None).expect("it commits");
                    }
                });
            }
        });
        started.elapsed()
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).expect("it is there").len()
    }
}

fn clock(now: &Arc<AtomicI64>) -> Clock {
    let now = now.clone();
    Arc::new(move || Timestamp::from_millis(now.load(Ordering::Relaxed)))
}

fn main() {
    let resources: usize = std::env::var("RESOURCES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut cloud = Cloud::new(resources, SCOPES);
    let (json, zstd) = cloud.measure();
    println!("documents: {json} bytes of JSON, {zstd} under zstd-1");
    let bed = Bed::new();
    let sweeps = cloud.sweeps(bed.start());
    println!("first scan of {resources}: {:?}", bed.commit(&sweeps));
    cloud.put_back(sweeps);
    println!("file after it: {} MB", bed.bytes() >> 20);
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        cloud.churn(resources / 1_000);
        let sweeps = cloud.sweeps(bed.start());
        total += bed.commit(&sweeps);
        cloud.put_back(sweeps);
    }
    println!("rescan, 0.1 % churn: {:?}", total / u32::try_from(rounds).expect("few"));
    let sweeps = cloud.sweeps(bed.start());
    println!("rescan, unchanged: {:?}", bed.commit(&sweeps));
    let started = Instant::now();
    let listed = bed.store.snapshot(Moment::Now).expect("now").resources(&Filter::default()).len();
    println!("list of {listed} now: {:?}", started.elapsed());
    println!("file: {} MB", bed.bytes() >> 20);
    let path = bed.path.clone();
    let Bed { store, now, _dir, .. } = bed;
    drop(store);
    let started = Instant::now();
    drop(Store::open(&path, clock(&now)).expect("it opens"));
    println!("open: {:?}", started.elapsed());
}
