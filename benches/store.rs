//! The store against what one would do without one: a full copy of the state for every sweep.
//!
//! Each figure stands beside its baseline in the same run; the ratio is what counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use elava::inventory::{
    AccountId, Confirmation, Filter, IdReuse, Moment, Observation, Outcome, Region, ResourceType, Scope, Snapshot,
    Sweep, Tags, Timestamp,
};
use elava::store::{Clock, Store};
use serde_json::{Value, json};

const RESOURCES: usize = 2_000;

fn observation(n: usize, size: usize) -> Observation {
    let tags = [("owner", format!("team-{}", n % 7)), ("Name", format!("data-{n}"))];
    Observation {
        id: format!("vol-{n:017x}"),
        tags: Tags::Known(tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        attributes: json!({
            "AvailabilityZone": "eu-west-1a", "CreateTime": "2026-11-01T00:00:00+00:00", "Encrypted": true,
            "Size": size, "State": "in-use", "VolumeId": format!("vol-{n:017x}"), "Iops": 3000, "VolumeType": "gp3",
            "Attachments": [{"Device": "/dev/sda1", "InstanceId": format!("i-{n:017x}"), "State": "attached"}],
        }),
        birth: None,
        end_state: None,
    }
}

struct Bed {
    _dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    store: Store,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let now = Arc::new(AtomicI64::new(0));
        let ticking = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_millis(ticking.load(Ordering::Relaxed)));
        let store = Store::open(&dir.path().join("elava.redb"), clock).expect("a new store");
        let bed = Self { _dir: dir, now, store };
        bed.commit(8);
        bed
    }

    /// A sweep five minutes later; a hundredth of the volumes has this size.
    fn commit(&self, size: usize) {
        let started = self.now.fetch_add(300_000, Ordering::Relaxed) + 299_000;
        let sweep = Sweep {
            scope: Scope {
                provider: "aws".into(),
                partition: "aws".into(),
                endpoint: "".into(),
                account: AccountId::new("111122223333"),
                region: Region::new("eu-west-1"),
                resource_type: ResourceType::new("AWS::EC2::Volume"),
            },
            started: Timestamp::from_millis(started),
            ended: Timestamp::from_millis(started + 500),
            cadence: Some(std::time::Duration::from_mins(5)),
            shape: 1,
            ids: IdReuse::Unique,
            confirmation: Confirmation::ReadById,
            outcome: Outcome::Complete,
            observations: (0..RESOURCES).map(|n| observation(n, if n % 100 == 0 { size } else { 8 })).collect(),
            absences: BTreeMap::new(),
            held: false,
        };
        self.store.commit(&sweep, None).expect("it commits");
    }
}

/// The naive way: the whole state as one JSON file a sweep, synced.
fn full_copy(dir: &std::path::Path, size: usize) {
    let all: Vec<Value> =
        (0..RESOURCES).map(|n| observation(n, if n % 100 == 0 { size } else { 8 }).attributes).collect();
    let path = dir.join("state.json");
    std::fs::write(&path, serde_json::to_vec(&all).expect("it is JSON")).expect("it is written");
    std::fs::File::open(&path).and_then(|f| f.sync_all()).expect("it is synced");
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("sweep of 2000, 1 % changed");
    group.sample_size(20);
    let bed = Bed::new();
    let mut size = 8;
    group.bench_function("store", |b| {
        b.iter(|| {
            size += 1;
            bed.commit(size);
        });
    });
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    group.bench_function("full copy", |b| b.iter(|| full_copy(dir.path(), 8)));
    group.finish();

    let mut group = c.benchmark_group("sweep of 2000, unchanged");
    group.sample_size(20);
    let bed = Bed::new();
    group.bench_function("store", |b| b.iter(|| bed.commit(8)));
    group.bench_function("full copy", |b| b.iter(|| full_copy(dir.path(), 8)));
    group.finish();
}

fn read(c: &mut Criterion) {
    let bed = Bed::new();
    for size in 9..20 {
        bed.commit(size);
    }
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    full_copy(dir.path(), 8);
    let mut group = c.benchmark_group("what is there now");
    group.bench_function("store", |b| {
        b.iter(|| bed.store.snapshot(Moment::Now).expect("now").resources(&Filter::default()).len());
    });
    group.bench_function("full copy", |b| {
        b.iter_batched(
            || dir.path().join("state.json"),
            |path| {
                let text = std::fs::read(path).expect("it was written");
                serde_json::from_slice::<Vec<Value>>(&text).expect("it is JSON").len()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, commit, read);
criterion_main!(benches);
