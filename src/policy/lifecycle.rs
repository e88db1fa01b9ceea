//! From the causes that hold now to transitions: pending, open, exempted, resolved, reopened, gone. Pure.
//!
//! A [`Record`] is the last known state of a finding, kept as a note in the store: a crash between commit and publish
//! loses nothing, and replaying duplicates nothing. Every finding has a record, including those above the maximum:
//! they are not published, and are listed from the store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Evaluation, Finding, Standing, flapping};
use crate::inventory::{FindingKind, ResourceKey, RuleSettings, Severity, Timestamp};

/// The prefix of the notes that contain records, each under the name of its object, as JSON.
pub const FINDINGS: &str = "finding/";
/// The note that contains the configured ownership settings, as JSON.
pub const OWNERSHIP: &str = "ownership";
/// The note that contains the currency of the records' costs, as text.
pub const CURRENCY: &str = "currency";

/// The state of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The cause holds, but has not lasted for the grace period.
    Pending,
    /// The cause holds, and a person should act.
    Open,
    /// The cause holds, but a user has exempted it from action.
    Exempted,
    /// The cause no longer holds, or another finding replaces this one.
    Resolved {
        /// The time of the evaluation that resolved it.
        at: Timestamp,
        /// Why it was resolved.
        reason: Resolution,
    },
}

/// Why a finding was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Resolution {
    /// The cause was fixed.
    Fixed,
    /// It was open as long as such findings are kept.
    Expired,
    /// The resource that was reported as gone is back, the same as before.
    FalseAlarm,
    /// The resource itself is gone.
    ResourceGone,
    /// The scope of the resource was closed, or is no longer visible to the CloudScan.
    NoLongerWatched,
    /// It is reported with its parent, or its parent replaces its own members.
    Grouped,
    /// It comes and goes: a `Flapping` finding replaces it.
    Flapping,
}

impl Resolution {
    /// All reasons.
    pub const ALL: [Resolution; 7] = [
        Resolution::Fixed,
        Resolution::Expired,
        Resolution::FalseAlarm,
        Resolution::ResourceGone,
        Resolution::NoLongerWatched,
        Resolution::Grouped,
        Resolution::Flapping,
    ];

    /// The name of the reason, as in the status of the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Resolution::Fixed => "Fixed",
            Resolution::Expired => "Expired",
            Resolution::FalseAlarm => "FalseAlarm",
            Resolution::ResourceGone => "ResourceGone",
            Resolution::NoLongerWatched => "NoLongerWatched",
            Resolution::Grouped => "Grouped",
            Resolution::Flapping => "Flapping",
        }
    }
}

/// A user's acknowledgement of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The text that the user wrote.
    pub note: String,
    /// The object that carries the annotation: removing it from that same object withdraws the acknowledgement.
    pub object: String,
}

/// A finding with its state and its past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The finding as it was when its cause last held.
    pub finding: Finding,
    /// Its state after the last evaluation.
    pub state: State,
    /// How many times it was reopened after it was resolved.
    pub reopened: u32,
    /// Set while a user's acknowledgement is in force. It survives the deletion of the object.
    pub acknowledged: Option<Acknowledgement>,
    /// The times when its cause began: the last few.
    pub begun: Vec<Timestamp>,
    /// Its cause holds, as far as is known.
    pub holds: bool,
    /// Its object exists.
    pub published: bool,
}

impl Record {
    fn new(finding: Finding) -> Self {
        Self {
            finding,
            state: State::Pending,
            reopened: 0,
            acknowledged: None,
            begun: Vec::new(),
            holds: false,
            published: false,
        }
    }

    /// Whether a person should act on it, whether it was acknowledged or not.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

/// The records in some notes, by the names of their objects.
pub fn records(notes: BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (String, Record)> {
    // Ignoring a note of another version loses nothing: a cause that holds is found again.
    notes.into_iter().filter_map(|(name, bytes)| {
        Some((name.strip_prefix(FINDINGS)?.to_owned(), serde_json::from_slice(&bytes).ok()?))
    })
}

/// The object as it exists in the API server.
#[derive(Clone, Debug, Default)]
pub struct PublishedObject {
    /// The UID of the object: an object that is created again has another.
    pub uid: String,
    /// The value of the annotation that acknowledges the finding.
    pub acknowledged: Option<String>,
}

/// One change of a finding's state: one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transition {
    /// It became open, or was open and is published only now.
    Opened,
    /// It became open again after it was resolved.
    Reopened,
    /// It was open, and was resolved.
    Resolved,
    /// It was open, and an exemption applies now.
    Exempted,
    /// The exemption no longer applies, and it is open.
    ExemptionEnded,
    /// A user acknowledged it.
    Acknowledged,
    /// The user removed the acknowledgement from the object that carried it.
    AcknowledgementWithdrawn,
}

impl Transition {
    /// The name of the transition, as in the reason of an event.
    pub fn as_str(self) -> &'static str {
        match self {
            Transition::Opened => "Opened",
            Transition::Reopened => "Reopened",
            Transition::Resolved => "Resolved",
            Transition::Exempted => "Exempted",
            Transition::ExemptionEnded => "ExemptionEnded",
            Transition::Acknowledged => "Acknowledged",
            Transition::AcknowledgementWithdrawn => "AcknowledgementWithdrawn",
        }
    }
}

/// What to publish, by object name.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// All current records.
    pub records: BTreeMap<String, Record>,
    /// What to report, once each, about findings that are or were published.
    pub transitions: Vec<(String, Transition)>,
    /// Names of objects to delete.
    pub removed: Vec<String>,
    /// Names of records to delete.
    pub forgotten: Vec<String>,
    /// Open findings above the maximum.
    pub suppressed: Suppressed,
}

/// Open findings that are not published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suppressed {
    /// Their number; zero if all open findings are published.
    pub count: usize,
    /// Their number by kind. Kinds without any are left out.
    pub by_kind: BTreeMap<FindingKind, usize>,
    /// The highest severity among them; `None` if there are none.
    pub worst: Option<Severity>,
}

/// Advances the records by an evaluation at the time `now`.
///
/// `before` are the records so far and `seen` the objects that exist, both by object name. `name` returns the
/// object name for a finding of this kind on this resource. Advancing the result by the same evaluation again
/// reports no transitions.
pub fn advance(
    evaluation: Evaluation,
    mut before: BTreeMap<String, Record>,
    seen: &BTreeMap<String, PublishedObject>,
    settings: &RuleSettings,
    now: Timestamp,
    name: impl Fn(FindingKind, &ResourceKey) -> String,
) -> Lifecycle {
    let Evaluation { findings, standing, undecided, grouped } = evaluation;
    let view = View { standing, undecided, grouped };
    let mut holding: BTreeMap<String, Finding> = BTreeMap::new();
    for finding in findings {
        let mut name = name(finding.kind, &finding.resource);
        // Names are made from a hash. Two findings with the same name are both reported.
        while holding.contains_key(&name) {
            tracing::error!("two findings share the name {name}: the other is of {}", finding.resource);
            name.push_str("-x");
        }
        holding.insert(name, finding);
    }
    let is_flap = |record: &Record| record.finding.kind == FindingKind::Flapping;
    let mut flaps: BTreeMap<String, Record> = BTreeMap::new();
    let mut others: BTreeMap<String, (Option<Record>, Record)> = BTreeMap::new();
    while let Some((name, record)) = before.pop_first() {
        if is_flap(&record) {
            flaps.insert(name, record);
        } else {
            let finding = holding.remove(&name);
            others.insert(name, (Some(record.clone()), with(record, finding, &view, now)));
        }
    }
    others.extend(holding.into_iter().map(|(name, finding)| {
        let record = Record::new(finding.clone());
        (name, (None, with(record, Some(finding), &view, now)))
    }));

    // A finding that comes and goes is reported as flapping, once for each resource.
    let mut flapping: BTreeMap<ResourceKey, Finding> = BTreeMap::new();
    if !settings.findings.excluded.contains(&FindingKind::Flapping) {
        for (_, record) in others.values() {
            if let Some(since) = flapping::since(&record.begun, now) {
                let finding = flapping::finding(&record.finding, &record.begun, record.holds, since);
                flapping.entry(record.finding.resource.clone()).or_insert(finding);
            }
        }
    }
    let mut all: Vec<(String, Option<Record>, Record)> = Vec::new();
    for (name, (was, mut record)) in others {
        // Only if this record itself flaps: a tag that comes and goes must not silence a disappearance of the same
        // resource.
        let is_flapping =
            flapping.contains_key(&record.finding.resource) && flapping::since(&record.begun, now).is_some();
        update_state(&mut record, is_flapping, &view, settings, now);
        all.push((name, was, record));
    }
    let mut flap_findings: BTreeMap<String, Finding> =
        flapping.into_values().map(|f| (name(FindingKind::Flapping, &f.resource), f)).collect();
    for (name, was) in flaps {
        let mut record = with(was.clone(), flap_findings.remove(&name), &view, now);
        update_state(&mut record, false, &view, settings, now);
        all.push((name, Some(was), record));
    }
    for (name, finding) in flap_findings {
        let mut record = with(Record::new(finding.clone()), Some(finding), &view, now);
        update_state(&mut record, false, &view, settings, now);
        all.push((name, None, record));
    }
    publish(all, seen, settings, now)
}

/// The standing of the resources.
struct View {
    standing: BTreeMap<ResourceKey, Standing>,
    undecided: BTreeSet<(FindingKind, ResourceKey)>,
    grouped: BTreeSet<ResourceKey>,
}

impl View {
    /// It is unknown whether the cause still holds.
    fn is_unknown(&self, finding: &Finding) -> bool {
        self.standing.get(&finding.resource) == Some(&Standing::Unknown)
            || self.undecided.contains(&(finding.kind, finding.resource.clone()))
    }

    /// Why a finding that held no longer holds.
    fn resolution(&self, finding: &Finding) -> Resolution {
        use FindingKind::Disappeared;
        match (finding.kind, self.standing.get(&finding.resource)) {
            (Disappeared, _) if self.grouped.contains(&finding.resource) => Resolution::Grouped,
            (_, None) => Resolution::NoLongerWatched,
            (Disappeared, Some(Standing::Ended)) => Resolution::Expired,
            (Disappeared, Some(Standing::Retracted)) => Resolution::FalseAlarm,
            (_, Some(Standing::Ended)) => Resolution::ResourceGone,
            (_, Some(Standing::Present | Standing::Retracted | Standing::Unknown)) => Resolution::Fixed,
        }
    }
}

/// The record, updated with what is now known about its cause.
fn with(mut record: Record, finding: Option<Finding>, view: &View, now: Timestamp) -> Record {
    match finding {
        Some(mut finding) => {
            if !record.holds {
                record.begun.push(now);
                let more = record.begun.len().saturating_sub(flapping::BEGINNINGS_KEPT_MAX);
                record.begun.drain(..more);
            } else if finding.since_is_estimate {
                // Keep the time when it was first noticed.
                (finding.since, finding.revision) = (record.finding.since, record.finding.revision);
            }
            record.holds = true;
            record.finding = finding;
        }
        None if view.is_unknown(&record.finding) => {}
        None => record.holds = false,
    }
    record
}

/// Sets the state, depending on whether the cause holds.
fn update_state(record: &mut Record, is_flapping: bool, view: &View, settings: &RuleSettings, now: Timestamp) {
    let is_resolved = matches!(record.state, State::Resolved { .. });
    if !record.holds {
        if !is_resolved && record.state != State::Pending {
            let reason = if is_flapping { Resolution::Flapping } else { view.resolution(&record.finding) };
            record.state = State::Resolved { at: now, reason };
        }
        return;
    }
    let too_young = now.since(record.finding.since) < settings.findings.grace(record.finding.kind);
    if is_flapping {
        if !is_resolved {
            record.state = State::Resolved { at: now, reason: Resolution::Flapping };
        }
    } else if matches!(record.state, State::Open | State::Exempted) || !too_young {
        if record.finding.exempted_by.is_some() {
            record.state = State::Exempted;
            return;
        }
        if is_resolved {
            record.reopened += 1;
        }
        record.state = State::Open;
    }
}

/// Selects what is published, and reports what changed.
fn publish(
    all: Vec<(String, Option<Record>, Record)>,
    seen: &BTreeMap<String, PublishedObject>,
    settings: &RuleSettings,
    now: Timestamp,
) -> Lifecycle {
    let keep_record = settings.findings.keep_resolved.max(flapping::FLAPPING_WINDOW);
    // The most severe first, then the newest; exempted findings last, if there is room.
    let mut order: Vec<usize> =
        (0..all.len()).filter(|i| matches!(all[*i].2.state, State::Open | State::Exempted)).collect();
    order.sort_by(|a, b| {
        let rank = |i: &usize| {
            let (name, _, Record { finding, state, .. }) = &all[*i];
            let worst_first = std::cmp::Reverse((finding.severity, finding.since));
            (*state == State::Exempted, worst_first, name)
        };
        rank(a).cmp(&rank(b))
    });
    let chosen: BTreeSet<usize> = order.iter().copied().take(settings.findings.max_open).collect();

    let mut out = Lifecycle::default();
    for (i, (name, was, mut record)) in all.into_iter().enumerate() {
        let was_published = was.as_ref().is_some_and(|was| was.published);
        match &record.state {
            State::Pending if !record.holds => {
                out.forgotten.push(name);
                continue;
            }
            State::Pending => record.published = false,
            State::Open | State::Exempted => record.published = chosen.contains(&i),
            State::Resolved { at, .. } => {
                // A finding that was published as open is published as resolved at least once.
                let is_new = was.as_ref().is_some_and(|was| was.state != record.state);
                record.published = was_published && (is_new || now.since(*at) < settings.findings.keep_resolved);
                if !is_new
                    && now.since(*at) >= keep_record
                    && !record.holds
                    && flapping::since(&record.begun, now).is_none()
                {
                    if was_published {
                        out.removed.push(name.clone());
                    }
                    out.forgotten.push(name);
                    continue;
                }
            }
        }
        if record.is_open() && !record.published {
            out.suppressed.count += 1;
            *out.suppressed.by_kind.entry(record.finding.kind).or_default() += 1;
            out.suppressed.worst = out.suppressed.worst.max(Some(record.finding.severity));
        }
        acknowledge(&mut record, seen.get(&name));
        if was_published && !record.published {
            out.removed.push(name.clone());
        }
        if record.published || was_published {
            out.transitions.extend(transitions(was.as_ref(), &record).into_iter().map(|t| (name.clone(), t)));
        }
        out.records.insert(name, record);
    }
    out
}

fn acknowledge(record: &mut Record, seen: Option<&PublishedObject>) {
    let Some(seen) = seen else { return };
    match &seen.acknowledged {
        Some(note) => {
            record.acknowledged = Some(Acknowledgement { note: note.clone(), object: seen.uid.clone() });
        }
        None if record.acknowledged.as_ref().is_some_and(|known| known.object == seen.uid) => {
            record.acknowledged = None;
        }
        None => {}
    }
}

fn transitions(was: Option<&Record>, is: &Record) -> Vec<Transition> {
    let before = was.map(|was| &was.state);
    let mut out = Vec::new();
    match (before, &is.state) {
        (Some(State::Resolved { .. }), State::Open) => out.push(Transition::Reopened),
        (Some(State::Exempted), State::Open) => out.push(Transition::ExemptionEnded),
        (None | Some(State::Pending), State::Open) => out.push(Transition::Opened),
        // It was above the maximum until now.
        (Some(State::Open), State::Open) if is.published && was.is_some_and(|was| !was.published) => {
            out.push(Transition::Opened);
        }
        (Some(State::Open), State::Exempted) => out.push(Transition::Exempted),
        (Some(State::Open), State::Resolved { .. }) => out.push(Transition::Resolved),
        _ => {}
    }
    match (was.is_some_and(|was| was.acknowledged.is_some()), is.acknowledged.is_some()) {
        (false, true) => out.push(Transition::Acknowledged),
        (true, false) => out.push(Transition::AcknowledgementWithdrawn),
        _ => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::testing::{at, tags, volume};
    use super::*;
    use crate::inventory::{FindingSettings, Revision};

    fn finding(kind: FindingKind) -> Finding {
        let resource = volume(tags(&[]));
        Finding {
            kind,
            severity: Severity::High,
            resource: resource.key,
            name: None,
            owner: None,
            first_seen: at(0),
            since: at(1),
            revision: Revision(1),
            since_is_estimate: false,
            message: String::new(),
            advice: String::new(),
            evidence: Vec::new(),
            monthly_cost: None,
            exempted_by: None,
        }
    }

    fn settings() -> RuleSettings {
        let findings = RuleSettings::default().findings;
        RuleSettings {
            findings: FindingSettings { max_open: 2, keep_resolved: Duration::from_secs(100), ..findings },
            ..RuleSettings::default()
        }
    }

    fn run(
        before: BTreeMap<String, Record>,
        findings: Vec<Finding>,
        standing: Option<Standing>,
        seen: &BTreeMap<String, PublishedObject>,
        settings: &RuleSettings,
        now: i64,
    ) -> Lifecycle {
        let key = volume(tags(&[])).key;
        let standing = standing.map(|s| (key, s)).into_iter().collect();
        let evaluation = Evaluation { findings, standing, ..Evaluation::default() };
        advance(evaluation, before, seen, settings, at(now), |kind, _| kind.as_str().to_owned())
    }

    fn step(
        before: BTreeMap<String, Record>,
        findings: Vec<Finding>,
        standing: Option<Standing>,
        now: i64,
    ) -> Lifecycle {
        run(before, findings, standing, &BTreeMap::new(), &settings(), now)
    }

    #[test]
    fn two_findings_that_share_a_name_are_both_reported() {
        let other = Finding {
            resource: super::super::testing::of_type("AWS::SQS::Queue", "q", tags(&[])).key,
            ..finding(FindingKind::Untagged)
        };
        let lifecycle =
            step(BTreeMap::new(), vec![finding(FindingKind::Untagged), other], Some(Standing::Present), 100);
        let open: Vec<_> = lifecycle.records.values().filter(|record| record.is_open()).collect();
        assert_eq!(open.len(), 2, "{open:?}");
    }

    #[test]
    fn a_cause_that_flaps_silences_no_other_of_the_same_resource() {
        let mut records = BTreeMap::new();
        for now in 10..15 {
            let holds = if now % 2 == 0 { vec![finding(FindingKind::TagsMissing)] } else { Vec::new() };
            records = step(records, holds, Some(Standing::Present), now).records;
        }
        let is_open = |records: &BTreeMap<String, Record>, name: &str| records[name].is_open();
        assert!(is_open(&records, "Flapping") && !is_open(&records, "TagsMissing"));
        let gone = vec![finding(FindingKind::Disappeared), finding(FindingKind::TagsMissing)];
        let records = step(records, gone, Some(Standing::Ended), 15).records;
        assert!(is_open(&records, "Disappeared"), "a lost database is no flapping tag");
        assert!(is_open(&records, "Flapping"));
    }

    fn transitions_of(lifecycle: &Lifecycle) -> Vec<String> {
        lifecycle.transitions.iter().map(|(name, what)| format!("{name} {}", what.as_str())).collect()
    }

    #[test]
    fn open_resolved_reopened_and_gone_each_transition_once() {
        let kind = FindingKind::Disappeared;
        let opened = step(BTreeMap::new(), vec![finding(kind)], Some(Standing::Ended), 1);
        assert_eq!(transitions_of(&opened), ["Disappeared Opened"]);
        let same = step(opened.records, vec![finding(kind)], Some(Standing::Ended), 2);
        assert!(same.transitions.is_empty(), "nothing happens while nothing happens");
        let resolved = step(same.records, vec![], Some(Standing::Retracted), 3);
        let expected = State::Resolved { at: at(3), reason: Resolution::FalseAlarm };
        assert_eq!(resolved.records["Disappeared"].state, expected);
        let reopened = step(resolved.records.clone(), vec![finding(kind)], Some(Standing::Ended), 4);
        assert_eq!(
            (reopened.records["Disappeared"].reopened, transitions_of(&reopened)),
            (1, vec!["Disappeared Reopened".to_owned()])
        );
        let kept = step(resolved.records.clone(), vec![], Some(Standing::Present), 102);
        assert!(kept.removed.is_empty());
        let gone = step(kept.records, vec![], Some(Standing::Present), 103);
        assert_eq!(
            (gone.removed, gone.forgotten.len()),
            (vec!["Disappeared".to_owned()], 0),
            "its record stays a day"
        );
        let day = 24 * 3600;
        assert_eq!(step(gone.records, vec![], Some(Standing::Present), 3 + day).forgotten, ["Disappeared"]);
    }

    #[test]
    fn why_it_ended_is_distinguished_and_what_is_unknown_stays_open() {
        use FindingKind::{Disappeared, Untagged};
        for (kind, standing, expected) in [
            (Untagged, Some(Standing::Present), Some(Resolution::Fixed)),
            (Untagged, Some(Standing::Ended), Some(Resolution::ResourceGone)),
            (Untagged, None, Some(Resolution::NoLongerWatched)),
            (Untagged, Some(Standing::Unknown), None),
            (Disappeared, Some(Standing::Ended), Some(Resolution::Expired)),
            (Disappeared, Some(Standing::Present), Some(Resolution::Fixed)),
        ] {
            let opened = step(BTreeMap::new(), vec![finding(kind)], standing, 1);
            let after = step(opened.records, vec![], standing, 2);
            let got = match &after.records[kind.as_str()].state {
                State::Resolved { reason, .. } => Some(*reason),
                _ => None,
            };
            assert_eq!(got, expected, "{kind:?} {standing:?}");
        }
    }

    #[test]
    fn what_a_rule_can_not_decide_stays_as_it_is() {
        let kind = FindingKind::Orphaned;
        let opened = step(BTreeMap::new(), vec![finding(kind)], Some(Standing::Present), 1);
        let key = volume(tags(&[])).key;
        let evaluation = Evaluation {
            standing: [(key.clone(), Standing::Present)].into(),
            undecided: [(kind, key)].into(),
            ..Evaluation::default()
        };
        let name = |kind: FindingKind, _: &ResourceKey| kind.as_str().to_owned();
        let after = advance(evaluation, opened.records, &BTreeMap::new(), &settings(), at(2), name);
        assert!(after.transitions.is_empty() && after.records["Orphaned"].is_open());
    }

    #[test]
    fn over_the_cap_the_worst_is_published_and_the_rest_counted_and_kept() {
        let low = Finding { severity: Severity::Low, ..finding(FindingKind::TagsMissing) };
        let all = vec![low, finding(FindingKind::Disappeared), finding(FindingKind::Untagged)];
        let got = step(BTreeMap::new(), all, Some(Standing::Ended), 1);
        assert_eq!((got.suppressed.count, got.suppressed.worst), (1, Some(Severity::Low)));
        assert_eq!(got.suppressed.by_kind, [(FindingKind::TagsMissing, 1)].into());
        assert_eq!(transitions_of(&got), ["Disappeared Opened", "Untagged Opened"]);
        assert_eq!(got.records.len(), 3);
        let room = step(got.records, vec![finding(FindingKind::TagsMissing)], Some(Standing::Present), 2);
        assert!(transitions_of(&room).contains(&"TagsMissing Opened".to_owned()), "there is room for it now");
    }

    #[test]
    fn what_does_not_last_as_long_as_its_grace_is_never_reported() {
        let mut settings = settings();
        settings.findings.grace.insert(FindingKind::Orphaned, Duration::from_mins(1));
        let noticed = |now| Finding { since: at(now), since_is_estimate: true, ..finding(FindingKind::Orphaned) };
        let none = BTreeMap::new();
        let go = |before, findings, now| run(before, findings, Some(Standing::Present), &none, &settings, now);
        let young = go(BTreeMap::new(), vec![noticed(10)], 10);
        assert!(young.transitions.is_empty() && young.records["Orphaned"].state == State::Pending);
        let gone = go(young.records.clone(), vec![], 20);
        assert!(gone.records.is_empty() && gone.forgotten == ["Orphaned"] && gone.transitions.is_empty());
        let old = go(young.records, vec![noticed(70)], 70);
        assert_eq!(transitions_of(&old), ["Orphaned Opened"]);
        assert_eq!(old.records["Orphaned"].finding.since, at(10), "it was noticed then");
    }

    #[test]
    fn an_exemption_takes_it_out_and_its_end_opens_it_again() {
        let exempted = || Finding { exempted_by: Some("x".to_owned()), ..finding(FindingKind::Untagged) };
        let present = Some(Standing::Present);
        let opened = step(BTreeMap::new(), vec![finding(FindingKind::Untagged)], present, 1);
        let out = step(opened.records, vec![exempted()], present, 2);
        assert_eq!(
            (transitions_of(&out), &out.records["Untagged"].state),
            (vec!["Untagged Exempted".to_owned()], &State::Exempted)
        );
        let back = step(out.records.clone(), vec![finding(FindingKind::Untagged)], present, 3);
        assert_eq!(transitions_of(&back), ["Untagged ExemptionEnded"]);
        assert_eq!(back.records["Untagged"].reopened, 0);
        assert!(transitions_of(&step(out.records, vec![], present, 3)).is_empty(), "nobody waited for it");
        assert!(transitions_of(&step(BTreeMap::new(), vec![exempted()], present, 1)).is_empty());
    }

    #[test]
    fn an_exemption_of_what_is_younger_than_its_grace_leaves_nothing_behind() {
        let mut settings = settings();
        settings.findings.grace.insert(FindingKind::Orphaned, Duration::from_mins(1));
        let young = Finding { since: at(10), since_is_estimate: true, ..finding(FindingKind::Orphaned) };
        let exempted = Finding { exempted_by: Some("x".to_owned()), ..young.clone() };
        let none = BTreeMap::new();
        let go = |before, findings, now| run(before, findings, Some(Standing::Present), &none, &settings, now);
        let held_back = go(BTreeMap::new(), vec![exempted], 10);
        let back = go(held_back.records, vec![young.clone()], 20);
        assert_eq!(back.records["Orphaned"].state, State::Pending);
        assert_eq!(transitions_of(&go(back.records, vec![young], 70)), ["Orphaned Opened"]);
    }

    #[test]
    fn an_acknowledgement_survives_its_object_and_is_withdrawn_on_it() {
        let present = Some(Standing::Present);
        let held = || vec![finding(FindingKind::Untagged)];
        let seen = |uid: &str, note: Option<&str>| -> BTreeMap<String, PublishedObject> {
            let seen = PublishedObject { uid: uid.to_owned(), acknowledged: note.map(str::to_owned) };
            [("Untagged".to_owned(), seen)].into()
        };
        let go = |before, seen: &BTreeMap<String, PublishedObject>, now| {
            run(before, held(), present, seen, &settings(), now)
        };
        let opened = go(BTreeMap::new(), &BTreeMap::new(), 1);
        let known = go(opened.records, &seen("u1", Some("on it")), 2);
        assert_eq!(transitions_of(&known), ["Untagged Acknowledged"]);
        let deleted = go(known.records, &BTreeMap::new(), 3);
        let again = go(deleted.records, &seen("u2", None), 4);
        assert!(again.transitions.is_empty());
        assert_eq!(again.records["Untagged"].acknowledged.as_ref().map(|a| a.note.as_str()), Some("on it"));
        let moved = go(again.records, &seen("u2", Some("still")), 5);
        let withdrawn = go(moved.records, &seen("u2", None), 6);
        assert_eq!(transitions_of(&withdrawn), ["Untagged AcknowledgementWithdrawn"]);
    }

    #[test]
    fn what_comes_and_goes_is_one_finding_until_a_day_is_quiet() {
        let present = Some(Standing::Present);
        let held = || vec![finding(FindingKind::Untagged)];
        let mut records = BTreeMap::new();
        let mut reported = Vec::new();
        for now in (1..12).map(|i| i * 10) {
            let findings = if now % 20 == 10 { held() } else { vec![] };
            let next = step(records, findings, present, now);
            reported.extend(transitions_of(&next));
            records = next.records;
        }
        let (u, f) = ("Untagged", "Flapping");
        let expected = [
            format!("{u} Opened"),
            format!("{u} Resolved"),
            format!("{u} Reopened"),
            format!("{u} Resolved"),
            format!("{f} Opened"),
        ];
        assert_eq!(reported, expected, "from the third time on it is only that");
        let day = 24 * 3600;
        let quiet = step(records, held(), present, 110 + day);
        assert_eq!(transitions_of(&quiet), ["Untagged Reopened", "Flapping Resolved"]);
    }

    /// What may happen between two scans.
    #[derive(Clone, Debug)]
    struct Step {
        holds: bool,
        exempted: bool,
        standing: Option<Standing>,
        acknowledged: Option<bool>,
        later: i64,
    }

    fn step_strategy() -> impl Strategy<Value = Step> {
        let standing = prop_oneof![
            3 => Just(Some(Standing::Present)),
            1 => Just(Some(Standing::Unknown)),
            1 => Just(Some(Standing::Ended)),
            1 => Just(None),
        ];
        let later = prop_oneof![Just(1), Just(30), Just(3600), Just(100_000)];
        (any::<bool>(), prop::bool::weighted(0.2), standing, any::<Option<bool>>(), later).prop_map(
            |(holds, exempted, standing, acknowledged, later)| Step {
                holds,
                exempted,
                standing,
                acknowledged,
                later,
            },
        )
    }

    proptest! {
        /// As a state machine: the reported transitions are always consistent; running again with the same input
        /// reports nothing new; and a restart in any state changes nothing.
        #[test]
        fn whatever_happens_the_story_is_one(steps in prop::collection::vec(step_strategy(), 1..40), grace in 0_u64..60) {
            let mut settings = settings();
            settings.findings.grace.insert(FindingKind::Untagged, Duration::from_secs(grace));
            let mut records = BTreeMap::new();
            let mut open: BTreeMap<String, bool> = BTreeMap::new();
            let mut now = 10;
            for case in steps {
                now += case.later;
                let exempted_by = case.exempted.then(|| "x".to_owned());
                let held = Finding { exempted_by, ..finding(FindingKind::Untagged) };
                let is_seen = case.standing != Some(Standing::Unknown);
                let findings = if case.holds && is_seen { vec![held] } else { vec![] };
                let seen: BTreeMap<String, PublishedObject> = case.acknowledged.iter().map(|yes| {
                    let acknowledged = yes.then(|| "known".to_owned());
                    ("Untagged".to_owned(), PublishedObject { uid: "u".to_owned(), acknowledged })
                }).collect();
                let next = run(records, findings.clone(), case.standing, &seen, &settings, now);
                for (name, what) in &next.transitions {
                    let is_open = open.entry(name.clone()).or_default();
                    match what {
                        Transition::Opened | Transition::Reopened => {
                            prop_assert!(!*is_open, "{name} {what:?} while it is open");
                            *is_open = true;
                        }
                        Transition::Resolved | Transition::Exempted => {
                            prop_assert!(*is_open, "{name} {what:?} while it is not open");
                            *is_open = false;
                        }
                        Transition::ExemptionEnded => *is_open = true,
                        _ => {}
                    }
                }
                for (name, record) in &next.records {
                    if record.published {
                        prop_assert_eq!(record.is_open(), open.get(name).copied().unwrap_or(false), "{}", name);
                    }
                    if record.is_open() && case.holds && is_seen && name == "Untagged" {
                        prop_assert!(record.holds);
                    }
                }
                let stored: BTreeMap<String, Record> = next.records.iter().map(|(name, record)| {
                    (name.clone(), serde_json::from_slice(&serde_json::to_vec(record).unwrap()).unwrap())
                }).collect();
                prop_assert_eq!(&stored, &next.records, "a restart");
                let again = run(stored.clone(), findings, case.standing, &seen, &settings, now);
                prop_assert!(again.transitions.is_empty() && again.removed.is_empty(), "{:?}", again.transitions);
                prop_assert_eq!(&again.records, &stored);
                records = stored;
            }
        }
    }
}
