//! What the documents say of each other: read once for each version of a resource, kept as a few bytes.
//!
//! The rules ask for every resource of an account after every round; the documents of a million resources
//! are far too much to be read each time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use serde_json::Value;

use super::orphaned::{self, Candidate};
use super::parents::{self, Parent};
use super::reads::Reads;
use super::relations;
use crate::inventory::{AccountId, Region, Resource, ResourceKey, Revision, Scope, Timestamp, shared_by};

/// A resource that others name: by its id alone where ids are unique in the whole cloud, with account and
/// region where they are names. Of 64 bits: among ten million names two are the same with a chance of one in
/// 400,000, and then something passes for used that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u64);

/// The names are hashes.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
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

type Names<V> = HashMap<Name, V, BuildHasherDefault<AsItIs>>;

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

/// What one document says.
#[derive(Debug)]
pub(super) struct Facts {
    changed: Revision,
    /// What it gives a purpose: what this one uses.
    uses: Box<[Name]>,
    /// What there would be to say of it if nothing used it.
    pub candidate: Option<Box<Candidate>>,
    /// What it is part of, by its document.
    pub parent: Option<Box<Parent>>,
    /// What it is billed for.
    pub usage: Option<Box<orphaned::Usage>>,
    /// It names others in a way that can't be followed.
    opaque: bool,
    /// What it says could not be read, or not all of it.
    pub unread: bool,
    /// Launch templates that it pins to a version, and the versions that it has.
    pins: Box<[(Name, i64)]>,
    versions: Box<[i64]>,
}

/// The facts of all that was ever asked about, each as of its newest version.
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

/// Who uses what, among some resources.
pub(super) struct Uses {
    used: HashSet<Name, BuildHasherDefault<AsItIs>>,
    /// When the last one that used it ended, of those whose end is remembered.
    unused_since: Names<Timestamp>,
    /// Scopes in which something names others in a way that can't be followed.
    pub opaque: HashSet<Scope>,
}

impl Graph {
    /// Reads what is new. What is not asked about any more is forgotten when it is more than the rest.
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
            let wanted: HashSet<u64> = relevant().map(|r| identity(&r.scope, &r.key.id)).collect();
            self.facts.retain(|at, _| wanted.contains(at));
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
                    // What an older version of a template names is not read.
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
            .filter(|related| related.edge.gives_purpose && related.edge.is_given(document))
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
