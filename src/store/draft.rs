//! One delta on its way into the file: a caller drafts it against the state that it sees, under its
//! scope's lock; the writer gives it its numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::log::Logged;
use super::plan::{Action, NewVersion, Plan};
use super::record::{Entry, EntryKind, Ident, NO_RID, Rid, Run, ScopeNo, Version};
use super::state::{Identities, State};
use crate::inventory::{Change, ChangeKind, End, EndCause, Revision, Scope, Suspect, Timestamp, Viewer};

/// What is to be recorded of one scope.
pub(super) struct Draft {
    pub scope: Scope,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// About the scope itself.
    pub entries: Vec<EntryKind>,
    pub plan: Plan,
    /// Of each planned version, by the resource's id, as [`super::document`] writes it.
    pub documents: BTreeMap<Arc<str>, Vec<u8>>,
    /// The run that the sweep is part of.
    pub run: Option<Run>,
    /// Who proved its cover by this sweep.
    pub proof: Option<Viewer>,
    /// The file's proof of it is old.
    pub is_proof_due: bool,
}

impl Draft {
    pub fn new(scope: Scope, started: Timestamp, ended: Timestamp) -> Self {
        Self {
            scope,
            started,
            ended,
            entries: Vec::new(),
            plan: Plan::default(),
            documents: BTreeMap::new(),
            run: None,
            proof: None,
            is_proof_due: false,
        }
    }

    /// Whether there is more to write than a run of the ledger that got longer.
    pub fn must_write(&self) -> bool {
        !self.entries.is_empty()
            || !self.plan.steps.is_empty()
            || !self.plan.counted.is_empty()
            || self.is_proof_due
    }
}

/// A draft with its numbers.
pub(super) struct Drafted {
    scope: Scope,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub entries: Vec<Entry>,
    documents: BTreeMap<Rid, Vec<u8>>,
    pub idents: BTreeMap<Rid, Ident>,
    pub counted: Vec<(Rid, Suspect)>,
    /// What becomes of the suspect rows.
    pub suspects: BTreeMap<Rid, Option<Suspect>>,
    changes: Vec<(ChangeKind, Arc<str>, ChangeFlags, Option<End>)>,
}

#[derive(Clone, Copy, Default)]
struct ChangeFlags {
    baseline: bool,
    replaced: bool,
    retracted: bool,
}

impl Drafted {
    pub fn number(draft: Draft, scope: ScopeNo, next: &mut State) -> Self {
        let about_scope = |kind| Entry { rid: NO_RID, prev: 0, milestone: None, kind };
        let mut drafted = Self {
            scope: draft.scope,
            started: draft.started,
            ended: draft.ended,
            entries: draft.entries.into_iter().map(about_scope).collect(),
            documents: BTreeMap::new(),
            idents: BTreeMap::new(),
            counted: Vec::new(),
            suspects: BTreeMap::new(),
            changes: Vec::new(),
        };
        let mut documents = draft.documents;
        for planned in draft.plan.steps {
            let rid = planned.rid.or_else(|| next.rid(scope, &planned.id)).unwrap_or_else(|| {
                let rid = next.next_rid;
                next.next_rid += 1;
                drafted.idents.insert(rid, Ident { scope, id: planned.id.clone() });
                rid
            });
            let head = next.heads.get(&rid).cloned();
            let kind = drafted.translate(next, rid, &planned.id, planned.action);
            if kind.version().is_some()
                && let Some(document) = documents.remove(&planned.id)
            {
                drafted.documents.insert(rid, document);
            }
            let is_milestone = kind.is_milestone(head.as_ref().map(|head| head.version.tags));
            let milestone = is_milestone.then(|| head.as_ref().map_or(0, |head| head.milestone));
            let prev = head.map_or(0, |head| head.last_entry);
            drafted.entries.push(Entry { rid, prev, milestone, kind });
        }
        for (rid, suspect) in draft.plan.counted {
            drafted.suspects.insert(rid, Some(suspect.clone()));
            drafted.counted.push((rid, suspect));
        }
        drafted
    }

    fn translate(&mut self, next: &mut State, rid: Rid, id: &Arc<str>, action: Action) -> EntryKind {
        let mut change = |kind, flags, end| self.changes.push((kind, id.clone(), flags, end));
        match action {
            Action::Appear { baseline, replaced, version } => {
                change(ChangeKind::Appeared, ChangeFlags { baseline, replaced, ..ChangeFlags::default() }, None);
                EntryKind::Appeared { baseline, version: numbered(next, &version) }
            }
            Action::Change { version } => {
                change(ChangeKind::Changed, ChangeFlags::default(), None);
                EntryKind::Changed { version: numbered(next, &version) }
            }
            Action::Rebase { version } => EntryKind::Rebased { version: numbered(next, &version) },
            Action::End { cause, last_seen, first_missed } => {
                let end = End {
                    cause: cause.clone(),
                    last_seen,
                    first_missed,
                    concluded: Timestamp::default(),
                    revision: Revision::ZERO,
                };
                let replaced = cause == EndCause::Replaced;
                change(ChangeKind::Disappeared, ChangeFlags { replaced, ..ChangeFlags::default() }, Some(end));
                self.suspects.insert(rid, None);
                EntryKind::Ended { cause, last_seen, first_missed }
            }
            Action::Retract { version } => {
                let flags = ChangeFlags { retracted: true, ..ChangeFlags::default() };
                change(ChangeKind::Appeared, flags, None);
                EntryKind::Retracted { version: numbered(next, &version) }
            }
            Action::Suspect(suspect) => {
                self.suspects.insert(rid, Some(suspect.clone()));
                let Suspect { last_seen, first_missed, misses, held } = suspect;
                EntryKind::Suspected { last_seen, first_missed, misses, held }
            }
            Action::Clear => {
                self.suspects.insert(rid, None);
                EntryKind::Cleared
            }
        }
    }

    /// The entries, each with its document.
    pub fn logged(&mut self) -> Vec<Logged> {
        let with_document = |entry: &Entry| {
            let document = entry.kind.version().and_then(|_| self.documents.remove(&entry.rid));
            Logged { entry: entry.clone(), document: document.unwrap_or_default() }
        };
        self.entries.iter().map(with_document).collect()
    }

    /// What people are told of this delta.
    pub fn changes(&self, revision: Revision, time: Timestamp) -> Vec<Change> {
        let told = |(change, id, flags, end): &(ChangeKind, Arc<str>, ChangeFlags, Option<End>)| Change {
            change: *change,
            resource: self.scope.key(id),
            revision,
            time,
            baseline: flags.baseline,
            replaced: flags.replaced,
            retracted: flags.retracted,
            end: end.clone().map(|end| End { concluded: time, revision, ..end }),
            fields: Vec::new(),
        };
        self.changes.iter().map(told).collect()
    }
}

fn numbered(next: &mut State, new: &NewVersion) -> Version {
    Version { fingerprint: new.fingerprint, tags: next.intern(&new.tags), birth: new.birth, shape: new.shape }
}

impl Identities for Drafted {
    fn ident(&self, rid: Rid) -> Option<(ScopeNo, Arc<str>)> {
        self.idents.get(&rid).map(|ident| (ident.scope, ident.id.clone()))
    }
}
