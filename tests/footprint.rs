//! The cost of a resource: bytes of memory in an open store, and bytes of the file for each change.
//!
//! Alone in its process, because every allocation counts.

#![allow(clippy::unwrap_used)]

#[path = "../benches/bed.rs"]
mod bed;
#[path = "../benches/goals/workload.rs"]
mod workload;

use std::alloc::System;

use bed::Bed;
use elava::inventory::Sweep;
use elava::store::{Store, StoreStats, system_clock};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use workload::Cloud;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn commit(bed: &Bed, cloud: &mut Cloud) {
    let sweeps: Vec<Sweep> = cloud.sweeps(bed.next_sweep());
    for sweep in &sweeps {
        bed.store.commit(sweep, None).unwrap();
    }
    cloud.put_back(sweeps);
}

/// The bytes in memory of a store that is opened with this number of live resources and as many ended ones, without
/// redb's cache of the file, which has its own bound.
fn opened_bytes(resources: usize) -> i64 {
    let mut cloud = Cloud::new(resources, 20);
    let bed = Bed::new();
    commit(&bed, &mut cloud);
    cloud.replace_all();
    // The resources are young: two sweeps must miss them.
    commit(&bed, &mut cloud);
    commit(&bed, &mut cloud);
    bed.store.checkpoint().unwrap();
    let path = bed.store.path().to_owned();
    let Bed { store, dir: _dir, .. } = bed;
    drop((store, cloud));

    let region = Region::new(ALLOCATOR);
    let store = Store::open(&path, system_clock()).unwrap();
    let stats = store.stats().unwrap();
    let held = region.change();
    assert_eq!((stats.live, stats.ended), (resources, resources as u64));
    let number = |bytes: usize| i64::try_from(bytes).unwrap();
    number(held.bytes_allocated) - number(held.bytes_deallocated) - number(stats.cache_bytes)
}

#[test]
fn a_resource_takes_few_bytes_in_memory_and_a_change_few_in_the_file() {
    // The fixed costs of the store are in both.
    let (few, many) = (2_000, 12_000);
    let bytes = (opened_bytes(many) - opened_bytes(few)) / i64::try_from(many - few).unwrap();
    assert!((60..120).contains(&bytes), "{bytes} bytes of memory for a resource that lives");

    let mut cloud = Cloud::new(10_000, 20);
    let bed = Bed::new();
    commit(&bed, &mut cloud);
    let stored = |stats: &StoreStats| -> u64 {
        let of = ["log", "life", "end", "key"];
        stats.tables.iter().filter(|t| of.contains(&&*t.table)).map(|t| t.stored_bytes).sum()
    };
    let before = bed.store.stats().unwrap();
    for _ in 0..10 {
        cloud.churn(400);
        commit(&bed, &mut cloud);
    }
    let after = bed.store.stats().unwrap();
    let changes = after.entries - before.entries;
    let bytes = (stored(&after) - stored(&before)) / changes;
    assert!((20..90).contains(&bytes), "{bytes} bytes of the file for each of {changes} changes");
}
