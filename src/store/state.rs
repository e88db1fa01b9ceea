//! State at a revision: the fold of all deltas up to it.
//!
//! [`State::apply`] is the one fold. A live commit, opening a file and looking at a past revision all
//! go through it, so they can't disagree. What it is made of is persistent (imbl, shared chunks): a
//! reader's copy costs nothing and the writer never waits for it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use imbl::{HashMap, OrdMap, Vector};
use xxhash_rust::xxh3::{Xxh3, Xxh3DefaultBuilder};

use super::document::Dictionaries;
use super::heads::{Head, Heads};
use super::id_index::IdIndex;
use super::life::Life;
use super::record::{Entry, EntryKind, NO_RID, RevRow, Rid, Run, ScopeNo, TagsRef, Version};
use super::retention::Kept;
use super::tag_index::TagIndex;
use super::{StoreError, mutants};
use crate::inventory::{
    AccountId, Cover, Region, ResourceType, Revision, Scope, Suspect, TagSet, Tags, Timestamp, Viewer,
};

/// In a scope of so few an index finds nothing sooner.
const FEW: usize = if cfg!(test) { 4 } else { 64 };

#[derive(Clone, Debug)]
pub(super) struct ScopeState {
    pub scope: Arc<Scope>,
    /// When it was opened and closed, oldest first.
    pub intervals: Vec<(Timestamp, Option<Timestamp>)>,
    pub covers: Covers,
    /// What lives in it, in the order of the ids.
    pub order: Arc<[Rid]>,
    /// The same by their ids, once somebody has asked.
    index: OnceLock<Arc<IdIndex>>,
    /// Whether a life of it ever ended: only then may an id that does not live have lived before.
    pub has_ends: bool,
    /// The run that the next sweep may lengthen. Not part of the fold: the ledger has no revisions.
    pub run: Option<Run>,
    /// End of the last complete sweep ever. Like `run`, not part of the fold.
    pub last_complete: Option<Timestamp>,
}

impl ScopeState {
    pub fn is_open(&self) -> bool {
        self.intervals.last().is_some_and(|(_, closed)| closed.is_none())
    }

    /// Whether what is new to the scope existed before anybody looked: no complete sweep has ended
    /// since the scope was opened.
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

/// By whom a scope is covered: by few, and there are many scopes.
#[derive(Clone, Debug, Default)]
pub(super) struct Covers(Box<[(Viewer, Cover)]>);

impl Covers {
    pub fn of(covers: impl IntoIterator<Item = (Viewer, Cover)>) -> Self {
        Self(covers.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Viewer, Cover)> {
        self.0.iter()
    }

    pub fn viewers(&self) -> impl Iterator<Item = &Viewer> {
        self.0.iter().map(|(viewer, _)| viewer)
    }

    pub fn get(&self, viewer: &Viewer) -> Option<&Cover> {
        self.0.iter().find_map(|(other, cover)| (other == viewer).then_some(cover))
    }

    pub fn get_mut(&mut self, viewer: &Viewer) -> Option<&mut Cover> {
        self.0.iter_mut().find_map(|(other, cover)| (other == viewer).then_some(cover))
    }

    /// In the order of the viewers, in place of what there was of this one.
    fn insert(&mut self, viewer: Viewer, cover: Cover) {
        let mut covers = self.without(&viewer);
        let at = covers.partition_point(|(other, _)| *other < viewer);
        covers.insert(at, (viewer, cover));
        self.0 = covers.into();
    }

    fn remove(&mut self, viewer: &Viewer) {
        self.0 = self.without(viewer).into();
    }

    fn without(&self, viewer: &Viewer) -> Vec<(Viewer, Cover)> {
        self.0.iter().filter(|(other, _)| other != viewer).cloned().collect()
    }
}

#[derive(Clone)]
pub(super) struct State {
    pub revision: Revision,
    pub time: Timestamp,
    pub heads: Heads,
    /// Lives that were missed, and of which nothing has confirmed yet that they ended.
    pub suspects: OrdMap<Rid, Suspect>,
    pub scopes: OrdMap<ScopeNo, Arc<ScopeState>>,
    pub scope_numbers: ScopeNumbers,
    pub next_rid: Rid,
    /// How many lives have ended until now, whether taken back or not.
    pub ends: u64,
    /// Not part of the fold: a document names the one that it needs.
    pub dictionaries: Arc<Dictionaries>,
    /// Interned tag sets by number.
    pub tag_sets: Vector<TagSet>,
    /// Which of them have a tag.
    pub tag_index: Arc<TagIndex>,
    /// Not part of the fold: what of the past is kept.
    pub kept: Arc<Kept>,
}

/// Scopes by a hash of 128 bits, so that nothing of them must be read to find one.
#[derive(Clone, Default)]
pub(super) struct ScopeNumbers(HashMap<u128, ScopeNo>);

impl ScopeNumbers {
    fn hash(scope: &Scope) -> u128 {
        let Scope { provider, partition, endpoint, account, region, resource_type } = scope;
        let parts = [provider, partition, endpoint, account.as_str(), region.as_str(), resource_type.as_str()];
        let mut hash = Xxh3::new();
        for part in parts {
            // No part can pass for the end of one and the beginning of the next.
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
            dictionaries: Arc::default(),
            tag_sets: Vector::new(),
            tag_index: Arc::default(),
            kept: Arc::default(),
        }
    }
}

/// Many scopes, few names: each is held once.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

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
pub(super) struct TagNumbers(std::collections::HashMap<TagSet, u32, Xxh3DefaultBuilder>);

impl TagNumbers {
    pub fn new(state: &State) -> Self {
        Self(state.tag_sets.iter().cloned().zip(0..).collect())
    }

    /// The reference to these tags, for which a set that is new gets the next number of the state.
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

/// What came and went in each scope, in what is folded.
#[derive(Default)]
pub(super) struct Moves(BTreeMap<ScopeNo, Moved>);

#[derive(Default)]
struct Moved {
    /// Those that go on at the end of it, with their ids.
    begun: BTreeMap<Rid, Arc<str>>,
    ended: BTreeSet<Rid>,
}

impl Moves {
    fn of(&mut self, scope: ScopeNo) -> &mut Moved {
        self.0.entry(scope).or_default()
    }
}

/// The lives that begin, or go on after all, in what is folded.
pub(super) trait Beginnings {
    fn life(&mut self, rid: Rid) -> Result<Life, StoreError>;
}

impl State {
    /// Nothing but the names that numbers of the file stand for.
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

    /// Scopes come from those who share their names: [`Names`] where they are read.
    pub fn add_scope(&mut self, number: ScopeNo, scope: Arc<Scope>) {
        self.scope_numbers.insert(&scope, number);
        let state = ScopeState {
            scope,
            intervals: Vec::new(),
            covers: Covers::default(),
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

    /// Whether these are the tags that are meant.
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

    /// The life that goes on under an id.
    pub fn rid(&self, scope: ScopeNo, id: &str) -> Option<Rid> {
        let known = self.scopes.get(&scope)?;
        if known.order.len() < FEW {
            return self.find(scope, id);
        }
        let index = known.index.get_or_init(|| Arc::new(IdIndex::of(&known.order, |rid| self.id(rid))));
        index.find(id, |rid| self.id(rid) == id)
    }

    /// The same without an index, for who changes the scope with every question: each change drops the index.
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

    /// Folds one revision in. Two entries of one life are in the order in which they happened.
    pub fn apply(
        &mut self,
        revision: Revision,
        row: &RevRow,
        entries: &[Entry],
        beginnings: &mut dyn Beginnings,
    ) -> Result<(), StoreError> {
        let mut moves = Moves::default();
        self.fold(revision, row, entries, beginnings, &mut moves)?;
        self.reorder(moves);
        Ok(())
    }

    /// As [`State::apply`], but for the orders of the scopes: whoever folds many revisions puts them in order once, at
    /// the end.
    pub fn fold(
        &mut self,
        revision: Revision,
        row: &RevRow,
        entries: &[Entry],
        beginnings: &mut dyn Beginnings,
        moves: &mut Moves,
    ) -> Result<(), StoreError> {
        assert!(revision > self.revision, "revisions are folded in order");
        assert!(row.time >= self.time, "time never goes back between revisions");
        self.revision = revision;
        self.time = row.time;
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
                _ => self.go_on(revision, entry),
            }
        }
        Ok(())
    }

    fn apply_to_scope(&mut self, revision: Revision, row: &RevRow, kind: &EntryKind) {
        let scope = self.scope_mut(row.scope);
        match kind {
            EntryKind::ScopeOpened { started } => {
                assert!(!scope.is_open(), "an open scope is not opened again");
                // From the look on that opened it, which lies before its commit: it is what
                // `is_baseline` measures the later ones by.
                // Most are opened once.
                scope.intervals.reserve_exact(1);
                scope.intervals.push((*started, None));
            }
            EntryKind::ScopeClosed => {
                let last = scope.intervals.last_mut().expect("a scope that closes was open");
                assert!(last.1.is_none(), "a closed scope is not closed again");
                last.1 = Some(row.time);
            }
            EntryKind::CoverGained { viewer } => {
                let cover = Cover { from: revision, proven: row.time };
                scope.covers.insert(Viewer::new(viewer.clone()), cover);
            }
            EntryKind::CoverLost { viewer } => {
                scope.covers.remove(&Viewer::new(viewer.clone()));
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

    fn go_on(&mut self, revision: Revision, entry: &Entry) {
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
            // What is seen is no suspect: where single steps were thinned away, its version says so alone.
            _ => {
                self.suspects.remove(&entry.rid);
            }
        }
    }

    /// Changes the index of a scope, where there is one.
    fn change_index(&mut self, number: ScopeNo, change: impl FnOnce(&mut IdIndex, &Heads)) {
        if self.scopes.get(&number).is_none_or(|scope| scope.index.get().is_none()) {
            return;
        }
        let Some(mut index) = self.scope_mut(number).index.take() else { return };
        change(Arc::make_mut(&mut index), &self.heads);
        self.scope_mut(number).index = index.into();
    }

    /// Takes out of the orders what ended, and puts in what began, once for each scope.
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
            // The next who asks makes a larger one.
            self.scope_mut(number).index = OnceLock::new();
        }
    }

    /// Lives in the order of their ids, and others in the same, as one order.
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
