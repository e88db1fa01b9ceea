//! The oracle: a full copy of the state per revision, and a random sequence that drives both.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// (region, ids seen with size and whether tagged, outcome complete?, reads by id return NotFound?)
    Sweep {
        region: bool,
        seen: BTreeMap<u8, (u8, bool)>,
        complete: bool,
        confirmed: bool,
    },
    Close {
        region: bool,
    },
    Reopen,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let seen = prop::collection::btree_map(0u8..6, (0u8..3, any::<bool>()), 0..6);
    prop_oneof![
        8 => (any::<bool>(), seen, prop::bool::weighted(0.8), prop::bool::weighted(0.8)).prop_map(
            |(region, seen, complete, confirmed)| Step::Sweep { region, seen, complete, confirmed }
        ),
        1 => any::<bool>().prop_map(|region| Step::Close { region }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Checkpoint),
    ]
}

const DETAIL: Duration = Duration::from_hours(40);

/// All answers at a revision, including the ledger.
fn answer(store: &Store, revision: Revision) -> Result<String, StoreError> {
    let known = faults::state(store, revision)?;
    let views = store.snapshot(Moment::Revision(revision))?.scopes();
    Ok(format!("{known:#?} {}", serde_json::to_string(&views).unwrap()))
}

fn milestones(store: &Store) -> Vec<String> {
    let snapshot = store.snapshot(Moment::Now).unwrap();
    let every = Filter { ended_since: Some(Timestamp::MIN), include_unwatched: true, ..Filter::default() };
    let all = snapshot.resources(&every).unwrap();
    all.iter().map(|r| format!("{} {:?}", r.key, snapshot.milestones(r).unwrap())).collect()
}

/// (hours until then, region, ids seen with size and owner, outcome complete?, reads by id return NotFound?)
type GeneratedSweep = (u64, bool, BTreeMap<u8, (u8, u8)>, bool, bool);

fn sweep_later() -> impl Strategy<Value = GeneratedSweep> {
    let seen = prop::collection::btree_map(0u8..8, (0u8..4, 0u8..3), 0..8);
    (1..9u64, any::<bool>(), seen, prop::bool::weighted(0.8), prop::bool::weighted(0.7))
}

fn take(bed: &Bed, (hours, region, seen, complete, confirmed): &GeneratedSweep) {
    bed.pass(hours * 3600);
    bed.sweep_with(|s| {
        s.scope = scope(if *region { "eu-west-1" } else { "us-east-1" });
        s.cadence = Some(Duration::from_hours(4));
        if !complete {
            s.outcome = Outcome::Partial(Reason::Throttled);
        }
        let observe = |(id, (size, owner)): (&u8, &(u8, u8))| {
            let tags: &[_] = [&[][..], &[("Owner", "a")], &[("Owner", "b")]][usize::from(*owner)];
            // Large enough to be worth a difference to the version before.
            let note = format!("{id} is as it was").repeat(30);
            let document = serde_json::json!({"VolumeId": format!("vol-{id}"), "Size": size, "Note": note});
            Observation {
                attributes: (&document).into(),
                birth: (id % 2 == 0).then(Timestamp::default),
                ..observation(&format!("vol-{id}"), tags, 0)
            }
        };
        s.observations = seen.iter().map(observe).collect();
        // A new version of the shape in between: a birth is reported later.
        s.shape = u16::from(seen.len() > 5) + 1;
        let answer = if *confirmed { Absence::NotFound } else { Absence::Unconfirmed };
        s.absences = (0..8).map(|i| (format!("vol-{i}"), answer)).collect();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn what_is_kept_answers_as_before_and_the_rest_names_the_nearest_moments(
        complete_sweeps in prop::collection::vec(sweep_later(), 4..60),
        more in prop::collection::vec(sweep_later(), 0..6),
        checkpoint_at in 0..60usize,
        horizon_hours in 48..200u64,
    ) {
        let mut bed = Bed::new();
        let retention = Retention { detail: DETAIL, horizon: Duration::from_hours(horizon_hours) };
        for (n, sweep) in complete_sweeps.iter().enumerate() {
            take(&bed, sweep);
            if n == checkpoint_at {
                bed.store().checkpoint().unwrap();
            }
            if n % 17 == 16 {
                bed.store().retain(retention).unwrap();
            }
        }
        let newest = bed.store().revision();
        let answers: BTreeMap<Revision, String> = (1..=newest.0)
            .filter_map(|r| Some((Revision(r), answer(bed.store(), Revision(r)).ok()?)))
            .collect();
        let exact = milestones(bed.store());
        bed.store().retain(retention).unwrap();
        bed.reopen();
        prop_assert_eq!(milestones(bed.store()), exact);
        prop_assert_eq!(bed.store().retain(retention).unwrap(), RetentionReport::default(), "once is enough");
        let store = bed.store();
        prop_assert_eq!(format!("{:?}", store.check().unwrap().flaws), "[]");
        let kept = store.state().kept.clone();
        let mut days = BTreeSet::new();
        for revision in (1..=newest.0).map(Revision) {
            match answer(store, revision) {
                Ok(found) => prop_assert_eq!(Some(&found), answers.get(&revision), "at revision {}", revision),
                Err(StoreError::NotKept { before, after, .. }) => {
                    prop_assert!(revision < kept.floor());
                    for near in before.into_iter().chain(after) {
                        prop_assert!(answer(store, near.revision).is_ok());
                        let at_time = store.snapshot(Moment::Time(near.time)).unwrap().revision();
                        prop_assert!(kept.is_kept(at_time));
                    }
                    prop_assert!(after.is_some_and(|after| after.revision > revision));
                }
                Err(error) => prop_assert!(false, "at revision {}: {}", revision, error),
            }
        }
        for (revision, row) in kept.rows() {
            prop_assert!(days.insert(row.until), "one moment a day");
            prop_assert!(row.is_thinned);
            // The kept revision of a day is the last one in it.
            let last = Moment::Time(Timestamp::from_millis(row.until.as_millis() - 1));
            prop_assert_eq!(store.snapshot(last).unwrap().revision(), Revision(revision));
        }
        if !kept.floor().0.eq(&0) {
            prop_assert!(kept.rows().next_back().unwrap().1.until <= store.now().minus(DETAIL));
            let error = store.steps(Moment::Revision(Revision::ZERO), Moment::Now, None).unwrap_err();
            prop_assert_eq!(error.reason(), "Compacted");
            store.steps(Moment::Revision(kept.floor()), Moment::Now, None).unwrap();
        }
        // Net differences between kept moments work, whatever lies between them.
        let moments: Vec<u64> = kept.rows().map(|(revision, _)| revision).chain([newest.0]).collect();
        for pair in moments.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(|r| Moment::Revision(Revision(r)));
            let diff = store.diff(from, to, None).unwrap();
            let live = |moment| -> BTreeSet<ResourceKey> {
                let all = store.snapshot(moment).unwrap().resources(&Filter::default()).unwrap();
                all.into_iter().map(|r| r.key).collect()
            };
            let (before, after) = (live(from), live(to));
            for change in &diff.changes {
                match change.change {
                    ChangeKind::Appeared => prop_assert!(after.contains(&change.resource)),
                    ChangeKind::Disappeared => prop_assert!(before.contains(&change.resource)),
                    ChangeKind::Changed => prop_assert!(!change.fields.is_empty()),
                }
            }
            let appeared = diff.changes.iter().filter(|c| c.change == ChangeKind::Appeared && !c.replaced).count();
            prop_assert_eq!(appeared, after.difference(&before).count());
        }
        let snapshot = store.snapshot(Moment::Now).unwrap();
        let every = Filter { ended_since: Some(Timestamp::MIN), ..Filter::default() };
        for resource in snapshot.resources(&every).unwrap() {
            prop_assert!(!snapshot.history(&resource).unwrap().is_empty());
        }
        // And the store continues as if nothing had happened.
        for sweep in &more {
            take(&bed, sweep);
        }
        bed.store().retain(retention).unwrap();
        prop_assert_eq!(format!("{:?}", bed.store().check().unwrap().flaws), "[]");
    }
}

type Live = BTreeMap<(String, String), (u8, bool)>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn state_at_every_revision_equals_a_full_copy(steps in prop::collection::vec(step(), 1..25)) {
        let mut bed = Bed::new();
        // Live resources in all scopes, watched or not; and the scopes that are watched.
        let mut live = Live::new();
        let mut misses: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut open: BTreeSet<String> = BTreeSet::new();
        let mut copies: BTreeMap<Revision, Live> = BTreeMap::new();
        let name = |region: bool| if region { "eu-west-1" } else { "us-east-1" };
        for step in steps {
            match step {
                Step::Reopen => bed.reopen(),
                Step::Checkpoint => bed.store().checkpoint().unwrap(),
                Step::Close { region } => {
                    bed.pass(5);
                    bed.store().close_scopes(&[Arc::new(scope(name(region)))]).unwrap();
                    open.remove(name(region));
                }
                Step::Sweep { region, seen, complete, confirmed } => {
                    let region = name(region).to_owned();
                    let key = |id: &u8| (region.clone(), format!("vol-{id}"));
                    bed.sweep_with(|s| {
                        s.scope = scope(&region);
                        if !complete {
                            s.outcome = Outcome::Partial(Reason::Throttled);
                        }
                        s.observations = seen
                            .iter()
                            .map(|(id, (size, tagged))| {
                                let tags: &[_] = if *tagged { &[("Owner", "a")] } else { &[] };
                                // Old by its birth: one confirmed miss is enough.
                                let birth = Some(Timestamp::default());
                                Observation { birth, ..observation(&format!("vol-{id}"), tags, (*size).into()) }
                            })
                            .collect();
                        let answer = if confirmed { Absence::NotFound } else { Absence::Unconfirmed };
                        s.absences = (0..6).filter(|i| !seen.contains_key(i))
                            .map(|i| (format!("vol-{i}"), answer)).collect();
                    });
                    open.insert(region.clone());
                    if complete && confirmed {
                        live.retain(|k, _| k.0 != region || seen.keys().any(|id| key(id) == *k));
                    }
                    for (id, version) in &seen {
                        live.insert(key(id), *version);
                        misses.remove(&key(id));
                    }
                }
            }
            let visible: Live =
                live.iter().filter(|(k, _)| open.contains(&k.0)).map(|(k, v)| (k.clone(), *v)).collect();
            copies.insert(bed.store().revision(), visible);
        }
        bed.reopen();
        for (revision, copy) in &copies {
            let snapshot = bed.store().snapshot(Moment::Revision(*revision)).unwrap();
            let mut got = Live::new();
            for resource in snapshot.resources(&Filter::default()).unwrap() {
                let size = snapshot.attributes(&resource).unwrap()["Size"].as_u64().unwrap();
                let tagged = !resource.tags.known().unwrap().is_empty();
                let key = (resource.key.region.to_string(), resource.key.id.to_string());
                got.insert(key, (u8::try_from(size).unwrap(), tagged));
            }
            prop_assert_eq!(&got, copy, "at revision {}", revision);
            let mut lines = Vec::new();
            snapshot.each(&Filter { tags: vec![("Owner".to_owned(), None)], ..Filter::default() }, |line| {
                lines.push((line.scope.region.to_string(), line.id.to_owned()));
            });
            lines.sort();
            let filter = Filter { tags: vec![("Owner".to_owned(), Some("a".to_owned()))], ..Filter::default() };
            prop_assert_eq!(snapshot.count(&filter), lines.len());
            let untagged = Filter { untagged: true, ..Filter::default() };
            prop_assert_eq!(snapshot.count(&untagged), copy.len() - lines.len());
            let both = Filter { untagged: true, ..filter };
            prop_assert_eq!(snapshot.count(&both), 0);
            let tagged = copy.iter().filter(|(_, (_, tagged))| *tagged).map(|(key, _)| key.clone());
            prop_assert_eq!(lines, tagged.collect::<Vec<_>>());
        }
        // The state opened from a checkpoint is the fold of the whole log, and so is each checkpoint.
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        let folded = |until| {
            let mut state = named(&txn).unwrap();
            fold_until(&txn, &mut state, until).unwrap();
            state
        };
        let opened = bed.store().state();
        let rebuilt = folded(Revision(u64::MAX));
        prop_assert_eq!(checkpoint::hash(&opened), checkpoint::hash(&rebuilt));
        for rid in 0..opened.next_rid {
            prop_assert_eq!(opened.heads.get(rid), rebuilt.heads.get(rid));
            prop_assert_eq!(opened.heads.id(rid), rebuilt.heads.id(rid));
        }
        drop(txn);
        prop_assert_eq!(format!("{:?}", bed.store().check().unwrap().flaws), "[]");
        // All steps, in the order of time, contain every history.
        let all = bed.store().steps(Moment::Revision(Revision::ZERO), Moment::Now, None).unwrap().changes;
        prop_assert!(all.is_sorted_by_key(|c| c.revision));
        let newest = bed.store().snapshot(Moment::Now).unwrap();
        let every = Filter { ended_since: Some(Timestamp::MIN), include_unwatched: true, ..Filter::default() };
        let text = |changes: &[Change]| serde_json::to_string(changes).unwrap();
        let mut reported = 0;
        for resource in newest.resources(&every).unwrap() {
            let history = newest.history(&resource).unwrap();
            let of_it = |c: &&Change| c.resource == resource.key;
            let newest_first: Vec<Change> = all.iter().filter(of_it).rev().cloned().collect();
            prop_assert_eq!(text(&history), text(&newest_first));
            reported += history.len();
            // And from any moment on, the rest of it: the changes of a step do not depend on where reading
            // begins.
            if let Some(middle) = history.get(history.len() / 2) {
                let since = Moment::Revision(middle.revision);
                let rest = bed.store().steps(since, Moment::Now, None).unwrap().changes;
                let rest: Vec<Change> = rest.iter().filter(of_it).rev().cloned().collect();
                let later = history.iter().filter(|c| c.revision > middle.revision);
                prop_assert_eq!(text(&rest), text(&later.cloned().collect::<Vec<_>>()));
            }
        }
        prop_assert_eq!(reported, all.len());
        // What disappeared is what the steps end and do not retract.
        if let Some(first) = copies.keys().next() {
            let steps = bed.store().steps(Moment::Revision(*first), Moment::Now, None).unwrap().changes;
            let mut ended: BTreeMap<ResourceKey, Vec<Revision>> = BTreeMap::new();
            for step in steps {
                match step.change {
                    ChangeKind::Disappeared => ended.entry(step.resource).or_default().push(step.revision),
                    ChangeKind::Appeared if step.retracted => drop(ended.entry(step.resource).or_default().pop()),
                    _ => {}
                }
            }
            let selected: BTreeSet<(Revision, ResourceKey)> =
                ended.into_iter().flat_map(|(key, at)| at.into_iter().map(move |r| (r, key.clone()))).collect();
            let reported = bed.store().disappeared(Moment::Revision(*first), Moment::Now, None).unwrap();
            prop_assert!(reported.is_sorted_by_key(|c| std::cmp::Reverse(c.revision)));
            prop_assert_eq!(reported.into_iter().map(|c| (c.revision, c.resource)).collect::<BTreeSet<_>>(), selected);
        }
        // state(last) = state(first) + diff(first, last), for scopes that stayed open.
        if let (Some(first), Some(last)) = (copies.keys().next(), copies.keys().last()) {
            let diff = bed.store()
                .diff(Moment::Revision(*first), Moment::Revision(*last), None).unwrap();
            let mut ids: BTreeSet<(String, String)> = copies[first].keys()
                .filter(|k| open.contains(&k.0)).cloned().collect();
            for change in &diff.changes {
                let key = (change.resource.region.to_string(), change.resource.id.to_string());
                match change.change {
                    ChangeKind::Appeared => prop_assert!(ids.insert(key)),
                    ChangeKind::Disappeared => prop_assert!(ids.remove(&key)),
                    ChangeKind::Changed => prop_assert!(ids.contains(&key)),
                }
            }
            prop_assert_eq!(ids, copies[last].keys().cloned().collect());
        }
    }
}
