//! What later sweeps show of an earlier moment.

use super::*;

/// The presence of a resource at a moment: as known then, and in hindsight.
fn reports_of(bed: &Bed, id: &str, at: Timestamp) -> (Presence, Presence) {
    let moment = Moment::Time(at);
    let then = bed.store().snapshot(moment).unwrap().find(id, None).unwrap().remove(0);
    let hindsight = bed.store().snapshot_in_hindsight(moment).unwrap().find(id, None).unwrap().remove(0);
    assert_eq!(hindsight.end.is_some(), hindsight.presence == Presence::Absent, "{hindsight:?}");
    (then.presence, hindsight.presence)
}

#[test]
fn in_hindsight_a_gap_between_two_sweeps_of_the_same_life_is_presence() {
    use Presence::{Present, Unknown};
    let mut bed = Bed::new();
    let volume = [observation("vol-1", &[], 8)];
    let every_five_minutes = |s: &mut Sweep| {
        s.cadence = Some(Duration::from_mins(5));
        s.observations = volume.to_vec();
    };
    bed.sweep_with(every_five_minutes);
    bed.pass(3600);
    let between = bed.store().now();
    bed.sweep_with(|s| {
        every_five_minutes(s);
        s.outcome = Outcome::Partial(Reason::Throttled);
        s.observations.clear();
    });
    assert_eq!(reports_of(&bed, "vol-1", between), (Unknown, Unknown), "a look that failed says nothing");
    bed.sweep_with(every_five_minutes);
    assert_eq!(reports_of(&bed, "vol-1", between), (Unknown, Present));
    assert_eq!(reports_of(&bed, "vol-1", bed.store().now().plus(Duration::from_hours(1))), (Unknown, Unknown));
    bed.reopen();
    assert_eq!(reports_of(&bed, "vol-1", between), (Unknown, Present));
    bed.store().close_scopes(&[Arc::new(scope("eu-west-1"))]).unwrap();
    bed.pass(60);
    let closed = bed.store().now();
    bed.sweep_with(every_five_minutes);
    assert_eq!(reports_of(&bed, "vol-1", closed), (Unknown, Unknown), "nobody watched");
}

#[test]
fn in_hindsight_an_end_reaches_back_to_the_first_miss_and_is_unknown_before() {
    use Presence::{Absent, Present, Unknown};
    let bed = Bed::new();
    bed.see(&[]);
    bed.see(&[observation("vol-1", &[], 8)]);
    let seen = bed.store().now();
    bed.pass(60);
    let after_seen = bed.store().now();
    bed.miss(&[], &["vol-1"]);
    let missed_once = bed.store().now();
    assert_eq!(
        reports_of(&bed, "vol-1", after_seen),
        (Present, Unknown),
        "a suspect is not forgotten in hindsight"
    );
    bed.miss(&[], &["vol-1"]);
    let end = bed.store().snapshot(Moment::Now).unwrap().find("vol-1", None).unwrap()[0].end.clone().unwrap();
    assert_eq!(reports_of(&bed, "vol-1", end.last_seen.max(seen)), (Present, Unknown));
    assert_eq!(reports_of(&bed, "vol-1", after_seen), (Present, Unknown));
    assert_eq!(reports_of(&bed, "vol-1", missed_once), (Unknown, Absent));
    assert_eq!(reports_of(&bed, "vol-1", bed.store().now()), (Absent, Absent));
    let filter = Filter::default();
    let listed = |s: StoreSnapshot| s.resources(&filter).unwrap().len();
    let at = Moment::Time(missed_once);
    assert_eq!(listed(bed.store().snapshot(at).unwrap()), 1);
    assert_eq!(listed(bed.store().snapshot_in_hindsight(at).unwrap()), 0, "what was gone is not among what lives");
}

#[test]
fn in_hindsight_what_came_back_was_there_unless_its_end_was_listed() {
    use Presence::{Absent, Present, Unknown};
    let bed = Bed::new();
    let volume = [observation("vol-1", &[], 8)];
    bed.see(&[]);
    bed.see(&volume);
    bed.miss(&[], &["vol-1"]);
    let suspected = bed.store().now();
    bed.see(&volume);
    assert_eq!(reports_of(&bed, "vol-1", suspected), (Unknown, Present));
    bed.pass(3600);
    bed.see(&volume);
    bed.miss(&[], &["vol-1"]);
    let gone = bed.store().now();
    assert_eq!(reports_of(&bed, "vol-1", gone), (Absent, Absent));
    bed.see(&volume);
    assert_eq!(reports_of(&bed, "vol-1", gone), (Absent, Unknown));
}
