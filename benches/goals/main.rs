//! What the goals of the store are stated for, measured: `make bench-store`. Baselines and the table of
//! goals are still missing.

#[path = "../bed.rs"]
mod bed;
mod workload;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bed::Bed;
use elava::inventory::{Filter, Moment, Revision, Snapshot, Sweep};
use elava::store::{Store, system_clock};
use workload::Cloud;

const SCOPES: usize = 1_000;
const TASKS: usize = 64;

/// Commits sweeps by as many tasks as scan at once.
fn commit(store: &Store, sweeps: &[Sweep]) -> Duration {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..TASKS {
            threads.spawn(|| {
                while let Some(sweep) = sweeps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    store.commit(sweep, None).expect("it commits");
                }
            });
        }
    });
    started.elapsed()
}

fn bytes(store: &Store) -> u64 {
    std::fs::metadata(store.path()).expect("it is there").len()
}

fn main() {
    let resources: usize = std::env::var("RESOURCES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut cloud = Cloud::new(resources, SCOPES);
    let (json, zstd) = cloud.measure();
    println!("documents: {json} bytes of JSON, {zstd} under zstd-1");
    let bed = Bed::new();
    let sweeps = cloud.sweeps(bed.next_look());
    println!("first scan of {resources}: {:?}", commit(&bed.store, &sweeps));
    cloud.put_back(sweeps);
    println!("file after it: {} MB", bytes(&bed.store) >> 20);
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        cloud.churn(resources / 1_000);
        let sweeps = cloud.sweeps(bed.next_look());
        total += commit(&bed.store, &sweeps);
        cloud.put_back(sweeps);
    }
    println!("rescan, 0.1 % churn: {:?}", total / u32::try_from(rounds).expect("few"));
    let sweeps = cloud.sweeps(bed.next_look());
    println!("rescan, unchanged: {:?}", commit(&bed.store, &sweeps));
    let started = Instant::now();
    let listed =
        bed.store.snapshot(Moment::Now).expect("now").resources(&Filter::default()).expect("it is sound").len();
    println!("list of {listed} now: {:?}", started.elapsed());
    println!("file: {} MB", bytes(&bed.store) >> 20);
    let path = bed.store.path().to_owned();
    let Bed { store, _dir, .. } = bed;
    drop(store);
    let started = Instant::now();
    let store = Store::open(&path, system_clock()).expect("it opens");
    println!("open: {:?}", started.elapsed());
    let started = Instant::now();
    store.checkpoint().expect("it is written");
    println!("checkpoint: {:?}", started.elapsed());
    println!("file: {} MB", bytes(&store) >> 20);
    for revision in [store.revision().0 / 2, store.revision().0] {
        let started = Instant::now();
        let snapshot = store.snapshot(Moment::Revision(Revision(revision))).expect("it is kept");
        let made = started.elapsed();
        let (mut listed, mut bytes) = (0, 0);
        snapshot.each(&Filter::default(), |line| {
            listed += 1;
            let owner = line.tags.and_then(|tags| tags.get("owner"));
            bytes += line.id.len() + owner.map_or(0, str::len);
        });
        println!("list of {listed} at {revision} ({bytes} bytes): {made:?}, {:?}", started.elapsed());
    }
    drop(store);
    let started = Instant::now();
    drop(Store::open(&path, system_clock()).expect("it opens"));
    println!("open: {:?}", started.elapsed());
}
