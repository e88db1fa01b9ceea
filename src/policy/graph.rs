//! The references between documents: read once per version of a resource, and kept as a few bytes.
//!
//! The rules evaluate every resource of an account after every round; the documents of a million resources are far
//! too large to be read each time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use serde_json::Value;

use super::orphaned::{self, Candidate};
use super::parents::{self, Parent};
use super::reads::Reads;
use super::relations;
use crate::inventory::{AccountId, Region, Resource, ResourceKey, Revision, Scope, Timestamp, shared_by};

/// A resource that others reference: by its id alone if ids are unique in the whole cloud, otherwise with account
/// and region. A hash of 64 bits: among ten million names, two are equal with a chance of one in 400,000, and then
/// an unused resource passes for used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u64);

/// A hasher that returns names unchanged: they are hashes already.
#[derive(Default)]
pub(super) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

const TEMPLATE: &str = "AWS::EC2::LaunchTemplate";

type Names<V> = HashMap<Name, V, BuildHasherDefault<IdentityHasher>>;

impl Name {
    pub fn of(key: &ResourceKey) -> Self {
        Self::new(&key.account, &key.region, key.resource_type.as_str(), &key.id)
    }

    pub fn new(account: &AccountId, region: &Region, resource_type: &str, id: &str) -> Self {
        let text = if relations::has_unique_ids(resource_type) {
            format!("{resource_type}\0{id}")
        } else {
            format!("{resource_type}\0{account}\0{region}\0{id}")
        };
        Self(xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }
}

/// What one document contains.
#[derive(Debug)]
pub(super) struct Facts {
    changed: Revision,
    /// The resources that this one uses and thereby gives a purpose.
    uses: Box<[Name]>,
    /// The orphan case that applies if nothing uses the resource.
    pub candidate: Option<Box<Candidate>>,
    /// Its parent, according to its document.
    pub parent: Option<Box<Parent>>,
    /// What it is billed for.
    pub usage: Option<Box<orphaned::Usage>>,
    /// It references others in a way that can't be followed.
    opaque: bool,
    /// Its document could not be read, or not completely.
    pub unread: bool,
    /// Launch templates that it pins to a version.
    pins: Box<[(Name, i64)]>,
    /// The versions that it has itself, as a launch template.
    versions: Box<[i64]>,
}

/// The facts of all resources evaluated so far, each as of its newest version.
#[derive(Default)]
pub struct Graph {
    facts: HashMap<u64, Facts>,
}

fn identity(scope: &Scope, id: &str) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    scope.hash(&mut hasher);
    id.hash(&mut hasher);
    hasher.digest()
}

/// Which resources are used, among some resources.
pub(super) struct Uses {
    used: HashSet<Name, BuildHasherDefault<IdentityHasher>>,
    /// When the last user of a resource ended, among users whose end is remembered.
    unused_since: Names<Timestamp>,
    /// Scopes with a resource that references others in a way that can't be followed.
    pub opaque: HashSet<Scope>,
}

impl Graph {
    /// Reads new documents. Facts about resources that are no longer evaluated are dropped once they outnumber the
    /// rest.
    pub fn read(&mut self, reads: &dyn Reads, resources: &[Resource]) {
        let relevant = || resources.iter().filter(|r| relations::is_read(r.key.resource_type.as_str()));
        for resource in relevant() {
            let at = identity(&resource.scope, &resource.key.id);
            if self.facts.get(&at).is_none_or(|facts| facts.changed != resource.changed) {
                let facts = Facts::read(resource, &reads.attributes(resource));
                self.facts.insert(at, facts);
            }
        }
        let known = relevant().count();
        if self.facts.len() > 2 * known + 1024 {
            let desired: HashSet<u64> = relevant().map(|r| identity(&r.scope, &r.key.id)).collect();
            self.facts.retain(|at, _| desired.contains(at));
        }
    }

    pub(super) fn facts(&self, resource: &Resource) -> Option<&Facts> {
        self.facts.get(&identity(&resource.scope, &resource.key.id))
    }

    pub(super) fn uses(&self, resources: &[Resource]) -> Uses {
        let mut uses = Uses { used: HashSet::default(), unused_since: Names::default(), opaque: HashSet::new() };
        let live = || resources.iter().filter(|resource| resource.is_live());
        let versions: HashSet<(Name, i64)> = live()
            .filter_map(|resource| Some((Name::of(&resource.key), self.facts(resource)?)))
            .flat_map(|(name, facts)| facts.versions.iter().map(move |version| (name, *version)))
            .collect();
        for resource in resources {
            let Some(facts) = self.facts(resource) else { continue };
            match &resource.end {
                None => {
                    uses.used.extend(facts.uses.iter().copied());
                    // References in an older version of a template are not read.
                    if facts.opaque || !facts.pins.iter().all(|pin| versions.contains(pin)) {
                        uses.opaque.insert(Scope::clone(&resource.scope));
                    }
                }
                Some(end) => {
                    for name in &facts.uses {
                        let last = uses.unused_since.entry(*name).or_insert(end.first_missed);
                        *last = end.first_missed.max(*last);
                    }
                }
            }
        }
        uses
    }
}

impl Uses {
    pub fn is_used(&self, key: &ResourceKey) -> bool {
        self.used.contains(&Name::of(key))
    }

    pub fn unused_since(&self, key: &ResourceKey) -> Option<Timestamp> {
        self.unused_since.get(&Name::of(key)).copied()
    }
}

impl Facts {
    fn read(resource: &Resource, document: &Value) -> Self {
        let key = &resource.key;
        let kind = key.resource_type.as_str();
        let mut uses: Vec<Name> = relations::of(key, document)
            .filter(|related| related.edge.gives_purpose && related.edge.applies(document))
            .map(|related| Name::new(&key.account, &key.region, related.edge.to, &related.id))
            .filter(|name| *name != Name::of(key))
            .collect();
        uses.sort_unstable_by_key(|name| name.0);
        uses.dedup();
        Self {
            changed: resource.changed,
            uses: uses.into(),
            candidate: Some(document)
                .filter(|document| shared_by(document, &key.account).is_none())
                .and_then(|document| orphaned::candidate(kind, document))
                .map(Box::new),
            parent: parents::in_document(key, document).map(Box::new),
            usage: orphaned::usage(kind, document).map(Box::new),
            opaque: relations::is_opaque(kind, document),
            unread: relations::is_unread(kind, document),
            pins: relations::pinned_versions(kind, document)
                .into_iter()
                .map(|(id, version)| (Name::new(&key.account, &key.region, TEMPLATE, &id), version))
                .collect(),
            versions: relations::versions(kind, document).into(),
        }
    }
}
