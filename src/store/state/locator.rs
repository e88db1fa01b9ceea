//! Where ids that are never reused live, over all scopes of a type: a resource that ends in one scope and lives on
//! in another has moved.
//!
//! A hint beside the state. The ids of a type are indexed at the first query for one, and the writer updates the
//! index with what it publishes. A result counts only if it is live in the state of the caller.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use xxhash_rust::xxh3::xxh3_64;

use crate::inventory::Scope;
use crate::inventory::{EndCause, ResourceKey};
use crate::store::StoreError;
use crate::store::file::lives::Life;
use crate::store::file::lives::{self, Lives};
use crate::store::file::tables::Rid;
use crate::store::state::fold::State;
use crate::store::state::id_index::IdIndex;
use redb::ReadTransaction;

/// Scopes that may hold the same resource: they differ in account and region alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind(u64);

impl Kind {
    fn of(scope: &Scope) -> Self {
        let Scope { provider, partition, endpoint, resource_type, .. } = scope;
        // No part contains the separator.
        Self(xxh3_64([provider, partition, endpoint, resource_type.as_str()].join("\0").as_bytes()))
    }
}

#[derive(Default)]
pub(in crate::store) struct CrossScopeIndex(RwLock<HashMap<Kind, IdIndex>>);

/// Lives that ended, and that began or whose end was retracted, in one publication.
#[derive(Default)]
pub(in crate::store) struct LifeDelta {
    pub ended: Vec<(Rid, Life)>,
    pub begun: Vec<(Rid, Life)>,
}

impl CrossScopeIndex {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Kind, IdIndex>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Kind, IdIndex>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live resource with an id in another open scope of the same type. `newest` returns the published state.
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
        // Under the lock, so that nothing is published meanwhile that the index would miss.
        let mut kinds = self.write();
        let index = kinds.entry(kind).or_insert_with(|| {
            let newest = newest();
            let alike = newest.scopes.values().filter(|other| Kind::of(&other.scope) == kind);
            let rids: Vec<Rid> = alike.flat_map(|other| other.order.iter().copied()).collect();
            IdIndex::of(&rids, |rid| newest.id(rid))
        });
        index.find(id, is_it)
    }

    /// Publishes the state of a file that was reopened. Under the lock, so that no query builds an index of the state
    /// before.
    pub fn publish_anew(&self, publish: impl FnOnce()) {
        let mut kinds = self.write();
        publish();
        kinds.clear();
    }

    /// Publishes a state, and updates the index with what ended and began since the one before.
    pub fn publish(&self, before: &State, after: &State, life_delta: &LifeDelta, publish: impl FnOnce()) {
        let mut kinds = self.write();
        let kind = |life: &Life| Kind::of(&after.scopes[&life.scope].scope);
        // Empty until the first query.
        if !kinds.is_empty() {
            for (rid, life) in life_delta.ended.iter().filter(|(rid, _)| before.heads.has(*rid)) {
                if let Some(index) = kinds.get_mut(&kind(life)) {
                    index.remove(*rid, |rid| before.id(rid));
                }
            }
            for (rid, life) in life_delta.begun.iter().filter(|(rid, _)| after.heads.has(*rid)) {
                let kind = kind(life);
                match kinds.get_mut(&kind) {
                    Some(index) if index.has_room() => index.insert(*rid, &life.id),
                    // The next query builds a larger one.
                    _ => drop(kinds.remove(&kind)),
                }
            }
        }
        publish();
    }
}

/// The key that a life moved from: the life there has ended because it moved here.
pub(in crate::store) fn moved_from(
    txn: &ReadTransaction,
    lives: &mut Lives,
    state: &State,
    rid: Rid,
) -> Result<Option<ResourceKey>, StoreError> {
    let here = lives.get(rid)?.clone();
    let Some(from) = here.moved_from.filter(|from| !state.heads.has(*from)) else { return Ok(None) };
    let there = lives.get(from)?.clone();
    let scope = &state.scopes[&there.scope].scope;
    let here = state.scopes[&here.scope].scope.key(&here.id);
    let ended = lives::last_ended(txn, (there.scope, scope), &there.id)?;
    let is_it = ended.is_some_and(|(rid, _, tombstone)| rid == from && tombstone.cause == EndCause::Moved(here));
    Ok(is_it.then(|| scope.key(&there.id)))
}
