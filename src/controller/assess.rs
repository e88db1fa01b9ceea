//! What holds now for one CloudScan, and what changed since the last assessment. Also used by `elava scan`.

use std::collections::BTreeMap;

use super::build;
use super::status::Counts;
use crate::inventory::{Filter, Moment, ResourceKey, RuleSettings, Scope, Snapshot, Subscriber, Timestamp};
use crate::policy::lifecycle::{self, CURRENCY, FINDINGS, Lifecycle, OWNERSHIP, PublishedObject, Record, State};
use crate::policy::{Evaluator, Finding};
use crate::scanner::EarlierTags;
use crate::store::{Store, StoreError};

/// Notes in one request to the store's writer.
const NOTES_PER_COMMIT: usize = 2000;

pub struct Assessment {
    pub lifecycle: Lifecycle,
    pub before: BTreeMap<String, Record>,
    /// In their stored form.
    ownership: Option<Vec<u8>>,
    currency: Option<Vec<u8>>,
    pub counts: Counts,
    pub now: Timestamp,
}

/// Marks the findings that rest on tags of an earlier sweep.
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
            finding.note_stale_tags(*read);
        }
    }
}

pub fn assess(
    store: &Store,
    subscriber: &Subscriber,
    rules: &RuleSettings,
    scan_name: &str,
    seen: &BTreeMap<String, PublishedObject>,
    earlier_tags: &BTreeMap<Scope, EarlierTags>,
    evaluator: &mut Evaluator,
) -> Result<Assessment, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let before: BTreeMap<String, Record> = lifecycle::records(store.notes(subscriber, FINDINGS)?).collect();
    let ownership = store.note(subscriber, OWNERSHIP)?;
    let currency = store.note(subscriber, CURRENCY)?;
    let requested = before.values().map(|record| record.finding.resource.clone()).collect();
    let mut evaluation = evaluator.evaluate(&snapshot, Some(subscriber), rules, &requested)?;
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
    snapshot.each(&Filter { subscriber: Some(subscriber.clone()), ..Filter::default() }, |line| {
        *counts.by_account.entry(line.scope.account.clone()).or_default() += 1;
        counts.suspects += usize::from(line.is_suspect);
    });
    Ok(Assessment { lifecycle, before, ownership, currency, counts, now })
}

/// Stands for the owner if none is known.
const NOBODY: &str = "(nobody)";

/// The notes to write for the records that `done` accepts: those that differ from before.
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

/// In order, in batches.
pub fn write(
    store: &Store,
    subscriber: &Subscriber,
    notes: &[(String, Option<Vec<u8>>)],
) -> Result<(), StoreError> {
    notes.chunks(NOTES_PER_COMMIT).try_for_each(|some| store.write_notes(subscriber, some))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::inventory::FindingKind;
    use crate::policy::testing::{Bed, at, tags, volume};

    #[test]
    fn a_finding_names_the_time_of_its_tags() {
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
        gone.note_stale_tags(None);
        assert_eq!(gone.message, found[0].message, "it does not rest on tags");
    }
}
