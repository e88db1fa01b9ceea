//! The table of measurements, with ratios first and the goal last.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// The size for which the goals are set.
const RESOURCES: usize = 1_000_000;
const DAYS: u64 = 30;

pub struct Line {
    /// The name under which baselines are recorded; empty for none.
    pub name: &'static str,
    what: String,
    measured: f64,
    unit: &'static str,
    goal: f64,
    times: Option<f64>,
}

impl Line {
    pub fn new(name: &'static str, what: impl Into<String>, measured: f64, unit: &'static str, goal: f64) -> Self {
        Self { name, what: what.into(), measured, unit, goal, times: None }
    }

    /// Adds a goal: to be this many times as fast as naive redb, or to take this many times less.
    pub fn and_times(self, times: f64) -> Self {
        Self { times: Some(times), ..self }
    }
}

pub struct Table {
    resources: usize,
    days: u64,
    /// Bytes of a document as JSON, and under zstd-1.
    pub documents: (usize, usize),
    lines: Vec<Line>,
    /// (line, design) -> the last measurement, in the line's unit
    beside: BTreeMap<(&'static str, &'static str), f64>,
}

impl Table {
    pub fn new(resources: usize, days: u64) -> Self {
        Self { resources, days, documents: (0, 0), lines: Vec::new(), beside: BTreeMap::new() }
    }

    pub fn add(&mut self, line: Line) {
        println!("{}: {:.1} {} (goal {})", line.what, line.measured, line.unit, line.goal);
        self.lines.push(line);
    }

    pub fn time(&mut self, name: &'static str, what: impl Into<String>, span: Duration, goal_millis: f64) {
        self.add(Line::new(name, what, span.as_secs_f64() * 1e3, "ms", goal_millis));
    }

    /// Records the measurement of another design for the same line.
    pub fn beside(&mut self, name: &'static str, design: &'static str, measured: f64) {
        println!("  {design}: {name}: {measured:.0}");
        self.beside.insert((name, design), measured);
    }

    fn ratio(&self, line: &Line, design: &'static str) -> Option<f64> {
        Some(self.beside.get(&(line.name, design))? / line.measured)
    }

    fn is_met(&self, line: &Line) -> bool {
        let is_faster = line.times.is_none_or(|times| self.ratio(line, "redb").is_some_and(|r| r >= times));
        line.measured <= line.goal && is_faster
    }

    /// The number of goals met, and of all goals.
    pub fn met(&self) -> (usize, usize) {
        (self.lines.iter().filter(|line| self.is_met(line)).count(), self.lines.len())
    }

    pub fn markdown(&self) -> String {
        let (json, zstd) = self.documents;
        let mut text = format!(
            "\n## {} resources, {} days\n\nA described object has {json} bytes of JSON, {zstd} under zstd-1.\n\n\
             | operation | naive redb / store | SQLite / store | store | naive redb | SQLite | goal |\n\
             |---|---:|---:|---:|---:|---:|---|\n",
            self.resources, self.days
        );
        let is_stated = self.resources == RESOURCES && self.days == DAYS;
        for line in &self.lines {
            let Line { what, measured, unit, goal, times, .. } = line;
            let times = times.map(|times| format!(", {times} x")).unwrap_or_default();
            let met = match (is_stated, self.is_met(line)) {
                (false, _) => "",
                (true, true) => ": met",
                (true, false) => ": **missed**",
            };
            let ratio = |design| self.ratio(line, design).map_or("-".to_owned(), |r| format!("{r:.1}"));
            let other = |design| {
                let figure = self.beside.get(&(line.name, design));
                figure.map_or("-".to_owned(), |figure| format!("{figure:.1} {unit}"))
            };
            writeln!(
                text,
                "| {what} | {} | {} | {measured:.1} {unit} | {} | {} | {goal} {unit}{times}{met} |",
                ratio("redb"),
                ratio("sqlite"),
                other("redb"),
                other("sqlite")
            )
            .expect("it is memory");
        }
        if is_stated {
            let (met, all) = self.met();
            writeln!(text, "\ngoals: {met} of {all} met").expect("it is memory");
        }
        text
    }
}

pub fn head(scopes: usize, tasks: usize) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "<!-- Written by `make bench-store`. Do not edit. -->\n\n\
         # What the store takes: time, memory, bytes\n\n\
         {scopes} scopes, committed separately by {tasks} tasks; a round every five minutes changes 0.1 % (90 % changes, \
         5 % appearances, 5 % ends); redb's cache at 64 MB; on {cores} cores of {model}. Ratios above 1 say how many times \
         as fast, or as small, the store is.\n\n\
         Beside it, in the same run, what one would do without a store: one row per resource per scan, in redb (sorted \
         keys, one transaction a scan, the same cache) and in SQLite (WAL, indexes on id and owner). They hold two \
         scans, the store all of them. The rounds of the days show the store only what changed, as sweeps that were cut \
         short: what they record is the same.\n"
    )
}
