//! What changes between sweeps, and what its history shows.

use super::*;

#[test]
fn the_first_sweep_is_baseline_and_what_comes_later_appeared() {
    let bed = Bed::new();
    assert!(bed.see(&[observation("vol-1", &[], 8)]).changes[0].baseline);
    let delta = bed.see(&[observation("vol-1", &[], 8), observation("vol-2", &[], 8)]);
    assert_eq!(kinds(&delta), [(ChangeKind::Appeared, "vol-2".to_owned())]);
    assert!(!delta.changes[0].baseline);
}

#[test]
fn an_unchanged_sweep_takes_no_revision_and_writes_no_row_per_resource() {
    let bed = Bed::new();
    let first = bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    let second = bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    assert_eq!(second.revision, first.revision);
    assert!(second.changes.is_empty());
    let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
    assert_eq!(redb::ReadableTableMetadata::len(&txn.open_table(LOG).unwrap()).unwrap(), 1);
}

#[test]
fn another_birth_under_a_reusable_id_is_another_life() {
    let bed = Bed::new();
    let bucket = |birth: &str| {
        let mut bucket = observation("orders", &[], 0);
        bucket.birth = Some(birth.parse().unwrap());
        bucket
    };
    let sweep_with = |o: Observation| {
        bed.sweep_with(|s| {
            s.ids = IdReuse::Reusable;
            s.observations = vec![o];
        })
    };
    sweep_with(bucket("2020-01-01T00:00:00Z"));
    let delta = sweep_with(bucket("2026-11-24T00:00:00Z"));
    let got: Vec<_> = delta.changes.iter().map(|c| (c.change, c.replaced)).collect();
    assert_eq!(got, [(ChangeKind::Disappeared, true), (ChangeKind::Appeared, true)]);
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    let steps = snapshot.history(&snapshot.find("orders", None).unwrap()[0]).unwrap();
    assert_eq!(steps.len(), 3);
    assert!(steps[0].replaced && steps[1].replaced && !steps[2].replaced);
}

#[test]
fn unknown_tags_carry_the_last_known_set_and_make_no_version() {
    let bed = Bed::new();
    let known = observation("vol-1", &[("Owner", "a")], 8);
    let first = bed.see(std::slice::from_ref(&known));
    let unknown = Observation { tags: Tags::Unknown, ..known };
    assert_eq!(bed.see(&[unknown]).revision, first.revision);
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    assert_eq!(snapshot.find("vol-1", None).unwrap()[0].tags.known().unwrap().get("Owner"), Some("a"));
}

#[test]
fn a_new_shape_is_in_no_difference_and_no_history() {
    let bed = Bed::new();
    let first = bed.see(&[observation("vol-1", &[], 8)]);
    let delta = bed.sweep_with(|s| {
        s.shape = 2;
        let mut wider = observation("vol-1", &[], 8);
        wider.attributes = (&serde_json::json!({"VolumeId": "vol-1", "Size": 8, "Encrypted": true})).into();
        s.observations = vec![wider];
    });
    assert!(delta.changes.is_empty());
    assert!(delta.revision > first.revision, "but it is stored");
    let store = bed.store();
    assert!(store.diff(Moment::Revision(first.revision), Moment::Now, None).unwrap().changes.is_empty());
    let snapshot = store.snapshot(Moment::Now).unwrap();
    let resource = &snapshot.find("vol-1", None).unwrap()[0];
    assert_eq!(snapshot.history(resource).unwrap().len(), 1);
    assert_eq!(snapshot.attributes(resource).unwrap()["Encrypted"], true);
}

#[test]
fn history_has_what_changed_field_by_field_and_milestones_keep_the_tags() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    bed.see(&[observation("vol-1", &[("Owner", "a")], 16)]);
    bed.see(&[observation("vol-1", &[], 16)]);
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    let resource = &snapshot.find("vol-1", None).unwrap()[0];
    let fields: Vec<Vec<String>> = snapshot
        .history(resource)
        .unwrap()
        .into_iter()
        .map(|step| step.fields.into_iter().map(|f| f.path).collect())
        .collect();
    assert_eq!(fields, [vec!["Tags.Owner".to_owned()], vec!["Size".to_owned()], vec![]]);
    let milestones = snapshot.milestones(resource).unwrap();
    assert_eq!(milestones.len(), 2, "appeared, and the one change of tags: {milestones:?}");
}

#[test]
fn every_step_includes_what_the_net_difference_leaves_out() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    let from = Moment::Revision(bed.store().revision());
    bed.see(&[observation("vol-1", &[("Owner", "b")], 8)]);
    bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    assert!(bed.store().diff(from, Moment::Now, None).unwrap().changes.is_empty());
    let steps = bed.store().steps(from, Moment::Now, None).unwrap().changes;
    let after: Vec<_> = steps.iter().map(|c| c.fields[0].after.clone().unwrap()).collect();
    assert_eq!(after, ["b", "a"]);
    assert!(bed.store().steps(from, from, None).unwrap().changes.is_empty());
    assert!(bed.store().steps(Moment::Now, from, None).unwrap().changes.is_empty());
    let nobody = Subscriber::from("team/none");
    assert!(bed.store().steps(from, Moment::Now, Some(&nobody)).unwrap().changes.is_empty());
}

#[test]
fn what_is_there_without_its_attributes_keeps_what_was_known_of_it() {
    let bed = Bed::new();
    bed.see(&[observation("key-1", &[("owner", "a")], 8)]);
    bed.pass(3600);
    let revision = bed.store().revision();
    let unread = Observation::unread("key-1");
    assert!(
        bed.see(&[unread.clone(), observation("key-2", &[], 8)])
            .changes
            .iter()
            .all(|c| &*c.resource.id == "key-2")
    );
    let first = bed.store().snapshot(Moment::Revision(revision)).unwrap();
    let now = bed.store().snapshot(Moment::Now).unwrap();
    let of = |snapshot: &StoreSnapshot| {
        let one = Filter { id: Some("key-1".to_owned()), ..Filter::default() };
        let resource = snapshot.resources(&one).unwrap().remove(0);
        (snapshot.attributes(&resource).unwrap(), resource.tags, resource.presence)
    };
    assert_eq!(of(&now), of(&first));
    assert_eq!(of(&now).2, Presence::Present);
    // It is no end of it either: a resource that a listing missed and that a read by id shows like this exists.
    let delta = bed.sweep_with(|s| s.observations = vec![unread.clone(), observation("key-2", &[], 8)]);
    assert!(delta.changes.is_empty());
    // And one that was never read exists, without an error, until it can be read: that is no change of it.
    bed.see(&[unread.clone(), observation("key-2", &[], 8), Observation::unread("key-3")]);
    let before = bed.store().revision();
    let read = Observation { tags: Tags::Unknown, ..observation("key-3", &[], 8) };
    let delta = bed.see(&[unread, observation("key-2", &[], 8), read]);
    assert!(delta.changes.is_empty(), "{:?}", delta.changes);
    assert!(bed.store().revision() > before, "its document is kept from now on");
}

#[test]
fn what_wanders_is_followed_however_much_else_comes_and_goes() {
    const REGIONS: [&str; 4] = ["eu-west-1", "us-east-1", "ap-south-1", "eu-central-1"];
    let mut bed = Bed::new();
    let mut rng = SmallRng::seed_from_u64(7);
    // Where each resource is; a deleted one is nowhere.
    let mut places: BTreeMap<String, usize> = (0..40).map(|n| (format!("vol-{n}"), n % 4)).collect();
    let mut been: BTreeSet<(String, usize)> = places.clone().into_iter().collect();
    let sweep_with = |bed: &Bed, places: &BTreeMap<String, usize>, region: usize, missing: Option<&str>| {
        bed.sweep_with(|s| {
            s.scope = scope(REGIONS[region]);
            let here = places.iter().filter(|(_, place)| **place == region);
            s.observations = here.map(|(id, _)| observation(id, &[], 8)).collect();
            s.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        })
    };
    for region in 0..4 {
        sweep_with(&bed, &places, region, None);
    }
    for step in 0..200 {
        // No resource is young.
        bed.pass(3600);
        if step % 50 == 49 {
            bed.reopen();
        }
        let at = rng.random_range(0..places.len());
        let (id, from) = places.iter().nth(at).map(|(id, place)| (id.clone(), *place)).unwrap();
        let to = (from + rng.random_range(1..4)) % 4;
        // Where it has been before, its life there continues.
        if !been.insert((id.clone(), to)) {
            continue;
        }
        let (here, there) = (scope(REGIONS[from]).key(&id), scope(REGIONS[to]).key(&id));
        if rng.random_range(0..3) == 0 {
            places.remove(&id);
            let end = sweep_with(&bed, &places, from, Some(&id)).changes.remove(0).end.unwrap();
            assert_eq!(end.cause, EndCause::Absent, "step {step}");
            let new = format!("vol-{}", 100 + step);
            been.insert((new.clone(), to));
            places.insert(new, to);
            assert!(!sweep_with(&bed, &places, to, None).changes[0].moved, "step {step}");
        } else {
            places.insert(id.clone(), to);
            let before = Moment::Revision(bed.store().revision());
            assert!(!sweep_with(&bed, &places, to, None).changes.remove(0).moved, "step {step}: both live");
            let end = sweep_with(&bed, &places, from, Some(&id)).changes.remove(0).end.unwrap();
            assert_eq!(end.cause, EndCause::Moved(there.clone()), "step {step}");
            let reported = bed.store().steps(before, Moment::Now, None).unwrap().changes;
            let appeared = reported.into_iter().find(|change| change.resource == there).unwrap();
            assert_eq!(appeared.moved_from, Some(here), "step {step}");
        }
    }
}

#[test]
fn time_never_goes_back_between_revisions() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let first = bed.store().snapshot(Moment::Revision(bed.store().revision())).unwrap().time();
    *bed.now.lock().unwrap() = first.minus(Duration::from_hours(1));
    bed.store().close_scopes(&[Arc::new(scope("eu-west-1"))]).unwrap();
    assert_eq!(bed.store().snapshot(Moment::Revision(bed.store().revision())).unwrap().time(), first);
}

#[test]
fn a_moment_that_is_not_there_is_an_error_that_names_those_that_are() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let store = bed.store();
    let fail = |moment| store.snapshot(moment).err().unwrap().to_string();
    assert!(fail(Moment::Revision(Revision(99))).contains("the newest is 1"));
    assert!(fail(Moment::Time(Timestamp::default())).contains("the earliest kept moment is 2026-11-24T00:05:02Z"));
}
