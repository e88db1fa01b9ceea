//! The goals of the store, measured against designs without a store: `make bench-store`.
//!
//! Prints a line for each measurement, and writes the tables with a description of the machine to the file that `TABLE`
//! names. The goals are set for a million resources and thirty days; at other sizes no goal is reported as met or
//! missed.

#![allow(clippy::cast_precision_loss)] // Figures for people.

#[path = "../bed.rs"]
mod bed;
mod naive;
mod table;
mod workload;

use std::alloc::System;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bed::Bed;
use elava::inventory::{AccountId, Filter, Moment, ResourceType, Revision, Sweep, Timestamp};
use elava::store::{Retention, Store, StoreStats};
use naive::{NaiveRedb, NaiveSqlite};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use table::{Line, Table};
use workload::{Cloud, empty_sweep};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SCOPES: usize = 1_000;
const TASKS: usize = 64;
/// Scans that the other designs run: they are slow.
const SCANS: u32 = 2;
const ROUNDS_A_DAY: u64 = 288;
const DAY: Duration = Duration::from_hours(24);

/// Runs `work` and measures how long it takes.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (std::hint::black_box(done), started.elapsed())
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

/// Commits sweeps from as many threads as there are concurrent tasks.
fn commit(store: &Store, sweeps: &[Sweep]) -> Duration {
    let next = AtomicUsize::new(0);
    let work = || {
        std::thread::scope(|threads| {
            for _ in 0..TASKS {
                threads.spawn(|| {
                    while let Some(sweep) = sweeps.get(next.fetch_add(1, Ordering::Relaxed)) {
                        store.commit(sweep, None).expect("it commits");
                    }
                });
            }
        });
    };
    timed(work).1
}

/// Bytes that this process has passed to the disk.
fn written_bytes() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(f64::NAN)
}

fn written(work: impl FnOnce()) -> f64 {
    let before = written_bytes();
    work();
    written_bytes() - before
}

fn file_bytes(path: &Path) -> f64 {
    std::fs::metadata(path).expect("it is there").len() as f64
}

/// Stored bytes of the log, and of the other tables that keep changes.
fn stored(stats: &StoreStats) -> f64 {
    let of = ["log", "life", "end", "key"];
    stats.tables.iter().filter(|t| of.contains(&&*t.table)).map(|t| t.stored_bytes as f64).sum()
}

/// Lists the ids and owners of the resources that match a filter.
fn list(store: &Store, moment: Moment, filter: &Filter) -> usize {
    let snapshot = store.snapshot(moment).expect("it is kept");
    let (mut lines, mut bytes) = (0, 0);
    snapshot.each(filter, |line| {
        lines += 1;
        let owner = line.tags.and_then(|tags| tags.get("owner"));
        bytes += line.id.len() + owner.map_or(0, str::len);
    });
    std::hint::black_box(bytes);
    lines
}

fn tagged(key: &str, value: Option<&str>) -> Filter {
    Filter { tags: vec![(key.to_owned(), value.map(str::to_owned))], ..Filter::default() }
}

/// The designs without a store, scan by scan.
fn baselines(table: &mut Table, resources: usize) {
    let mut cloud = Cloud::new(resources, SCOPES);
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    let (redb_path, sqlite_path) = (dir.path().join("naive.redb"), dir.path().join("naive.sqlite"));
    let redb = NaiveRedb::new(&redb_path);
    let mut sqlite = NaiveSqlite::new(&sqlite_path);
    let mut key = String::new();
    let mut id = String::new();
    for scan in 0..SCANS {
        if scan > 0 {
            cloud.churn(resources / 1_000);
        }
        let sweeps = cloud.sweeps(Timestamp::from_millis(i64::from(scan) * 300_000));
        let rows = naive::rows(&sweeps);
        cloud.put_back(sweeps);
        let mut span = Duration::ZERO;
        let bytes = written(|| span = timed(|| redb.scan(scan, &rows)).1);
        let mut sqlite_span = Duration::ZERO;
        written(|| sqlite_span = timed(|| sqlite.scan(scan, &rows)).1);
        let what = if scan == 0 { "first scan" } else { "rescan" };
        table.beside(what, "redb", span.as_secs_f64() * 1e3);
        table.beside(what, "sqlite", sqlite_span.as_secs_f64() * 1e3);
        table.beside("written", "redb", bytes);
        key.clone_from(&rows[rows.len() / 3].key);
        id.clone_from(&rows[rows.len() / 3].id);
    }
    let millis = |work: &dyn Fn() -> usize| timed(work).1.as_secs_f64() * 1e3;
    table.beside("list", "redb", millis(&|| redb.list(SCANS - 1)));
    table.beside("list", "sqlite", millis(&|| sqlite.list(SCANS - 1)));
    table.beside("past", "redb", millis(&|| redb.list(0)));
    table.beside("past", "sqlite", millis(&|| sqlite.list(0)));
    table.beside("lookup", "redb", millis(&|| redb.lookup(SCANS - 1, &key)) * 1e6);
    table.beside("lookup", "sqlite", millis(&|| sqlite.lookup(SCANS - 1, &key)) * 1e6);
    table.beside("owner", "sqlite", millis(&|| sqlite.with_owner(SCANS - 1, "team-7")));
    table.beside("history", "redb", millis(&|| redb.history(SCANS, &key)) * 1e3);
    table.beside("history", "sqlite", millis(&|| sqlite.history(&id)) * 1e3);
    table.beside("disappeared", "redb", millis(&|| redb.disappeared(0, SCANS - 1)));
    table.beside("disappeared", "sqlite", millis(&|| sqlite.disappeared(0, SCANS - 1)));
    println!(
        "without a store, {SCANS} scans: {:.0} MB in redb, {:.0} MB in SQLite",
        file_bytes(&redb_path) / 1e6,
        file_bytes(&sqlite_path) / 1e6
    );
}

/// Thirty days of rounds, and queries on them.
fn thirty_days(table: &mut Table, resources: usize, days: u64) -> (usize, usize) {
    let mut cloud = Cloud::new(resources, SCOPES);
    let measured = cloud.measure();
    println!("documents: {} bytes of JSON (goal 943), {} under zstd-1 (goal 632)", measured.0, measured.1);
    let bed = Bed::new();
    let path = bed.store.path().to_owned();

    let sweeps = cloud.sweeps(bed.next_sweep());
    table.time("first scan", "first scan", commit(&bed.store, &sweeps), 3_000.0);
    cloud.put_back(sweeps);
    let before = bed.store.stats().expect("it is sound");
    let rounds = days * ROUNDS_A_DAY;
    let mut hundred_ago = Revision::ZERO;
    let (mut spent, started) = (Duration::ZERO, Instant::now());
    for round in 0..rounds {
        if round + 100 == rounds {
            hundred_ago = bed.store.revision();
        }
        let sweeps = cloud.changes(resources / 1_000, bed.next_sweep());
        spent += commit(&bed.store, &sweeps);
        if round % 1_000 == 999 {
            println!("{round} rounds: {spent:.0?} of {:.0?}", started.elapsed());
        }
    }
    let after = bed.store.stats().expect("it is sound");
    let entries = after.entries - before.entries;
    let a_change = (stored(&after) - stored(&before)) / entries as f64;
    table.add(Line::new("", "stored bytes a change", a_change, "B", 55.0));

    // The file as a kill leaves it: copied while it is open.
    let killed = path.with_file_name("killed.redb");
    std::fs::copy(&path, &killed).expect("there is room");
    let clock = bed.clock();
    let Bed { store, dir, now } = bed;
    // Closed as the operator closes it.
    store.flush().expect("it is written");
    drop(store);
    table.add(Line::new("", "the file of it, after close", file_bytes(&path) / 1e6, "MB", 900.0));
    let (store, span) = timed(|| Store::open(&killed, clock.clone()).expect("it opens"));
    let allowed = 250.0 + 750.0 * file_bytes(&killed) / 1e9;
    table.time("", "open after kill -9", span, allowed.round());
    drop(store);
    std::fs::remove_file(&killed).expect("it is there");
    let (store, span) = timed(|| Store::open(&path, clock.clone()).expect("it opens"));
    table.time("", "open, warm", span, 250.0);
    let bed = Bed { dir, now, store };
    let store = &bed.store;

    let mut spans = Vec::new();
    for (scope, id) in cloud.with_versions(10, 60) {
        let snapshot = store.snapshot(Moment::Now).expect("now");
        let resource = snapshot.find(&scope.key(&id).to_string(), None).expect("it is sound").remove(0);
        let (steps, span) = timed(|| snapshot.history(&resource).expect("it is sound").len());
        // Two changes of a resource in one round were recorded as one.
        if steps == 10 {
            spans.push(span);
        }
    }
    if !spans.is_empty() {
        let micros = median(spans).as_secs_f64() * 1e6;
        table.add(Line::new("history", "history of one with 10 versions, cold", micros, "us", 200.0));
    }
    let (ended, span) =
        timed(|| store.disappeared(Moment::Revision(hundred_ago), Moment::Now, None).expect("it is sound").len());
    table.time("disappeared", format!("the {ended} disappeared of the last 100 rounds"), span, 10.0);

    let mut spans = Vec::new();
    for _ in 0..20 {
        cloud.churn(resources / 1_000);
        let sweeps = cloud.sweeps(bed.next_sweep());
        spans.push(commit(store, &sweeps));
        cloud.put_back(sweeps);
    }
    let rescan =
        Line::new("rescan", "rescan, 0.1 % churn, hashing inside, median", millis(median(spans)), "ms", 150.0);
    table.add(rescan.and_times(50.0));
    let sweeps = cloud.sweeps(bed.next_sweep());
    commit(store, &sweeps);
    cloud.put_back(sweeps);
    let sweeps = cloud.sweeps(bed.next_sweep());
    let bytes = written(|| {
        commit(store, &sweeps);
    });
    let unchanged = Line::new("written", "bytes written by an unchanged rescan", bytes, "B", 1e6);
    table.add(unchanged.and_times(1_000.0));
    lookups(table, store, &sweeps);
    cloud.put_back(sweeps);

    let snapshot = store.snapshot(Moment::Now).expect("now");
    // The first query adds the new entries to the index.
    std::hint::black_box(snapshot.count(&tagged("owner", Some("team-8"))));
    let (few, span) = timed(|| snapshot.count(&tagged("owner", Some("team-7"))));
    table.time("owner", format!("tag filter that {few} have"), span, 1.0);
    let (many, span) = timed(|| snapshot.count(&tagged("managed-by", None)));
    table.time("", format!("tag filter that {many} have"), span, 1.0);
    drop(snapshot);
    let spans = (0..5).map(|_| timed(|| list(store, Moment::Now, &Filter::default())).1);
    table.time("list", "list of all (ids, owner, tags), now", median(spans.collect()), 150.0);
    let newest = store.revision().0;
    let moments = (1..16).map(|n| Moment::Revision(Revision(newest / 16 * n)));
    let mut spans: Vec<Duration> = moments.map(|at| timed(|| list(store, at, &Filter::default())).1).collect();
    spans.sort();
    println!("the past: {spans:?}");
    table.time("past", "the same at 15 moments of the past, the slowest", spans[14], 150.0);
    retention(table, &bed, &mut cloud, days);
    measured
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn lookups(table: &mut Table, store: &Store, sweeps: &[Sweep]) {
    let mut spans: Vec<Duration> = Vec::new();
    for (n, sweep) in sweeps.iter().cycle().take(200_000).enumerate() {
        let id = &sweep.observations[n * 7919 % sweep.observations.len()].id;
        // In practice the caller has just read both, so they are in the CPU caches.
        std::hint::black_box((sweep.scope.to_string(), id.clone()));
        spans.push(timed(|| store.changed(&sweep.scope, id).expect("it lives")).1);
    }
    // The index of a scope is built by its first query.
    let mut spans = spans.split_off(100_000);
    spans.sort();
    let p99 = spans[spans.len() / 100 * 99].as_nanos() as f64;
    println!(
        "lookups: {:?} in the middle, {:?} of ten the slowest",
        spans[spans.len() / 2],
        spans[spans.len() / 10 * 9]
    );
    table.add(Line::new("lookup", "current lookup, p99", p99, "ns", 1_000.0));
}

/// How much longer a commit takes while retention runs.
fn retention(table: &mut Table, bed: &Bed, cloud: &mut Cloud, days: u64) {
    let store = &bed.store;
    let mut one = |span: &mut Vec<Duration>| {
        let sweeps = cloud.changes(1, bed.next_sweep());
        span.push(timed(|| store.commit(&sweeps[0], None).expect("it commits")).1);
    };
    let mut alone = Vec::new();
    for _ in 0..200 {
        one(&mut alone);
    }
    let keep = Retention { detail: DAY * u32::try_from(days / 3).expect("few days"), horizon: 400 * DAY };
    let is_over = AtomicBool::new(false);
    let mut beside = Vec::new();
    let (report, span) = std::thread::scope(|threads| {
        let retaining = threads.spawn(|| {
            let done = timed(|| store.retain(keep).expect("it is sound"));
            is_over.store(true, Ordering::Release);
            done
        });
        while !is_over.load(Ordering::Acquire) {
            one(&mut beside);
        }
        retaining.join().expect("it ends")
    });
    println!("retention: {report:?} in {span:.1?}");
    beside.sort();
    let held_up = millis(beside[beside.len() / 100 * 99]) - millis(median(alone));
    table.add(Line::new("", "commit held up by retention, p99", held_up, "ms", 20.0));
}

/// A million live resources and ten million ended ones.
fn dead(table: &mut Table, resources: usize) {
    let mut cloud = Cloud::new(resources, SCOPES);
    let bed = Bed::new();
    // So that no resource is young when it ends.
    bed.pass(DAY);
    for generation in 0..=10 {
        if generation > 0 {
            cloud.replace_all();
        }
        let sweeps = cloud.sweeps(bed.next_sweep());
        commit(&bed.store, &sweeps);
        cloud.put_back(sweeps);
        println!("{} dead", generation * resources);
    }
    bed.store.checkpoint().expect("it is written");
    let path = bed.store.path().to_owned();
    let clock = bed.clock();
    let Bed { store, dir: _dir, now } = bed;
    drop(store);
    let region = Region::new(ALLOCATOR);
    let (store, span) = timed(|| Store::open(&path, clock).expect("it opens"));
    table.time("", "open with 10 dead for each that lives", span, 250.0);
    // Includes the index of each scope.
    let sweeps = cloud.sweeps(Timestamp::from_millis(0));
    for sweep in &sweeps {
        store.changed(&sweep.scope, &sweep.observations[0].id);
    }
    let stats = store.stats().expect("it is sound");
    assert_eq!(stats.ended, 10 * resources as u64);
    cloud.put_back(sweeps);
    let held = region.change();
    let held = (held.bytes_allocated - held.bytes_deallocated - stats.cache_bytes) as f64;
    table.add(Line::new("", "memory per live resource, 10 dead each", held / stats.live as f64, "B", 120.0));
    drop((store, cloud, now));
}

/// 100,000 empty scopes, and a year of sweeps of 42,500 scopes.
fn empty_scopes(table: &mut Table, _resources: usize) {
    let scope = |number: usize| {
        let mut scope = workload::scope(number % 20);
        scope.account = AccountId::new(format!("{number:012}"));
        scope.resource_type = ResourceType::new("AWS::EC2::Volume");
        scope
    };
    let bed = Bed::new();
    let started = bed.next_sweep();
    let sweeps: Vec<Sweep> = (0..100_000).map(|n| empty_sweep(scope(n), started)).collect();
    commit(&bed.store, &sweeps);
    drop(sweeps);
    let path = bed.store.path().to_owned();
    let clock = bed.clock();
    let Bed { store, dir: _dir, .. } = bed;
    drop(store);
    let region = Region::new(ALLOCATOR);
    let store = Store::open(&path, clock).expect("it opens");
    let stats = store.stats().expect("it is sound");
    let held = region.change();
    let held = (held.bytes_allocated - held.bytes_deallocated - stats.cache_bytes) as f64;
    table.add(Line::new("", "memory per empty scope, at 100000", held / 100_000.0, "B", 200.0));
    drop(store);

    // A run is one row however many sweeps extend it: a sweep every 15 days has the same effect as one every 5 minutes.
    let bed = Bed::new();
    let cadence = 15 * DAY;
    for _ in 0..24 {
        bed.pass(cadence);
        let started = bed.next_sweep();
        let sweeps: Vec<Sweep> =
            (0..42_500).map(|n| Sweep { cadence: Some(cadence), ..empty_sweep(scope(n), started) }).collect();
        commit(&bed.store, &sweeps);
        bed.store.flush().expect("it is written");
    }
    let path = bed.store.path().to_owned();
    let Bed { store, dir: _dir, .. } = bed;
    drop(store);
    table.add(Line::new("", "a year of unchanged sweeps at 42500 scopes", file_bytes(&path) / 1e6, "MB", 50.0));
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or)
}

/// Writes the tables so far, so that they are kept if a later part fails.
fn write(tables: &[Table]) {
    if let Ok(path) = std::env::var("TABLE") {
        let head = table::head(SCOPES, TASKS);
        let text: String = tables.iter().map(Table::markdown).collect();
        std::fs::write(path, format!("{head}{text}")).expect("the table is written");
    }
}

fn main() {
    let sizes = std::env::var("RESOURCES").unwrap_or_else(|_| "10000".to_owned());
    let days = number("DAYS", 1);
    let mut tables = Vec::new();
    for size in sizes.split(',') {
        let resources = size.trim().parse().expect("RESOURCES is a list of numbers, such as 100000,1000000");
        println!("== {resources} resources, {days} days");
        let mut table = Table::new(resources, days);
        table.documents = thirty_days(&mut table, resources, days);
        tables.push(table);
        // The other designs run late: the disk stays busy with their writes for a while.
        for part in [empty_scopes, baselines, dead] {
            part(tables.last_mut().expect("it was pushed"), resources);
            write(&tables);
        }
    }
    let last = tables.last().expect("there is a size");
    let (met, all) = last.met();
    println!("goals: {met} of {all} met");
}
