//! The store compared with a design without one: a full copy of the state for every sweep.
//!
//! Each figure is measured together with its baseline in the same run; the ratio is what counts.

mod bed;

use std::collections::BTreeMap;

use bed::Bed;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use elava::inventory::{
    AccountId, Confirmation, Filter, IdReuse, Moment, Observation, Outcome, Region, ResourceType, Scope, Snapshot,
    Sweep, Tags,
};
use serde_json::{Value, json};

const RESOURCES: usize = 2_000;

fn observation(n: usize, size: usize) -> Observation {
    let tags = [("owner", format!("team-{}", n % 7)), ("Name", format!("data-{n}"))];
    Observation {
        id: format!("vol-{n:017x}"),
        tags: Tags::Known(tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        attributes: (&json!({
            "AvailabilityZone": "eu-west-1a", "CreateTime": "2026-11-01T00:00:00+00:00", "Encrypted": true,
            "Size": size, "State": "in-use", "VolumeId": format!("vol-{n:017x}"), "Iops": 3000, "VolumeType": "gp3",
            "Attachments": [{"Device": "/dev/sda1", "InstanceId": format!("i-{n:017x}"), "State": "attached"}],
        }))
            .into(),
        birth: None,
        end_state: None,
        unread: Vec::new(),
    }
}

/// Commits a sweep five minutes later, in which one in a hundred volumes has this size.
fn commit_sweep(bed: &Bed, size: usize) {
    let started = bed.next_sweep();
    let sweep = Sweep {
        scope: Scope {
            provider: "aws".into(),
            partition: "aws".into(),
            endpoint: "".into(),
            account: AccountId::new("111122223333"),
            region: Region::new("eu-west-1"),
            resource_type: ResourceType::new("AWS::EC2::Volume"),
        },
        started,
        ended: started.plus(std::time::Duration::from_millis(500)),
        cadence: Some(std::time::Duration::from_mins(5)),
        shape: 1,
        ids: IdReuse::Unique,
        confirmation: Confirmation::ReadById,
        outcome: Outcome::Complete,
        observations: (0..RESOURCES).map(|n| observation(n, if n % 100 == 0 { size } else { 8 })).collect(),
        absences: BTreeMap::new(),
        held: false,
        skew_millis: 0,
    };
    bed.store.commit(&sweep, None).expect("it commits");
}

/// A bed with a first sweep.
fn new_bed() -> Bed {
    let bed = Bed::new();
    commit_sweep(&bed, 8);
    bed
}

/// The naive way: writes the whole state as one JSON file per sweep, and syncs it.
fn full_copy(dir: &std::path::Path, size: usize) {
    let all = (0..RESOURCES).map(|n| observation(n, if n % 100 == 0 { size } else { 8 }).attributes);
    let path = dir.join("state.json");
    let text = [&b"["[..], &all.map(|d| d.as_bytes().to_vec()).collect::<Vec<_>>().join(&b','), b"]"].concat();
    std::fs::write(&path, text).expect("it is written");
    std::fs::File::open(&path).and_then(|f| f.sync_all()).expect("it is synced");
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("sweep of 2000, 1 % changed");
    group.sample_size(20);
    let bed = new_bed();
    let mut size = 8;
    group.bench_function("store", |b| {
        b.iter(|| {
            size += 1;
            commit_sweep(&bed, size);
        });
    });
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    group.bench_function("full copy", |b| b.iter(|| full_copy(dir.path(), 8)));
    group.finish();

    let mut group = c.benchmark_group("sweep of 2000, unchanged");
    group.sample_size(20);
    let bed = new_bed();
    group.bench_function("store", |b| b.iter(|| commit_sweep(&bed, 8)));
    group.bench_function("full copy", |b| b.iter(|| full_copy(dir.path(), 8)));
    group.finish();
}

fn read(c: &mut Criterion) {
    let bed = new_bed();
    for size in 9..20 {
        commit_sweep(&bed, size);
    }
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    full_copy(dir.path(), 8);
    let mut group = c.benchmark_group("what is there now");
    group.bench_function("store", |b| {
        b.iter(|| {
            bed.store.snapshot(Moment::Now).expect("now").resources(&Filter::default()).expect("it is sound").len()
        });
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
