//! The goals of the store, measured: `make bench-store`.
//!
//! Prints a table, and writes it with a description of the machine to the file that `TABLE` names. Goals
//! are stated for a million resources; with fewer nothing is said to be met or missed.

#![allow(clippy::cast_precision_loss)] // Figures for people.

#[path = "../bed.rs"]
mod bed;
mod workload;

use std::alloc::System;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bed::Bed;
use elava::inventory::{Filter, Moment, Revision, Sweep};
use elava::store::{Store, StoreStats, system_clock};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use workload::Cloud;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SCOPES: usize = 1_000;
const TASKS: usize = 64;
/// What the goals are stated for.
const MILLION: usize = 1_000_000;

const HEAD: &str = "<!-- Written by `make bench-store`. Do not edit. -->

# What the store takes: time, memory, bytes
";
const TAIL: &str = "Not measured yet: the naive designs beside it (one row per resource per scan, in redb and in SQLite), the file \
of 30 days, ten million dead resources, a year of unchanged sweeps, scopes that are empty, the disappearances of the last \
hundred rounds, the history of one resource.
";

/// One line of the table.
struct Line {
    what: String,
    measured: f64,
    unit: &'static str,
    goal: f64,
}

#[derive(Default)]
struct Table(Vec<Line>);

impl Table {
    fn add(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, goal: f64) {
        let line = Line { what: what.into(), measured, unit, goal };
        println!("{}: {:.1} {} (goal {})", line.what, line.measured, line.unit, line.goal);
        self.0.push(line);
    }

    fn time(&mut self, what: impl Into<String>, span: Duration, goal_millis: f64) {
        self.add(what, span.as_secs_f64() * 1e3, "ms", goal_millis);
    }

    fn markdown(&self, resources: usize) -> String {
        let mut text =
            String::from("| operation | measured | goal | measured / goal | |\n|---|---:|---:|---:|---|\n");
        for Line { what, measured, unit, goal } in &self.0 {
            let met = match (resources >= MILLION, measured <= goal) {
                (false, _) => "",
                (true, true) => "met",
                (true, false) => "**missed**",
            };
            writeln!(text, "| {what} | {measured:.1} {unit} | {goal} {unit} | {:.2} | {met} |", measured / goal)
                .expect("it is memory");
        }
        text
    }
}

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

/// What this process has handed to the disk.
fn written_bytes() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(f64::NAN)
}

/// Of the log, and of what else stays of changes.
fn stored(stats: &StoreStats) -> f64 {
    let of = ["log", "life", "end", "key"];
    stats.tables.iter().filter(|t| of.contains(&&*t.table)).map(|t| t.stored_bytes as f64).sum()
}

fn count(store: &Store, moment: Moment, filter: &Filter) -> (usize, Duration) {
    let started = Instant::now();
    let snapshot = store.snapshot(moment).expect("it is kept");
    let (mut lines, mut bytes) = (0, 0);
    snapshot.each(filter, |line| {
        lines += 1;
        let owner = line.tags.and_then(|tags| tags.get("owner"));
        bytes += line.id.len() + owner.map_or(0, str::len);
    });
    std::hint::black_box(bytes);
    (lines, started.elapsed())
}

fn number(name: &str, or: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or)
}

fn main() {
    let (resources, rounds) = (number("RESOURCES", 100_000), number("ROUNDS", 100));
    let mut cloud = Cloud::new(resources, SCOPES);
    let (json, zstd) = cloud.measure();
    println!("documents: {json} bytes of JSON (goal 943), {zstd} under zstd-1 (goal 632)");
    let mut table = Table::default();
    let bed = Bed::new();
    let store = &bed.store;

    let sweeps = cloud.sweeps(bed.next_look());
    table.time(format!("first scan of {resources}"), commit(store, &sweeps), 3_000.0);
    cloud.put_back(sweeps);

    let before = store.stats().expect("it is sound");
    let mut spans = Vec::new();
    for _ in 0..rounds {
        cloud.churn(resources / 1_000);
        let sweeps = cloud.sweeps(bed.next_look());
        spans.push(commit(store, &sweeps));
        cloud.put_back(sweeps);
    }
    spans.sort();
    table.time("rescan, 0.1 % churn, hashing inside, median", spans[spans.len() / 2], 150.0);
    let after = store.stats().expect("it is sound");
    let entries = after.entries - before.entries;
    table.add("stored bytes a change", (stored(&after) - stored(&before)) / entries as f64, "B", 55.0);

    let sweeps = cloud.sweeps(bed.next_look());
    let written = written_bytes();
    commit(store, &sweeps);
    table.add("bytes written per unchanged rescan", written_bytes() - written, "B", 1e6);

    let mut lookups: Vec<Duration> = Vec::new();
    for (n, sweep) in sweeps.iter().cycle().take(100_000).enumerate() {
        let id = &sweep.observations[n * 7919 % sweep.observations.len()].id;
        let started = Instant::now();
        std::hint::black_box(store.known_tags(&sweep.scope, id));
        lookups.push(started.elapsed());
    }
    lookups.sort();
    let p99 = lookups[lookups.len() / 100 * 99].as_nanos();
    table.add("current lookup of the tags, p99", p99 as f64, "ns", 1_000.0);
    cloud.put_back(sweeps);

    let tagged = |key: &str, value: Option<&str>| Filter {
        tags: vec![(key.to_owned(), value.map(str::to_owned))],
        ..Filter::default()
    };
    let (few, span) = count(store, Moment::Now, &tagged("owner", Some("team-7")));
    table.time(format!("tag filter that {few} have"), span, 1.0);
    let (many, span) = count(store, Moment::Now, &tagged("managed-by", None));
    table.time(format!("tag filter that {many} have"), span, 1.0);
    let (all, span) = count(store, Moment::Now, &Filter::default());
    table.time(format!("list of {all} (ids, owner), now"), span, 150.0);
    let newest = store.revision().0;
    let span =
        (1..10).map(|n| count(store, Moment::Revision(Revision(newest / 10 * n)), &Filter::default()).1).max();
    table.time("the same at nine moments of the past, the slowest", span.expect("nine"), 150.0);

    store.checkpoint().expect("it is written");
    let path = store.path().to_owned();
    let Bed { store, _dir, .. } = bed;
    drop((store, cloud));
    let region = Region::new(ALLOCATOR);
    let started = Instant::now();
    let store = Store::open(&path, system_clock()).expect("it opens");
    table.time("open, warm", started.elapsed(), 250.0);
    let stats = store.stats().expect("it is sound");
    let held = region.change();
    let held = (held.bytes_allocated - held.bytes_deallocated - stats.cache_bytes) as f64;
    table.add("memory per live resource, few dead", held / stats.live as f64, "B", 120.0);
    println!("file: {} MB", stats.file_bytes >> 20);

    let met = table.0.iter().filter(|line| line.measured <= line.goal).count();
    if let Ok(path) = std::env::var("TABLE") {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let text = format!(
            "{HEAD}\n{resources} resources in {SCOPES} scopes committed separately by {TASKS} tasks, {rounds} rounds \
             of 0.1 % churn (90 % changes, 5 % appearances, 5 % ends), redb's cache at 64 MB, on {cores} cores of \
             {model}. A described object has {json} bytes of JSON, {zstd} under zstd-1.\n\n{}\n{TAIL}",
            table.markdown(resources)
        );
        std::fs::write(path, text).expect("the table is written");
    }
    println!("goals: {met} of {} met", table.0.len());
}
