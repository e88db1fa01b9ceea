//! Clouds of any size, identical in every run: documents, tags and churn as they were measured.
//!
//! A described object has 943 bytes of JSON with its tags, 632 under zstd at level 1; a million objects have 41,544 tag
//! sets. [`Cloud::measure`] returns the sizes of the generated documents.

use std::collections::BTreeMap;

use elava::inventory::{
    AccountId, Confirmation, IdReuse, Observation, Outcome, Region, ResourceType, Scope, Sweep, TagSet, Tags,
    Timestamp,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// The number of tag sets that a million resources share; fewer resources share fewer sets.
const TAG_SETS: u64 = 41_544;

pub fn scope(number: usize) -> Scope {
    Scope {
        provider: "aws".into(),
        partition: "aws".into(),
        endpoint: "".into(),
        account: AccountId::new(format!("{:012}", 100_000_000_000 + number / 20)),
        region: Region::new(["eu-west-1", "us-east-1", "ap-south-1", "eu-central-1"][number % 4]),
        resource_type: ResourceType::new(
            [
                "AWS::EC2::Volume",
                "AWS::EC2::Instance",
                "AWS::EC2::NetworkInterface",
                "AWS::EC2::Snapshot",
                "AWS::EC2::Image",
            ][number / 4 % 5],
        ),
    }
}

fn tags(number: u64) -> TagSet {
    let mut dice = SmallRng::seed_from_u64(number);
    let mut noise = |digits: usize| -> String {
        (0..digits).map(|_| char::from_digit(dice.random_range(0..36), 36).expect("a digit")).collect()
    };
    let stack = noise(12);
    [
        ("Name", format!("node-{number:05}")),
        ("owner", format!("team-{}", number % 211)),
        ("environment", ["prod", "staging", "dev"][usize::try_from(number % 3).expect("small")].to_owned()),
        ("cost-center", format!("cc-{:04}", number % 97)),
        ("app", format!("service-{}", number % 1_009)),
        ("managed-by", "terraform".to_owned()),
        ("stack", stack),
        ("release", noise(8)),
    ]
    .into_iter()
    .collect()
}

/// A complete sweep without resources.
pub fn empty_sweep(scope: Scope, started: Timestamp) -> Sweep {
    Sweep {
        scope,
        started,
        ended: started.plus(std::time::Duration::from_millis(500)),
        cadence: Some(std::time::Duration::from_mins(5)),
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

/// One resource of the cloud: a seed, and the number of its changes.
#[derive(Clone, Debug)]
struct Thing {
    seed: u64,
    version: u32,
    tags: u64,
}

impl Thing {
    fn id(&self) -> String {
        format!("vol-{:017x}", u128::from(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    fn attributes(&self) -> Value {
        let mut dice = SmallRng::seed_from_u64(self.seed);
        let mut noise = |digits: usize| -> String {
            (0..digits).map(|_| char::from_digit(dice.random_range(0..36), 36).expect("a digit")).collect()
        };
        let pick = |values: &[&'static str]| values[usize::try_from(self.seed).expect("64 bits") % values.len()];
        let zone = pick(&["eu-west-1a", "eu-west-1b", "eu-west-1c"]);
        let state = pick(&["in-use", "available"]);
        json!({
            "VolumeId": self.id(),
            "AvailabilityZone": zone,
            "CreateTime": format!("2026-{:02}-{:02}T{:02}:{:02}:{:02}+00:00", 1 + self.seed % 12, 1 + self.seed % 28, self.seed % 24, self.seed % 60, self.seed / 7 % 60),
            "Encrypted": !self.seed.is_multiple_of(4),
            "KmsKeyId": format!("arn:aws:kms:eu-west-1:{:012}:key/{}-{}-{}", self.seed % 1_000, noise(8), noise(4), noise(12)),
            "Iops": 3000 + self.version,
            "Size": 8 << (self.seed % 6),
            "SnapshotId": format!("snap-{}", noise(17)),
            "SubnetId": format!("subnet-{}", noise(17)),
            "VpcId": format!("vpc-{}", noise(17)),
            "State": state,
            "Attachments": [{"AttachTime": noise(25), "Device": "/dev/sda1", "InstanceId": format!("i-{}", noise(17)), "State": "attached"}],
            "VolumeType": "gp3",
            "ReservationId": format!("r-{}", noise(17)),
            "ClientToken": noise(112),
        })
    }

    fn observation(&self) -> Observation {
        Observation {
            id: self.id(),
            tags: Tags::Known(tags(self.tags)),
            attributes: (&self.attributes()).into(),
            // Old enough to end after one confirmed miss.
            birth: Some(Timestamp::from_millis(1)),
            end_state: None,
            unread: Vec::new(),
        }
    }
}

/// A generated cloud.
pub struct Cloud {
    pub scopes: Vec<CloudScope>,
    next_seed: u64,
    tag_sets: u64,
    dice: SmallRng,
}

/// All resources of one scope, and what the last sweep showed of them.
pub struct CloudScope {
    scope: Scope,
    things: Vec<Thing>,
    observations: Vec<Observation>,
    gone: Vec<String>,
}

impl Cloud {
    pub fn new(resources: usize, scopes: usize) -> Self {
        let tag_sets = (TAG_SETS * resources as u64).div_ceil(1_000_000);
        let mut cloud = Self { scopes: Vec::new(), next_seed: 0, tag_sets, dice: SmallRng::seed_from_u64(1) };
        for number in 0..scopes {
            let count = resources / scopes;
            let things: Vec<Thing> = (0..count).map(|_| cloud.thing()).collect();
            let observations = things.iter().map(Thing::observation).collect();
            cloud.scopes.push(CloudScope { scope: scope(number), things, observations, gone: Vec::new() });
        }
        cloud
    }

    fn thing(&mut self) -> Thing {
        self.next_seed += 1;
        Thing { seed: self.next_seed, version: 0, tags: self.dice.random_range(0..self.tag_sets) }
    }

    /// Makes this number of changes: 90 % changed, 5 % appeared, 5 % ended.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn churn(&mut self, changes: usize) {
        for scope in &mut self.scopes {
            scope.gone.clear();
        }
        for n in 0..changes {
            let number = self.dice.random_range(0..self.scopes.len());
            let thing = self.thing();
            let scope = &mut self.scopes[number];
            let at = self.dice.random_range(0..scope.things.len());
            match n % 20 {
                0 => {
                    scope.observations.push(thing.observation());
                    scope.things.push(thing);
                }
                1 => {
                    scope.gone.push(scope.things.swap_remove(at).id());
                    scope.observations.swap_remove(at);
                }
                _ => {
                    scope.things[at].version += 1;
                    scope.observations[at] = scope.things[at].observation();
                }
            }
        }
    }

    /// Makes the same changes as [`Cloud::churn`], as sweeps that show nothing else: what a month of rounds records,
    /// without a million unchanged resources in each round.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn changes(&mut self, changes: usize, started: Timestamp) -> Vec<Sweep> {
        let mut seen: BTreeMap<usize, Vec<Observation>> = BTreeMap::new();
        for n in 0..changes {
            let number = self.dice.random_range(0..self.scopes.len());
            let thing = self.thing();
            let scope = &mut self.scopes[number];
            let at = self.dice.random_range(0..scope.things.len());
            let observation = match n % 20 {
                0 => {
                    let observation = thing.observation();
                    scope.observations.push(observation.clone());
                    scope.things.push(thing);
                    observation
                }
                1 => {
                    scope.things.swap_remove(at);
                    let observation = scope.observations.swap_remove(at);
                    Observation { end_state: Some("deleted".to_owned()), ..observation }
                }
                _ => {
                    scope.things[at].version += 1;
                    scope.observations[at] = scope.things[at].observation();
                    scope.observations[at].clone()
                }
            };
            seen.entry(number).or_default().push(observation);
        }
        let sweep = |(number, observations): (usize, Vec<Observation>)| Sweep {
            outcome: Outcome::Partial(elava::inventory::Reason::Throttled),
            // Not every scope is in every round; its sweeps still form one run.
            cadence: None,
            observations,
            ..empty_sweep(self.scopes[number].scope.clone(), started)
        };
        seen.into_iter().map(sweep).collect()
    }

    /// Keys of resources with this number of versions.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn with_versions(&self, versions: u32, most: usize) -> Vec<(Scope, String)> {
        let of = |scope: &CloudScope| {
            let things = scope.things.iter().filter(|thing| thing.version + 1 == versions).map(Thing::id);
            things.map(|id| (scope.scope.clone(), id)).collect::<Vec<_>>()
        };
        self.scopes.iter().flat_map(of).take(most).collect()
    }

    /// Ends every resource and creates as many new ones.
    #[allow(dead_code)] // Not every bench uses it.
    pub fn replace_all(&mut self) {
        for number in 0..self.scopes.len() {
            let things: Vec<Thing> = (0..self.scopes[number].things.len()).map(|_| self.thing()).collect();
            let scope = &mut self.scopes[number];
            scope.gone = scope.things.iter().map(Thing::id).collect();
            scope.observations = things.iter().map(Thing::observation).collect();
            scope.things = things;
        }
    }

    /// A sweep of each scope. The observations are moved into the sweeps and returned by `put_back`.
    pub fn sweeps(&mut self, started: Timestamp) -> Vec<Sweep> {
        let sweep = |scope: &mut CloudScope| Sweep {
            observations: std::mem::take(&mut scope.observations),
            absences: scope
                .gone
                .iter()
                .map(|id| (id.clone(), elava::inventory::Absence::NotFound))
                .collect::<BTreeMap<_, _>>(),
            ..empty_sweep(scope.scope.clone(), started)
        };
        self.scopes.iter_mut().map(sweep).collect()
    }

    pub fn put_back(&mut self, sweeps: Vec<Sweep>) {
        for (scope, sweep) in self.scopes.iter_mut().zip(sweeps) {
            scope.observations = sweep.observations;
        }
    }

    #[allow(dead_code)] // Not every bench uses it.
    /// Mean bytes of a sample of documents: as JSON with tags, and under zstd at level 1.
    pub fn measure(&self) -> (usize, usize) {
        let some: Vec<&Observation> =
            self.scopes.iter().flat_map(|s| s.observations.iter().take(20)).take(2_000).collect();
        let mut sums = (0, 0);
        for observation in &some {
            let mut object: Value = serde_json::from_slice(observation.attributes.as_bytes()).expect("it is JSON");
            let tags = observation.tags.known().expect("all are known");
            object["Tags"] = tags.iter().map(|(k, v)| json!({"Key": k, "Value": v})).collect();
            let text = serde_json::to_vec(&object).expect("JSON can be written to memory");
            sums.0 += text.len();
            sums.1 += zstd::bulk::compress(&text, 1).expect("memory can be compressed").len();
        }
        (sums.0 / some.len(), sums.1 / some.len())
    }
}
