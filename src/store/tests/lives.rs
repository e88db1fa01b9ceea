//! The oracle of lives: the rules about missed resources (docs/concepts.md), written once more as simply as possible, and
//! random sweeps that drive both. One scope, a few ids that recur with births of their own.

use proptest::prelude::*;

use super::*;

/// How a sweep shows one id.
#[derive(Clone, Copy, Debug)]
struct Shown {
    birth: Option<u8>,
    is_ended: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Sweep { shown: BTreeMap<u8, Shown>, is_complete: bool, is_confirmed: bool, is_held: bool },
    Reopen,
    Checkpoint,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let birth = prop_oneof![2 => Just(None), 3 => (0..3u8).prop_map(Some)];
    let shown = (birth, prop::bool::weighted(0.1)).prop_map(|(birth, is_ended)| Shown { birth, is_ended });
    let shown_by_sweep = prop::collection::btree_map(0..4u8, shown, 0..5);
    let weighted = prop::bool::weighted;
    prop_oneof![
        10 => (shown_by_sweep, weighted(0.8), weighted(0.7), weighted(0.15)).prop_map(
            |(shown, is_complete, is_confirmed, is_held)| Step::Sweep { shown, is_complete, is_confirmed, is_held }
        ),
        1 => Just(Step::Reopen),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
    ]
}

/// The time of a birth: some are young for a few sweeps, some never were.
fn birth(number: u8) -> Timestamp {
    let epoch: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
    match number {
        0 => Timestamp::default(),
        number => epoch.plus(Duration::from_mins(17 * u64::from(number))),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Live {
        first_seen: Timestamp,
        is_baseline: bool,
        birth: Option<Timestamp>,
        suspect: Option<Suspicion>,
    },
    Ended {
        first_seen: Timestamp,
        is_baseline: bool,
        birth: Option<Timestamp>,
        how: &'static str,
        last_seen: Timestamp,
        first_missed: Timestamp,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspicion {
    last_seen: Timestamp,
    first_missed: Timestamp,
    /// Counted misses take no revision: past states do not contain them.
    misses: u32,
    is_held: bool,
}

/// What is known of a scope, kept as simply as possible.
#[derive(Clone, Debug, Default)]
struct Oracle {
    lives: BTreeMap<String, Life>,
    opened: Option<Timestamp>,
    last_complete: Option<Timestamp>,
    confirmations: Option<u32>,
}

impl Oracle {
    fn record(&mut self, sweep: &Sweep) {
        let opened = *self.opened.get_or_insert(sweep.started);
        // Everything is baseline until a sweep is complete since the scope was opened.
        let is_baseline = self.last_complete.is_none_or(|complete| complete < opened);
        for observation in &sweep.observations {
            self.show(observation, sweep, is_baseline);
        }
        let shown: BTreeSet<&str> = sweep.observations.iter().map(|o| o.id.as_str()).collect();
        let missed: Vec<String> = self.lives.keys().filter(|id| !shown.contains(id.as_str())).cloned().collect();
        if sweep.outcome.is_complete() {
            for id in missed {
                self.miss(&id, sweep);
            }
            self.last_complete = Some(sweep.ended);
        }
    }

    fn show(&mut self, seen: &Observation, sweep: &Sweep, is_baseline: bool) {
        let is_same = |birth: Option<Timestamp>| seen.birth.is_none() || birth.is_none() || birth == seen.birth;
        let new =
            |is_baseline| Life::Live { first_seen: sweep.ended, is_baseline, birth: seen.birth, suspect: None };
        let last_complete = self.last_complete;
        let life = match self.lives.get(&seen.id).cloned() {
            None | Some(Life::Ended { .. }) if seen.end_state.is_some() => return,
            None => new(is_baseline),
            Some(Life::Ended { first_seen, is_baseline, birth, .. }) if is_same(birth) => {
                Life::Live { first_seen, is_baseline, birth: seen.birth.or(birth), suspect: None }
            }
            Some(Life::Ended { .. }) => new(false),
            Some(Life::Live { first_seen, is_baseline, birth, suspect }) => {
                match (is_same(birth), &seen.end_state) {
                    (false, Some(_)) => return,
                    (false, None) => new(false),
                    (true, Some(_)) => {
                        let last_seen = suspect.as_ref().map_or_else(
                            || last_complete.unwrap_or(first_seen).max(first_seen),
                            |suspect| suspect.last_seen,
                        );
                        let first_missed = suspect.map_or(sweep.ended, |suspect| suspect.first_missed);
                        Life::Ended { first_seen, is_baseline, birth, how: "listed", last_seen, first_missed }
                    }
                    (true, None) => {
                        Life::Live { first_seen, is_baseline, birth: seen.birth.or(birth), suspect: None }
                    }
                }
            }
        };
        self.lives.insert(seen.id.clone(), life);
    }

    fn miss(&mut self, id: &str, sweep: &Sweep) {
        let Some(Life::Live { first_seen, is_baseline, birth, suspect }) = self.lives.get(id).cloned() else {
            return;
        };
        let mut suspect = suspect.unwrap_or_else(|| Suspicion {
            last_seen: self.last_complete.unwrap_or(first_seen).max(first_seen),
            first_missed: sweep.ended,
            misses: 0,
            is_held: false,
        });
        let is_young = sweep.ended.since(birth.unwrap_or(first_seen)) < Duration::from_mins(10);
        let needed = self.confirmations.unwrap_or(if is_young { 2 } else { 1 });
        let counts = self.confirmations.is_some() || sweep.absences.get(id) == Some(&Absence::NotFound);
        if sweep.held {
            suspect.is_held = true;
        } else if counts {
            suspect.is_held = false;
            suspect.misses += 1;
            if suspect.misses >= needed {
                let Suspicion { last_seen, first_missed, .. } = suspect;
                let life = Life::Ended { first_seen, is_baseline, birth, how: "absent", last_seen, first_missed };
                self.lives.insert(id.to_owned(), life);
                return;
            }
        }
        self.lives.insert(id.to_owned(), Life::Live { first_seen, is_baseline, birth, suspect: Some(suspect) });
    }

    /// As past states contain it.
    fn without_misses(&self) -> BTreeMap<String, Life> {
        let mut lives = self.lives.clone();
        for life in lives.values_mut() {
            if let Life::Live { suspect: Some(suspect), .. } = life {
                suspect.misses = 0;
            }
        }
        lives
    }
}

/// The same from the store.
fn lives(store: &Store, moment: Moment) -> BTreeMap<String, Life> {
    let snapshot = store.snapshot(moment).unwrap();
    let every = Filter { ended_since: Some(Timestamp::MIN), include_unwatched: true, ..Filter::default() };
    let life = |resource: Resource| {
        let Resource { first_seen, baseline: is_baseline, birth, .. } = resource;
        let life = match resource.end {
            Some(end) => Life::Ended {
                first_seen,
                is_baseline,
                birth,
                how: if matches!(end.cause, EndCause::Listed(_)) { "listed" } else { "absent" },
                last_seen: end.last_seen,
                first_missed: end.first_missed,
            },
            None => Life::Live {
                first_seen,
                is_baseline,
                birth,
                suspect: resource.suspect.map(|suspect| Suspicion {
                    last_seen: suspect.last_seen,
                    first_missed: suspect.first_missed,
                    misses: suspect.misses,
                    is_held: suspect.held,
                }),
            },
        };
        (resource.key.id.to_string(), life)
    };
    snapshot.resources(&every).unwrap().into_iter().map(life).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn lives_suspects_and_ends_are_those_of_the_oracle_at_every_revision(
        steps in prop::collection::vec(step(), 1..30),
        confirmations in prop_oneof![2 => Just(None), 1 => (1..4u32).prop_map(Some)],
    ) {
        let mut bed = Bed::new();
        let mut oracle = Oracle { confirmations, ..Oracle::default() };
        let mut copies: BTreeMap<Revision, Oracle> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Reopen => bed.reopen(),
                Step::Checkpoint => bed.store().checkpoint().unwrap(),
                Step::Close => {
                    bed.pass(5);
                    bed.store().close_scopes(&[Arc::new(scope("eu-west-1"))]).unwrap();
                    oracle.opened = None;
                }
                Step::Sweep { shown, is_complete, is_confirmed, is_held } => {
                    let delta = bed.sweep_with(|sweep| {
                        sweep.ids = IdReuse::Reusable;
                        sweep.held = is_held;
                        if let Some(confirmations) = confirmations {
                            sweep.confirmation = Confirmation::Sweeps { needed: confirmations, apart: Duration::ZERO };
                        }
                        if !is_complete {
                            sweep.outcome = Outcome::Partial(Reason::Throttled);
                        }
                        let observe = |(id, shown): (&u8, &Shown)| Observation {
                            birth: shown.birth.map(birth),
                            end_state: shown.is_ended.then(|| "deleted".to_owned()),
                            // The document depends on the birth of its resource.
                            ..observation(&format!("role-{id}"), &[], shown.birth.map_or(9, u64::from))
                        };
                        sweep.observations = shown.iter().map(observe).collect();
                        let answer = if is_confirmed { Absence::NotFound } else { Absence::Unconfirmed };
                        sweep.absences = (0..4).map(|id| (format!("role-{id}"), answer)).collect();
                        oracle.record(sweep);
                    });
                    prop_assert_eq!(delta.revision, bed.store().revision());
                }
            }
            prop_assert_eq!(lives(bed.store(), Moment::Now), oracle.lives.clone());
            // If no revision was taken, the last state counts.
            copies.insert(bed.store().revision(), oracle.clone());
        }
        bed.reopen();
        prop_assert_eq!(lives(bed.store(), Moment::Now), oracle.lives.clone());
        for (revision, copy) in copies {
            let mut then = lives(bed.store(), Moment::Revision(revision));
            for life in then.values_mut() {
                if let Life::Live { suspect: Some(suspect), .. } = life {
                    suspect.misses = 0;
                }
            }
            prop_assert_eq!(then, copy.without_misses(), "at revision {}", revision);
        }
        prop_assert_eq!(format!("{:?}", bed.store().check().unwrap().flaws), "[]");
    }
}
