//! The planner: the effect of a sweep on the state, as plain values. Here it is decided what appeared, changed or
//! disappeared. No I/O and no clock, so every rule about absence, end states and lives (docs/concepts.md) can be tested
//! with a table.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::inventory::{
    Absence, Confirmation, Document, EndCause, IdReuse, Observation, ResourceKey, Suspect, Sweep, Tags, Timestamp,
};
use crate::store::StoreError;
use crate::store::file::lives::Ended;
use crate::store::file::tables::{Rid, ScopeNo};
use crate::store::mutants;
use crate::store::state::State;
use crate::store::state::heads::{Head, Living};

/// A resource younger than this may be missing from some responses (EC2 is eventually consistent), so one NotFound
/// does not prove that it is gone.
pub(in crate::store) const YOUNG_MAX_AGE: Duration = Duration::from_mins(10);
/// The shape of a resource that was seen without a document. Those of types begin at 1.
const UNREAD_SHAPE: u16 = 0;
/// How many complete sweeps in a row must miss a young resource.
pub(in crate::store) const YOUNG_MIN_SWEEPS: u32 = 2;

/// A version of a resource. Optional fields are `None` if they are as before.
#[derive(Clone, Debug)]
pub(in crate::store) struct NewVersion {
    pub fingerprint: u64,
    pub tags: Option<Tags>,
    pub birth: Option<Timestamp>,
    pub shape: Option<u16>,
    pub attributes: Document,
    /// [`NewVersion::attributes`] as [`crate::store::file::documents`] encodes it; empty until then.
    pub document: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(in crate::store) enum Action {
    Appear { baseline: bool, moved_from: Option<Rid>, version: NewVersion },
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

/// What is known of an id before the step.
#[derive(Clone, Debug)]
pub(in crate::store) enum Before {
    Nothing,
    Life(Rid),
    Ended(Box<Ended>),
}

#[derive(Clone, Debug)]
pub(in crate::store) struct PlannedStep {
    pub id: Arc<str>,
    pub before: Before,
    pub action: Action,
    /// The resource was not seen: only the end of the sweep shows that.
    pub is_from_absence: bool,
}

#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Plan {
    pub steps: Vec<PlannedStep>,
    /// Misses that are counted but not reported: written without a revision.
    pub counted: Vec<(Rid, Suspect)>,
}

/// What the planner reads beyond the live resources of the scope.
pub(in crate::store) struct Beyond<'a> {
    /// The last life of an id that is not live.
    pub last_ended: &'a dyn Fn(&str) -> Result<Option<Ended>, StoreError>,
    /// The live resource with an id in another open scope of the type.
    pub elsewhere: &'a dyn Fn(&str) -> Option<Rid>,
}

struct Planner<'a> {
    state: &'a State,
    sweep: &'a Sweep,
    baseline: bool,
    has_ends: bool,
    last_complete: Option<Timestamp>,
    beyond: &'a Beyond<'a>,
    plan: Plan,
}

/// `recorded` are lives that an earlier page of the same sweep showed.
pub(in crate::store) fn plan(
    state: &State,
    scope: ScopeNo,
    sweep: &Sweep,
    recorded: &HashSet<Rid>,
    beyond: &Beyond,
) -> Result<Plan, StoreError> {
    let mut planner = Planner::new(state, scope, sweep, beyond);
    let seen = by_id(&sweep.observations);
    let mut seen = seen.into_iter().peekable();
    let mut lives = state.heads.each(&state.scopes[&scope].order).peekable();
    // Both are in the order of the ids: one walk over the two.
    loop {
        let order = match (seen.peek(), lives.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(seen), Some(life)) => seen.observation.id.as_str().cmp(life.id),
        };
        let observed = if order.is_le() { seen.next() } else { None };
        let life = if order.is_ge() { lives.next() } else { None };
        match (observed, life) {
            (Some(seen), life) => planner.shown(&seen, life.as_ref())?,
            // Only a complete sweep may conclude anything from absence.
            (None, Some(life))
                if (sweep.outcome.is_complete() && !recorded.contains(&life.rid))
                    || mutants::is_awake("a partial sweep ends lives") =>
            {
                planner.missed(&life);
            }
            (None, _) => {}
        }
    }
    Ok(planner.plan)
}

/// The plan of a page of a sweep. A scope may have hundreds of pages, so its lives are searched, not walked.
pub(in crate::store) fn page(
    state: &State,
    scope: ScopeNo,
    page: &Sweep,
    beyond: &Beyond,
) -> Result<Plan, StoreError> {
    let mut planner = Planner::new(state, scope, page, beyond);
    for seen in by_id(&page.observations) {
        let rid = state.find(scope, &seen.observation.id);
        let life = rid.map(|rid| Living { rid, head: state.head(rid), id: state.id(rid) });
        planner.shown(&seen, life.as_ref())?;
    }
    Ok(planner.plan)
}

/// An observation with its hashes.
#[derive(Clone, Copy)]
struct HashedObservation<'a> {
    observation: &'a Observation,
    /// The first bytes of its id, which are enough to order most.
    first_bytes: u128,
    document: u64,
    fingerprint: u64,
}

impl<'a> HashedObservation<'a> {
    fn of(observation: &'a Observation) -> Self {
        let mut bytes = [0; 16];
        let length = observation.id.len().min(16);
        bytes[..length].copy_from_slice(&observation.id.as_bytes()[..length]);
        let document = xxh3_64(observation.attributes.as_bytes());
        let fingerprint = fingerprint(document, &observation.tags);
        Self { observation, first_bytes: u128::from_be_bytes(bytes), document, fingerprint }
    }
}

/// In the order of the ids. Two pages can show the same resource; the later page counts.
fn by_id(observations: &[Observation]) -> Vec<HashedObservation<'_>> {
    // All distant memory is read here, in the order in which it is stored.
    let mut seen: Vec<(usize, HashedObservation<'_>)> =
        observations.iter().map(HashedObservation::of).enumerate().collect();
    seen.sort_unstable_by(|(i, a), (j, b)| {
        let by_all = || a.observation.id.cmp(&b.observation.id).then(i.cmp(j));
        a.first_bytes.cmp(&b.first_bytes).then_with(by_all)
    });
    let mut last: Vec<HashedObservation<'_>> = Vec::with_capacity(seen.len());
    for (_, seen) in seen {
        match last.last_mut() {
            Some(before) if before.observation.id == seen.observation.id => *before = seen,
            _ => last.push(seen),
        }
    }
    last
}

impl<'a> Planner<'a> {
    fn new(state: &'a State, scope: ScopeNo, sweep: &'a Sweep, beyond: &'a Beyond<'a>) -> Self {
        let scope = &state.scopes[&scope];
        Self {
            state,
            sweep,
            baseline: scope.is_baseline(),
            has_ends: scope.has_ends,
            last_complete: scope.last_complete,
            beyond,
            plan: Plan::default(),
        }
    }

    fn shown(&mut self, seen: &HashedObservation<'_>, life: Option<&Living<'_>>) -> Result<(), StoreError> {
        if let Some(life) = life {
            self.seen(life, seen);
        } else {
            let ended = if self.has_ends { (self.beyond.last_ended)(&seen.observation.id)? } else { None };
            self.new_or_back(seen, ended);
        }
        Ok(())
    }

    fn push(&mut self, observation: &Observation, before: Before, action: Action) {
        self.plan.steps.push(PlannedStep {
            id: observation.id.as_str().into(),
            before,
            action,
            is_from_absence: false,
        });
    }

    fn is_same_life(&self, known: Option<Timestamp>, observation: &Observation) -> bool {
        self.sweep.ids != IdReuse::Reusable
            || observation.birth.is_none()
            || known.is_none()
            || observation.birth == known
    }

    /// Whether a resource that is seen again is the same life. A new shape may read its birth from another field,
    /// and that is our change.
    fn is_continuation(&self, head: &Head, observation: &Observation) -> bool {
        head.shape != self.sweep.shape || self.is_same_life(head.birth, observation)
    }

    /// An id that is not live: the resource is new, or is back.
    fn new_or_back(&mut self, seen: &HashedObservation<'_>, ended: Option<Ended>) {
        let observation = seen.observation;
        // A resource that is first seen in an end state gets no life, and a life ends once.
        if observation.end_state.is_some() {
            return;
        }
        let version = self.first_version(seen);
        let Some(ended) = ended else {
            let baseline = self.baseline;
            // Baseline existed before the first sweep: its move was not observed.
            let moved_from = if baseline { None } else { self.elsewhere(&observation.id) };
            self.push(observation, Before::Nothing, Action::Appear { baseline, moved_from, version });
            return;
        };
        let tombstone = &ended.tombstone;
        let action = if self.is_same_life(tombstone.life.birth, observation) {
            // A failed tag call has no result: the known tags stay.
            let tags = match &observation.tags {
                Tags::Unknown => self.state.tags(tombstone.tags),
                tags => tags.clone(),
            };
            let birth = observation.birth.or(tombstone.life.birth);
            let fingerprint = fingerprint(seen.document, &tags);
            Action::Retract { version: NewVersion { fingerprint, tags: Some(tags), birth, ..version } }
        } else {
            Action::Appear { baseline: false, moved_from: None, version }
        };
        self.push(observation, Before::Ended(Box::new(ended)), action);
    }

    fn first_version(&self, seen: &HashedObservation<'_>) -> NewVersion {
        let observation = seen.observation;
        NewVersion {
            fingerprint: seen.fingerprint,
            tags: Some(observation.tags.clone()),
            birth: observation.birth,
            // The first document replaces none, and that is no change.
            shape: Some(if observation.attributes.is_unknown() { UNREAD_SHAPE } else { self.sweep.shape }),
            attributes: observation.attributes.clone(),
            document: Vec::new(),
        }
    }

    /// A live resource that is seen again.
    fn seen(&mut self, life: &Living<'_>, seen: &HashedObservation<'_>) {
        let (rid, head, observation) = (life.rid, life.head, seen.observation);
        let suspect = self.state.suspects.get(&rid);
        let same_life = self.is_continuation(&head, observation);
        let same_shape = head.shape == self.sweep.shape;
        let is_as_before = same_life && same_shape && head.fingerprint == seen.fingerprint;
        if is_as_before && suspect.is_none() && observation.end_state.is_none() {
            return;
        }
        let last_seen = self.last_seen(&head, suspect);
        if let Some(end_state) = &observation.end_state {
            if same_life {
                let first_missed = suspect.map_or(self.sweep.ended, |s| s.first_missed);
                let end = self.end(EndCause::Listed(end_state.clone()), last_seen, first_missed);
                self.push(observation, Before::Life(rid), end);
            }
            return;
        }
        if !same_life {
            let end = self.end(EndCause::Replaced, last_seen, self.sweep.ended);
            self.push(observation, Before::Life(rid), end);
            let version = self.first_version(seen);
            let appear = Action::Appear { baseline: false, moved_from: None, version };
            self.push(observation, Before::Life(rid), appear);
            return;
        }
        if suspect.is_some() {
            self.push(observation, Before::Life(rid), Action::Clear);
        }
        // It exists, and nothing else is known: what was last read of it stays.
        if observation.attributes.is_unknown() {
            return;
        }
        // A failed tag call has no result: the known tags stay.
        let is_unknown = observation.tags == Tags::Unknown;
        let same_tags = is_unknown || self.state.is_same_tags(head.tags, &observation.tags);
        let fingerprint =
            if is_unknown { fingerprint(seen.document, &self.state.tags(head.tags)) } else { seen.fingerprint };
        if same_shape && head.fingerprint == fingerprint {
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
        // A new shape changes every document at once; that is our change, not the cloud's.
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
            // Two listings that are both out of date agree as well: they must lie apart.
            Confirmation::Sweeps { apart, .. } => {
                suspect.misses == 0 || sweep.started >= suspect.first_missed.plus(apart * suspect.misses)
            }
            Confirmation::ReadById => sweep.absences.get(id) == Some(&Absence::NotFound),
        };
        if sweep.held {
            suspect.held = true;
        } else if counts {
            suspect.held = false;
            suspect.misses += 1;
            let needed = match sweep.confirmation {
                Confirmation::Sweeps { needed, .. } => needed,
                Confirmation::ReadById if is_young(&head, sweep.ended) => YOUNG_MIN_SWEEPS,
                Confirmation::ReadById => 1,
            };
            if suspect.misses >= needed {
                let Suspect { last_seen, first_missed, .. } = suspect;
                let cause = self.moved_to(id, &head).map_or(EndCause::Absent, EndCause::Moved);
                let action = self.end(cause, last_seen, first_missed);
                self.absent(rid, id, action);
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
                self.absent(rid, id, action);
            }
        }
    }

    /// An end is not dated more precisely than our clock and the cloud's agree.
    fn end(&self, cause: EndCause, last_seen: Timestamp, first_missed: Timestamp) -> Action {
        let skew = Duration::from_millis(self.sweep.skew_millis.unsigned_abs());
        match self.sweep.skew_millis {
            0 => Action::End { cause, last_seen, first_missed },
            ..0 => Action::End { cause, last_seen: last_seen.minus(skew), first_missed },
            1.. => Action::End { cause, last_seen, first_missed: first_missed.plus(skew) },
        }
    }

    /// The live resource in another account or region with this id, if ids are never reused and only one account
    /// lists each.
    fn elsewhere(&self, id: &str) -> Option<Rid> {
        if self.sweep.ids == IdReuse::Unique { (self.beyond.elsewhere)(id) } else { None }
    }

    /// Where a life that ends continues: only a life that appeared elsewhere after it qualifies.
    fn moved_to(&self, id: &str, head: &Head) -> Option<ResourceKey> {
        let other = self.elsewhere(id)?;
        let there = self.state.head(other);
        let is_later = !there.baseline && there.first_seen > head.first_seen;
        let is_there = is_later && !self.state.suspects.contains_key(&other);
        is_there.then(|| self.state.scopes[&there.scope].scope.key(id))
    }

    fn absent(&mut self, rid: Rid, id: &str, action: Action) {
        self.plan.steps.push(PlannedStep {
            id: id.into(),
            before: Before::Life(rid),
            action,
            is_from_absence: true,
        });
    }

    fn last_seen(&self, head: &Head, suspect: Option<&Suspect>) -> Timestamp {
        match suspect {
            Some(suspect) => suspect.last_seen,
            None => self.last_complete.unwrap_or(head.first_seen).max(head.first_seen),
        }
    }
}

/// By its birth, otherwise by when it was first seen.
fn is_young(head: &Head, now: Timestamp) -> bool {
    now.since(head.birth.unwrap_or(head.first_seen)) < YOUNG_MAX_AGE
}

/// Of a document, given by its hash, and its tags. 64 bits: two consecutive versions of one resource collide with
/// a probability of 2^-64.
fn fingerprint(document: u64, tags: &Tags) -> u64 {
    let tags = match tags {
        Tags::Unknown => 0,
        Tags::Untaggable => 1,
        Tags::Known(set) => xxh3_64(set.as_bytes()),
    };
    xxh3_64(&[document.to_le_bytes(), tags.to_le_bytes()].concat())
}
