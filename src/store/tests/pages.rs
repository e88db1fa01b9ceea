//! Sweeps that are recorded page by page, and the bounds of one.

use super::*;

#[test]
fn a_sweep_of_a_huge_scope_is_recorded_in_pages_and_concludes_with_the_last() {
    let mut bed = Bed::new();
    let subscriber = Subscriber::from("team/one");
    let commit = |bed: &Bed, observations: Vec<Observation>, missing: &[&str]| {
        bed.pass(3600);
        let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
        sweep.observations = observations;
        sweep.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        bed.store().commit(&sweep, Some(&subscriber)).unwrap()
    };
    let delta = commit(&bed, large(0..60), &[]);
    assert!(delta.revision >= Revision(3), "several revisions, not {}", delta.revision);
    assert_eq!(delta.changes.len(), 60);
    assert!(delta.changes.iter().all(|c| c.baseline));
    let pieces: Vec<usize> =
        (1..=delta.revision.0).map(|r| bed.live(Moment::Revision(Revision(r))).len()).collect();
    assert!(pieces.is_sorted() && pieces[0] > 0 && *pieces.last().unwrap() == 60, "{pieces:?}");
    let visible = |r: u64| bed.store().snapshot(Moment::Revision(Revision(r))).unwrap().visible(&subscriber).len();
    assert_eq!((visible(delta.revision.0 - 1), visible(delta.revision.0)), (0, 1), "proven by the whole look");
    // What the sweep did not show ends with its last piece only.
    let delta = commit(&bed, large(30..90), &["vol-0", "vol-1"]);
    let gone = delta.changes.iter().filter(|c| c.change == ChangeKind::Disappeared);
    assert!(gone.map(|c| c.revision).eq([delta.revision; 2]));
    bed.reopen();
    assert_eq!(bed.live(Moment::Now).len(), 88);
    assert!(bed.store().check().unwrap().flaws.is_empty());
}

/// Everything that is known now, with its documents.
fn known(bed: &Bed) -> Vec<(String, String, Tags, Presence, bool)> {
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    let all = Filter { ended_since: Some(Timestamp::MIN), ..Filter::default() };
    let reported = |r: Resource| {
        let attributes = snapshot.attributes(&r).unwrap().to_string();
        (r.key.id.to_string(), attributes, r.tags, r.presence, r.baseline)
    };
    snapshot.resources(&all).unwrap().into_iter().map(reported).collect()
}

#[test]
fn page_by_page_it_comes_to_the_same_as_in_one_piece() {
    let subscriber = Subscriber::from("team/one");
    for seed in 0..30 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (whole, paged) = (Bed::new(), Bed::new());
        for sweep_with in 0..6 {
            let ids: Vec<u32> = (0..40).filter(|_| rng.random_bool(0.7)).collect();
            let observations: Vec<Observation> = ids
                .iter()
                .map(|id| {
                    let tags: &[(&str, &str)] = if rng.random_bool(0.5) { &[("owner", "a")] } else { &[] };
                    let mut one = observation(&format!("vol-{id}"), tags, rng.random_range(8..11));
                    one.end_state = rng.random_bool(0.05).then(|| "deleting".to_owned());
                    one
                })
                .collect();
            let outcome =
                if rng.random_bool(0.8) { Outcome::Complete } else { Outcome::Partial(Reason::Throttled) };
            let page_of = rng.random_range(1..12);
            for bed in [&whole, &paged] {
                bed.pass(3600);
                let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
                sweep.outcome = outcome;
                sweep.observations.clone_from(&observations);
                let mut recorded = Recorded::default();
                if std::ptr::eq(bed, &raw const paged) {
                    let mut pages: Vec<_> = observations.chunks(page_of).map(<[_]>::to_vec).collect();
                    sweep.observations = pages.pop().unwrap_or_default();
                    for observations in pages {
                        let page = Sweep { observations, ..sweep.clone() };
                        bed.store().record_page(&page, &mut recorded).unwrap();
                    }
                }
                let missed = bed.store().missed_by(&sweep, &recorded);
                sweep.absences = missed.iter().map(|m| (m.id.to_string(), Absence::NotFound)).collect();
                bed.store().commit_rest(&sweep, &recorded, Some(&subscriber)).unwrap();
                assert_eq!(recorded.shown() + sweep.observations.len(), observations.len());
            }
            assert_eq!(known(&whole), known(&paged), "seed {seed}, look {sweep_with}");
        }
        assert!(paged.store().check().unwrap().flaws.is_empty());
    }
}

#[test]
fn pages_that_show_nothing_new_take_no_revision_and_their_sweep_is_one_run() {
    let bed = Bed::new();
    let here: Vec<Observation> = (0..30).map(|id| observation(&format!("vol-{id}"), &[], 8)).collect();
    bed.see(&here);
    let before = bed.store().revision();
    bed.pass(3600);
    let sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
    let mut recorded = Recorded::default();
    for page in here.chunks(7) {
        let page = Sweep { observations: page.to_vec(), ..sweep.clone() };
        bed.store().record_page(&page, &mut recorded).unwrap();
    }
    assert!(bed.store().missed_by(&sweep, &recorded).is_empty());
    bed.store().commit_rest(&sweep, &recorded, None).unwrap();
    assert_eq!(bed.store().revision(), before);
    // If a page changed something, the end of its sweep is in the file with it, whatever it contains itself.
    bed.pass(3600);
    let sweep = self::sweep(bed.store().now().minus(Duration::from_secs(1)));
    let mut recorded = Recorded::default();
    let more: Vec<Observation> = (0..31).map(|id| observation(&format!("vol-{id}"), &[], 8)).collect();
    let page = Sweep { observations: more, ..sweep.clone() };
    bed.store().record_page(&page, &mut recorded).unwrap();
    bed.store().commit_rest(&sweep, &recorded, None).unwrap();
    let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
    assert!(txn.open_table(OPEN_SWEEP).unwrap().iter().unwrap().next().is_none(), "no look is under way");
    let runs = txn.open_table(RUN).unwrap();
    let last: Run = decode("run", runs.iter().unwrap().next_back().unwrap().unwrap().1.value()).unwrap();
    assert_eq!((last.outcome, last.last_ended), (Outcome::Complete, sweep.ended));
    // Without the recorded pages the same sweep would have ended them all.
    assert_eq!(bed.store().missed_by(&sweep, &Recorded::default()).len(), 31);
}

#[test]
fn a_sweep_that_was_cut_off_between_its_pages_is_partial_and_interrupted() {
    let mut bed = Bed::new();
    bed.see(&[observation("vol-old", &[], 8)]);
    bed.pass(3600);
    let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
    sweep.observations = large(0..60);
    sweep.absences.insert("vol-old".to_owned(), Absence::NotFound);
    // The process dies after the first page.
    let mut recorded = Recorded::default();
    let page = Sweep { observations: large(0..30), ..sweep.clone() };
    bed.store().record_page(&page, &mut recorded).unwrap();
    assert_eq!(recorded.shown(), 30);
    drop(recorded);
    let runs = |bed: &Bed| -> Vec<Outcome> {
        bed.store().flush().unwrap();
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        let rows = txn.open_table(RUN).unwrap();
        rows.iter().unwrap().map(|row| decode::<Run>("run", row.unwrap().1.value()).unwrap().outcome).collect()
    };
    assert_eq!(runs(&bed), [Outcome::Complete], "it may still go on");
    for _ in 0..2 {
        bed.reopen();
        assert_eq!(runs(&bed), [Outcome::Complete, Outcome::Partial(Reason::Interrupted)], "and once only");
    }
    let live = bed.live(Moment::Now);
    assert!(live.len() > 1 && live.contains(&"vol-old".to_owned()), "what was seen is there, nothing is gone");
    // Another sweep in pieces, with the ledger flushed in between: once it is over, none is in progress.
    bed.reopen();
    bed.sweep_with(|s| s.observations = large(0..120));
    assert_eq!(runs(&bed).len(), 3);
    bed.reopen();
    assert_eq!(runs(&bed).len(), 3);
    let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
    assert_eq!(redb::ReadableTableMetadata::len(&txn.open_table(OPEN_SWEEP).unwrap()).unwrap(), 0);
    drop(txn);
    assert!(bed.store().check().unwrap().flaws.is_empty());
}

#[test]
fn a_sweep_that_overlaps_the_last_one_is_refused() {
    let bed = Bed::new();
    bed.see(&[]);
    let stale = sweep(bed.store().now().minus(Duration::from_mins(1)));
    let error = bed.store().commit(&stale, None).unwrap_err();
    assert_eq!(error.reason(), "SweepOverlaps");
}

#[test]
fn what_is_over_a_bound_is_refused_by_name_and_stops_nothing_else() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let mut large = observation("vol-2", &[], 8);
    let description = "x".repeat(2 * DOCUMENT_MAX_BYTES);
    large.attributes = (&serde_json::json!({"VolumeId": "vol-2", "Description": description})).into();
    for (bad, bound) in [(large, DOCUMENT_MAX_BYTES), (observation(&"i".repeat(5000), &[], 8), ID_MAX_BYTES)] {
        let mut sweep = sweep(bed.store().now().plus(Duration::from_mins(1)));
        sweep.observations = vec![bad];
        let error = bed.store().commit(&sweep, None).unwrap_err();
        assert_eq!(error.reason(), "TooLarge");
        assert!(error.to_string().contains(&bound.to_string()), "{error}");
    }
    assert_eq!(bed.live(Moment::Now), ["vol-1"], "nothing of it was recorded");
    bed.see(&[observation("vol-1", &[], 9)]);
}
