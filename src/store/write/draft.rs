//! A delta before it is written: a caller drafts it against its state, under the lock of the scope; the writer
//! assigns its numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inventory::{Change, ChangeKind, End, EndCause, Revision, Scope, Subscriber, Suspect, Timestamp};
use crate::store::StoreError;
use crate::store::file::lives::Ended;
use crate::store::file::lives::{Life, Tombstone};
use crate::store::file::log::Logged;
use crate::store::file::tables::{Entry, EntryKind, NO_RID, OpenSweepRow, Rid, Run, ScopeNo, Version};
use crate::store::state::{Beginnings, State, TagNumbers};
use crate::store::write::plan::{Action, Before, NewVersion, Plan, PlannedStep};

/// What is to be recorded of one scope.
pub(in crate::store) struct Draft {
    pub scope: Scope,
    /// The end of its sweep.
    pub ended: Timestamp,
    /// About the scope itself.
    pub entries: Vec<EntryKind>,
    pub plan: Plan,
    /// The run that the sweep is part of.
    pub run: Option<Run>,
    /// The subscriber whose visibility this sweep proves.
    pub proof: Option<Subscriber>,
    /// The proof in the file is old.
    pub is_proof_due: bool,
    /// More of the same sweep follows.
    pub open_sweep: Option<OpenSweepRow>,
}

impl Draft {
    pub fn new(scope: Scope, ended: Timestamp) -> Self {
        Self {
            scope,
            ended,
            entries: Vec::new(),
            plan: Plan::default(),
            run: None,
            proof: None,
            is_proof_due: false,
            open_sweep: None,
        }
    }

    /// Whether there is more to write than an extended run of the ledger.
    pub fn must_write(&self) -> bool {
        !self.entries.is_empty()
            || !self.plan.steps.is_empty()
            || !self.plan.counted.is_empty()
            || self.is_proof_due
    }

    /// Splits the draft into pieces of about `bytes`, of which the last concludes: what was seen may be recorded
    /// before the sweep is over; ends from absence, the run and the visibility stay with the last.
    pub fn pieces(mut self, bytes: usize, open_sweep: OpenSweepRow) -> Vec<Self> {
        let size = |step: &PlannedStep| step.action.version().map_or(0, |version| version.document.len());
        if self.plan.steps.iter().map(size).sum::<usize>() <= bytes {
            return vec![self];
        }
        let (seen, concluded): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.plan.steps).into_iter().partition(|step| !step.is_from_absence);
        let mut pieces = Vec::new();
        let mut piece: Vec<PlannedStep> = Vec::new();
        let mut length = 0;
        for step in seen {
            // All steps of one id stay together.
            if length > bytes && piece.last().is_some_and(|last| last.id != step.id) {
                pieces.push(std::mem::take(&mut piece));
                length = 0;
            }
            length += size(&step);
            piece.push(step);
        }
        piece.extend(concluded);
        self.plan.steps = piece;
        let mut opening: Vec<EntryKind> = Vec::new();
        self.entries.retain(|kind| {
            let is_opening = matches!(kind, EntryKind::ScopeOpened { .. });
            if is_opening {
                opening.push(kind.clone());
            }
            !is_opening
        });
        let of_piece = |steps| Self {
            entries: std::mem::take(&mut opening),
            plan: Plan { steps, counted: Vec::new() },
            open_sweep: Some(open_sweep),
            ..Self::new(self.scope.clone(), self.ended)
        };
        let mut drafts: Vec<Self> = pieces.into_iter().map(of_piece).collect();
        self.entries.splice(0..0, opening);
        drafts.push(self);
        drafts
    }

    /// About how many bytes of it go into the file.
    pub fn bytes(&self) -> usize {
        let documents = self.plan.steps.iter().filter_map(|step| step.action.version());
        documents.map(|version| version.document.len()).sum()
    }
}

/// A draft with its numbers.
#[derive(Default)]
pub(in crate::store) struct Drafted {
    pub logged: Vec<Logged>,
    /// Lives that begin, with consecutive row numbers.
    pub lives: BTreeMap<Rid, Life>,
    /// Lives whose end is retracted, with their new tombstones.
    pub retracted: BTreeMap<(u64, Rid), Tombstone>,
    /// Lives that end.
    pub ended: BTreeMap<Rid, Tombstone>,
    /// Changes of the suspect rows; `None` removes one.
    pub suspects: BTreeMap<Rid, Option<Suspect>>,
    pub changes: Vec<Change>,
}

/// Assigns the numbers of a draft, in the state that its revision will be folded into.
struct Numbering<'a> {
    next: &'a mut State,
    numbers: &'a mut TagNumbers,
    scope: ScopeNo,
    name: Scope,
    revision: Revision,
    time: Timestamp,
    swept: Timestamp,
    out: Drafted,
}

impl Drafted {
    pub fn number(
        draft: Draft,
        scope: ScopeNo,
        time: Timestamp,
        next: &mut State,
        numbers: &mut TagNumbers,
    ) -> Self {
        let revision = next.revision.next();
        let about_scope = |kind| Logged {
            entry: Entry { rid: NO_RID, prev: 0, milestone: None, kind, has_document: false },
            document: Vec::new(),
        };
        let logged = draft.entries.into_iter().map(about_scope).collect();
        let out = Self { logged, ..Self::default() };
        let mut numbering =
            Numbering { next, numbers, scope, name: draft.scope, revision, time, swept: draft.ended, out };
        for planned in draft.plan.steps {
            numbering.step(planned.id, planned.before, planned.action);
        }
        let mut out = numbering.out;
        // In the order of the table.
        for (number, tombstone) in (next.ends + 1..).zip(out.ended.values_mut()) {
            tombstone.number = number;
        }
        out.suspects.extend(draft.plan.counted.into_iter().map(|(rid, suspect)| (rid, Some(suspect))));
        out
    }
}

impl Numbering<'_> {
    fn step(&mut self, id: Arc<str>, before: Before, action: Action) {
        match (action, before) {
            (Action::Appear { baseline, moved_from, version }, before) => {
                self.appear(id, before, (baseline, moved_from), version);
            }
            (Action::Retract { version }, Before::Ended(ended)) => self.retract(&id, *ended, version),
            (Action::End { cause, last_seen, first_missed }, Before::Life(rid)) => {
                self.end(id, rid, cause, last_seen, first_missed);
            }
            (Action::Change { version }, Before::Life(rid)) => {
                self.change_of(ChangeKind::Changed, &id);
                let (version, document) = self.version(version);
                self.append_step(rid, EntryKind::Changed { version }, document);
            }
            (Action::Rebase { version }, Before::Life(rid)) => {
                let (version, document) = self.version(version);
                self.append_step(rid, EntryKind::Rebased { version }, document);
            }
            (Action::Suspect(suspect), Before::Life(rid)) => {
                let Suspect { last_seen, first_missed, misses, held } = suspect;
                self.out.suspects.insert(rid, Some(suspect));
                self.append_step(rid, EntryKind::Suspected { last_seen, first_missed, misses, held }, Vec::new());
            }
            (Action::Clear, Before::Life(rid)) => {
                self.out.suspects.insert(rid, None);
                self.append_step(rid, EntryKind::Cleared, Vec::new());
            }
            (action, before) => unreachable!("{action:?} of {before:?}"),
        }
    }

    fn appear(
        &mut self,
        id: Arc<str>,
        before: Before,
        (baseline, moved_from): (bool, Option<Rid>),
        version: NewVersion,
    ) {
        let rid = self.next.next_rid;
        self.next.next_rid += 1;
        let (before, replaced) = match before {
            Before::Nothing => (None, false),
            // It ended in this same revision: its id has another birth.
            Before::Life(rid) => (Some((rid, self.revision.0)), true),
            Before::Ended(ended) => (Some((ended.rid, ended.revision)), false),
        };
        // Whether it moved is known when the other life ends. That may have happened meanwhile: the other scope's
        // lock is not held.
        let moved_from = moved_from.filter(|rid| self.next.heads.has(*rid));
        let change = self.change_of(ChangeKind::Appeared, &id);
        change.baseline = baseline;
        change.replaced = replaced;
        let birth = version.birth;
        let life = Life { scope: self.scope, id, first_seen: self.swept, birth, baseline, before, moved_from };
        self.out.lives.insert(rid, life);
        let (version, document) = self.version(version);
        // The life itself records its birth.
        let kind = EntryKind::Appeared { version: Version { birth: None, ..version } };
        self.log(rid, 0, Some(0), kind, document);
    }

    fn retract(&mut self, id: &str, ended: Ended, version: NewVersion) {
        self.change_of(ChangeKind::Appeared, id).retracted = true;
        let (version, document) = self.version(version);
        let tombstone = Tombstone { retracted: Some(self.revision.0), ..ended.tombstone };
        self.out.retracted.insert((ended.revision, ended.rid), tombstone);
        let kind = EntryKind::Retracted { version };
        self.log(ended.rid, ended.revision, Some(ended.revision), kind, document);
    }

    fn end(&mut self, id: Arc<str>, rid: Rid, cause: EndCause, last_seen: Timestamp, first_missed: Timestamp) {
        let head = self.next.head(rid);
        let (scope, first_seen, baseline) = (head.scope, head.first_seen, head.baseline);
        let tombstone = Tombstone {
            number: 0,
            life: Life {
                scope,
                id: id.clone(),
                first_seen,
                birth: head.birth,
                baseline,
                before: None,
                moved_from: None,
            },
            cause,
            last_seen,
            first_missed,
            concluded: self.time,
            tags: head.tags,
            shape: head.shape,
            document: head.document,
            retracted: None,
        };
        let end: End = tombstone.end(self.revision.0);
        let change = self.change_of(ChangeKind::Disappeared, &id);
        *change = change.clone().ended(end);
        self.out.ended.insert(rid, tombstone);
        self.out.suspects.insert(rid, None);
        self.append_step(rid, EntryKind::Ended, Vec::new());
    }

    fn version(&mut self, new: NewVersion) -> (Version, Vec<u8>) {
        let version = Version {
            fingerprint: new.fingerprint.to_le_bytes(),
            tags: new.tags.map(|tags| self.numbers.intern(self.next, &tags)),
            birth: new.birth,
            shape: new.shape,
        };
        (version, new.document)
    }

    /// The next step of a live resource.
    fn append_step(&mut self, rid: Rid, kind: EntryKind, document: Vec<u8>) {
        // The second of two steps in one revision follows the first: they are stored side by side.
        let head = self.next.head(rid);
        let milestone = kind.is_milestone().then_some(head.milestone);
        self.log(rid, head.last_entry, milestone, kind, document);
    }

    fn log(&mut self, rid: Rid, prev: u64, milestone: Option<u64>, kind: EntryKind, document: Vec<u8>) {
        let has_document = !document.is_empty();
        self.out.logged.push(Logged { entry: Entry { rid, prev, milestone, kind, has_document }, document });
    }

    /// Adds a change that is reported.
    fn change_of(&mut self, change: ChangeKind, id: &str) -> &mut Change {
        self.out.changes.push(Change::new(change, self.name.key(id), self.revision, self.time));
        self.out.changes.last_mut().expect("it was pushed")
    }
}

impl Beginnings for Drafted {
    fn life(&mut self, rid: Rid) -> Result<Life, StoreError> {
        if let Some(life) = self.lives.get(&rid) {
            return Ok(life.clone());
        }
        let of_it =
            |((_, ended), tombstone): (&(u64, Rid), &Tombstone)| (*ended == rid).then(|| tombstone.life.clone());
        self.retracted.iter().find_map(of_it).ok_or(StoreError::Damaged { table: "life" })
    }
}
