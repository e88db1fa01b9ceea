//! State at a revision: the fold of all deltas up to it.
//!
//! [`State::apply`] is the only fold. Commits, opening a file and reading a past revision all use it, so they
//! can't disagree. Its parts are persistent (imbl, shared chunks): a reader's copy costs nothing, and the writer
//! never waits for it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use imbl::{HashMap, OrdMap, Vector};
use xxhash_rust::xxh3::{Xxh3, Xxh3DefaultBuilder};

use super::heads::{Head, Heads};
use super::id_index::IdIndex;
use super::kept::Kept;
use super::tag_index::TagIndex;
use crate::inventory::{
    AccountId, Region, ResourceType, Revision, Scope, Subscriber, Suspect, TagSet, Tags, Timestamp, Visibility,
};
use crate::store::StoreError;
use crate::store::file::documents::Dictionaries;
use crate::store::file::lives::Life;
use crate::store::file::tables::{Entry, EntryKind, NO_RID, RevisionRow, Rid, Run, ScopeNo, TagsRef, Version};
use crate::store::mutants;

/// In a smaller scope an index is not faster.
const INDEXED_SCOPE_MIN_LIVES: usize = if cfg!(test) { 4 } else { 64 };

#[derive(Clone, Debug)]
pub(in crate::store) struct ScopeState {
    pub scope: Arc<Scope>,
    /// When it was opened and closed, oldest first.
    pub intervals: Vec<(Timestamp, Option<Timestamp>)>,
    pub visibilities: Visibilities,
    /// Its live resources, in the order of the ids.
    pub order: Arc<[Rid]>,
    /// The same by their ids, built at the first query.
    index: OnceLock<Arc<IdIndex>>,
    /// Whether any life of it has ended: only then may an id that is not live have lived before.
    pub has_ends: bool,
    /// The run that the next sweep may extend. Not part of the fold: the ledger has no revisions.
    pub run: Option<Run>,
    /// End of the last complete sweep ever. Like `run`, not part of the fold.
    pub last_complete: Option<Timestamp>,
}

impl ScopeState {
    pub fn is_open(&self) -> bool {
        self.intervals.last().is_some_and(|(_, closed)| closed.is_none())
    }

    /// Whether a resource that is new to the scope is baseline: no complete sweep has ended since the scope was
    /// opened.
    pub fn is_baseline(&self) -> bool {
        match (self.last_complete, self.intervals.last()) {
            (Some(complete), Some((opened, None))) => complete < *opened,
            _ => true,
        }
    }

    pub fn is_open_at(&self, time: Timestamp) -> bool {
        self.intervals.iter().any(|(from, to)| *from <= time && to.is_none_or(|to| time < to))
    }
}

/// The subscribers that can see a scope. They are few, and there are many scopes.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Visibilities(Box<[(Subscriber, Visibility)]>);

impl Visibilities {
    pub fn of(visibilities: impl IntoIterator<Item = (Subscriber, Visibility)>) -> Self {
        Self(visibilities.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Subscriber, Visibility)> {
        self.0.iter()
    }

    pub fn subscribers(&self) -> impl Iterator<Item = &Subscriber> {
        self.0.iter().map(|(subscriber, _)| subscriber)
    }

    pub fn get(&self, subscriber: &Subscriber) -> Option<&Visibility> {
        self.0.iter().find_map(|(other, visibility)| (other == subscriber).then_some(visibility))
    }

    pub fn get_mut(&mut self, subscriber: &Subscriber) -> Option<&mut Visibility> {
        self.0.iter_mut().find_map(|(other, visibility)| (other == subscriber).then_some(visibility))
    }

    /// In the order of the subscribers, replacing the entry of this one.
    fn insert(&mut self, subscriber: Subscriber, visibility: Visibility) {
        let mut visibilities = self.without(&subscriber);
        let at = visibilities.partition_point(|(other, _)| *other < subscriber);
        visibilities.insert(at, (subscriber, visibility));
        self.0 = visibilities.into();
    }

    fn remove(&mut self, subscriber: &Subscriber) {
        self.0 = self.without(subscriber).into();
    }

    fn without(&self, subscriber: &Subscriber) -> Vec<(Subscriber, Visibility)> {
        self.0.iter().filter(|(other, _)| other != subscriber).cloned().collect()
    }
}

#[derive(Clone)]
pub(in crate::store) struct State {
    pub revision: Revision,
    pub time: Timestamp,
    pub heads: Heads,
    /// Lives that a sweep missed and whose end is not confirmed yet.
    pub suspects: OrdMap<Rid, Suspect>,
    pub scopes: OrdMap<ScopeNo, Arc<ScopeState>>,
    pub scope_numbers: ScopeNumbers,
    pub next_rid: Rid,
    /// How many lives have ended until now, including retracted ends.
    pub ends: u64,
    /// How many log entries were folded since the file was opened, from its newest checkpoint on.
    pub folded: usize,
    /// Not part of the fold: a document names the dictionary that it needs.
    pub dictionaries: Arc<Dictionaries>,
    /// Interned tag sets by number.
    pub tag_sets: Vector<TagSet>,
    /// Index of the tag sets by tag.
    pub tag_index: Arc<TagIndex>,
    /// Not part of the fold: which past revisions are kept.
    pub kept: Arc<Kept>,
}

/// Scope numbers by a hash of 128 bits, so that a search reads no scope.
#[derive(Clone, Default)]
pub(in crate::store) struct ScopeNumbers(HashMap<u128, ScopeNo>);

impl ScopeNumbers {
    fn hash(scope: &Scope) -> u128 {
        let Scope { provider, partition, endpoint, account, region, resource_type } = scope;
        let parts = [provider, partition, endpoint, account.as_str(), region.as_str(), resource_type.as_str()];
        let mut hash = Xxh3::new();
        for part in parts {
            // The lengths keep the parts apart.
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.digest128()
    }

    pub fn get(&self, scope: &Scope) -> Option<&ScopeNo> {
        self.0.get(&Self::hash(scope))
    }

    fn insert(&mut self, scope: &Scope, number: ScopeNo) {
        self.0.insert(Self::hash(scope), number);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: Revision::ZERO,
            time: Timestamp::default(),
            heads: Heads::default(),
            suspects: OrdMap::new(),
            scopes: OrdMap::new(),
            scope_numbers: ScopeNumbers::default(),
            next_rid: NO_RID + 1,
            ends: 0,
            folded: 0,
            dictionaries: Arc::default(),
            tag_sets: Vector::new(),
            tag_index: Arc::default(),
            kept: Arc::default(),
        }
    }
}

/// There are many scopes and few names: each name is held once.
#[derive(Default)]
pub(in crate::store) struct Names(HashSet<Arc<str>>);

impl Names {
    fn shared(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(shared) = self.0.get(&name) {
            return shared.clone();
        }
        self.0.insert(name.clone());
        name
    }

    pub fn share(&mut self, scope: Scope) -> Scope {
        let Scope { provider, partition, endpoint, account, region, resource_type } = scope;
        Scope {
            provider: self.shared(provider),
            partition: self.shared(partition),
            endpoint: self.shared(endpoint),
            account: AccountId::new(self.shared(account.into_text())),
            region: Region::new(self.shared(region.into_text())),
            resource_type: ResourceType::new(self.shared(resource_type.into_text())),
        }
    }
}

/// The numbers of interned tag sets, which only the writer needs.
pub(in crate::store) struct TagNumbers(std::collections::HashMap<TagSet, u32, Xxh3DefaultBuilder>);

impl TagNumbers {
    pub fn new(state: &State) -> Self {
        Self(state.tag_sets.iter().cloned().zip(0..).collect())
    }

    /// The reference to these tags. A new set gets the next number of the state.
    pub fn intern(&mut self, state: &mut State, tags: &Tags) -> TagsRef {
        let set = match tags {
            Tags::Unknown => return TagsRef::UNKNOWN,
            Tags::Untaggable => return TagsRef::UNTAGGABLE,
            Tags::Known(set) => set,
        };
        if let Some(number) = self.0.get(set) {
            return TagsRef::set(*number);
        }
        let number = u32::try_from(state.tag_sets.len()).expect("fewer than 2^32 tag sets");
        let set = set.apart();
        state.tag_sets.push_back(set.clone());
        self.0.insert(set, number);
        TagsRef::set(number)
    }
}

/// Lives that began and ended in each scope during a fold.
#[derive(Default)]
pub(in crate::store) struct Moves(BTreeMap<ScopeNo, Moved>);

#[derive(Default)]
struct Moved {
    /// Lives that are live at the end of the fold, with their ids.
    begun: BTreeMap<Rid, Arc<str>>,
    ended: BTreeSet<Rid>,
}

impl Moves {
    fn of(&mut self, scope: ScopeNo) -> &mut Moved {
        self.0.entry(scope).or_default()
    }
}

/// Reads the lives that begin, or whose end is retracted, during a fold.
pub(in crate::store) trait Beginnings {
    fn life(&mut self, rid: Rid) -> Result<Life, StoreError>;
}

impl State {
    /// A state with only the names that numbers in the file refer to.
    pub fn names(&self) -> Self {
        let mut names = Self {
            dictionaries: self.dictionaries.clone(),
            tag_sets: self.tag_sets.clone(),
            tag_index: self.tag_index.clone(),
            kept: self.kept.clone(),
            ..Self::default()
        };
        for (number, scope) in &self.scopes {
            names.add_scope(*number, scope.scope.clone());
        }
        names
    }

    /// The scope's names must be shared: [`Names`].
    pub fn add_scope(&mut self, number: ScopeNo, scope: Arc<Scope>) {
        self.scope_numbers.insert(&scope, number);
        let state = ScopeState {
            scope,
            intervals: Vec::new(),
            visibilities: Visibilities::default(),
            order: Arc::default(),
            index: OnceLock::new(),
            has_ends: false,
            run: None,
            last_complete: None,
        };
        self.scopes.insert(number, Arc::new(state));
    }

    pub fn tags(&self, tags: TagsRef) -> Tags {
        match tags.number() {
            Some(number) => Tags::Known(self.tag_sets[number as usize].clone()),
            None if tags == TagsRef::UNTAGGABLE => Tags::Untaggable,
            None => Tags::Unknown,
        }
    }

    /// Whether a reference is to these tags.
    pub fn is_same_tags(&self, tags: TagsRef, others: &Tags) -> bool {
        match others {
            Tags::Unknown => tags == TagsRef::UNKNOWN,
            Tags::Untaggable => tags == TagsRef::UNTAGGABLE,
            Tags::Known(set) => tags.number().is_some_and(|number| self.tag_sets[number as usize] == *set),
        }
    }

    pub fn scope_mut(&mut self, number: ScopeNo) -> &mut ScopeState {
        Arc::make_mut(self.scopes.get_mut(&number).expect("every numbered scope is in the state"))
    }

    /// The live resource with an id.
    pub fn rid(&self, scope: ScopeNo, id: &str) -> Option<Rid> {
        let known = self.scopes.get(&scope)?;
        if known.order.len() < INDEXED_SCOPE_MIN_LIVES {
            return self.find(scope, id);
        }
        let index = known.index.get_or_init(|| Arc::new(IdIndex::of(&known.order, |rid| self.id(rid))));
        index.find(id, |rid| self.id(rid) == id)
    }

    /// As [`State::rid`], without the index. For callers that change the scope between queries: each change drops
    /// the index.
    pub fn find(&self, scope: ScopeNo, id: &str) -> Option<Rid> {
        let order = &self.scopes.get(&scope)?.order;
        order.binary_search_by(|rid| self.id(*rid).cmp(id)).ok().map(|at| order[at])
    }

    pub fn id(&self, rid: Rid) -> &str {
        self.heads.id(rid).expect("what is in an order lives")
    }

    pub fn head(&self, rid: Rid) -> Head {
        self.heads.get(rid).expect("what is in an order lives")
    }

    /// Folds one revision. Two entries of one life are in the order in which they happened.
    pub fn apply(
        &mut self,
        revision: Revision,
        row: &RevisionRow,
        entries: &[Entry],
        beginnings: &mut dyn Beginnings,
    ) -> Result<(), StoreError> {
        let mut moves = Moves::default();
        self.fold(revision, row, entries, beginnings, &mut moves)?;
        self.reorder(moves);
        Ok(())
    }

    /// As [`State::apply`], without the orders of the scopes: a caller that folds many revisions reorders once, at
    /// the end.
    pub fn fold(
        &mut self,
        revision: Revision,
        row: &RevisionRow,
        entries: &[Entry],
        beginnings: &mut dyn Beginnings,
        moves: &mut Moves,
    ) -> Result<(), StoreError> {
        assert!(revision > self.revision, "revisions are folded in order");
        assert!(row.time >= self.time, "time never goes back between revisions");
        self.revision = revision;
        self.time = row.time;
        self.folded += entries.len();
        for entry in entries {
            if entry.rid == NO_RID {
                self.apply_to_scope(revision, row, &entry.kind);
                continue;
            }
            match &entry.kind {
                EntryKind::Appeared { version } => {
                    let life = beginnings.life(entry.rid)?;
                    self.begin(revision, entry.rid, &life, version, false);
                    moves.of(row.scope).begun.insert(entry.rid, life.id);
                }
                EntryKind::Retracted { version } => {
                    let life = beginnings.life(entry.rid)?;
                    self.begin(revision, entry.rid, &life, version, true);
                    moves.of(row.scope).begun.insert(entry.rid, life.id);
                }
                EntryKind::Ended => {
                    self.ends += 1;
                    self.change_index(row.scope, |index, heads| {
                        index.remove(entry.rid, |rid| heads.id(rid).expect("what is in an index lives"));
                    });
                    if !mutants::is_awake("a head is not cleared") {
                        self.heads.remove(entry.rid);
                    }
                    self.suspects.remove(&entry.rid);
                    let moved = moves.of(row.scope);
                    moved.begun.remove(&entry.rid);
                    moved.ended.insert(entry.rid);
                }
                _ => self.append_step(revision, entry),
            }
        }
        Ok(())
    }

    fn apply_to_scope(&mut self, revision: Revision, row: &RevisionRow, kind: &EntryKind) {
        let scope = self.scope_mut(row.scope);
        match kind {
            EntryKind::ScopeOpened { started } => {
                assert!(!scope.is_open(), "an open scope is not opened again");
                // From the sweep that opened it, which lies before its commit: `is_baseline` compares later sweeps
                // with this time. Most scopes are opened once.
                scope.intervals.reserve_exact(1);
                scope.intervals.push((*started, None));
            }
            EntryKind::ScopeClosed => {
                let last = scope.intervals.last_mut().expect("a scope that closes was open");
                assert!(last.1.is_none(), "a closed scope is not closed again");
                last.1 = Some(row.time);
            }
            EntryKind::VisibilityGained { subscriber } => {
                let visibility = Visibility { from: revision, proven: row.time };
                scope.visibilities.insert(Subscriber::new(subscriber.clone()), visibility);
            }
            EntryKind::VisibilityLost { subscriber } => {
                scope.visibilities.remove(&Subscriber::new(subscriber.clone()));
            }
            other => unreachable!("{other:?} is about a resource"),
        }
    }

    fn begin(&mut self, revision: Revision, rid: Rid, life: &Life, version: &Version, retracted: bool) {
        let head = Head {
            scope: life.scope,
            last_entry: revision.0,
            milestone: revision.0,
            document: revision.0,
            changed: revision,
            fingerprint: u64::from_le_bytes(version.fingerprint),
            tags: version.tags.unwrap_or(TagsRef::UNKNOWN),
            first_seen: life.first_seen,
            birth: version.birth.or(life.birth),
            shape: version.shape.unwrap_or_default(),
            baseline: life.baseline,
            retracted,
            late_birth: version.birth.is_some(),
        };
        self.next_rid = self.next_rid.max(rid + 1);
        self.heads.insert(rid, &head, &life.id);
    }

    fn append_step(&mut self, revision: Revision, entry: &Entry) {
        self.heads.update(entry.rid, |head| {
            head.last_entry = revision.0;
            if entry.milestone.is_some() {
                head.milestone = revision.0;
            }
            if let Some(version) = entry.kind.version() {
                head.fingerprint = u64::from_le_bytes(version.fingerprint);
                head.tags = version.tags.unwrap_or(head.tags);
                head.birth = version.birth.or(head.birth);
                head.late_birth |= version.birth.is_some();
                head.shape = version.shape.unwrap_or(head.shape);
                head.document = revision.0;
            }
            if matches!(entry.kind, EntryKind::Changed { .. }) {
                head.changed = revision;
            }
        });
        match &entry.kind {
            EntryKind::Suspected { last_seen, first_missed, misses, held } => {
                let (last_seen, first_missed) = (*last_seen, *first_missed);
                let suspect = Suspect { last_seen, first_missed, misses: *misses, held: *held };
                self.suspects.insert(entry.rid, suspect);
            }
            // A resource that was seen is no suspect. Where single steps were thinned, only its version shows
            // that.
            _ => {
                self.suspects.remove(&entry.rid);
            }
        }
    }

    /// Changes the index of a scope, if there is one.
    fn change_index(&mut self, number: ScopeNo, change: impl FnOnce(&mut IdIndex, &Heads)) {
        if self.scopes.get(&number).is_none_or(|scope| scope.index.get().is_none()) {
            return;
        }
        let Some(mut index) = self.scope_mut(number).index.take() else { return };
        change(Arc::make_mut(&mut index), &self.heads);
        self.scope_mut(number).index = index.into();
    }

    /// Removes ended lives from the orders and adds new ones, once per scope.
    pub fn reorder(&mut self, moves: Moves) {
        for (number, Moved { begun, ended }) in moves.0 {
            let mut begun: Vec<(Arc<str>, Rid)> = begun.into_iter().map(|(rid, id)| (id, rid)).collect();
            begun.sort();
            self.index_what_began(number, &begun);
            let before = &self.scopes[&number].order;
            let kept: Vec<Rid> = before.iter().copied().filter(|rid| !ended.contains(rid)).collect();
            let order = self.merged(&kept, &begun);
            let scope = self.scope_mut(number);
            scope.order = order.into();
            scope.has_ends |= !ended.is_empty();
        }
    }

    fn index_what_began(&mut self, number: ScopeNo, begun: &[(Arc<str>, Rid)]) {
        let mut is_full = false;
        self.change_index(number, |index, _| {
            for (id, rid) in begun {
                is_full |= !index.has_room();
                if !is_full {
                    index.insert(*rid, id);
                }
            }
        });
        if is_full {
            // The next query builds a larger one.
            self.scope_mut(number).index = OnceLock::new();
        }
    }

    /// Merges two lists of lives, both in the order of their ids.
    pub fn merged<I: AsRef<str>>(&self, order: &[Rid], others: &[(I, Rid)]) -> Vec<Rid> {
        let mut merged = Vec::with_capacity(order.len() + others.len());
        let mut from = 0;
        for (id, rid) in others {
            let at = from + order[from..].partition_point(|rid| self.id(*rid) < id.as_ref());
            merged.extend(&order[from..at]);
            merged.push(*rid);
            from = at;
        }
        merged.extend(&order[from..]);
        merged
    }
}
