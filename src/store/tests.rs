//! The store against a naive model, and its rules one by one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::inventory::Outcome;
use crate::inventory::{
    Absence, AccountId, ChangeKind, Confirmation, EndCause, Filter, History, IdReuse, Moment, Observation,
    Presence, Reason, Region, Resource, ResourceKey, ResourceType, ScopeStatus, Snapshot, Sweep,
};
use crate::store::file::lives::{END, KEY, LIFE};
use crate::store::file::log::LOG;
use crate::store::file::tables::{DOCUMENT_MAX_BYTES, ID_MAX_BYTES, META, OPEN_SWEEP, RUN, Run, SUSPECT, decode};
use crate::store::state::checkpoint::{CKPT, CKPT_REST};
use crate::store::state::load::{fold_until, named};
use crate::store::state::locator::LifeDelta;
use crate::store::state::{checkpoint, lease};
use redb::ReadableTable;

pub(crate) fn scope(region: &str) -> Scope {
    Scope {
        provider: "aws".into(),
        partition: "aws".into(),
        endpoint: "".into(),
        account: AccountId::new("111122223333"),
        region: Region::new(region),
        resource_type: ResourceType::new("AWS::EC2::Volume"),
    }
}

/// An empty complete sweep of one second.
pub(crate) fn sweep(started: Timestamp) -> Sweep {
    Sweep {
        scope: scope("eu-west-1"),
        started,
        ended: started.plus(Duration::from_secs(1)),
        cadence: None,
        shape: 1,
        ids: IdReuse::Unique,
        confirmation: Confirmation::ReadById,
        outcome: Outcome::Complete,
        observations: Vec::new(),
        absences: BTreeMap::new(),
        held: false,
        skew_millis: 0,
    }
}

pub(crate) fn observation(id: &str, tags: &[(&str, &str)], size: u64) -> Observation {
    Observation {
        id: id.to_owned(),
        tags: Tags::Known(tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
        attributes: (&serde_json::json!({"VolumeId": id, "Size": size})).into(),
        birth: None,
        end_state: None,
        unread: Vec::new(),
    }
}

/// A store with a clock that the test moves.
struct Bed {
    store: Option<Store>,
    now: Arc<Mutex<Timestamp>>,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(Mutex::new("2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap()));
        let mut bed = Self { store: None, now, dir };
        bed.reopen();
        bed
    }

    fn reopen(&mut self) {
        self.store = None;
        let now = self.now.clone();
        let clock: Clock = Arc::new(move || *now.lock().unwrap());
        self.store = Some(Store::open(&self.dir.path().join("elava.redb"), clock).unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn pass(&self, seconds: u64) {
        let mut now = self.now.lock().unwrap();
        *now = now.plus(Duration::from_secs(seconds));
    }

    /// A sweep five minutes later, changed by `with`.
    fn sweep_with(&self, with: impl FnOnce(&mut Sweep)) -> Delta {
        self.pass(300);
        let mut sweep = sweep(self.store().now().minus(Duration::from_secs(1)));
        with(&mut sweep);
        // A sweep is committed a while after it ended.
        self.pass(2);
        self.store().commit(&sweep, None).unwrap()
    }

    fn see(&self, observations: &[Observation]) -> Delta {
        self.sweep_with(|s| s.observations = observations.to_vec())
    }

    /// A complete sweep that shows only these, and whose reads by id return NotFound for the missing ones.
    fn miss(&self, observations: &[Observation], missing: &[&str]) -> Delta {
        self.sweep_with(|s| {
            s.observations = observations.to_vec();
            s.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        })
    }

    fn live(&self, moment: Moment) -> Vec<String> {
        let snapshot = self.store().snapshot(moment).unwrap();
        snapshot.resources(&Filter::default()).unwrap().into_iter().map(|r| r.key.id.to_string()).collect()
    }
}

fn kinds(delta: &Delta) -> Vec<(ChangeKind, String)> {
    delta.changes.iter().map(|c| (c.change, c.resource.id.to_string())).collect()
}

/// A panic shows nothing about the disk: the error must not advise to restore a backup.
#[tokio::test]
async fn a_panic_in_work_on_the_store_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("elava.redb"), system_clock()).unwrap();
    let done: Result<(), StoreError> = store.run_blocking(|_| panic!("a defect")).await;
    let error = done.unwrap_err();
    assert_eq!(error.reason(), "Panicked", "{error}");
    assert_eq!(store.run_blocking(|store| Ok::<_, StoreError>(store.revision())).await.unwrap(), Revision::ZERO);
}

#[test]
fn the_first_look_is_baseline_and_what_comes_later_appeared() {
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

/// The presence of a resource at a moment: as known then, and in hindsight.
fn reports_of(bed: &Bed, id: &str, at: Timestamp) -> (Presence, Presence) {
    let moment = Moment::Time(at);
    let then = bed.store().snapshot(moment).unwrap().find(id, None).unwrap().remove(0);
    let hindsight = bed.store().snapshot_in_hindsight(moment).unwrap().find(id, None).unwrap().remove(0);
    assert_eq!(hindsight.end.is_some(), hindsight.presence == Presence::Absent, "{hindsight:?}");
    (then.presence, hindsight.presence)
}

#[test]
fn in_hindsight_a_gap_between_two_looks_at_the_same_life_is_presence() {
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
fn in_hindsight_what_came_back_was_there_unless_it_was_said_to_be_gone() {
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
fn history_says_what_changed_field_by_field_and_milestones_keep_the_tags() {
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
fn every_step_tells_of_what_the_net_difference_leaves_out() {
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
    let delta = bed.see(&[observation("vol-1", &[], 8), observation("vol-3", &[], 8)]);
    assert_eq!(kinds(&delta), [(ChangeKind::Appeared, "vol-3".to_owned())]);
    assert!(delta.changes[0].baseline, "never seen before: first seen, not appeared");
    assert_eq!(bed.live(Moment::Now), ["vol-1", "vol-2", "vol-3"]);
}

#[test]
fn only_a_viewer_that_proved_itself_sees_a_scope_and_only_from_then_on() {
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
fn a_group_of_viewers_that_is_another_s_begins_anew() {
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
fn a_unique_id_that_is_seen_elsewhere_has_moved_when_the_other_life_ends_and_both_ends_say_so() {
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

#[test]
fn a_clock_that_was_set_back_makes_nothing_stale_that_was_looked_at_since() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let ahead = bed.store().now();
    *bed.now.lock().unwrap() = ahead.minus(Duration::from_hours(48));
    let seen = bed.see(&[observation("vol-1", &[], 8), observation("vol-2", &[], 8)]);
    assert!(seen.changes[0].time >= ahead, "times of revisions never go back");
    let presence = || -> Vec<Presence> {
        let snapshot = bed.store().snapshot(Moment::Now).unwrap();
        snapshot.resources(&Filter::default()).unwrap().iter().map(|resource| resource.presence).collect()
    };
    assert_eq!(presence(), [Presence::Present; 2]);
    // Its age is unknown: two sweeps conclude.
    let here = [observation("vol-2", &[], 8)];
    assert!(bed.miss(&here, &["vol-1"]).changes.is_empty());
    let gone = bed.miss(&here, &["vol-1"]);
    let end = gone.changes[0].end.clone().unwrap();
    let really = bed.store().now();
    assert!(end.last_seen <= really && really <= end.first_missed, "the bracket holds the true time: {end:?}");
}

/// Documents that can't be compressed.
fn large(ids: std::ops::Range<u32>) -> Vec<Observation> {
    let of = |id: u32| {
        let mut rng = SmallRng::seed_from_u64(id.into());
        let note: String = (0..1_500).map(|_| char::from(rng.random_range(b'!'..b'~'))).collect();
        let document = serde_json::json!({"VolumeId": format!("vol-{id}"), "Note": note});
        Observation { attributes: (&document).into(), ..observation(&format!("vol-{id}"), &[], 8) }
    };
    ids.map(of).collect()
}

#[test]
fn a_look_at_a_huge_scope_is_recorded_in_pieces_and_concludes_with_the_last() {
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
fn pages_that_show_nothing_new_take_no_revision_and_their_look_is_one_run() {
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
fn a_look_that_was_cut_off_between_its_pieces_is_partial_and_interrupted() {
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
fn time_never_goes_back_between_revisions() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let first = bed.store().snapshot(Moment::Revision(bed.store().revision())).unwrap().time();
    *bed.now.lock().unwrap() = first.minus(Duration::from_hours(1));
    bed.store().close_scopes(&[Arc::new(scope("eu-west-1"))]).unwrap();
    assert_eq!(bed.store().snapshot(Moment::Revision(bed.store().revision())).unwrap().time(), first);
}

#[test]
fn moments_that_are_not_there_say_which_are() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[], 8)]);
    let store = bed.store();
    let fail = |moment| store.snapshot(moment).err().unwrap().to_string();
    assert!(fail(Moment::Revision(Revision(99))).contains("the newest is 1"));
    assert!(fail(Moment::Time(Timestamp::default())).contains("the earliest kept moment is 2026-11-24T00:05:02Z"));
}

#[test]
fn notes_are_durable_take_no_revision_and_stay_apart() {
    let mut bed = Bed::new();
    let (one, two) = (Subscriber::new("a/one"), Subscriber::new("a/one-more"));
    bed.store().write_notes(&one, &[("finding/x".to_owned(), Some(b"1".to_vec()))]).unwrap();
    bed.store().write_notes(&two, &[("finding/x".to_owned(), Some(b"2".to_vec()))]).unwrap();
    assert_eq!(bed.store().revision(), Revision::ZERO);
    bed.reopen();
    assert_eq!(bed.store().notes(&one, "finding/").unwrap()["finding/x"], b"1");
    bed.store().write_notes(&one, &[("finding/x".to_owned(), None)]).unwrap();
    assert!(bed.store().notes(&one, "").unwrap().is_empty());
    assert_eq!(bed.store().notes(&two, "").unwrap().len(), 1);
}

#[test]
fn what_is_no_store_is_left_untouched_and_a_second_opener_is_told_of_the_socket() {
    let bed = Bed::new();
    let path = bed.dir.path().join("elava.redb");
    let error = Store::open(&path, system_clock()).err().unwrap();
    assert!(error.to_string().contains("elava.sock"), "{error}");
    let other = bed.dir.path().join("text.redb");
    std::fs::write(&other, "not a store, but long enough to look like one".repeat(500)).unwrap();
    let error = Store::open(&other, system_clock()).err().unwrap();
    assert_eq!(error.reason(), "NotAStore", "{error:?}");
    assert!(std::fs::read_to_string(&other).unwrap().starts_with("not a store"));
    let missing = Store::open_existing(&bed.dir.path().join("none.redb"), system_clock()).err().unwrap();
    assert!(missing.to_string().contains("elava scan --store"));
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

#[test]
fn a_full_volume_stops_recording_keeps_answering_and_recovers_by_itself() {
    let free = Arc::new(AtomicU64::new(1 << 30));
    let (reported, clock): (_, Clock) = (free.clone(), Arc::new(|| Timestamp::from_millis(1_000_000)));
    let room: FreeSpaceFn = Box::new(move || Some(reported.load(Ordering::SeqCst)));
    let store = Store::open_file(Path::new("full"), clock, room, |b| {
        b.create_with_backend(redb::backends::InMemoryBackend::new())
    })
    .unwrap();
    let sweep_with = |region: &str| {
        let mut sweep = sweep(store.now().minus(Duration::from_secs(2)));
        sweep.scope = scope(region);
        sweep.observations = vec![observation("vol-1", &[], 8)];
        store.commit(&sweep, None)
    };
    sweep_with("eu-west-1").unwrap();
    free.store(1 << 20, Ordering::SeqCst);
    let error = sweep_with("us-east-1").unwrap_err();
    assert_eq!(error.reason(), "DiskFull");
    assert!(error.to_string().contains("1048576 bytes free"), "{error}");
    assert!(store.is_full() && !store.is_poisoned());
    assert!(store.write_notes(&Subscriber::from("a/b"), &[("n".to_owned(), None)]).is_err());
    let snapshot = store.snapshot(Moment::Now).unwrap();
    let resources = snapshot.resources(&Filter::default()).unwrap();
    assert_eq!(resources.len(), 1, "what was recorded is there, and nothing of what was not");
    assert_eq!(snapshot.attributes(&resources[0]).unwrap()["Size"], 8);
    free.store(1 << 30, Ordering::SeqCst);
    sweep_with("us-east-1").unwrap();
    assert!(!store.is_full());
    assert_eq!(store.revision(), Revision(2));
}

#[test]
fn a_check_says_what_is_wrong_and_where_and_stats_where_the_room_goes() {
    let bed = Bed::new();
    bed.see(&[observation("vol-1", &[("Owner", "a")], 8), observation("vol-2", &[], 8)]);
    bed.pass(3600);
    bed.miss(&[observation("vol-1", &[("Owner", "a")], 9)], &["vol-2"]);
    bed.store().checkpoint().unwrap();
    let report = bed.store().check().unwrap();
    assert!(report.flaws.is_empty(), "{:?}", report.flaws);
    assert_eq!(report.documents, 3);
    let checked = ["ckpt", "end", "key", "life", "log", "run"].map(|table| report.checked[table]);
    assert_eq!(checked, [1, 1, 1, 2, 2, 1]);
    let stats = bed.store().stats().unwrap();
    assert_eq!((stats.live, stats.ended, stats.entries, stats.scopes), (1, 1, 5, 1));
    assert_eq!(stats.file_bytes, std::fs::metadata(bed.store().path()).unwrap().len());
    let rows = |name: &str| stats.tables.iter().find(|table| table.table == name).unwrap().rows;
    assert_eq!((rows("log"), rows("life"), rows("end"), rows("ckpt")), (2, 1, 1, 1));

    let damage = |table: &str, damage: &dyn Fn(&redb::WriteTransaction)| {
        let bed = Bed::new();
        bed.see(&[observation("vol-1", &[], 8)]);
        bed.pass(3600);
        bed.miss(&[], &["vol-1"]);
        bed.store().checkpoint().unwrap();
        let txn = bed.store().inner.shared.db().unwrap().begin_write().unwrap();
        damage(&txn);
        txn.commit().unwrap();
        bed.store().inner.shared.publish(bed.store().state(), &LifeDelta::default()).unwrap();
        let flaws = bed.store().check().unwrap().flaws;
        assert!(flaws.iter().any(|flaw| flaw.table == table), "{table}: {flaws:?}");
    };
    damage("log", &|txn| drop(txn.open_table(LOG).unwrap().insert((2, 0), &[0; 9][..]).unwrap()));
    damage("life", &|txn| drop(txn.open_table(LIFE).unwrap().remove(1).unwrap()));
    damage("end", &|txn| drop(txn.open_table(END).unwrap().remove((2, 1)).unwrap()));
    damage("key", &|txn| drop(txn.open_table(KEY).unwrap().insert([7; 16], (1, 2)).unwrap()));
    damage("run", &|txn| drop(txn.open_table(RUN).unwrap().insert((0, 5), &[0; 9][..]).unwrap()));
    damage("ckpt", &|txn| drop(txn.open_table(CKPT).unwrap().insert(2, &[0; 9][..]).unwrap()));
    damage("suspect", &|txn| drop(txn.open_table(SUSPECT).unwrap().insert(1, &[0; 9][..]).unwrap()));
}

#[test]
fn the_keeper_writes_a_checkpoint_when_one_is_due_and_the_file_opens_from_it() {
    let mut bed = Bed::new();
    let volumes = |size: u64| (0..600).map(|n| observation(&format!("vol-{n}"), &[], size)).collect::<Vec<_>>();
    let checkpoints = |bed: &Bed| {
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        checkpoint::headers(&txn).unwrap().into_iter().map(|header| header.unwrap().0).collect::<Vec<_>>()
    };
    bed.see(&volumes(8)[..400]);
    bed.store().flush().unwrap();
    assert!(checkpoints(&bed).is_empty(), "400 entries are read faster than a checkpoint");
    bed.see(&volumes(8));
    bed.store().flush().unwrap();
    assert_eq!(checkpoints(&bed), [Revision(2)], "600 entries are not, at the next open");
    bed.see(&volumes(9));
    bed.see(&volumes(10));
    until("there is a checkpoint", || checkpoints(&bed) == [Revision(2), Revision(4)]);
    bed.see(&volumes(11)[1..]);
    bed.reopen();
    assert_eq!(bed.live(Moment::Now).len(), 600);
    let snapshot = bed.store().snapshot(Moment::Revision(Revision(2))).unwrap();
    let then = snapshot.resources(&Filter::default()).unwrap();
    assert_eq!(then.len(), 600);
    for resource in &then {
        let document = snapshot.attributes(resource).unwrap();
        assert_eq!((&document["Size"], &document["VolumeId"]), (&8.into(), &(*resource.key.id).into()));
        assert_eq!(snapshot.milestones(resource).unwrap().len(), 1);
    }
    // A damaged checkpoint counts as none.
    let txn = bed.store().inner.shared.db().unwrap().begin_write().unwrap();
    txn.open_table(CKPT_REST).unwrap().insert((4, 0), &[1, 2, 3][..]).unwrap();
    txn.commit().unwrap();
    bed.reopen();
    assert_eq!(bed.live(Moment::Now).len(), 600);
}

#[test]
fn checkpoints_that_several_ask_for_at_once_spoil_none_of_each_other() {
    let bed = Bed::new();
    let volumes = |size: u64| (0..600).map(|n| observation(&format!("vol-{n}"), &[], size)).collect::<Vec<_>>();
    let loads = || {
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        let mut state = named(&txn).unwrap();
        checkpoint::load_newest(&txn, &mut state).unwrap();
        assert_eq!(state.heads.len(), 600);
        state.revision
    };
    for size in 0..5 {
        bed.see(&volumes(size));
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| bed.store().checkpoint().unwrap());
            }
            bed.sweep_with(|s| {
                s.outcome = Outcome::Partial(Reason::Throttled);
                s.observations = vec![observation("vol-1", &[], 100 + size)];
            });
        });
        loads();
        for _ in 0..2 {
            bed.store().checkpoint().unwrap();
            assert_eq!(loads(), bed.store().revision());
        }
    }
}

/// A disk in memory whose syncs wait while it is held.
#[derive(Clone, Debug, Default)]
struct SlowDisk {
    memory: Arc<redb::backends::InMemoryBackend>,
    held: Arc<(Mutex<bool>, std::sync::Condvar)>,
    syncing: Arc<AtomicBool>,
}

impl redb::StorageBackend for SlowDisk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        let (held, released) = &*self.held;
        self.syncing.store(true, Ordering::SeqCst);
        drop(released.wait_while(held.lock().unwrap(), |held| *held).unwrap());
        self.syncing.store(false, Ordering::SeqCst);
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.memory.write(offset, data)
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn while_the_disk_syncs_nothing_is_published_reads_go_on_and_what_queues_shares_one_transaction() {
    let disk = SlowDisk::default();
    let (held, syncing) = (disk.held.clone(), disk.syncing.clone());
    let hold = |hold: bool| {
        *held.0.lock().unwrap() = hold;
        held.1.notify_all();
    };
    let clock: Clock = Arc::new(|| Timestamp::from_millis(1_000_000));
    let store = Store::open_file(Path::new("slow"), clock, Box::new(|| None), move |b| {
        b.create_with_backend(disk.clone())
    })
    .unwrap();
    let commit = |region: &str| {
        let mut sweep = sweep(store.now().minus(Duration::from_secs(2)));
        sweep.scope = scope(region);
        sweep.observations = vec![observation(&format!("vol-{region}"), &[], 8)];
        store.commit(&sweep, None).unwrap()
    };
    let regions: Vec<String> = (0..20).map(|n| format!("region-{n}")).collect();
    hold(true);
    // Asserted only once no sync is held any more: a panic while others wait would wait for ever.
    let (seen, listed) = std::thread::scope(|threads| {
        threads.spawn(|| commit("first"));
        until("the first is being synced", || syncing.load(Ordering::SeqCst));
        for region in &regions {
            threads.spawn(|| commit(region));
        }
        // Not all: two scopes may share a lock by chance.
        until("many are queued", || store.waiting() > 15);
        let listed = store.snapshot(Moment::Now).and_then(|now| Ok(now.resources(&Filter::default())?.len()));
        let seen = store.revision();
        hold(false);
        (seen, listed)
    });
    assert_eq!(seen, Revision::ZERO, "nothing is visible before it is durable");
    assert_eq!(listed.unwrap(), 0);
    assert_eq!(store.revision(), Revision(21), "a revision each");
    assert_eq!(store.waiting(), 0);
    let snapshot = store.snapshot(Moment::Now).unwrap();
    assert_eq!(snapshot.resources(&Filter::default()).unwrap().len(), 21);
    for resource in snapshot.resources(&Filter::default()).unwrap() {
        assert_eq!(snapshot.attributes(&resource).unwrap()["VolumeId"], *resource.key.id);
    }
    let txn = store.inner.shared.db().unwrap().begin_read().unwrap();
    let pages = redb::ReadableTableMetadata::len(&txn.open_table(LOG).unwrap()).unwrap();
    assert!(pages < 10, "{pages} pages for 21 deltas");
}

/// The answers of a store, with everything that was ever in it.
fn everything(store: &Store) -> String {
    let kept = |r: &u64| store.state().kept.is_kept(Revision(*r));
    let newest = store.state().kept.logged(store.revision().0);
    let states: Vec<_> = (1..=newest).filter(kept).map(|r| faults::state(store, Revision(r)).unwrap()).collect();
    let snapshot = store.snapshot(Moment::Revision(Revision(newest))).unwrap();
    format!("{states:#?} {}", serde_json::to_string(&snapshot.scopes()).unwrap())
}

/// With an end, a suspect, a visibility, notes, a checkpoint, and thinned days.
fn well_used() -> Bed {
    let bed = Bed::new();
    let subscriber = Subscriber::from("team-a/one");
    for day in 0..6u64 {
        for n in 0..4u64 {
            bed.pass(3600 * 5);
            let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
            sweep.cadence = Some(Duration::from_hours(6));
            sweep.observations =
                (day..day + 4).map(|id| observation(&format!("vol-{id}"), &[("Owner", "a")], n)).collect();
            sweep.absences = (0..day).map(|id| (format!("vol-{id}"), Absence::NotFound)).collect();
            bed.store().commit(&sweep, Some(&subscriber)).unwrap();
        }
        bed.store().write_notes(&subscriber, &[(format!("day/{day}"), Some(b"seen".to_vec()))]).unwrap();
    }
    bed.store().checkpoint().unwrap();
    bed.store()
        .retain(Retention { detail: Duration::from_hours(50), horizon: Duration::from_hours(1_000) })
        .unwrap();
    bed.see(&[observation("vol-9", &[], 1)]);
    bed
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores");

/// Run once for each version of the schema: `cargo test --lib makes_the_fixture -- --ignored`.
#[test]
#[ignore = "what it makes stays as it is for ever"]
fn makes_the_fixture_of_this_schema() {
    let mut bed = well_used();
    let answers = everything(bed.store());
    let path = bed.store().path().to_owned();
    bed.store = None;
    Store::compact(&path).unwrap();
    let file = zstd::encode_all(&*std::fs::read(&path).unwrap(), 19).unwrap();
    let name = format!("{FIXTURES}/schema-{SCHEMA}");
    assert!(
        !Path::new(&format!("{name}.redb.zst")).exists(),
        "files of released versions are never written again"
    );
    std::fs::create_dir_all(FIXTURES).unwrap();
    std::fs::write(format!("{name}.redb.zst"), file).unwrap();
    std::fs::write(format!("{name}.txt"), answers).unwrap();
}

#[test]
fn the_file_of_every_schema_opens_and_answers_as_when_it_was_made() {
    for schema in 1..=SCHEMA {
        let name = format!("{FIXTURES}/schema-{schema}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("elava.redb");
        let file = std::fs::read(format!("{name}.redb.zst")).unwrap();
        std::fs::write(&path, zstd::decode_all(&*file).unwrap()).unwrap();
        let clock: Clock = Arc::new(|| "2027-01-01T00:00:00Z".parse().unwrap());
        let store = Store::open_existing(&path, clock).unwrap();
        assert_eq!(everything(&store), std::fs::read_to_string(format!("{name}.txt")).unwrap(), "schema {schema}");
        assert!(store.check().unwrap().flaws.is_empty());
        let mut later = sweep(store.now().minus(Duration::from_secs(2)));
        later.observations = vec![observation("vol-9", &[], 77)];
        store.commit(&later, None).unwrap();
    }
}

/// `make fuzz` found that redb panics on some of them.
#[test]
fn a_flipped_byte_anywhere_in_a_file_is_an_error_or_a_flaw_and_never_a_panic() {
    let packed = std::fs::read(format!("{FIXTURES}/schema-1.redb.zst")).unwrap();
    let whole = zstd::decode_all(&*packed).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("elava.redb");
    let clock: Clock = Arc::new(|| "2027-01-01T00:00:00Z".parse().unwrap());
    let mut refused = 0;
    for at in (0..whole.len()).step_by(149) {
        let mut file = whole.clone();
        file[at] ^= 0x55;
        std::fs::write(&path, &file).unwrap();
        match Store::open_existing(&path, clock.clone()) {
            Ok(store) => drop(store.check()),
            Err(error) => {
                refused += 1;
                assert!(
                    ["NotAStore", "StoreDamaged", "StoreFailed", "StoreSchema"].contains(&error.reason()),
                    "{at}: {error}"
                );
            }
        }
    }
    assert!(refused > 0, "some bytes matter");
}

#[test]
fn a_schema_that_is_not_known_is_refused_and_nothing_is_touched() {
    for (schema, reported) in [(0_u32, "scan again"), (SCHEMA + 1, "a newer Elava wrote it")] {
        let mut bed = well_used();
        let path = bed.store().path().to_owned();
        let txn = bed.store().inner.shared.db().unwrap().begin_write().unwrap();
        txn.open_table(META).unwrap().insert("schema", schema.to_be_bytes().as_slice()).unwrap();
        txn.commit().unwrap();
        bed.store = None;
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path, system_clock()).err().unwrap();
        assert_eq!(error.reason(), "StoreSchema");
        assert!(error.to_string().contains(reported), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "the file was touched");
    }
}

#[test]
fn a_read_only_or_truncated_file_gets_an_error_of_its_own_and_stays_as_it_is() {
    let mut bed = well_used();
    let path = bed.store().path().to_owned();
    bed.store = None;
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 100, 4096, whole.len() / 2, whole.len() - 5000] {
        let cut = bed.dir.path().join(format!("cut-{keep}.redb"));
        std::fs::write(&cut, &whole[..keep]).unwrap();
        if let Err(error) = Store::open_existing(&cut, system_clock()) {
            assert!(["NotAStore", "StoreDamaged"].contains(&error.reason()), "{keep}: {error:?}");
            assert_eq!(std::fs::metadata(&cut).unwrap().len(), keep as u64);
        } else {
            assert_eq!(keep, 0, "an empty file is a new one");
        }
    }
}

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

#[test]
fn compact_gives_room_back_and_changes_no_answer() {
    let mut bed = well_used();
    let before = everything(bed.store());
    let path = bed.store().path().to_owned();
    assert_eq!(Store::compact(&path).unwrap_err().reason(), "StoreLocked");
    bed.store = None;
    let (length, compacted) = Store::compact(&path).unwrap();
    assert!(compacted < length, "{compacted} of {length} bytes");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), compacted);
    bed.reopen();
    assert_eq!(everything(bed.store()), before);
}

#[test]
fn a_reader_that_is_open_for_too_long_is_told_so_and_others_go_on() {
    let bed = well_used();
    let old = bed.store().snapshot(Moment::Now).unwrap();
    let resource = old.resources(&Filter::default()).unwrap().remove(0);
    old.attributes(&resource).unwrap();
    let leases = &bed.store().inner.shared.leases;
    let now = Instant::now();
    assert_eq!(leases.revoke(now), 0, "it may go on for a while");
    assert_eq!(leases.revoke(now + lease::READER_LIFETIME + Duration::from_secs(1)), 1);
    let error = old.attributes(&resource).unwrap_err();
    assert_eq!(error.reason(), "ReaderExpired");
    assert!(error.to_string().contains("ask again"));
    assert!(old.history(&resource).is_err());
    bed.store().snapshot(Moment::Now).unwrap().attributes(&resource).unwrap();
}

#[tokio::test]
async fn a_watch_tells_every_step_once_goes_on_from_any_revision_and_is_told_when_it_is_overtaken() {
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

mod format;
mod lives;

mod model {
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
}
