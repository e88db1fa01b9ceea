//! What a sweep misses: suspects, confirmations, ends and retractions.

use super::*;

#[test]
fn an_old_resource_ends_at_the_first_confirmed_miss_and_a_young_one_at_the_second() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    bed.see(&[observation("vol-1", &[], 8)]);
    bed.pass(600);
    bed.see(&[observation("vol-1", &[], 8), observation("vol-2", &[], 8)]);
    let delta = bed.miss(&[], &["vol-1", "vol-2"]);
    assert_eq!(kinds(&delta), [(ChangeKind::Disappeared, "vol-1".to_owned())]);
    assert_eq!(bed.live(Moment::Now), ["vol-2"], "five minutes old: one NotFound proves nothing");
    let delta = bed.miss(&[], &["vol-2"]);
    assert_eq!(kinds(&delta), [(ChangeKind::Disappeared, "vol-2".to_owned())]);
    let end = delta.changes[0].end.clone().unwrap();
    assert!(end.last_seen < end.first_missed && end.first_missed < end.concluded, "{end:?}");
}

#[test]
fn partial_failed_and_held_sweeps_and_failed_re_reads_end_nothing() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    bed.pass(3600);
    for outcome in [Outcome::Partial(Reason::Throttled), Outcome::Failed(Reason::Denied)] {
        let incomplete = bed.sweep_with(|s| {
            s.outcome = outcome;
            s.absences.insert("vol-1".to_owned(), Absence::NotFound);
        });
        assert!(incomplete.changes.is_empty(), "{outcome:?}");
    }
    let not_found = |s: &mut Sweep| {
        s.absences.insert("vol-1".to_owned(), Absence::NotFound);
    };
    let held = bed.sweep_with(|s| {
        s.held = true;
        not_found(s);
    });
    assert!(held.changes.is_empty());
    let unconfirmed = bed.sweep_with(|s| {
        s.absences.insert("vol-1".to_owned(), Absence::Unconfirmed);
    });
    assert!(unconfirmed.changes.is_empty());
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    let resource = &snapshot.find("vol-1", None).unwrap()[0];
    assert_eq!(resource.presence, Presence::Unknown);
    assert!(resource.suspect.as_ref().unwrap().held);
    assert_eq!(bed.sweep_with(not_found).changes.len(), 1, "the next complete look with NotFound releases it");
}

#[test]
fn misses_survive_a_restart_and_what_comes_back_is_no_disappearance() {
    let mut bed = Bed::new();
    bed.see(&[]);
    let young = observation("vol-1", &[], 8);
    bed.see(std::slice::from_ref(&young));
    bed.miss(&[], &["vol-1"]);
    bed.reopen();
    let suspect =
        bed.store().snapshot(Moment::Now).unwrap().find("vol-1", None).unwrap()[0].suspect.clone().unwrap();
    assert_eq!(suspect.misses, 1);
    bed.see(std::slice::from_ref(&young));
    assert!(bed.store().snapshot(Moment::Now).unwrap().find("vol-1", None).unwrap()[0].suspect.is_none());
    // It is not young any more: one complete sweep and a read by id decide.
    assert_eq!(kinds(&bed.miss(&[], &["vol-1"])), [(ChangeKind::Disappeared, "vol-1".to_owned())]);
    assert!(bed.live(Moment::Now).is_empty());
}

#[test]
fn a_listed_end_state_ends_a_life_in_any_sweep_and_only_once() {
    let bed = Bed::new();
    bed.see(&[observation("i-1", &[], 1)]);
    let mut dead = observation("i-1", &[], 1);
    dead.end_state = Some("terminated".to_owned());
    let delta = bed.sweep_with(|s| {
        s.outcome = Outcome::Partial(Reason::Throttled);
        s.observations = vec![dead.clone()];
    });
    assert_eq!(kinds(&delta), [(ChangeKind::Disappeared, "i-1".to_owned())]);
    assert!(bed.see(std::slice::from_ref(&dead)).changes.is_empty());
    assert!(bed.miss(&[], &["i-1"]).changes.is_empty());
    dead.id = "i-2".to_owned();
    assert!(bed.see(&[dead]).changes.is_empty(), "what is first seen dead has no life to tell of");
}

#[test]
fn a_unique_id_that_comes_back_is_retracted_and_old_answers_stay() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    bed.pass(3600);
    let gone = bed.miss(&[], &["vol-1"]);
    let back = bed.see(&[observation("vol-1", &[], 8)]);
    assert!(back.changes[0].retracted);
    assert_eq!(bed.live(Moment::Now), ["vol-1"]);
    assert!(bed.live(Moment::Revision(gone.revision)).is_empty());
}

#[test]
fn sweeps_that_confirm_each_other_lie_apart() {
    let bed = Bed::new();
    let sweep_with = |ids: &[&str]| {
        bed.sweep_with(|s| {
            s.confirmation = Confirmation::Sweeps { needed: 2, apart: Duration::from_mins(30) };
            s.observations = ids.iter().map(|id| observation(id, &[], 8)).collect();
        })
    };
    sweep_with(&["arn-1"]);
    bed.pass(3600);
    assert!(sweep_with(&[]).changes.is_empty());
    for _ in 0..3 {
        // The same response, requested again at once.
        bed.pass(60);
        assert!(sweep_with(&[]).changes.is_empty());
    }
    bed.pass(900);
    assert_eq!(kinds(&sweep_with(&[])), [(ChangeKind::Disappeared, "arn-1".to_owned())]);
}

#[test]
fn where_the_clocks_differ_an_end_is_dated_no_more_precisely_than_both_allow() {
    let hour = 3_600_000;
    for skew in [0, hour, -hour] {
        let bed = Bed::new();
        bed.see(&[observation("vol-1", &[], 8)]);
        bed.pass(3600);
        let delta = bed.sweep_with(|s| {
            s.skew_millis = skew;
            s.absences.insert("vol-1".to_owned(), Absence::NotFound);
        });
        let end = delta.changes[0].end.clone().unwrap();
        let exact = i64::try_from(end.first_missed.since(end.last_seen).as_millis()).unwrap() - skew.abs();
        assert!((3_600_000..4_000_000).contains(&exact), "{skew}: {end:?}");
    }
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    assert_eq!(bed.store().clock_lag(), Duration::ZERO);
    *bed.now.lock().unwrap() = bed.store().now().minus(Duration::from_hours(2));
    assert_eq!(bed.store().clock_lag(), Duration::from_hours(2));
}
