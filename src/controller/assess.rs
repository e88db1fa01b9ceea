//! What holds now for one CloudScan, and what changed since it was last looked at. `elava scan` asks too.

use std::collections::BTreeMap;

use super::build;
use super::status::Counts;
use crate::inventory::{Filter, Moment, ResourceKey, RuleSettings, Scope, Snapshot, Timestamp, Viewer};
use crate::policy::lifecycle::{self, CURRENCY, FINDINGS, Lifecycle, OWNERSHIP, Record, Seen, State};
use crate::policy::{Evaluator, Finding};
use crate::scanner::EarlierTags;
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

/// Says so in the findings that rest on tags of an earlier sweep.
fn mark_earlier_tags(findings: &mut [Finding], earlier: &BTreeMap<Scope, EarlierTags>) {
    if earlier.is_empty() {
        return;
    }
    let place = |scope: &Scope| (scope.account.clone(), scope.region.clone(), scope.resource_type.clone());
    let by_place: BTreeMap<_, _> = earlier.iter().map(|(scope, resources)| (place(scope), resources)).collect();
    for finding in findings {
        let ResourceKey { account, region, resource_type, id, .. } = &finding.resource;
        let resources = by_place.get(&(account.clone(), region.clone(), resource_type.clone()));
        if let Some(read) = resources.and_then(|resources| resources.get(&**id)) {
            finding.rests_on_earlier_tags(*read);
        }
    }
}

pub fn assess(
    store: &Store,
    viewer: &Viewer,
    rules: &RuleSettings,
    scan_name: &str,
    seen: &BTreeMap<String, Seen>,
    earlier_tags: &BTreeMap<Scope, EarlierTags>,
    evaluator: &mut Evaluator,
) -> Result<Assessment, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let before: BTreeMap<String, Record> = lifecycle::records(store.notes(viewer, FINDINGS)?).collect();
    let ownership = store.note(viewer, OWNERSHIP)?;
    let currency = store.note(viewer, CURRENCY)?;
    let asked = before.values().map(|record| record.finding.resource.clone()).collect();
    let mut evaluation = evaluator.evaluate(&snapshot, Some(viewer), rules, &asked)?;
    mark_earlier_tags(&mut evaluation.findings, earlier_tags);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::inventory::FindingKind;
    use crate::policy::testing::{Bed, at, tags, volume};

    #[test]
    fn a_finding_says_as_of_when_its_tags_are() {
        let untagged = volume(tags(&[]));
        let scope = (*untagged.scope).clone();
        let found = Bed::of(untagged).findings(FindingKind::Untagged, 1000);
        let marked = |id: &str, read| {
            let mut findings = found.clone();
            let earlier: EarlierTags = Arc::new(BTreeMap::from([(id.to_owned(), read)]));
            mark_earlier_tags(&mut findings, &BTreeMap::from([(scope.clone(), earlier)]));
            findings.remove(0)
        };
        let message = marked("vol-1", Some(at(60))).message;
        assert!(message.ends_with("(as of 1970-01-01T00:01:00Z: its tags could not be read since)"), "{message}");
        assert!(marked("vol-1", None).message.contains("as of an earlier scan"));
        assert_eq!(marked("vol-2", Some(at(60))), found[0], "of another nothing is said");
        let mut gone = Finding { kind: FindingKind::Disappeared, ..found[0].clone() };
        gone.rests_on_earlier_tags(None);
        assert_eq!(gone.message, found[0].message, "it does not rest on tags");
    }
}
