//! The disk fails at any moment: afterwards everything that was acknowledged must exist, everything that was in
//! flight must exist whole or not at all, and nothing else may exist.
//!
//! One run of a workload on a recording disk gives the operations of the store. From them the image that a crash
//! would leave is rebuilt for any operation and any subset of unsynced sectors, opened, and compared with the
//! states of the undisturbed run at every revision. Disk errors (EIO, ENOSPC) are simulated in runs of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

use super::*;
use crate::inventory::Outcome;
use crate::inventory::{Absence, Filter, History, Moment, Observation, Reason, Snapshot};
use crate::store::tests::{observation, scope, sweep};

/// Unsynced writes survive a crash by sectors.
const SECTOR: usize = 512;
const STEPS: usize = 10;
const RETENTION: Retention = Retention { detail: Duration::from_hours(3), horizon: Duration::from_hours(24) };

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    /// One call fails, whatever it is.
    Io,
    /// From here on nothing grows and nothing is written.
    Full,
}

#[derive(Debug, Default)]
struct Platter {
    image: Vec<u8>,
    log: Vec<Op>,
    /// Ranges that were read: offset, length.
    read: BTreeSet<(usize, usize)>,
    calls: usize,
    fail_at: Option<(usize, Failure)>,
    fired: bool,
    /// It reports that all is synced when nothing is.
    lies: bool,
}

/// A disk in memory that records its operations, and fails on request.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Platter { image, ..Platter::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn call(&self, grows: bool) -> Result<MutexGuard<'_, Platter>, std::io::Error> {
        let mut platter = self.lock();
        platter.calls += 1;
        let fails = match platter.fail_at {
            Some((at, Failure::Io)) => platter.calls == at,
            Some((at, Failure::Full)) => platter.calls >= at && grows,
            None => false,
        };
        if fails {
            platter.fired = true;
            let kind = if grows { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::Other };
            return Err(kind.into());
        }
        Ok(platter)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.call(false)?.image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let at = usize::try_from(offset).expect("the image is in memory");
        let mut platter = self.call(false)?;
        platter.read.insert((at, out.len()));
        let Some(bytes) = platter.image.get(at..at + out.len()) else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        let len = usize::try_from(len).expect("the image is in memory");
        let mut platter = self.call(true)?;
        platter.image.resize(len, 0);
        platter.log.push(Op::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut platter = self.call(false)?;
        if !platter.lies {
            platter.log.push(Op::Sync);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let at = usize::try_from(offset).expect("the image is in memory");
        let mut platter = self.call(true)?;
        write(&mut platter.image, at, data);
        platter.log.push(Op::Write { at, data: data.to_vec() });
        Ok(())
    }
}

fn write(image: &mut Vec<u8>, at: usize, data: &[u8]) {
    if image.len() < at + data.len() {
        image.resize(at + data.len(), 0);
    }
    image[at..at + data.len()].copy_from_slice(data);
}

/// The image that a crash after these operations leaves: everything that was synced, and a random part of the
/// rest.
fn crash_image(mut image: Vec<u8>, log: &[Op], rng: &mut SmallRng) -> Vec<u8> {
    let synced = log.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |i| i + 1);
    for op in &log[..synced] {
        match op {
            Op::Write { at, data } => write(&mut image, *at, data),
            Op::SetLen(len) => image.resize(*len, 0),
            Op::Sync => {}
        }
    }
    // From nothing to everything.
    let survives_of_four = rng.random_range(0..5);
    for op in &log[synced..] {
        match op {
            Op::SetLen(len) if rng.random_range(0..4) < survives_of_four => image.resize(*len, 0),
            Op::Write { at, data } => {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if rng.random_range(0..4) < survives_of_four {
                        write(&mut image, at + i * SECTOR, sector);
                    }
                }
            }
            Op::SetLen(_) | Op::Sync => {}
        }
    }
    image
}

fn subscriber() -> Subscriber {
    Subscriber::from("team-a/one")
}

fn open(disk: &Disk, step: usize) -> Result<Store, StoreError> {
    // The time is the number of the step: the same in every run.
    let clock: Clock = Arc::new(move || now(step));
    let disk = disk.clone();
    Store::open_file(Path::new("faults"), clock, Box::new(|| None), move |builder| {
        builder.create_with_backend(disk.clone())
    })
}

fn now(step: usize) -> Timestamp {
    // A workload lasts more than a day, so that retention has something to drop.
    Timestamp::from_millis(1_000_000 + 3 * 3_600_000 * i64::try_from(step).expect("few steps"))
}

/// One step of the workload of a seed.
fn run_step(store: &Store, seed: u64, step: usize) -> Result<(), StoreError> {
    let mut rng = SmallRng::seed_from_u64(seed * 1_000 + step as u64);
    let region = ["eu-west-1", "us-east-1"][rng.random_range(0..2)];
    match rng.random_range(0..14) {
        0 => return store.close_scopes(&[Arc::new(scope(region))]),
        1 => {
            let note = (rng.random_range(0..3) > 0).then(|| step.to_be_bytes().to_vec());
            return store.write_notes(&subscriber(), &[("finding/x".to_owned(), note)]);
        }
        2 => return store.revoke_visibility(&subscriber(), &scope(region)),
        3 => return store.checkpoint(),
        4 => return store.retain(RETENTION).map(|_| ()),
        _ => {}
    }
    let mut random_sweep = sweep(now(step).minus(Duration::from_secs(2)));
    random_sweep.scope = scope(region);
    for id in (0..6).filter(|_| rng.random_range(0..4) > 0).collect::<Vec<_>>() {
        let tags: &[_] = [&[("owner", "a")][..], &[("owner", "b"), ("Name", "x")], &[]][rng.random_range(0..3)];
        // Some are old enough for one confirmed miss, some are young.
        let birth = (id % 2 == 0).then(Timestamp::default);
        let seen = observation(&format!("vol-{id}"), tags, rng.random_range(0..3));
        let end_state = (rng.random_range(0..12) == 0).then(|| "deleted".to_owned());
        random_sweep.observations.push(Observation { birth, end_state, ..seen });
    }
    if rng.random_range(0..5) == 0 {
        random_sweep.outcome = Outcome::Partial(Reason::Throttled);
    }
    let seen: BTreeSet<String> = random_sweep.observations.iter().map(|o| o.id.clone()).collect();
    let missing = (0..6).map(|id| format!("vol-{id}")).filter(|id| !seen.contains(id));
    random_sweep.absences = missing.map(|id| (id, Absence::NotFound)).collect();
    random_sweep.held = rng.random_range(0..8) == 0;
    store.commit(&random_sweep, Some(&subscriber())).map(|_| ())
}

/// Everything that is known at a revision, except the ledger: a crash may lose a minute of it.
pub(super) fn state(store: &Store, revision: Revision) -> Result<Vec<String>, StoreError> {
    let snapshot = store.snapshot(Moment::Revision(revision))?;
    let filter = Filter { ended_since: Some(Timestamp::MIN), include_unwatched: true, ..Filter::default() };
    let mut lines = Vec::new();
    for r in snapshot.resources(&filter)? {
        let document = snapshot.attributes(&r)?;
        let milestones = snapshot.milestones(&r)?;
        lines.push(format!(
            "{} {:?} {} {} {:?} {} {:?} {:?} {} {document} {milestones:?}",
            r.key, r.tags, r.first_seen, r.baseline, r.birth, r.changed, r.suspect, r.end, r.retracted
        ));
    }
    lines.extend(
        snapshot
            .visible(&subscriber())
            .iter()
            .map(|(scope, visibility)| format!("{scope} from {}", visibility.from)),
    );
    lines.sort();
    Ok(lines)
}

/// After each step of an undisturbed run: operations so far, the newest revision, the notes.
struct Acknowledged {
    operations: usize,
    revision: Revision,
    /// Above it every revision is kept.
    floor: Revision,
    notes: BTreeMap<String, Vec<u8>>,
}

struct Undisturbed {
    log: Vec<Op>,
    calls: usize,
    steps: Vec<Acknowledged>,
    states: BTreeMap<Revision, Vec<String>>,
    /// The file of a store that was closed cleanly.
    closed: Vec<u8>,
}

fn undisturbed(seed: u64) -> Undisturbed {
    undisturbed_on(Disk::default(), seed)
}

fn undisturbed_on(disk: Disk, seed: u64) -> Undisturbed {
    let mut steps = Vec::new();
    let mut states = BTreeMap::new();
    let mut store = open(&disk, 0).unwrap();
    let acknowledged = |store: &Store| Acknowledged {
        operations: disk.lock().log.len(),
        revision: store.revision(),
        floor: store.state().kept.floor(),
        notes: store.notes(&subscriber(), "").unwrap(),
    };
    steps.push(acknowledged(&store));
    for step in 1..=STEPS {
        drop(store);
        store = open(&disk, step).unwrap();
        let before = store.revision();
        run_step(&store, seed, step).unwrap();
        // A step may take several revisions (one per scope); each of them is a state of its own.
        for revision in before.0..=store.revision().0 {
            states.insert(Revision(revision), state(&store, Revision(revision)).unwrap());
        }
        steps.push(acknowledged(&store));
    }
    let (log, calls) = {
        let platter = disk.lock();
        (platter.log.clone(), platter.calls)
    };
    drop(store);
    let closed = disk.lock().image.clone();
    Undisturbed { log, calls, steps, states, closed }
}

/// Compares a recovered store with the undisturbed run.
fn check(seed: u64, store: &Store, run: &Undisturbed, acknowledged: usize) {
    let after = |i: usize| &run.steps[i.min(STEPS)];
    let revision = store.revision();
    assert!(
        after(acknowledged).revision <= revision && revision <= after(acknowledged + 1).revision,
        "seed {seed}: step {acknowledged} was acknowledged at revision {}, found is {revision}",
        after(acknowledged).revision
    );
    let notes = store.notes(&subscriber(), "").unwrap();
    assert!(
        notes == after(acknowledged).notes || notes == after(acknowledged + 1).notes,
        "seed {seed}: notes after step {acknowledged}: {notes:?}"
    );
    let report = store.check().unwrap();
    assert!(report.flaws.is_empty(), "seed {seed}: {:?}", report.flaws);
    let floor = after(acknowledged + 1).floor;
    for (kept, target) in run.states.range(..=revision) {
        match state(store, *kept) {
            Ok(found) => assert_eq!(found, *target, "seed {seed}: at revision {kept}"),
            Err(StoreError::NotKept { .. }) if *kept < floor => {}
            Err(error) => panic!("seed {seed}: at revision {kept}: {error}"),
        }
    }
}

/// Crashes a workload this many times, some of them again while the store recovers. Returns how many were played.
fn crash(seed: u64, run: &Undisturbed, crashes: usize) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut played = 0;
    for _ in 0..crashes {
        let crashed_at = rng.random_range(0..=run.log.len());
        let mut image = crash_image(Vec::new(), &run.log[..crashed_at], &mut rng);
        let acknowledged = run.steps.iter().rposition(|s| s.operations <= crashed_at);
        let open = |disk: &Disk| {
            open(disk, STEPS + 1).unwrap_or_else(|e| panic!("seed {seed}, operation {crashed_at}: {e:?}"))
        };
        let Some(acknowledged) = acknowledged else {
            // Before the first store was acknowledged there is nothing to lose.
            drop(self::open(&Disk::of(image), STEPS + 1));
            continue;
        };
        if rng.random_range(0..4) == 0 {
            let recovering = Disk::of(image.clone());
            drop(open(&recovering));
            let recovery = recovering.lock().log.clone();
            let again_at = rng.random_range(0..=recovery.len());
            image = crash_image(image, &recovery[..again_at], &mut rng);
            played += 1;
        }
        let store = open(&Disk::of(image));
        check(seed, &store, run, acknowledged);
        // And the store continues as if nothing had happened.
        run_step(&store, seed, STEPS + 1).unwrap();
        played += 1;
    }
    played
}

/// A disk error, and a disk that is full from some call on. Returns how many took effect.
fn fail(seed: u64, run: &Undisturbed) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut played = 0;
    for failure in [Failure::Io, Failure::Full] {
        let disk = Disk::default();
        disk.lock().fail_at = Some((1 + rng.random_range(0..run.calls), failure));
        let mut acknowledged = None;
        for step in 0..=STEPS {
            let Ok(store) = open(&disk, step) else { break };
            if step > 0 && run_step(&store, seed, step).is_err() {
                // What it records then differs from the undisturbed run, so it is checked here.
                if let Some(acknowledged) = acknowledged.take_if(|_| disk.lock().fired) {
                    goes_on_by_itself(seed, &store, &disk, run, acknowledged);
                    played += 1;
                }
                break;
            }
            acknowledged = Some(step);
        }
        let fired = disk.lock().fired;
        disk.lock().fail_at = None;
        if let (true, Some(acknowledged)) = (fired, acknowledged) {
            let image = disk.lock().image.clone();
            let store =
                open(&Disk::of(image), STEPS + 1).unwrap_or_else(|e| panic!("seed {seed}, {failure:?}: {e:?}"));
            check(seed, &store, run, acknowledged);
            played += 1;
        }
    }
    played
}

/// A store whose disk failed and works again must reopen it by itself, with everything that was acknowledged, and
/// record again.
fn goes_on_by_itself(seed: u64, store: &Store, disk: &Disk, run: &Undisturbed, acknowledged: usize) {
    disk.lock().fail_at = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    // The error may have hit only a reader, or background work: the next write detects it.
    let mut written = Err(StoreError::Poisoned);
    while written.is_err() || store.is_poisoned() {
        assert!(Instant::now() < deadline, "seed {seed}: the store is not opened again: {written:?}");
        written = store.write_notes(&subscriber(), &[("finding/none".to_owned(), None)]);
        std::thread::yield_now();
    }
    check(seed, store, run, acknowledged);
    let before = store.revision();
    run_step(store, seed, STEPS + 1)
        .unwrap_or_else(|error| panic!("seed {seed}: recorded after a failure: {error}"));
    assert!(store.revision() >= before, "seed {seed}");
}

/// Flips this many bits, each in an intact file. Returns how many caused an error.
fn flip(seed: u64, run: &Undisturbed, flips: usize) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let image = &run.closed;
    // Most of a file is never read.
    let sound = Disk::of(image.clone());
    let store = open(&sound, STEPS + 1).unwrap();
    let kept: BTreeMap<_, _> =
        run.states.iter().filter(|(revision, _)| store.state().kept.is_kept(**revision)).collect();
    for kept in kept.keys() {
        state(&store, **kept).unwrap();
    }
    let used: Vec<usize> =
        sound.lock().read.iter().flat_map(|(at, len)| *at..at + len).filter(|at| image[*at] != 0).collect();
    let mut reported = 0;
    for _ in 0..flips {
        let mut damaged = image.clone();
        let at = used[rng.random_range(0..used.len())];
        damaged[at] ^= 1 << rng.random_range(0..8);
        // redb may panic on what it reads there; that is an error too.
        let swept = quietly(|| {
            let store = open(&Disk::of(damaged), STEPS + 1).map_err(|_| ())?;
            let mut right = store.revision() == run.steps[STEPS].revision;
            for (kept, target) in &kept {
                match state(&store, **kept) {
                    Ok(found) => right &= found == **target,
                    Err(_) => return Err(()),
                }
            }
            Ok(right)
        });
        match swept {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => panic!("seed {seed}: byte {at} was flipped, and other data was answered"),
            Ok(Err(())) | Err(_) => reported += 1,
        }
    }
    reported
}

thread_local! {
    static EXPECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Catches a panic that is an expected result, and prints nothing of it.
fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                default_hook(panic);
            }
        }));
    });
    EXPECTED.set(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    EXPECTED.set(false);
    done
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

/// Plays workloads until there were enough faults: `ELAVA_FAULTS` of them, where CI sets it.
fn play(part: u64, fault: impl Fn(u64) -> usize) {
    let target = usize::try_from(number("ELAVA_FAULTS").unwrap_or(2_000) / part).expect("it fits");
    let (mut played, mut seed) = (0, 0);
    while played < target {
        played += fault(seed);
        seed += 1;
    }
    println!("faults: {played}, losses: 0");
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_acknowledged() {
    play(1, |seed| crash(seed, &undisturbed(seed), 50));
}

#[test]
fn an_error_of_the_disk_stops_the_writer_and_loses_nothing() {
    play(10, |seed| fail(seed, &undisturbed(seed)));
}

#[test]
fn a_flipped_bit_is_an_error_and_never_other_data() {
    play(20, |seed| flip(seed, &undisturbed(seed), 20));
}

#[test]
fn the_checks_catch_a_store_that_does_not_sync() {
    let disk = Disk::default();
    disk.lock().lies = true;
    let run = undisturbed_on(disk, 1);
    let caught = quietly(|| crash(1, &run, 50));
    assert!(caught.is_err(), "50 crashes of a disk that never synced, and nothing was lost");
}

/// The child process that `killed_while_it_writes...` starts and kills: it writes to the given file, and prints
/// each step that was acknowledged as durable.
#[test]
#[ignore = "only as the child of another test"]
fn writes_until_it_is_killed() {
    let path = std::env::var("ELAVA_TEST_STORE").expect("the parent names a file");
    let (seed, first) = (number("ELAVA_TEST_SEED").unwrap(), number("ELAVA_TEST_STEP").unwrap());
    let step = Arc::new(AtomicUsize::new(0));
    let clock: Clock = {
        let step = step.clone();
        Arc::new(move || now(step.load(Ordering::SeqCst)))
    };
    let store = Store::open(Path::new(&path), clock).unwrap();
    for at in usize::try_from(first).unwrap().. {
        step.store(at, Ordering::SeqCst);
        run_step(&store, seed, at).unwrap();
        println!("durable {at} {} {}", store.revision(), digest(&store, store.revision()));
    }
}

fn digest(store: &Store, revision: Revision) -> String {
    blake3::hash(state(store, revision).unwrap().join("\n").as_bytes()).to_string()
}

#[test]
fn killed_while_it_writes_a_process_leaves_everything_that_was_acknowledged() {
    use std::io::{BufRead, BufReader};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("elava.redb");
    let mut rng = SmallRng::seed_from_u64(7);
    let mut durable: BTreeMap<Revision, String> = BTreeMap::new();
    let mut step = 1;
    for _ in 0..12 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "store::faults::writes_until_it_is_killed"])
            .env("ELAVA_TEST_STORE", &path)
            .env("ELAVA_TEST_SEED", "7")
            .env("ELAVA_TEST_STEP", step.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut reported = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut target = rng.random_range(1..15);
        while target > 0 {
            let line = reported.next().expect("it writes until it is killed");
            let words: Vec<&str> = line.split_whitespace().collect();
            // The harness prints the test's name at the beginning of a line.
            let Some(at) = words.iter().position(|word| *word == "durable") else { continue };
            step = words[at + 1].parse::<usize>().unwrap() + 1;
            durable.insert(Revision(words[at + 2].parse().unwrap()), words[at + 3].to_owned());
            target -= 1;
        }
        // On Unix this is SIGKILL; the child is somewhere in its next step.
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open_existing(&path, Arc::new(move || now(step + 100))).unwrap();
        assert!(store.revision() >= *durable.keys().next_back().unwrap());
        let kept = store.state().kept.clone();
        for (revision, target) in durable.iter().filter(|(revision, _)| kept.is_kept(**revision)) {
            assert_eq!(digest(&store, *revision), *target, "at revision {revision}");
        }
        // Steps that were written but not printed have used numbers, too.
        step += 20;
    }
}

/// `make soak`. Any of its workloads can be replayed from its seed alone.
#[test]
#[ignore = "as long as ELAVA_SOAK_SECONDS says: make soak"]
fn soak() {
    let span = Duration::from_secs(number("ELAVA_SOAK_SECONDS").unwrap_or(600));
    let first = number("ELAVA_SEED").unwrap_or_else(|| rand::random_range(0..1 << 40));
    eprintln!("soak: {} s from ELAVA_SEED={first}", span.as_secs());
    let started = Instant::now();
    let (mut faults, mut last_print) = (0, started);
    for seed in first.. {
        let run = undisturbed(seed);
        faults += crash(seed, &run, 50) + fail(seed, &run) + flip(seed, &run, 20);
        if last_print.elapsed() >= Duration::from_secs(30) {
            last_print = Instant::now();
            eprintln!(
                "soak: {} s, {faults} faults in {} workloads",
                started.elapsed().as_secs(),
                seed - first + 1
            );
        }
        if started.elapsed() >= span {
            break;
        }
    }
    println!("faults: {faults}, losses: 0");
}
