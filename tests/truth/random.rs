//! Random changes under random faults: after every sweep the store must contain nothing false, and soon after the
//! faults end it must contain the whole truth. Every sequence replays from its seed: ELAVA_SEED=N plays that one alone,
//! ELAVA_SEQUENCES sets the number of sequences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use elava::cloud::Provider;
use elava::cloud::aws::Aws;
use elava::inventory::Tags;
use futures::StreamExt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::bed::{Bed, IRELAND, TagMap, is_same};
use crate::support::aws::Emulator;
use crate::support::number;
use crate::support::proxy::{Fault, Proxy, RuleId};

const TYPES: [&str; 4] = ["AWS::EC2::Volume", "AWS::EC2::EIP", "AWS::S3::Bucket", "AWS::SecretsManager::Secret"];
/// Sweeps in a sequence while changes happen and faults are active.
const SWEEPS: usize = 8;
/// Sweeps after which the store must contain the whole truth: two that agree, one more for a hold, one for a fault of
/// the last sweep.
const SWEEPS_TO_TRUTH: usize = 4;
const SEQUENCES: u64 = 20;
/// Emulators, each with a proxy: each emulator uses one core.
const EMULATORS: usize = 2;
/// Sequences that are played at once: each has an account of its own, and waits most of the time.
const AT_ONCE: usize = 12;

/// What really happened to one resource.
struct Thing {
    kind: usize,
    is_there: bool,
    /// Every tag set that it ever had; the last one is the present one.
    tags: Vec<TagMap>,
}

struct Sequence<'a> {
    seed: u64,
    dice: SmallRng,
    bed: Bed,
    proxy: &'a Proxy,
    things: BTreeMap<String, Thing>,
    faults: Vec<RuleId>,
    /// Faults that end after one sweep.
    brief: Vec<RuleId>,
    /// Whether secrets were already hidden from a listing. They have no read by id, so a second miss would end them.
    has_hidden_secrets: bool,
    made: u32,
}

impl<'a> Sequence<'a> {
    async fn new(seed: u64, aws: &Emulator, proxy: &'a Proxy, provider: Arc<dyn Provider>) -> Self {
        let account = format!("{:012}", 300_000_000_000 + seed % 600_000_000_000);
        let mut bed = Bed::new(account, &TYPES, &[IRELAND], aws, proxy, provider).await;
        // Every second sequence records page by page.
        if seed % 2 == 1 {
            bed.scanner = bed.another_scanner().with_page_bytes(1);
        }
        Self {
            seed,
            dice: SmallRng::seed_from_u64(seed),
            bed,
            proxy,
            things: BTreeMap::new(),
            faults: Vec::new(),
            brief: Vec::new(),
            has_hidden_secrets: false,
            made: 0,
        }
    }

    fn some_tags(&mut self) -> TagMap {
        let owner = ["a", "b", "c"][self.dice.random_range(0..3)];
        [("owner".to_owned(), owner.to_owned())].into()
    }

    async fn make(&mut self) {
        let kind = self.dice.random_range(0..TYPES.len());
        let tags = if self.dice.random_range(0..5) == 0 { TagMap::new() } else { self.some_tags() };
        let list: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.made += 1;
        let name = format!("elava-{}-{}", self.bed.account, self.made);
        let id = match kind {
            0 => self.bed.hands.volume(&list).await,
            1 => self.bed.hands.address(&list).await,
            2 => {
                self.bed.hands.bucket(&name, &list).await;
                name
            }
            _ => self.bed.hands.secret(&name, &list).await,
        };
        self.things.insert(id, Thing { kind, is_there: true, tags: vec![tags] });
    }

    /// Picks a resource that exists.
    fn pick(&mut self) -> Option<String> {
        let there: Vec<&String> = self.things.iter().filter(|(_, t)| t.is_there).map(|(id, _)| id).collect();
        if there.is_empty() { None } else { Some(there[self.dice.random_range(0..there.len())].clone()) }
    }

    async fn delete(&mut self, id: &str) {
        match self.things[id].kind {
            0 => self.bed.hands.delete_volume(id).await,
            1 => drop(self.bed.hands.ec2.release_address().allocation_id(id).send().await.unwrap()),
            2 => self.bed.hands.delete_bucket(id).await,
            _ => self.bed.hands.delete_secret(id).await,
        }
        self.things.get_mut(id).unwrap().is_there = false;
    }

    /// Only for types of EC2.
    async fn retag(&mut self, id: &str) {
        if self.things[id].kind > 1 {
            return;
        }
        let tags = if self.dice.random_range(0..3) == 0 { TagMap::new() } else { self.some_tags() };
        if tags.is_empty() {
            self.bed.hands.untag(id, &["owner"]).await;
        } else {
            let list: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            self.bed.hands.tag(id, &list).await;
        }
        self.things.get_mut(id).unwrap().tags.push(tags);
    }

    async fn live(&mut self) {
        for _ in 0..self.dice.random_range(0..4) {
            match self.dice.random_range(0..6) {
                0..3 => self.make().await,
                3 | 4 => {
                    if let Some(id) = self.pick() {
                        self.retag(&id).await;
                    }
                }
                _ => {
                    if let Some(id) = self.pick() {
                        self.delete(&id).await;
                    }
                }
            }
        }
        // Occasionally nearly everything is deleted at once.
        if self.dice.random_range(0..20) == 0 {
            while self.dice.random_range(0..8) > 0 {
                let Some(id) = self.pick() else { break };
                self.delete(&id).await;
            }
        }
    }

    fn fault(&mut self) {
        const LISTINGS: [&str; 4] = ["DescribeVolumes", "DescribeAddresses", "ListBuckets", "ListSecrets"];
        let is_mine = self.bed.is_mine();
        let refuse = |status, code| Fault::Refuse { status, code, message: "so it is".to_owned() };
        let action = LISTINGS[self.dice.random_range(0..LISTINGS.len())];
        let page = self.dice.random_range(1..3);
        let rule = match self.dice.random_range(0..9) {
            0 => self
                .proxy
                .fault(move |c| is_mine(c) && c.action == action && c.page >= page, refuse(500, "InternalError")),
            1 => self.proxy.fault(move |c| is_mine(c) && c.action == action, refuse(503, "RequestLimitExceeded")),
            2 => self.proxy.fault(move |c| is_mine(c) && c.action == action, refuse(403, "AccessDenied")),
            3 => self.proxy.fault(
                move |c| is_mine(c) && c.action.starts_with("Describe") && c.action != "DescribeTags",
                Fault::EmptyTags,
            ),
            4 => self.proxy.fault(
                move |c| is_mine(c) && ["DescribeTags", "GetBucketTagging"].contains(&c.action.as_str()),
                refuse(500, "InternalError"),
            ),
            5 => self.proxy.fault(move |c| is_mine(c) && c.action == action, Fault::Cut),
            // Eventual consistency: missing from the listing, but found by id. Some resources, or all.
            some => {
                let hidden: Vec<String> = if some == 6 {
                    self.things.keys().cloned().collect()
                } else {
                    (0..2).filter_map(|_| self.pick()).collect()
                };
                let hiding = if self.has_hidden_secrets { &LISTINGS[..3] } else { &LISTINGS };
                self.has_hidden_secrets = true;
                let rule = self.proxy.fault(
                    move |c| is_mine(c) && hiding.contains(&c.action.as_str()) && !c.is_by_id(),
                    Fault::Hide(hidden),
                );
                self.brief.push(rule);
                return;
            }
        };
        self.faults.push(rule);
    }

    fn heal(&mut self) {
        for rule in self.faults.drain(..) {
            self.proxy.heal(rule);
        }
    }

    async fn sweep_once(&mut self) {
        self.bed.sweep_once().await;
        for rule in self.brief.drain(..) {
            self.proxy.heal(rule);
        }
    }

    fn lies(&self) -> Vec<String> {
        let mut lies = Vec::new();
        let recorded = self.bed.recorded();
        for (id, resource) in &recorded {
            let Some(thing) = self.things.get(id) else {
                lies.push(format!("{id} never was"));
                continue;
            };
            if thing.is_there && !resource.is_live() {
                lies.push(format!("{id} is said to be gone: {:?}", resource.end));
            }
            if let Tags::Known(tags) = &resource.tags
                && !thing.tags.iter().any(|had| is_same(tags, had))
            {
                lies.push(format!("{id} never had the tags {tags:?}"));
            }
        }
        lies
    }

    fn untold(&self) -> Vec<String> {
        let recorded = self.bed.recorded();
        let live: BTreeSet<&String> = recorded.iter().filter(|(_, r)| r.is_live()).map(|(id, _)| id).collect();
        let there: BTreeSet<&String> = self.things.iter().filter(|(_, t)| t.is_there).map(|(id, _)| id).collect();
        let mut untold: Vec<String> = live
            .symmetric_difference(&there)
            .map(|id| format!("that {id} is there: {}, but {:?}", there.contains(*id), recorded.get(*id)))
            .collect();
        for id in live.intersection(&there) {
            let has = self.things[*id].tags.last().unwrap();
            if !recorded[*id].tags.known().is_some_and(|tags| is_same(tags, has)) {
                untold.push(format!("that {id} has the tags {has:?}, not {:?}", recorded[*id].tags));
            }
        }
        untold
    }

    /// Returns what was false, or not recorded in time.
    async fn play(mut self) -> Vec<String> {
        for _ in 0..self.dice.random_range(4..12) {
            self.make().await;
        }
        let mut lies = Vec::new();
        for sweep_once in 0..SWEEPS {
            self.live().await;
            if self.dice.random_range(0..3) > 0 {
                self.fault();
            }
            self.sweep_once().await;
            lies.extend(
                self.lies().into_iter().map(|lie| format!("seed {}, look {sweep_once}: {lie}", self.seed)),
            );
            if self.dice.random_range(0..2) == 0 {
                self.heal();
            }
        }
        self.heal();
        // Nothing can prove a loss of secrets in the whole account: it is released explicitly.
        self.bed.subscription.released = vec![self.bed.account.clone()];
        for _ in 0..SWEEPS_TO_TRUTH {
            self.sweep_once().await;
        }
        lies.extend(self.lies().into_iter().map(|lie| format!("seed {}, at the end: {lie}", self.seed)));
        lies.extend(self.untold().into_iter().map(|what| format!("seed {}: it is not told {what}", self.seed)));
        lies
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_of_lives_and_faults_makes_a_lie() {
    let dir = tempfile::tempdir().unwrap();
    let mut clouds = Vec::new();
    for number in 0..EMULATORS {
        let dir = dir.path().join(number.to_string());
        std::fs::create_dir(&dir).unwrap();
        let aws = Emulator::start(&dir).await;
        let proxy = Proxy::start(&aws.url);
        clouds.push((aws, proxy));
    }
    let provider: Arc<dyn Provider> = Arc::new(Aws::new(1.0));
    let seeds = match number("ELAVA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ELAVA_SEQUENCES").unwrap_or(SEQUENCES),
    };
    let count = seeds.end - seeds.start;
    let lies = Mutex::new(Vec::new());
    let done = AtomicUsize::new(0);
    futures::stream::iter(seeds)
        .for_each_concurrent(AT_ONCE, |seed| {
            let (aws, proxy) = &clouds[usize::try_from(seed).unwrap() % EMULATORS];
            let (provider, lies, done) = (provider.clone(), &lies, &done);
            async move {
                let reported = Sequence::new(seed, aws, proxy, provider).await.play().await;
                lies.lock().unwrap().extend(reported);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done.is_multiple_of(50) {
                    eprintln!("{done} sequences");
                }
            }
        })
        .await;
    let lies = lies.into_inner().unwrap();
    println!("sequences: {count}, lies: {}", lies.len());
    assert!(lies.is_empty(), "{}", lies.join("\n"));
}
