//! Which subscriber sees which scope, and resources that several scopes list.

use super::*;

#[test]
fn a_closed_scope_answers_not_watched_and_reopened_continues_its_lives() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8), observation("vol-2", &[], 8)]);
    let before = bed.store().revision();
    bed.pass(60);
    bed.store().close_scopes(&[Arc::new(scope("eu-west-1"))]).unwrap();
    assert_eq!(bed.store().revision(), before.next(), "one revision, none per resource");
    assert!(bed.live(Moment::Now).is_empty());
    let diff = bed.store().diff(Moment::Revision(before), Moment::Now, None).unwrap();
    assert!(diff.changes.is_empty(), "no longer watched is not disappeared");
    assert_eq!(diff.unknown[0].status, ScopeStatus::NotWatched);
    let closed = bed.store().revision();
    bed.pass(60);
    let diff = bed.store().diff(Moment::Revision(closed), Moment::Now, None).unwrap();
    assert!(diff.unknown.is_empty(), "what was watched at neither moment is missing from nothing");
    let delta = bed.see(&[observation("vol-1", &[], 8), observation("vol-3", &[], 8)]);
    assert_eq!(kinds(&delta), [(ChangeKind::Appeared, "vol-3".to_owned())]);
    assert!(delta.changes[0].baseline, "never seen before: first seen, not appeared");
    assert_eq!(bed.live(Moment::Now), ["vol-1", "vol-2", "vol-3"]);
}

#[test]
fn only_a_subscriber_that_proved_itself_sees_a_scope_and_only_from_then_on() {
    let bed = Bed::new();
    let (one, two) = (Subscriber::new("team/one"), Subscriber::new("team/two"));
    let sweep_with = |outcome, prover: &Subscriber| {
        bed.pass(300);
        let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
        sweep.outcome = outcome;
        sweep.observations = vec![observation("vol-1", &[], 8)];
        bed.store().commit(&sweep, Some(prover)).unwrap();
    };
    sweep_with(Outcome::Complete, &one);
    sweep_with(Outcome::Partial(Reason::Denied), &two);
    let seen = |subscriber: &Subscriber, moment| {
        let filter = Filter { subscriber: Some(subscriber.clone()), ..Filter::default() };
        bed.store().snapshot(moment).unwrap().resources(&filter).unwrap().len()
    };
    assert_eq!((seen(&one, Moment::Now), seen(&two, Moment::Now)), (1, 0));
    let before = bed.store().revision();
    sweep_with(Outcome::Complete, &two);
    assert_eq!((seen(&two, Moment::Now), seen(&two, Moment::Revision(before))), (1, 0));
    bed.store().revoke_visibility(&one, &scope("eu-west-1")).unwrap();
    assert_eq!(seen(&one, Moment::Now), 0);
}

#[test]
fn a_tenant_that_is_another_s_begins_anew() {
    let bed = Bed::new();
    let (ours, others) = (Subscriber::new("team/one"), Subscriber::new("other/one"));
    assert_eq!(bed.store().claim_tenant("team", "first").unwrap(), Revision::ZERO, "it has all that there is");
    for subscriber in [&ours, &others] {
        bed.pass(300);
        let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
        sweep.observations = vec![observation("vol-1", &[], 8)];
        bed.store().commit(&sweep, Some(subscriber)).unwrap();
        bed.store().write_notes(subscriber, &[("a".to_owned(), Some(b"note".to_vec()))]).unwrap();
    }
    let visible = |subscriber: &Subscriber| bed.store().snapshot(Moment::Now).unwrap().visible(subscriber).len();
    let noted = |subscriber: &Subscriber| bed.store().notes(subscriber, "").unwrap().len();
    assert_eq!(bed.store().claim_tenant("team", "first").unwrap(), Revision::ZERO);
    assert_eq!((visible(&ours), noted(&ours)), (1, 1));
    // A group whose name begins alike is another group.
    bed.store().claim_tenant("tea", "first").unwrap();
    bed.store().claim_tenant("tea", "second").unwrap();
    assert_eq!((visible(&ours), noted(&ours)), (1, 1));

    let since = bed.store().claim_tenant("team", "second").unwrap();
    assert_eq!(since, bed.store().revision());
    assert_eq!((visible(&ours), noted(&ours)), (0, 0));
    assert_eq!((visible(&others), noted(&others)), (1, 1));
    assert_eq!(
        bed.store().subscribers_with_notes().unwrap(),
        [others.clone()].into(),
        "nobody's notes are no viewer's"
    );
    // A sweep for its predecessor proves nothing.
    let is_theirs = |identity: &str| bed.store().with_tenant_lock(&ours, identity, Ok).unwrap();
    assert_eq!(["first", "second", ""].map(is_theirs), [false, true, true]);
    assert!(bed.store().with_tenant_lock(&others, "anybody", Ok).unwrap(), "never named");
    // Deleting the notes of deleted subscribers leaves it alone.
    bed.store().retain_notes(&[others].into()).unwrap();
    bed.pass(300);
    assert_eq!(bed.store().claim_tenant("team", "second").unwrap(), since);

    // In another cluster no group has the owner that it had.
    let mut backup = Vec::new();
    bed.store().backup(&mut backup).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let restored = |name: &str, adopts: bool| {
        let path = dir.path().join(name);
        Store::restore(&mut backup.as_slice(), &path).unwrap();
        let store = Store::open(&path, system_clock()).unwrap();
        if adopts {
            store.clear_tenants().unwrap();
        }
        store
    };
    assert!(restored("same", false).claim_tenant("team", "third").unwrap() > since);
    assert_eq!(restored("moved", true).claim_tenant("team", "third").unwrap(), Revision::ZERO);
}

#[test]
fn a_unique_id_that_is_seen_elsewhere_has_moved_when_the_other_life_ends_and_both_ends_record_it() {
    let mut bed = Bed::new();
    let sweep_with = |bed: &Bed, region: &str, ids: &[&str], missing: &[&str]| {
        bed.sweep_with(|s| {
            s.scope = scope(region);
            s.observations = ids.iter().map(|id| observation(id, &[], 8)).collect();
            s.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        })
    };
    sweep_with(&bed, "eu-west-1", &["vol-1", "vol-2"], &[]);
    sweep_with(&bed, "us-east-1", &["vol-9"], &[]);
    bed.pass(3600);
    let before = Moment::Revision(bed.store().revision());
    let here = scope("eu-west-1").key("vol-1");
    let there = scope("us-east-1").key("vol-1");
    let appeared = sweep_with(&bed, "us-east-1", &["vol-1", "vol-9"], &[]).changes.remove(0);
    assert!(!appeared.moved, "while the other lives it may be two sights of one thing");
    let so_far = bed.store().diff(before, Moment::Now, None).unwrap().changes;
    assert!(so_far.iter().all(|change| !change.moved), "{so_far:?}");
    let ended = sweep_with(&bed, "eu-west-1", &[], &["vol-1", "vol-2"]).changes;
    assert_eq!(ended.iter().map(|c| c.moved).collect::<Vec<_>>(), [true, false], "vol-2 is just gone");
    assert_eq!(ended[0].end.as_ref().unwrap().cause, EndCause::Moved(there.clone()));
    bed.reopen();
    for reported in [
        bed.store().diff(before, Moment::Now, None).unwrap().changes,
        bed.store().steps(before, Moment::Now, None).unwrap().changes,
    ] {
        let of = |key: &ResourceKey| reported.iter().find(|c| c.resource == *key).unwrap().clone();
        assert_eq!((of(&here).moved, of(&there).moved), (true, true));
        assert_eq!(of(&here).end.unwrap().cause, EndCause::Moved(there.clone()));
        assert_eq!(of(&there).moved_from, Some(here.clone()));
    }
    // A first sweep of another scope shows what existed before: its move was not observed.
    let first = sweep_with(&bed, "ap-south-1", &["vol-1"], &[]).changes.remove(0);
    assert!(first.baseline && !first.moved);
}

#[test]
fn what_several_accounts_list_at_once_never_moves() {
    let mut bed = Bed::new();
    let sweep_with = |bed: &Bed, region: &str, ids: &[&str], missing: &[&str]| {
        bed.sweep_with(|s| {
            s.ids = IdReuse::Shared;
            s.scope = scope(region);
            s.observations = ids.iter().map(|id| observation(id, &[], 8)).collect();
            s.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        })
    };
    sweep_with(&bed, "eu-west-1", &["subnet-1"], &[]);
    sweep_with(&bed, "us-east-1", &[], &[]);
    bed.pass(3600);
    sweep_with(&bed, "us-east-1", &["subnet-1"], &[]);
    let end = sweep_with(&bed, "eu-west-1", &[], &["subnet-1"]).changes.remove(0).end.unwrap();
    assert_eq!(end.cause, EndCause::Absent, "it is not shared with this account any more");
    bed.reopen();
}
