//! The references between documents: read once per version of a resource, and kept as a few bytes.
//!
//! The rules evaluate every resource of an account after every round; the documents of a million resources are far
//! too large to be read each time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use serde_json::Value;

use super::reads::Reads;
use crate::inventory::{
    Facts, OrphanCase, Parent, Resource, ResourceKey, Revision, Scope, Timestamp, TypeFacts, Usage,
};

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

type Names<V> = HashMap<Name, V, BuildHasherDefault<IdentityHasher>>;

impl Name {
    pub fn of(facts: &Facts, key: &ResourceKey) -> Self {
        let ResourceKey { account, region, resource_type, id, .. } = key;
        let text = if facts.of_type(key).is_some_and(|facts| facts.has_unique_ids) {
            format!("{resource_type}\0{id}")
        } else {
            format!("{resource_type}\0{account}\0{region}\0{id}")
        };
        Self(xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }
}

/// A resource that is orphaned if nothing references it.
#[derive(Debug)]
pub(super) struct OrphanCandidate {
    pub case: &'static OrphanCase,
    /// The resource that it was created from.
    pub origin: Option<ResourceKey>,
}

impl OrphanCandidate {
    fn of(case: &'static OrphanCase, key: &ResourceKey, document: &Value) -> Self {
        let origin = case.origin.and_then(|origin| origin(document));
        Self { case, origin: origin.map(|(resource_type, id)| key.sibling(resource_type, &id)) }
    }
}

/// What one document contains.
#[derive(Debug)]
pub(super) struct DocumentFacts {
    changed: Revision,
    /// The resources that this one uses and thereby gives a purpose.
    uses: Box<[Name]>,
    /// The orphan case that applies if nothing uses the resource.
    pub candidate: Option<Box<OrphanCandidate>>,
    /// Its parent, according to its document.
    pub parent: Option<Box<Parent>>,
    /// What it is billed for.
    pub usage: Option<Box<Usage>>,
    /// It references others in a way that can't be followed.
    opaque: bool,
    /// Its document could not be read, or not completely.
    pub unread: bool,
    /// Templates that it pins to a version.
    pins: Box<[(Name, i64)]>,
    /// The versions that it has itself, as a template.
    versions: Box<[i64]>,
}

/// The facts of all resources evaluated so far, each as of its newest version.
pub struct Graph {
    pub(super) known: Facts,
    facts: HashMap<u64, DocumentFacts>,
}

fn identity(scope: &Scope, id: &str) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    scope.hash(&mut hasher);
    id.hash(&mut hasher);
    hasher.digest()
}

/// Which resources are used, among some resources.
pub(super) struct Uses<'a> {
    known: &'a Facts,
    used: HashSet<Name, BuildHasherDefault<IdentityHasher>>,
    /// When the last user of a resource ended, among users whose end is remembered.
    unused_since: Names<Timestamp>,
    /// Scopes with a resource that references others in a way that can't be followed.
    pub opaque: HashSet<Scope>,
}

impl Graph {
    pub fn new(known: Facts) -> Self {
        Self { known, facts: HashMap::new() }
    }

    /// Reads new documents. Facts about resources that are no longer evaluated are dropped once they outnumber the
    /// rest.
    pub fn read(&mut self, reads: &dyn Reads, resources: &[Resource]) {
        let of_type = |resource: &Resource| self.known.of_type(&resource.key).filter(|facts| facts.is_read());
        let relevant = || resources.iter().filter(|resource| of_type(resource).is_some());
        for resource in resources {
            let Some(type_facts) = of_type(resource) else { continue };
            let at = identity(&resource.scope, &resource.key.id);
            if self.facts.get(&at).is_none_or(|facts| facts.changed != resource.changed) {
                let facts = DocumentFacts::read(&self.known, type_facts, resource, &reads.attributes(resource));
                self.facts.insert(at, facts);
            }
        }
        let known = relevant().count();
        if self.facts.len() > 2 * known + 1024 {
            let desired: HashSet<u64> = relevant().map(|r| identity(&r.scope, &r.key.id)).collect();
            self.facts.retain(|at, _| desired.contains(at));
        }
    }

    pub(super) fn facts(&self, resource: &Resource) -> Option<&DocumentFacts> {
        self.facts.get(&identity(&resource.scope, &resource.key.id))
    }

    pub(super) fn uses(&self, resources: &[Resource]) -> Uses<'_> {
        let mut uses = Uses {
            known: &self.known,
            used: HashSet::default(),
            unused_since: Names::default(),
            opaque: HashSet::new(),
        };
        let live = || resources.iter().filter(|resource| resource.is_live());
        let versions: HashSet<(Name, i64)> = live()
            .filter_map(|resource| Some((Name::of(&self.known, &resource.key), self.facts(resource)?)))
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

impl Uses<'_> {
    pub fn is_used(&self, key: &ResourceKey) -> bool {
        self.used.contains(&Name::of(self.known, key))
    }

    pub fn unused_since(&self, key: &ResourceKey) -> Option<Timestamp> {
        self.unused_since.get(&Name::of(self.known, key)).copied()
    }
}

impl DocumentFacts {
    fn read(facts: &Facts, of_type: &TypeFacts, resource: &Resource, document: &Value) -> Self {
        let key = &resource.key;
        let own = Name::of(facts, key);
        let mut uses: Vec<Name> = of_type
            .references(document)
            .into_iter()
            .filter(|(edge, _)| edge.gives_purpose && edge.applies(document))
            .map(|(edge, id)| Name::of(facts, &key.sibling(edge.to, &id)))
            .filter(|name| *name != own)
            .collect();
        uses.sort_unstable_by_key(|name| name.0);
        uses.dedup();
        let is_unread = of_type.is_unread(document);
        let pins = of_type.pins.map(|pins| {
            let of = |(id, version): (String, i64)| (Name::of(facts, &key.sibling(pins.to, &id)), version);
            (pins.of)(document).into_iter().map(of).collect()
        });
        Self {
            changed: resource.changed,
            uses: uses.into(),
            candidate: of_type
                .orphan
                .filter(|case| facts.shared_by(key, document).is_none() && (case.is_open)(document))
                .map(|case| Box::new(OrphanCandidate::of(case, key, document))),
            parent: of_type.parent.and_then(|parent| parent(key, document)).map(Box::new),
            usage: of_type.usage.and_then(|usage| usage(document)).map(Box::new),
            opaque: is_unread || of_type.is_opaque.is_some_and(|is_opaque| is_opaque(document)),
            unread: is_unread,
            pins: pins.unwrap_or_default(),
            versions: of_type.versions.map(|versions| versions(document)).unwrap_or_default().into(),
        }
    }
}
