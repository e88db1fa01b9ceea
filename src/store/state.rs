//! State at a revision: the fold of all deltas up to it.
//!
//! [`State::apply`] is the one fold. A live commit, opening a file and looking at a past revision all
//! go through it, so they can't disagree. The maps are persistent (imbl): a reader's copy costs
//! nothing and the writer never waits for it.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, Vector};

use super::document::Dictionaries;
use super::record::{Entry, EntryKind, NO_RID, RevRow, Rid, Run, ScopeNo, TagsRef, Version};
use crate::inventory::{Cover, End, EndCause, Revision, Scope, Suspect, TagSet, Tags, Timestamp, Viewer};

/// A resource's present life.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub scope: ScopeNo,
    pub id: Arc<str>,
    /// Revision of its newest entry: where its history begins to be walked back.
    pub last_entry: u64,
    /// Revision of its newest milestone.
    pub milestone: u64,
    /// Revision that holds its newest document.
    pub document: u64,
    pub version: Version,
    pub first_seen: Timestamp,
    pub baseline: bool,
    pub changed: Revision,
    pub suspect: Option<Suspect>,
    pub end: Option<End>,
    pub retracted: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ScopeState {
    pub scope: Arc<Scope>,
    /// When it was opened and closed, oldest first.
    pub intervals: Vec<(Timestamp, Option<Timestamp>)>,
    pub covers: OrdMap<Viewer, Cover>,
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

#[derive(Clone)]
pub(super) struct State {
    pub revision: Revision,
    pub time: Timestamp,
    pub heads: OrdMap<Rid, Arc<Head>>,
    pub by_scope: HashMap<ScopeNo, OrdMap<Arc<str>, Rid>>,
    pub scopes: OrdMap<ScopeNo, Arc<ScopeState>>,
    pub scope_numbers: HashMap<Arc<Scope>, ScopeNo>,
    pub next_rid: Rid,
    /// Not part of the fold: a document names the one that it needs.
    pub dictionaries: Arc<Dictionaries>,
    /// Interned tag sets by number, and their numbers.
    pub tag_sets: Vector<Arc<TagSet>>,
    pub tag_set_numbers: HashMap<Arc<TagSet>, u32>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: Revision::ZERO,
            time: Timestamp::default(),
            heads: OrdMap::new(),
            by_scope: HashMap::new(),
            scopes: OrdMap::new(),
            scope_numbers: HashMap::new(),
            next_rid: NO_RID + 1,
            dictionaries: Arc::default(),
            tag_sets: Vector::new(),
            tag_set_numbers: HashMap::new(),
        }
    }
}

/// The identity of an entry's resource, where the fold meets it for the first time.
pub(super) trait Identities {
    fn ident(&self, rid: Rid) -> Option<(ScopeNo, Arc<str>)>;
}

impl State {
    pub fn add_scope(&mut self, number: ScopeNo, scope: Arc<Scope>) {
        self.scope_numbers.insert(scope.clone(), number);
        let state =
            ScopeState { scope, intervals: Vec::new(), covers: OrdMap::new(), run: None, last_complete: None };
        self.scopes.insert(number, Arc::new(state));
    }

    pub fn tags(&self, tags: TagsRef) -> Tags {
        match tags {
            TagsRef::Unknown => Tags::Unknown,
            TagsRef::Untaggable => Tags::Untaggable,
            TagsRef::Set(number) => Tags::Known(TagSet::clone(&self.tag_sets[number as usize])),
        }
    }

    pub fn intern(&mut self, tags: &Tags) -> TagsRef {
        let set = match tags {
            Tags::Unknown => return TagsRef::Unknown,
            Tags::Untaggable => return TagsRef::Untaggable,
            Tags::Known(set) => set,
        };
        if let Some(number) = self.tag_set_numbers.get(set) {
            return TagsRef::Set(*number);
        }
        let number = u32::try_from(self.tag_sets.len()).expect("fewer than 2^32 tag sets");
        self.add_tag_set(Arc::new(set.clone()));
        TagsRef::Set(number)
    }

    pub fn add_tag_set(&mut self, set: Arc<TagSet>) {
        let number = u32::try_from(self.tag_sets.len()).expect("fewer than 2^32 tag sets");
        self.tag_set_numbers.insert(set.clone(), number);
        self.tag_sets.push_back(set);
    }

    pub fn scope_mut(&mut self, number: ScopeNo) -> &mut ScopeState {
        Arc::make_mut(self.scopes.get_mut(&number).expect("every numbered scope is in the state"))
    }

    pub fn rid(&self, scope: ScopeNo, id: &str) -> Option<Rid> {
        self.by_scope.get(&scope)?.get(id).copied()
    }

    pub fn live_in(&self, scope: ScopeNo) -> impl Iterator<Item = (Rid, &Arc<Head>)> {
        self.by_scope
            .get(&scope)
            .into_iter()
            .flat_map(|ids| ids.values())
            .map(|rid| (*rid, &self.heads[rid]))
            .filter(|(_, head)| head.end.is_none())
    }

    /// Folds one revision in. Entries are in the order in which they happened.
    pub fn apply(&mut self, revision: Revision, row: &RevRow, entries: &[Entry], identities: &dyn Identities) {
        assert!(revision > self.revision, "revisions are folded in order");
        assert!(row.time >= self.time, "time never goes back between revisions");
        self.revision = revision;
        self.time = row.time;
        for entry in entries {
            if entry.rid == NO_RID {
                self.apply_to_scope(revision, row, &entry.kind);
            } else {
                self.apply_to_resource(revision, row, entry, identities);
            }
        }
    }

    fn apply_to_scope(&mut self, revision: Revision, row: &RevRow, kind: &EntryKind) {
        let scope = self.scope_mut(row.scope);
        match kind {
            EntryKind::ScopeOpened => {
                assert!(!scope.is_open(), "an open scope is not opened again");
                // From the look on that opened it, which lies before its commit: it is what
                // `is_baseline` measures the later ones by.
                scope.intervals.push((row.started, None));
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

    fn apply_to_resource(&mut self, revision: Revision, row: &RevRow, entry: &Entry, identities: &dyn Identities) {
        let rid = entry.rid;
        if let EntryKind::Appeared { baseline, version } = &entry.kind {
            let (scope, id) = match self.heads.get(&rid) {
                Some(head) => (head.scope, head.id.clone()),
                None => identities.ident(rid).expect("every rid of the log has an identity"),
            };
            self.by_scope.entry(scope).or_default().insert(id.clone(), rid);
            self.next_rid = self.next_rid.max(rid + 1);
            let head = Head {
                scope,
                id,
                last_entry: revision.0,
                milestone: revision.0,
                document: revision.0,
                version: version.clone(),
                first_seen: row.ended,
                baseline: *baseline,
                changed: revision,
                suspect: None,
                end: None,
                retracted: false,
            };
            self.heads.insert(rid, Arc::new(head));
            return;
        }
        let head = Arc::make_mut(self.heads.get_mut(&rid).expect("a life begins with Appeared"));
        head.last_entry = revision.0;
        if entry.milestone.is_some() {
            head.milestone = revision.0;
        }
        if let Some(version) = entry.kind.version() {
            head.version = version.clone();
            head.document = revision.0;
        }
        match &entry.kind {
            EntryKind::Changed { .. } => head.changed = revision,
            EntryKind::Rebased { .. } => {}
            EntryKind::Ended { cause, last_seen, first_missed } => {
                assert!(head.end.is_none(), "a life ends once");
                head.suspect = None;
                head.changed = revision;
                head.end = Some(End {
                    cause: cause.clone(),
                    last_seen: *last_seen,
                    first_missed: *first_missed,
                    concluded: row.time,
                    revision,
                });
            }
            EntryKind::Retracted { .. } => {
                assert!(head.end.is_some(), "only an end can be retracted");
                assert!(!matches!(head.end.as_ref().map(|e| &e.cause), Some(EndCause::Replaced)));
                head.end = None;
                head.retracted = true;
                head.changed = revision;
            }
            EntryKind::Suspected { last_seen, first_missed, misses, held } => {
                head.suspect = Some(Suspect {
                    last_seen: *last_seen,
                    first_missed: *first_missed,
                    misses: *misses,
                    held: *held,
                });
            }
            EntryKind::Cleared => head.suspect = None,
            other => unreachable!("{other:?} is about a scope"),
        }
    }
}
