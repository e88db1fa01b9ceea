//! What holds now for one CloudScan, and what changed since it was last looked at. `elava scan` asks too.

use std::collections::BTreeMap;

use super::build;
use super::status::Counts;
use crate::inventory::{Filter, Moment, RuleSettings, Snapshot, Timestamp, Viewer};
use crate::policy::Evaluator;
use crate::policy::lifecycle::{self, CURRENCY, FINDINGS, Lifecycle, OWNERSHIP, Record, Seen, State};
use crate::store::{Store, StoreError};

/// Notes of one request to the store's writer.
const NOTES_AT_ONCE: usize = 2000;

pub struct Assessment {
    pub lifecycle: Lifecycle,
    pub before: BTreeMap<String, Record>,
    /// As they are noted.
    ownership: Option<Vec<u8>>,
    currency: Option<Vec<u8>>,
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
    let before: BTreeMap<String, Record> = lifecycle::records(store.notes(viewer, FINDINGS)?).collect();
    let ownership = store.notes(viewer, OWNERSHIP)?.remove(OWNERSHIP);
    let currency = store.notes(viewer, CURRENCY)?.remove(CURRENCY);
    let asked = before.values().map(|record| record.finding.resource.clone()).collect();
    let evaluation = evaluator.evaluate(&snapshot, Some(viewer), rules, &asked)?;
    let now = snapshot.time();
    let mut undecided = BTreeMap::new();
    for (kind, key) in &evaluation.undecided {
        *undecided.entry((*kind, key.resource_type.clone())).or_default() += 1;
    }
    let name = |kind, key: &_| build::finding_name(scan_name, kind, key);
    let lifecycle = lifecycle::advance(evaluation, before.clone(), seen, rules, now, name);
    let mut counts = Counts {
        revision: snapshot.revision(),
        currency: evaluator.currency().to_owned(),
        suppressed: lifecycle.suppressed.count,
        undecided,
        ..Counts::default()
    };
    for record in lifecycle.records.values() {
        counts.acknowledged += usize::from(record.is_open() && record.acknowledged.is_some());
        counts.exempted += usize::from(record.state == State::Exempted);
        if record.is_open() {
            counts.open += usize::from(record.published);
            let finding = &record.finding;
            let owner = finding.owner.as_ref().map_or(NOBODY, |owner| owner.name.as_str()).to_owned();
            counts.by_kind.entry(finding.kind).or_default().add(finding);
            counts.open_by_account.entry(finding.resource.account.to_string()).or_default().add(finding);
            counts.open_by_owner.entry(owner).or_default().add(finding);
        }
    }
    snapshot.each(&Filter { viewer: Some(viewer.clone()), ..Filter::default() }, |line| {
        *counts.by_account.entry(line.scope.account.clone()).or_default() += 1;
        counts.suspects += usize::from(line.is_suspect);
    });
    Ok(Assessment { lifecycle, before, ownership, currency, counts, now })
}

/// Who should act where nothing names anybody.
const NOBODY: &str = "(nobody)";

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
    let ownership = Some(serde_json::to_vec(&rules.ownership).expect("settings are plain data"));
    if ownership != assessment.ownership {
        notes.push((OWNERSHIP.to_owned(), ownership));
    }
    let currency = Some(assessment.counts.currency.clone().into_bytes());
    if currency != assessment.currency {
        notes.push((CURRENCY.to_owned(), currency));
    }
    notes
}

/// In their order, some at a time.
pub fn write(store: &Store, viewer: &Viewer, notes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
    notes.chunks(NOTES_AT_ONCE).try_for_each(|some| store.write_notes(viewer, some))
}
