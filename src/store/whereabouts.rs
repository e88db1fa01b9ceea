//! Where ids that are never reused live, over all scopes of a type: what ends here and goes on there has
//! moved.
//!
//! A hint beside the state. The ids of a type are indexed when somebody first asks for one, and the writer
//! keeps the index up with what it publishes. What is found counts only if it lives in the state of who asks.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use xxhash_rust::xxh3::xxh3_64;

use super::id_index::IdIndex;
use super::life::Life;
use super::record::Rid;
use super::state::State;
use crate::inventory::Scope;

/// What may hold the same resource: scopes that differ in account and region alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind(u64);

impl Kind {
    fn of(scope: &Scope) -> Self {
        let Scope { provider, partition, endpoint, resource_type, .. } = scope;
        // No part holds the byte that ends one.
        Self(xxh3_64([provider, partition, endpoint, resource_type.as_str()].join("\0").as_bytes()))
    }
}

#[derive(Default)]
pub(super) struct Whereabouts(RwLock<HashMap<Kind, IdIndex>>);

/// Lives that ended and began, or go on after all, in what is published together.
#[derive(Default)]
pub(super) struct Turn {
    pub ended: Vec<(Rid, Life)>,
    pub begun: Vec<(Rid, Life)>,
}

impl Whereabouts {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Kind, IdIndex>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Kind, IdIndex>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life that goes on under an id in another open scope of the same type. `newest` is the state
    /// that is published.
    pub fn elsewhere(&self, state: &State, newest: impl Fn() -> State, scope: &Scope, id: &str) -> Option<Rid> {
        let kind = Kind::of(scope);
        let is_it = |rid: Rid| {
            state.heads.id(rid) == Some(id) && {
                let there = &state.scopes[&state.head(rid).scope];
                there.is_open() && *there.scope != *scope
            }
        };
        if let Some(index) = self.read().get(&kind) {
            return index.find(id, is_it);
        }
        // Under the lock, so that nothing is published meanwhile that the index would never hear of.
        let mut kinds = self.write();
        let index = kinds.entry(kind).or_insert_with(|| {
            let newest = newest();
            let alike = newest.scopes.values().filter(|other| Kind::of(&other.scope) == kind);
            let rids: Vec<Rid> = alike.flat_map(|other| other.order.iter().copied()).collect();
            IdIndex::of(&rids, |rid| newest.id(rid))
        });
        index.find(id, is_it)
    }

    /// What is known is of a file that was opened anew since.
    pub fn forget(&self) {
        self.write().clear();
    }

    /// Publishes a state: what ended and what began since the one before is known from then on.
    pub fn publish(&self, before: &State, after: &State, turn: &Turn, publish: impl FnOnce()) {
        let mut kinds = self.write();
        let kind = |life: &Life| Kind::of(&after.scopes[&life.scope].scope);
        // Nobody may have asked yet.
        if !kinds.is_empty() {
            for (rid, life) in turn.ended.iter().filter(|(rid, _)| before.heads.has(*rid)) {
                if let Some(index) = kinds.get_mut(&kind(life)) {
                    index.remove(*rid, |rid| before.id(rid));
                }
            }
            for (rid, life) in turn.begun.iter().filter(|(rid, _)| after.heads.has(*rid)) {
                let kind = kind(life);
                match kinds.get_mut(&kind) {
                    Some(index) if index.has_room() => index.insert(*rid, &life.id),
                    // The next who asks makes a larger one.
                    _ => drop(kinds.remove(&kind)),
                }
            }
        }
        publish();
    }
}
