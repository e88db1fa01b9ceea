//! From what holds now to what changes: open, resolved, reopened, gone. Pure.
//!
//! A [`Record`] is what was last published of a finding, kept as a note in the store; so a crash
//! between commit and publish loses nothing, and replaying doubles nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Evaluation, Finding, Standing};
use crate::inventory::{ResourceKey, RuleSettings, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Open,
    Resolved { at: Timestamp, reason: Resolution },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// The cause was mended.
    Fixed,
    /// It lasted as long as such findings are kept.
    Expired,
    /// What was said to be gone came back as the same thing.
    FalseAlarm,
    /// The resource itself is gone.
    ResourceGone,
    NoLongerWatched,
}

impl Resolution {
    pub fn as_str(self) -> &'static str {
        match self {
            Resolution::Fixed => "Fixed",
            Resolution::Expired => "Expired",
            Resolution::FalseAlarm => "FalseAlarm",
            Resolution::ResourceGone => "ResourceGone",
            Resolution::NoLongerWatched => "NoLongerWatched",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub finding: Finding,
    pub state: State,
    /// How often it came back after it was resolved.
    pub reopened: u32,
}

impl Record {
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

/// What is to be published, by object name.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// Every record that stands from now on.
    pub records: BTreeMap<String, Record>,
    /// Names of those whose state is another than before: each is one event.
    pub transitions: Vec<String>,
    /// Names whose object is to go.
    pub removed: Vec<String>,
    /// Open ones over the cap, which are not published.
    pub suppressed: usize,
}

/// `name` gives the object's name of a finding.
pub fn advance(
    evaluation: Evaluation,
    before: BTreeMap<String, Record>,
    settings: &RuleSettings,
    now: Timestamp,
    name: impl Fn(&Finding) -> String,
) -> Lifecycle {
    let mut out = Lifecycle::default();
    let mut open = evaluation.findings;
    // The worst first, then the newest: what does not fit is counted.
    open.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.since.cmp(&a.since)).then(a.resource.cmp(&b.resource)));
    out.suppressed = open.len().saturating_sub(settings.findings.max_open);
    open.truncate(settings.findings.max_open);

    let mut holding: BTreeMap<String, Finding> = open.into_iter().map(|f| (name(&f), f)).collect();
    for (name, mut record) in before {
        match (holding.remove(&name), &record.state) {
            (Some(finding), State::Open) => record.finding = finding,
            (Some(finding), State::Resolved { .. }) => {
                record = Record { finding, state: State::Open, reopened: record.reopened + 1 };
                out.transitions.push(name.clone());
            }
            (None, State::Open) => {
                if let Some(reason) = resolution(&record.finding, &evaluation.standing) {
                    record.state = State::Resolved { at: now, reason };
                    out.transitions.push(name.clone());
                }
            }
            (None, State::Resolved { at, .. }) => {
                if now.since(*at) >= settings.findings.keep_resolved {
                    out.removed.push(name);
                    continue;
                }
            }
        }
        out.records.insert(name, record);
    }
    for (name, finding) in holding {
        out.transitions.push(name.clone());
        out.records.insert(name, Record { finding, state: State::Open, reopened: 0 });
    }
    out
}

/// Why a finding that held does not any more; none when that can't be told.
fn resolution(finding: &Finding, standing: &BTreeMap<ResourceKey, Standing>) -> Option<Resolution> {
    use super::FindingKind::Disappeared;
    Some(match (finding.kind, standing.get(&finding.resource)) {
        (_, None) => Resolution::NoLongerWatched,
        (_, Some(Standing::Unknown)) => return None,
        (Disappeared, Some(Standing::Ended)) => Resolution::Expired,
        (Disappeared, Some(Standing::Retracted)) => Resolution::FalseAlarm,
        (_, Some(Standing::Ended)) => Resolution::ResourceGone,
        (_, Some(Standing::Present | Standing::Retracted)) => Resolution::Fixed,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{at, tags, volume};
    use super::super::{FindingKind, Severity};
    use super::*;
    use crate::inventory::{FindingSettings, Revision};

    fn finding(kind: FindingKind) -> Finding {
        let resource = volume(tags(&[]));
        Finding {
            kind,
            severity: Severity::High,
            resource: resource.key,
            name: None,
            first_seen: at(0),
            since: at(1),
            revision: Revision(1),
            message: String::new(),
            evidence: Vec::new(),
        }
    }

    fn step(
        before: BTreeMap<String, Record>,
        findings: Vec<Finding>,
        standing: Option<Standing>,
        now: i64,
    ) -> Lifecycle {
        let key = volume(tags(&[])).key;
        let standing = standing.map(|s| (key, s)).into_iter().collect();
        let settings = RuleSettings {
            findings: FindingSettings { max_open: 1, keep_resolved: Duration::from_secs(100) },
            ..RuleSettings::default()
        };
        advance(Evaluation { findings, standing }, before, &settings, at(now), |f| f.kind.as_str().to_owned())
    }

    #[test]
    fn open_resolved_reopened_and_gone_each_transition_once() {
        let kind = FindingKind::Disappeared;
        let opened = step(BTreeMap::new(), vec![finding(kind)], Some(Standing::Ended), 1);
        assert_eq!(opened.transitions, ["Disappeared"]);
        let same = step(opened.records, vec![finding(kind)], Some(Standing::Ended), 2);
        assert!(same.transitions.is_empty(), "nothing happens while nothing happens");
        let resolved = step(same.records, vec![], Some(Standing::Retracted), 3);
        let expected = State::Resolved { at: at(3), reason: Resolution::FalseAlarm };
        assert_eq!(resolved.records["Disappeared"].state, expected);
        let reopened = step(resolved.records.clone(), vec![finding(kind)], Some(Standing::Ended), 4);
        assert_eq!((reopened.records["Disappeared"].reopened, reopened.transitions.len()), (1, 1));
        let kept = step(resolved.records.clone(), vec![], Some(Standing::Present), 102);
        assert!(kept.removed.is_empty());
        assert_eq!(step(resolved.records, vec![], Some(Standing::Present), 103).removed, ["Disappeared"]);
    }

    #[test]
    fn why_it_ended_is_told_apart_and_what_is_unknown_stays_open() {
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
                State::Open => None,
                State::Resolved { reason, .. } => Some(*reason),
            };
            assert_eq!(got, expected, "{kind:?} {standing:?}");
        }
    }

    #[test]
    fn over_the_cap_the_worst_is_published_and_the_rest_counted() {
        let low = Finding { severity: Severity::Low, ..finding(FindingKind::TagsMissing) };
        let got = step(BTreeMap::new(), vec![low, finding(FindingKind::Disappeared)], Some(Standing::Ended), 1);
        assert_eq!(got.suppressed, 1);
        assert_eq!(got.records.keys().collect::<Vec<_>>(), ["Disappeared"]);
    }
}
