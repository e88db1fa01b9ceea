//! The file: opening, checking, checkpoints, disks that fail or are full.

use super::*;

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
fn a_clock_that_was_set_back_makes_nothing_stale_that_was_swept_since() {
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
fn what_is_no_store_is_left_untouched_and_a_second_opener_is_referred_to_the_socket() {
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
    assert!(missing.to_string().contains("none.redb"), "{missing}");
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
fn a_check_reports_what_is_wrong_and_where_and_stats_where_the_room_goes() {
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

/// A commit during a checkpoint must not cause a second one.
#[test]
fn a_checkpoint_is_written_once_for_as_many_entries_as_make_one_due() {
    const CHANGES: u64 = 50;
    const DUE_ENTRIES: u64 = 1_000;
    let bed = Bed::new();
    std::thread::scope(|threads| {
        for region in 0..4 {
            let bed = &bed;
            threads.spawn(move || {
                for size in 0..150 {
                    let volumes = (0..CHANGES).map(|n| observation(&format!("vol-{region}-{n}"), &[], size));
                    let volumes: Vec<_> = volumes.collect();
                    bed.sweep_with(|s| {
                        s.scope.region = Region::from(format!("r{region}").as_str());
                        s.observations = volumes;
                    });
                }
            });
        }
    });
    let headers = || {
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        checkpoint::headers(&txn).unwrap().into_iter().map(|header| header.unwrap().0.0).collect::<Vec<_>>()
    };
    until("there are checkpoints", || headers().len() > 3);
    let revisions = headers();
    let apart = revisions.windows(2).map(|pair| (pair[1] - pair[0]) * CHANGES);
    assert!(apart.min() >= Some(DUE_ENTRIES), "{revisions:?}");
}

/// An operator that sees nothing new is no reason to lose that it looked.
#[test]
fn unchanged_sweeps_are_written_after_a_minute_also_if_nothing_follows() {
    let bed = Bed::new();
    let volumes = [observation("vol-1", &[], 8)];
    bed.see(&volumes);
    bed.store().flush().unwrap();
    let last_ended = || {
        let txn = bed.store().inner.shared.db().unwrap().begin_read().unwrap();
        let runs = txn.open_table(RUN).unwrap();
        let (_, run) = runs.last().unwrap().unwrap();
        decode::<Run>("run", run.value()).unwrap().last_ended
    };
    let before = last_ended();
    // Ten seconds later, not five minutes.
    let now = bed.store().now();
    *bed.now.lock().unwrap() = now.minus(Duration::from_secs(290));
    bed.see(&volumes);
    assert_eq!(last_ended(), before, "it is in memory for a minute");
    bed.pass(61);
    until("it is in the file", || last_ended() > before);
}

#[test]
fn checkpoints_that_several_request_at_once_spoil_none_of_each_other() {
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
fn a_reader_that_is_open_for_too_long_expires_and_others_go_on() {
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
