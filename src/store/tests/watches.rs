//! Watches.

use super::*;

#[tokio::test]
async fn a_watch_reports_every_step_once_goes_on_from_any_revision_and_fails_when_it_is_overtaken() {
    let bed = well_used();
    let store = bed.store();
    let floor = store.state().kept.floor();
    let text = |changes: &[Change]| changes.iter().map(|c| serde_json::to_string(c).unwrap()).collect::<Vec<_>>();
    for from in floor.0..=store.revision().0 {
        let selected = store.steps(Moment::Revision(Revision(from)), Moment::Now, None).unwrap().changes;
        let mut watch = store.watch(Revision(from), None).unwrap();
        let mut reported = Vec::new();
        while watch.reached < store.revision() {
            reported.extend(watch.next().await.unwrap().changes);
        }
        assert_eq!(text(&reported), text(&selected), "from {from}");
    }
    let mut watch = store.watch(store.revision(), None).unwrap();
    let nobody = Subscriber::from("team/none");
    let mut blind = store.watch(store.revision(), Some(nobody)).unwrap();
    let next = {
        let waiting = watch.next();
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending(), "nothing happened yet");
        bed.see(&[observation("vol-9", &[("Owner", "b")], 2)]);
        waiting.await.unwrap()
    };
    assert_eq!(next.changes.len(), 1);
    assert_eq!(next.changes[0].fields.len(), 2, "size and owner: {:?}", next.changes[0]);
    let unseen = blind.next().await.unwrap();
    assert_eq!((unseen.changes.len(), unseen.revision), (0, store.revision()), "but it goes on");
    assert_eq!(store.watch(Revision(store.revision().0 + 1), None).err().unwrap().reason(), "NotKept");
    assert_eq!(store.watch(Revision(floor.0 - 1), None).err().unwrap().reason(), "Compacted");
    // Overtaken while it sleeps: an error, never a gap.
    bed.pass(3600 * 24 * 3);
    bed.see(&[observation("vol-9", &[("Owner", "c")], 3)]);
    store.retain(Retention { detail: Duration::from_hours(24), horizon: Duration::from_hours(1_000) }).unwrap();
    let mut slow = watch;
    slow.reached = Revision(store.state().kept.floor().0 - 1);
    assert_eq!(slow.next().await.unwrap_err().reason(), "Compacted");
}
