//! Backups and restores.

use super::*;

#[test]
fn a_restored_backup_answers_as_the_store_did_and_goes_on_under_other_revisions() {
    let bed = well_used();
    let mut stream = Vec::new();
    let report = bed.store().backup(&mut stream).unwrap();
    let newest = bed.store().revision();
    assert_eq!(report.revision, newest);
    // What happens after it is not in it.
    bed.see(&[observation("vol-10", &[], 1)]);
    let lost = bed.store().revision();

    let path = bed.dir.path().join("restored.redb");
    assert_eq!(Store::restore(&mut &*stream, &path).unwrap(), report);
    let now = bed.now.clone();
    let clock: Clock = Arc::new(move || *now.lock().unwrap());
    let restored = Store::open_existing(&path, clock.clone()).unwrap();
    assert!(restored.check().unwrap().flaws.is_empty());
    let original = bed.store();
    let of_original = |store: &Store| {
        let kept = |r: &u64| store.state().kept.is_kept(Revision(*r));
        let answers = (1..=newest.0).filter(kept).map(|r| faults::state(store, Revision(r)).unwrap());
        answers.collect::<Vec<_>>()
    };
    assert_eq!(of_original(&restored), of_original(original));
    let subscriber = Subscriber::from("team-a/one");
    assert_eq!(restored.notes(&subscriber, "").unwrap(), original.notes(&subscriber, "").unwrap());
    assert_ne!(restored.id(), original.id());

    let base = restored.revision();
    assert_eq!(base.0, newest.0 + (1 << 32));
    assert_eq!(faults::state(&restored, base).unwrap(), faults::state(&restored, newest).unwrap());
    // A cursor from after the backup must start over: nothing of it exists here.
    let error = restored.snapshot(Moment::Revision(lost)).err().unwrap();
    assert!(error.to_string().contains(&format!("revision {newest} (")), "{error}");
    assert!(error.to_string().contains(&format!("revision {base} (")), "{error}");
    assert_eq!(restored.watch(lost, None).err().unwrap().reason(), "Compacted");
    assert_eq!(restored.steps(Moment::Revision(lost), Moment::Now, None).err().unwrap().reason(), "NotKept");
    // And the store continues.
    bed.pass(300);
    let mut sweep = sweep(bed.store().now());
    bed.pass(60);
    sweep.observations = vec![observation("vol-11", &[], 1)];
    let delta = restored.commit(&sweep, None).unwrap();
    assert_eq!(delta.revision, base.next());
    assert_eq!(restored.steps(Moment::Revision(base), Moment::Now, None).unwrap().changes.len(), 1);
    let then = restored.snapshot(Moment::Revision(newest)).unwrap().time();
    assert_eq!(restored.snapshot(Moment::Time(then)).unwrap().revision(), newest);
    restored.checkpoint().unwrap();
    let keep = Retention { detail: Duration::ZERO, horizon: Duration::from_hours(1_000) };
    bed.pass(100_000);
    restored.retain(keep).unwrap();
    drop(restored);
    let restored = Store::open_existing(&path, clock).unwrap();
    assert!(restored.check().unwrap().flaws.is_empty());
    assert_eq!(restored.revision(), delta.revision);
}

#[test]
fn a_store_that_was_restored_with_nothing_in_it_keeps_what_comes() {
    let bed = Bed::new();
    let mut stream = Vec::new();
    bed.store().backup(&mut stream).unwrap();
    let path = bed.dir.path().join("restored.redb");
    Store::restore(&mut &*stream, &path).unwrap();
    let now = bed.now.clone();
    let clock: Clock = Arc::new(move || *now.lock().unwrap());
    let restored = Store::open_existing(&path, clock.clone()).unwrap();
    bed.pass(300);
    let mut first = sweep(restored.now().minus(Duration::from_secs(2)));
    first.observations = vec![observation("vol-1", &[], 8)];
    let revision = restored.commit(&first, None).unwrap().revision;
    let at = restored.now();
    bed.pass(300);
    drop(restored);
    let restored = Store::open_existing(&path, clock).unwrap();
    assert_eq!(restored.revision(), revision);
    for moment in [Moment::Now, Moment::Time(at)] {
        assert_eq!(restored.snapshot(moment).unwrap().resources(&Filter::default()).unwrap().len(), 1);
    }
    let before = Moment::Time(Timestamp::default());
    assert!(matches!(restored.snapshot(before).err().unwrap(), StoreError::TooEarly { .. }));
    assert!(restored.check().unwrap().flaws.is_empty());
}

#[tokio::test]
async fn a_watch_goes_on_over_what_a_restore_skipped() {
    let bed = well_used();
    let mut stream = Vec::new();
    bed.store().backup(&mut stream).unwrap();
    let newest = bed.store().revision();
    let path = bed.dir.path().join("restored.redb");
    Store::restore(&mut &*stream, &path).unwrap();
    let now = bed.now.clone();
    let restored = Store::open_existing(&path, Arc::new(move || *now.lock().unwrap())).unwrap();
    bed.pass(300);
    let mut later = sweep(restored.now().minus(Duration::from_secs(2)));
    later.observations = vec![observation("vol-77", &[], 8)];
    restored.commit(&later, None).unwrap();
    let from = Revision(newest.0 - 2);
    let selected = restored.steps(Moment::Revision(from), Moment::Now, None).unwrap().changes.len();
    let mut watch = restored.watch(from, None).unwrap();
    let mut reported = 0;
    while watch.reached < restored.revision() {
        reported += watch.next().await.unwrap().changes.len();
    }
    assert_eq!(reported, selected);
}

#[test]
fn what_was_written_in_full_again_and_thinned_still_has_a_history() {
    let bed = Bed::new();
    // The versions have nothing in common.
    for seed in 0..4 {
        let mut seen = large(seed..seed + 1).remove(0);
        seen.id = "vol-1".to_owned();
        bed.see(&[seen]);
    }
    let before = bed.store().revision();
    bed.pass(3600 * 48);
    bed.see(&[observation("vol-1", &[("Owner", "a")], 8)]);
    bed.store().retain(Retention { detail: Duration::from_hours(24), horizon: Duration::from_hours(99) }).unwrap();
    let snapshot = bed.store().snapshot(Moment::Now).unwrap();
    let history = snapshot.history(&snapshot.find("vol-1", None).unwrap()[0]).unwrap();
    assert_eq!(history.first().unwrap().fields.len(), 4, "id, size, note and owner: {history:?}");
    assert_eq!(history.last().unwrap().change, ChangeKind::Appeared);
    assert!(
        bed.store()
            .snapshot(Moment::Revision(before))
            .unwrap()
            .history(&snapshot.find("vol-1", None).unwrap()[0])
            .is_ok()
    );
    let mut out = Vec::new();
    assert!(bed.store().export(ExportTable::Changes, ExportFormat::Jsonl, &mut out).unwrap() > 1);
}

#[test]
fn a_backup_that_is_cut_off_or_damaged_makes_no_store_and_nothing_is_overwritten() {
    let bed = well_used();
    let mut stream = Vec::new();
    bed.store().backup(&mut stream).unwrap();
    let path = bed.dir.path().join("restored.redb");
    let restore = |stream: &[u8]| Store::restore(&mut &*stream, &path);
    restore(&stream).unwrap();
    let whole = everything(&Store::open_existing(&path, system_clock()).unwrap());
    std::fs::remove_file(&path).unwrap();
    for cut in [0, 5, 20, stream.len() / 2, stream.len() - 1] {
        let error = restore(&stream[..cut]).unwrap_err();
        assert!(matches!(error, StoreError::NotABackup(_) | StoreError::Stream(_)), "{cut}: {error:?}");
        assert!(!path.exists());
    }
    for at in (0..stream.len()).step_by(stream.len() / 97) {
        let mut damaged = stream.clone();
        damaged[at] ^= 16;
        // A bit of zstd's own header may have no effect.
        if restore(&damaged).is_ok() {
            let store = Store::open_existing(&path, system_clock()).unwrap();
            assert_eq!(everything(&store), whole, "byte {at}");
            drop(store);
            std::fs::remove_file(&path).unwrap();
        }
        assert!(!path.exists());
    }
    assert_eq!(std::fs::read_dir(bed.dir.path()).unwrap().count(), 1, "nothing is left behind");
    restore(&stream).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(restore(&stream).unwrap_err().reason(), "StoreExists");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
