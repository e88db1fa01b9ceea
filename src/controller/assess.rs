//! What holds now for one CloudScan, and what changed since it was last looked at. `elava scan` asks too.

use std::collections::BTreeMap;

use super::build;
use super::status::Counts;
use crate::inventory::{Filter, Moment, RuleSettings, Snapshot, Timestamp, Viewer};
use crate::policy::Evaluator;
use crate::policy::lifecycle::{self, FINDINGS, Lifecycle, OWNERSHIP, Record, Seen, State};
use crate::store::{Store, StoreError};

/// Notes of one request to the store's writer.
const NOTES_AT_ONCE: usize = 2000;

pub struct Assessment {
    pub lifecycle: Lifecycle,
    pub before: BTreeMap<String, Record>,
    pub counts: Counts,
    pub now: Timestamp,
}

pub fn assess(
    store: &Store,
    viewer: &Viewer,
    rules: &RuleSettings,
    scan_name: &str,
    seen: &BTreeMap<String, Seen>,
    evaluator: &mut Evaluator,
) -> Result<Assessment, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let before = records(store, viewer)?;
    let asked = before.values().map(|record| record.finding.resource.clone()).collect();
    let evaluation = evaluator.evaluate(&snapshot, Some(viewer), rules, &asked)?;
    let now = snapshot.time();
    let name = |kind, key: &_| build::finding_name(scan_name, kind, key);
    let lifecycle = lifecycle::advance(evaluation, before.clone(), seen, rules, now, name);
    let mut counts = Counts {
        revision: snapshot.revision(),
        currency: evaluator.currency().to_owned(),
        suppressed: lifecycle.suppressed.count,
        ..Counts::default()
    };
    for record in lifecycle.records.values() {
        counts.acknowledged += usize::from(record.is_open() && record.acknowledged.is_some());
        counts.exempted += usize::from(record.state == State::Exempted);
        if record.is_open() {
            counts.open += usize::from(record.published);
            let (count, cost) = counts.by_kind.entry(record.finding.kind).or_default();
            *count += 1;
            *cost = match (*cost, record.finding.monthly_cost) {
                (Some(sum), Some(more)) => Some(sum.plus(more)),
                (sum, more) => sum.or(more),
            };
        }
    }
    snapshot.each(&Filter { viewer: Some(viewer.clone()), ..Filter::default() }, |line| {
        *counts.by_account.entry(line.scope.account.clone()).or_default() += 1;
        counts.suspects += usize::from(line.is_suspect);
    });
    Ok(Assessment { lifecycle, before, counts, now })
}

/// What was last known of each finding, by its object's name.
fn records(store: &Store, viewer: &Viewer) -> Result<BTreeMap<String, Record>, StoreError> {
    let mut records = BTreeMap::new();
    for (name, bytes) in store.notes(viewer, FINDINGS)? {
        // A note of another version is no loss: what holds is found again.
        if let (Some(name), Ok(record)) = (name.strip_prefix(FINDINGS), serde_json::from_slice::<Record>(&bytes)) {
            records.insert(name.to_owned(), record);
        }
    }
    Ok(records)
}

/// What is to be noted of the records that `done` lets through: those that are other than before.
pub fn notes(
    assessment: &Assessment,
    rules: &RuleSettings,
    done: impl Fn(&String) -> bool,
) -> Vec<(String, Option<Vec<u8>>)> {
    let Assessment { lifecycle, before, .. } = assessment;
    let json = |record: &Record| serde_json::to_vec(record).expect("a record is plain data");
    let changed =
        lifecycle.records.iter().filter(|(name, record)| done(name) && before.get(*name) != Some(record));
    let mut notes: Vec<_> =
        changed.map(|(name, record)| (format!("{FINDINGS}{name}"), Some(json(record)))).collect();
    let forgotten = lifecycle.forgotten.iter().filter(|name| done(name) && before.contains_key(*name));
    notes.extend(forgotten.map(|name| (format!("{FINDINGS}{name}"), None)));
    let ownership = serde_json::to_vec(&rules.ownership).expect("settings are plain data");
    notes.push((OWNERSHIP.to_owned(), Some(ownership)));
    notes
}

/// Only what is another note than before is written.
pub fn write(store: &Store, viewer: &Viewer, mut notes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
    let ownership = store.notes(viewer, OWNERSHIP)?.remove(OWNERSHIP);
    notes.retain(|(name, bytes)| name != OWNERSHIP || *bytes != ownership);
    for some in notes.chunks(NOTES_AT_ONCE) {
        store.write_notes(viewer, some)?;
    }
    Ok(())
}
