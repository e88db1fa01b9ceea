//! The planner: what a sweep means for the state, as plain values. No I/O and no clock, so every
//! rule of truth.md about absence, end states and lives can be tested here with a table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Rid, ScopeNo, Version};
use super::state::{Head, State};
use crate::inventory::{
    Absence, Confirmation, Document, EndCause, IdReuse, Observation, Suspect, Sweep, Tags, Timestamp,
};

/// A resource younger than this may not be in every answer yet (EC2 is eventually consistent), so one
/// NotFound does not prove that it is gone.
pub(super) const YOUNG: Duration = Duration::from_mins(10);
/// How many complete sweeps in a row must miss a young resource.
pub(super) const YOUNG_LOOKS: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct NewVersion {
    pub fingerprint: u64,
    pub tags: Tags,
    pub birth: Option<Timestamp>,
    pub shape: u32,
    pub attributes: Document,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Appear { baseline: bool, replaced: bool, version: NewVersion },
    Change { version: NewVersion },
    Rebase { version: NewVersion },
    End { cause: EndCause, last_seen: Timestamp, first_missed: Timestamp },
    Retract { version: NewVersion },
    Suspect(Suspect),
    Clear,
}

impl Action {
    pub fn version(&self) -> Option<&NewVersion> {
        match self {
            Action::Appear { version, .. }
            | Action::Change { version }
            | Action::Rebase { version }
            | Action::Retract { version } => Some(version),
            Action::End { .. } | Action::Suspect(_) | Action::Clear => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub id: Arc<str>,
    /// None for what was never seen before.
    pub rid: Option<Rid>,
    pub action: Action,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub steps: Vec<Planned>,
    /// Misses that were counted without anything to say: written, but no revision.
    pub counted: Vec<(Rid, Suspect)>,
}

pub(super) fn plan(state: &State, scope: ScopeNo, sweep: &Sweep) -> Plan {
    let mut plan = Plan::default();
    // A page boundary can show one resource twice; the later page is the later look.
    let seen: BTreeMap<&str, &Observation> = sweep.observations.iter().map(|o| (o.id.as_str(), o)).collect();
    for observation in seen.values() {
        plan_seen(state, scope, sweep, observation, &mut plan);
    }
    // Only a complete look may conclude anything from absence.
    if sweep.outcome.is_complete() {
        let last_complete = state.scopes[&scope].last_complete;
        for (rid, head) in state.live_in(scope) {
            if !seen.contains_key(&*head.id) {
                plan_missed(sweep, last_complete, rid, head, &mut plan);
            }
        }
    }
    plan
}

fn plan_seen(state: &State, scope: ScopeNo, sweep: &Sweep, observation: &Observation, plan: &mut Plan) {
    let rid = state.rid(scope, &observation.id);
    let id: Arc<str> = observation.id.as_str().into();
    let mut push = |action| plan.steps.push(Planned { id: id.clone(), rid, action });
    let baseline = state.scopes[&scope].is_baseline();

    let Some(head) = rid.map(|rid| &state.heads[&rid]) else {
        // What is first seen in an end state has no life to tell of.
        if observation.end_state.is_none() {
            push(Action::Appear {
                baseline,
                replaced: false,
                version: new_version(sweep, observation, observation.tags.clone()),
            });
        }
        return;
    };

    let same_life = sweep.ids == IdReuse::Unique
        || observation.birth.is_none()
        || head.version.birth.is_none()
        || observation.birth == head.version.birth;
    let last_seen = last_seen(state.scopes[&scope].last_complete, head);

    if let Some(end_state) = &observation.end_state {
        if head.end.is_none() && same_life {
            let first_missed = head.suspect.as_ref().map_or(sweep.ended, |s| s.first_missed);
            push(Action::End { cause: EndCause::Listed(end_state.clone()), last_seen, first_missed });
        }
        return;
    }

    let tags = match &observation.tags {
        // A tag call that failed says nothing: what was known goes on.
        Tags::Unknown => state.tags(head.version.tags),
        tags => tags.clone(),
    };
    if !same_life {
        let replaced = head.end.is_none();
        if replaced {
            push(Action::End { cause: EndCause::Replaced, last_seen, first_missed: sweep.ended });
        }
        let version = new_version(sweep, observation, observation.tags.clone());
        push(Action::Appear { baseline: false, replaced, version });
        return;
    }
    let version = new_version(sweep, observation, tags);
    if head.end.is_some() {
        push(Action::Retract { version });
        return;
    }
    if head.suspect.is_some() {
        push(Action::Clear);
    }
    let same_tags = version.tags == state.tags(head.version.tags);
    if same_version(&head.version, &version) && same_tags {
        return;
    }
    // A new shape changes the document for everybody at once; that is our doing, not the cloud's.
    if head.version.shape != version.shape && same_tags {
        push(Action::Rebase { version });
    } else {
        push(Action::Change { version });
    }
}

fn plan_missed(sweep: &Sweep, last_complete: Option<Timestamp>, rid: Rid, head: &Head, plan: &mut Plan) {
    let id = head.id.clone();
    let before = head.suspect.as_ref();
    let mut suspect = before.cloned().unwrap_or_else(|| Suspect {
        last_seen: last_seen(last_complete, head),
        first_missed: sweep.ended,
        misses: 0,
        held: false,
    });

    let counts = match sweep.confirmation {
        Confirmation::Sweeps(_) => true,
        Confirmation::ReadById => sweep.absences.get(&*id) == Some(&Absence::NotFound),
    };
    if sweep.held {
        suspect.held = true;
    } else if counts {
        suspect.held = false;
        suspect.misses += 1;
        let needed = match sweep.confirmation {
            Confirmation::Sweeps(needed) => needed,
            Confirmation::ReadById if is_young(head, sweep.ended) => YOUNG_LOOKS,
            Confirmation::ReadById => 1,
        };
        if suspect.misses >= needed {
            let Suspect { last_seen, first_missed, .. } = suspect;
            let action = Action::End { cause: EndCause::Absent, last_seen, first_missed };
            plan.steps.push(Planned { id, rid: Some(rid), action });
            return;
        }
    }
    match before {
        Some(before) if before.held == suspect.held => {
            if *before != suspect {
                plan.counted.push((rid, suspect));
            }
        }
        _ => plan.steps.push(Planned { id, rid: Some(rid), action: Action::Suspect(suspect) }),
    }
}

/// By its birth field, else by when it was first seen.
fn is_young(head: &Head, now: Timestamp) -> bool {
    now.since(head.version.birth.unwrap_or(head.first_seen)) < YOUNG
}

fn last_seen(last_complete: Option<Timestamp>, head: &Head) -> Timestamp {
    match &head.suspect {
        Some(suspect) => suspect.last_seen,
        None => last_complete.unwrap_or(head.first_seen).max(head.first_seen),
    }
}

fn same_version(head: &Version, new: &NewVersion) -> bool {
    head.fingerprint == new.fingerprint && head.shape == new.shape
}

fn new_version(sweep: &Sweep, observation: &Observation, tags: Tags) -> NewVersion {
    NewVersion {
        fingerprint: fingerprint(&observation.attributes),
        tags,
        birth: observation.birth,
        shape: sweep.shape,
        attributes: observation.attributes.clone(),
    }
}

/// 64 bits: two documents of one resource that follow each other are taken for one at 2^-64.
fn fingerprint(document: &Document) -> u64 {
    xxhash_rust::xxh3::xxh3_64(document.as_bytes())
}
