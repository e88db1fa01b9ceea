//! The planner: what a sweep means for the state, as plain values. No I/O and no clock, so every
//! rule of truth.md about absence, end states and lives can be tested here with a table.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::StoreError;
use super::heads::{Head, Living};
use super::life::Tombstone;
use super::record::{Rid, ScopeNo};
use super::state::State;
use crate::inventory::{
    Absence, Confirmation, Document, EndCause, IdReuse, Observation, Suspect, Sweep, Tags, Timestamp,
};

/// A resource younger than this may not be in every answer yet (EC2 is eventually consistent), so one
/// NotFound does not prove that it is gone.
pub(super) const YOUNG: Duration = Duration::from_mins(10);
/// How many complete sweeps in a row must miss a young resource.
pub(super) const YOUNG_LOOKS: u32 = 2;

/// A version of a resource; of what may be none, none means as before.
#[derive(Clone, Debug)]
pub(super) struct NewVersion {
    pub fingerprint: u64,
    pub tags: Option<Tags>,
    pub birth: Option<Timestamp>,
    pub shape: Option<u16>,
    pub attributes: Document,
    /// [`NewVersion::attributes`] as [`super::document`] writes it; empty until then.
    pub document: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Appear { baseline: bool, version: NewVersion },
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

    pub fn version_mut(&mut self) -> Option<&mut NewVersion> {
        match self {
            Action::Appear { version, .. }
            | Action::Change { version }
            | Action::Rebase { version }
            | Action::Retract { version } => Some(version),
            Action::End { .. } | Action::Suspect(_) | Action::Clear => None,
        }
    }
}

/// A life that ended, with the revision in which it did.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub rid: Rid,
    pub revision: u64,
    pub tombstone: Tombstone,
}

/// What is known of an id before the step.
#[derive(Clone, Debug)]
pub(super) enum Before {
    Nothing,
    Life(Rid),
    Ended(Box<Ended>),
}

#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub id: Arc<str>,
    pub before: Before,
    pub action: Action,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub steps: Vec<Planned>,
    /// Misses that were counted without anything to say: written, but no revision.
    pub counted: Vec<(Rid, Suspect)>,
}

struct Planner<'a> {
    state: &'a State,
    sweep: &'a Sweep,
    baseline: bool,
    last_complete: Option<Timestamp>,
    plan: Plan,
}

/// `last_ended` finds the last life of an id that does not live.
pub(super) fn plan(
    state: &State,
    scope: ScopeNo,
    sweep: &Sweep,
    last_ended: impl Fn(&str) -> Result<Option<Ended>, StoreError>,
) -> Result<Plan, StoreError> {
    let scope = &state.scopes[&scope];
    let mut planner = Planner {
        state,
        sweep,
        baseline: scope.is_baseline(),
        last_complete: scope.last_complete,
        plan: Plan::default(),
    };
    let seen = by_id(&sweep.observations);
    let mut seen = seen.into_iter().peekable();
    let mut lives = state.heads.each(&scope.order).peekable();
    // Both are in the order of the ids: one walk over the two.
    loop {
        let order = match (seen.peek(), lives.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(observation), Some(life)) => observation.id.as_str().cmp(life.id),
        };
        let observation = if order.is_le() { seen.next() } else { None };
        let life = if order.is_ge() { lives.next() } else { None };
        match (observation, life) {
            (Some(observation), Some(life)) => planner.seen(&life, observation),
            (Some(observation), None) => {
                let ended = if scope.has_ends { last_ended(&observation.id)? } else { None };
                planner.new_or_back(observation, ended);
            }
            // Only a complete look may conclude anything from absence.
            (None, Some(life)) if sweep.outcome.is_complete() => planner.missed(&life),
            (None, _) => {}
        }
    }
    Ok(planner.plan)
}

/// A page boundary can show one resource twice; the later page is the later look.
fn by_id(observations: &[Observation]) -> Vec<&Observation> {
    // By their first bytes, which stand side by side, then by all of the id, then as they came.
    let first_bytes = |id: &str| {
        let mut bytes = [0; 16];
        let length = id.len().min(16);
        bytes[..length].copy_from_slice(&id.as_bytes()[..length]);
        u128::from_be_bytes(bytes)
    };
    let mut seen: Vec<(u128, usize)> =
        observations.iter().enumerate().map(|(i, o)| (first_bytes(&o.id), i)).collect();
    seen.sort_unstable_by(|(first, i), (other, j)| {
        first.cmp(other).then_with(|| observations[*i].id.cmp(&observations[*j].id)).then(i.cmp(j))
    });
    let mut last: Vec<&Observation> = Vec::with_capacity(seen.len());
    for observation in seen.into_iter().map(|(_, i)| &observations[i]) {
        match last.last_mut() {
            Some(before) if before.id == observation.id => *before = observation,
            _ => last.push(observation),
        }
    }
    last
}

impl Planner<'_> {
    fn push(&mut self, observation: &Observation, before: Before, action: Action) {
        self.plan.steps.push(Planned { id: observation.id.as_str().into(), before, action });
    }

    fn is_same_life(&self, known: Option<Timestamp>, observation: &Observation) -> bool {
        self.sweep.ids == IdReuse::Unique
            || observation.birth.is_none()
            || known.is_none()
            || observation.birth == known
    }

    /// What does not live: it is new, or comes back.
    fn new_or_back(&mut self, observation: &Observation, ended: Option<Ended>) {
        // What is first seen in an end state has no life to tell of, and an end ends once.
        if observation.end_state.is_some() {
            return;
        }
        let version = self.first_version(observation);
        let Some(ended) = ended else {
            let baseline = self.baseline;
            self.push(observation, Before::Nothing, Action::Appear { baseline, version });
            return;
        };
        let tombstone = &ended.tombstone;
        let action = if self.is_same_life(tombstone.life.birth, observation) {
            // A tag call that failed says nothing: what was known goes on.
            let tags = match &observation.tags {
                Tags::Unknown => self.state.tags(tombstone.tags),
                tags => tags.clone(),
            };
            let birth = observation.birth.or(tombstone.life.birth);
            Action::Retract { version: NewVersion { tags: Some(tags), birth, ..version } }
        } else {
            Action::Appear { baseline: false, version }
        };
        self.push(observation, Before::Ended(Box::new(ended)), action);
    }

    fn first_version(&self, observation: &Observation) -> NewVersion {
        NewVersion {
            fingerprint: fingerprint(&observation.attributes),
            tags: Some(observation.tags.clone()),
            birth: observation.birth,
            shape: Some(self.sweep.shape),
            attributes: observation.attributes.clone(),
            document: Vec::new(),
        }
    }

    /// A life that is seen again.
    fn seen(&mut self, life: &Living<'_>, observation: &Observation) {
        let (rid, head) = (life.rid, life.head);
        let suspect = self.state.suspects.get(&rid);
        let same_life = self.is_same_life(head.birth, observation);
        let last_seen = self.last_seen(&head, suspect);
        if let Some(end_state) = &observation.end_state {
            if same_life {
                let first_missed = suspect.map_or(self.sweep.ended, |s| s.first_missed);
                let cause = EndCause::Listed(end_state.clone());
                self.push(observation, Before::Life(rid), Action::End { cause, last_seen, first_missed });
            }
            return;
        }
        if !same_life {
            let end = Action::End { cause: EndCause::Replaced, last_seen, first_missed: self.sweep.ended };
            self.push(observation, Before::Life(rid), end);
            let version = self.first_version(observation);
            self.push(observation, Before::Life(rid), Action::Appear { baseline: false, version });
            return;
        }
        if suspect.is_some() {
            self.push(observation, Before::Life(rid), Action::Clear);
        }
        // A tag call that failed says nothing: what was known goes on.
        let same_tags = observation.tags == Tags::Unknown || self.state.is_same_tags(head.tags, &observation.tags);
        let fingerprint = fingerprint(&observation.attributes);
        let same_shape = head.shape == self.sweep.shape;
        if same_tags && same_shape && head.fingerprint == fingerprint {
            return;
        }
        let version = NewVersion {
            fingerprint,
            tags: (!same_tags).then(|| observation.tags.clone()),
            birth: observation.birth.filter(|birth| head.birth != Some(*birth)),
            shape: (!same_shape).then_some(self.sweep.shape),
            attributes: observation.attributes.clone(),
            document: Vec::new(),
        };
        // A new shape changes the document for everybody at once; that is our doing, not the cloud's.
        let is_ours = !same_shape && same_tags;
        let action = if is_ours { Action::Rebase { version } } else { Action::Change { version } };
        self.push(observation, Before::Life(rid), action);
    }

    fn missed(&mut self, life: &Living<'_>) {
        let Living { rid, head, id } = *life;
        let sweep = self.sweep;
        let before = self.state.suspects.get(&rid);
        let mut suspect = before.cloned().unwrap_or_else(|| Suspect {
            last_seen: self.last_seen(&head, None),
            first_missed: sweep.ended,
            misses: 0,
            held: false,
        });

        let counts = match sweep.confirmation {
            Confirmation::Sweeps(_) => true,
            Confirmation::ReadById => sweep.absences.get(id) == Some(&Absence::NotFound),
        };
        if sweep.held {
            suspect.held = true;
        } else if counts {
            suspect.held = false;
            suspect.misses += 1;
            let needed = match sweep.confirmation {
                Confirmation::Sweeps(needed) => needed,
                Confirmation::ReadById if is_young(&head, sweep.ended) => YOUNG_LOOKS,
                Confirmation::ReadById => 1,
            };
            if suspect.misses >= needed {
                let Suspect { last_seen, first_missed, .. } = suspect;
                let action = Action::End { cause: EndCause::Absent, last_seen, first_missed };
                self.plan.steps.push(Planned { id: id.into(), before: Before::Life(rid), action });
                return;
            }
        }
        match before {
            Some(before) if before.held == suspect.held => {
                if *before != suspect {
                    self.plan.counted.push((rid, suspect));
                }
            }
            _ => {
                let action = Action::Suspect(suspect);
                self.plan.steps.push(Planned { id: id.into(), before: Before::Life(rid), action });
            }
        }
    }

    fn last_seen(&self, head: &Head, suspect: Option<&Suspect>) -> Timestamp {
        match suspect {
            Some(suspect) => suspect.last_seen,
            None => self.last_complete.unwrap_or(head.first_seen).max(head.first_seen),
        }
    }
}

/// By its birth field, else by when it was first seen.
fn is_young(head: &Head, now: Timestamp) -> bool {
    now.since(head.birth.unwrap_or(head.first_seen)) < YOUNG
}

/// 64 bits: two documents of one resource that follow each other are taken for one at 2^-64.
fn fingerprint(document: &Document) -> u64 {
    xxhash_rust::xxh3::xxh3_64(document.as_bytes())
}
