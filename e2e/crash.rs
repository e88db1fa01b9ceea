//! The operator is killed at any moment, or has no API server: nothing is lost, nothing is reported twice, and nothing
//! is reported that no sweep has shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use roxmltree::{Document, Node};
use serde_json::Value;

use crate::support::aws::Hands;
use crate::support::eventually;
use crate::support::proxy::{Fault, Logged};
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
const KILLS: usize = 20;
const OWNERS: [&str; 3] = ["team-a", "team-b", "team-c"];

type Tags = BTreeMap<String, String>;

/// `ELAVA_SEED` replays a run; the seed is printed with a failure.
fn dice() -> SmallRng {
    let seed = std::env::var("ELAVA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("ELAVA_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

/// Creates, deletes and re-tags volumes until `stop` is set. Returns the ids that it deleted.
async fn stir(hands: Hands, mut dice: SmallRng, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut living: Vec<String> = Vec::new();
    let mut deleted = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let owner = OWNERS[dice.random_range(0..3)];
        match (dice.random_range(0..10), living.is_empty()) {
            (0..4, _) | (_, true) => living.push(hands.volume(&[("owner", owner)]).await),
            (4..6, _) => {
                let id = living.swap_remove(dice.random_range(0..living.len()));
                hands.delete_volume(&id).await;
                deleted.insert(id);
            }
            (6..9, _) => hands.tag(&living[dice.random_range(0..living.len())], &[("owner", owner)]).await,
            _ => hands.untag(&living[dice.random_range(0..living.len())], &["owner"]).await,
        }
        tokio::time::sleep(Duration::from_millis(20 + dice.random_range(0..120))).await;
    }
    deleted
}

/// What the responses of the cloud showed of each volume.
#[derive(Default)]
struct Shown {
    tags: BTreeMap<String, BTreeSet<Tags>>,
    not_found: BTreeSet<String>,
}

impl Shown {
    fn new(log: &[Logged]) -> Self {
        let mut shown = Self::default();
        for answer in log.iter().filter(|l| l.call.region == IRELAND) {
            match answer.call.action.as_str() {
                "DescribeVolumes" => shown.see_volumes(answer),
                // A loss of all tags is confirmed by this call, whose response may be newer than the listing.
                "DescribeTags" if answer.status == 200 => {
                    let requested = answer.call.params["Filter.1.Value.1"].clone();
                    let document = parse(answer);
                    let set = document.descendants().find(|n| is_named(n, "tagSet"));
                    shown.tags.entry(requested).or_default().insert(tags(set));
                }
                _ => {}
            }
        }
        shown
    }

    fn see_volumes(&mut self, answer: &Logged) {
        if answer.body.contains("InvalidVolume.NotFound") {
            self.not_found.extend(answer.call.params.get("VolumeId.1").cloned());
        }
        let document = parse(answer);
        let is_volume = |n: &Node| is_named(n, "item") && n.parent().is_some_and(|p| is_named(&p, "volumeSet"));
        for item in document.descendants().filter(is_volume) {
            let set = item.children().find(|n| is_named(n, "tagSet"));
            self.tags.entry(child(item, "volumeId")).or_default().insert(tags(set));
        }
    }
}

fn parse(answer: &Logged) -> Document<'_> {
    Document::parse(&answer.body).expect("the emulator answers XML")
}

/// Ignores the XML namespace.
fn is_named(node: &Node, name: &str) -> bool {
    node.tag_name().name() == name
}

fn child(node: Node, name: &str) -> String {
    node.children().find(|n| is_named(n, name)).and_then(|n| n.text()).unwrap_or_default().to_owned()
}

fn tags(set: Option<Node>) -> Tags {
    let items = set.into_iter().flat_map(|set| set.children().filter(|n| is_named(n, "item")));
    items.map(|tag| (child(tag, "key"), child(tag, "value"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_while_resources_change_it_reports_what_sweeps_have_shown_and_each_once() {
    let mut world = World::start().await;
    let mut dice = dice();
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = "1s".into();
    // Mass loss has its own test.
    spec["disappearance"] = serde_json::json!({"massLoss": {"percent": 100, "minimum": 100_000}});
    spec["resourceTypes"] =
        serde_json::json!({"include": ["AWS::EC2::Volume", "AWS::EC2::Instance", "AWS::S3::Bucket"]});
    // These volumes flap.
    spec["findings"] = serde_json::json!({"exclude": ["Flapping"]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;

    let stop = Arc::new(AtomicBool::new(false));
    let hands = world.hands(A, IRELAND).await;
    let stirring = tokio::spawn(stir(hands, SmallRng::from_rng(&mut dice), stop.clone()));
    for _ in 0..KILLS {
        // Kills at any time between the start of the process and a few scans later.
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..1500))).await;
        world.operator.kill();
        world.operator.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let deleted = stirring.await.expect("the stirring ends well");
    for _ in 0..3 {
        world.scan_now("team-a", "one").await;
    }

    let shown = Shown::new(&world.proxy.log());
    let hands = world.hands(A, IRELAND).await;
    let living: BTreeMap<String, Tags> = volumes(&hands).await;
    let answer = world.operator.answer(&["get", "--type", "AWS::EC2::Volume", "--region", IRELAND, "--ended"]);
    let known = answer["resources"].as_array().expect("a list");
    assert!(known.len() > 20, "enough happened: {}", known.len());
    let mut alive = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for resource in known {
        let id = resource["id"].as_str().unwrap().to_owned();
        assert!(shown.tags.contains_key(&id), "{id} was never shown");
        if resource.get("end").is_some() {
            assert!(deleted.contains(&id), "{id} is said to be gone, and is not");
            assert!(shown.not_found.contains(&id), "{id} is said to be gone, and nobody asked for it by id");
            ended.insert(id);
        } else {
            alive.insert(id, serde_json::from_value(resource["tags"].clone()).unwrap());
        }
    }
    assert_eq!(alive, living, "after the last look the store holds what is there");
    assert!(!ended.is_empty(), "something that had been seen was deleted");
    for resource in known {
        check_history(&world, resource, &shown);
    }

    let mut open: Vec<String> = ended.iter().map(|id| format!("Disappeared {id}")).collect();
    for (id, _) in living.iter().filter(|(_, tags)| tags.is_empty()) {
        // The only tag names the owner: a resource that has changed had an owner.
        let history = world.operator.answer(&["history", id]);
        let had_owner = history["changes"].as_array().is_some_and(|changes| changes.len() > 1);
        open.push(format!("{} {id}", if had_owner { "OwnershipLost" } else { "Untagged" }));
    }
    world.wait_for_open("team-a", &open).await;
    let reported = |events: &BTreeMap<String, usize>| events.get("Disappeared") == Some(&ended.len());
    world.wait_for_finding_events("team-a", "each end is told once", reported).await;
}

async fn volumes(hands: &Hands) -> BTreeMap<String, Tags> {
    let answer = hands.ec2.describe_volumes().send().await.expect("volumes");
    let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
    answer
        .volumes()
        .iter()
        .map(|v| (text(v.volume_id()), v.tags().iter().map(|t| (text(t.key()), text(t.value()))).collect()))
        .collect()
}

/// One life, its steps in order, and only states that a response showed.
fn check_history(world: &World, resource: &Value, shown: &Shown) {
    let id = resource["id"].as_str().unwrap();
    let history = world.operator.answer(&["history", id]);
    let steps: Vec<&Value> = history["changes"].as_array().unwrap().iter().rev().collect();
    let kinds: Vec<&str> = steps.iter().map(|s| s["change"].as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|k| **k == "Appeared").count(), 1, "{id}: {kinds:?}");
    assert_eq!(kinds[0], "Appeared", "{id}: {kinds:?}");
    let end = kinds.iter().position(|k| *k == "Disappeared");
    assert!(end.is_none_or(|i| i == kinds.len() - 1), "{id}: {kinds:?}");
    for field in steps.iter().filter_map(|s| s["fields"].as_array()).flatten() {
        assert_eq!(field["path"], "Tags.owner", "{id} changed in nothing else: {field}");
        let owner = field["after"].as_str().map(str::to_owned);
        let was_shown = shown.tags[id].iter().any(|tags| tags.get("owner").cloned() == owner);
        assert!(was_shown, "{id}: {field} was never shown; shown: {:?}; history: {history}", shown.tags[id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_scanning_goes_on_and_findings_are_right_afterwards() {
    let mut world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (deleted, stripped) = (hands.volume(&[("owner", "a")]).await, hands.volume(&[("owner", "a")]).await);
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = "1s".into();
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;

    world.cluster.stop_api_server();
    hands.delete_volume(&deleted).await;
    hands.untag(&stripped, &["owner"]).await;
    let gone = || async {
        let answer = world.operator.answer(&["get", &deleted]);
        if answer["resources"][0].get("end").is_some() { Ok(()) } else { Err(answer.to_string()) }
    };
    eventually("the store knows of the end while nobody can be told", gone).await;
    // A page that fails meanwhile changes nothing.
    let failing = world.proxy.fault(
        |c| c.action == "DescribeVolumes",
        Fault::Refuse { status: 503, code: "Unavailable", message: "try again".to_owned() },
    );
    let failed = || async { if world.proxy.hits(failing) > 3 { Ok(()) } else { Err("not asked yet".to_owned()) } };
    eventually("looks go on", failed).await;
    world.proxy.heal(failing);

    // After a kill it continues with the last known CloudScans.
    world.operator.restart().await;
    let bare = hands.volume(&[]).await;
    let seen = || async {
        let known = world.ids(A, "AWS::EC2::Volume");
        if known.contains(&bare) { Ok(()) } else { Err(format!("{known:?}")) }
    };
    eventually("a restarted operator looks on while nobody can tell it at what", seen).await;

    world.cluster.start_api_server().await;
    let open = [format!("Disappeared {deleted}"), format!("OwnershipLost {stripped}"), format!("Untagged {bare}")];
    world.wait_for_open("team-a", &open).await;
    let kinds = ["Disappeared", "OwnershipLost", "Untagged"];
    let each_once: BTreeMap<String, usize> = kinds.into_iter().map(|kind| (kind.to_owned(), 1)).collect();
    world.wait_for_finding_events("team-a", "each is told once", |events| *events == each_once).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloudscan_that_was_suspended_while_the_operator_was_down_is_not_gone_on_with() {
    let mut world = World::start().await;
    let spec = world.scan_spec(&[A]);
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "InventoryComplete", "True").await;
    world.operator.kill();
    let mut suspended = spec.clone();
    suspended["suspend"] = true.into();
    world.apply_scan("team-a", "one", &suspended);
    let listings = || world.proxy.count(|c| c.action == "DescribeVolumes");
    let before = listings();
    world.operator.restart().await;
    let is_suspended = || async {
        match world.condition("team-a", "one", "Ready").await {
            Some((_, reason, _)) if reason == "Suspended" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually("the suspension is known", is_suspended).await;
    assert_eq!(listings(), before, "after a restart all is due, but not what is suspended");
}

/// The oldest store file; at the time of writing, its last time is also ahead of the clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_lies_behind_the_store_stops_nothing() {
    let mut world = World::start().await;
    world.operator.kill();
    let oldest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stores/schema-1.redb.zst");
    let oldest = zstd::decode_all(&*std::fs::read(oldest).unwrap()).unwrap();
    std::fs::write(world.operator.store(), oldest).unwrap();
    world.operator.restart().await;
    let hands = world.hands(A, IRELAND).await;
    let bare = hands.volume(&[]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = "2s".into();
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    let another = hands.volume(&[]).await;
    world.wait_for_open("team-a", &[format!("Untagged {bare}"), format!("Untagged {another}")]).await;
}
