//! The memory that many CloudScans take: a gate against unnoticed growth of each of a thousand. Also, no CloudScan
//! waits for the findings of others. `make bench-control-plane` measures all of it.

use serde_json::json;

use crate::support::eventually;
use crate::support::proxy::{Call, Fault, Logged};
use crate::support::world::{IRELAND, World};

const SCANS: usize = 60;
/// Findings per CloudScan.
const EACH: usize = 10;
/// The maximum memory of a CloudScan, with its account, its session, its findings and its part of every buffer: 240
/// were measured when this was set.
const KIB_EACH: u64 = 400;

/// The number of CloudScans that write findings at once; three times as many have findings to write.
const WRITING: usize = 4;
/// Findings per CloudScan in this test, all written in one reconcile: this takes seconds.
const MANY: usize = 500;

/// Untagged volumes, different ones for each account.
fn volumes<const EACH: usize>(call: &Call) -> String {
    let item = |n: usize| {
        format!(
            "<item><volumeId>vol-{}{n:05}</volumeId><size>8</size><status>available</status>\
             <createTime>2026-01-01T00:00:00.000Z</createTime></item>",
            call.account
        )
    };
    let items: String = (0..EACH).map(item).collect();
    format!(
        "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <volumeSet>{items}</volumeSet></DescribeVolumesResponse>"
    )
}

fn account(n: usize) -> String {
    format!("{:012}", 400_000_000_000 + n)
}

/// Applies a CloudScan for the volumes of its own account, with findings about tags only.
fn apply(world: &World, n: usize) {
    let mut spec = world.scan_spec(&[&account(n)]);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    spec["resourceTypes"] = json!({"include": ["AWS::EC2::Volume"]});
    spec["findings"] = json!({"exclude": ["Orphaned"]});
    world.apply_scan("team-a", &format!("scan-{n}"), &spec);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_scan_takes_no_more_memory_than_it_did() {
    let world = World::start_with(vec![("ELAVA_API_SHARE", "1".to_owned())]).await;
    world.proxy.fault(|call| call.action == "DescribeVolumes" && !call.is_by_id(), Fault::Make(volumes::<EACH>));
    let apply = |n: usize| apply(&world, n);
    let all_published = async |scans: usize| {
        let check = || async {
            let open = world.open_findings("team-a").await.len();
            if open == scans * EACH { Ok(()) } else { Err(format!("{open} findings stand")) }
        };
        eventually("every finding of every CloudScan stands", check).await;
    };
    // One-time costs come with the first few CloudScans: connections, tables, thread pools.
    let few = SCANS / 10;
    (0..few).for_each(apply);
    all_published(few).await;
    let (_, before) = world.operator.process.memory_kib();
    (few..SCANS).for_each(apply);
    all_published(SCANS).await;
    let (_, after) = world.operator.process.memory_kib();
    let each = after.saturating_sub(before) / (SCANS - few) as u64;
    println!("{before} KiB with {few} CloudScans, {after} KiB with {SCANS}: {each} KiB each");
    assert!(each <= KIB_EACH, "a CloudScan takes {each} KiB of memory, more than {KIB_EACH}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_scan_is_reconciled_while_the_findings_of_others_are_written() {
    let world = World::start().await;
    world.proxy.fault(|call| call.action == "DescribeVolumes" && !call.is_by_id(), Fault::Make(volumes::<MANY>));
    let others = 3 * WRITING;
    (0..others).for_each(|n| apply(&world, n));
    // All workers that write findings are busy now.
    let begun = || async {
        let open = world.open_findings("team-a").await;
        let begun = (0..others).filter(|n| open.iter().any(|finding| finding.contains(&account(*n)))).count();
        if begun >= WRITING { Ok(()) } else { Err(format!("{begun} have findings")) }
    };
    eventually("findings are being written", begun).await;
    apply(&world, others);
    let last = account(others);
    let swept = || async {
        let is_listed = |logged: &Logged| logged.call.account == last && logged.call.action == "DescribeVolumes";
        if world.proxy.log().iter().any(is_listed) { Ok(()) } else { Err("nobody asked".to_owned()) }
    };
    eventually("the last one is looked at", swept).await;
    // In a queue behind the others, it would be scanned after two thirds of them are done.
    let written = world.open_findings("team-a").await.len();
    assert!(written < others * MANY / 2, "it was looked at only after {written} findings of others were written");
}
