//! One sweep of one scope: list, confirm what is missing, commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;

use super::Subscription;
use super::schedule::Due;
use super::visibility::{Tried, VisibilityRules};
use crate::cloud::{CloudError, Session, TypeInfo};
use crate::inventory::{
    Absence, CONFIRMATION_SPACING_MIN, Change, Confirmation, Observation, Outcome, Part, Reason, Scope,
    Subscriber, Sweep, TagSet, Tags, Timestamp, Unread,
};
use crate::store::{Missed, Recorded, Store, StoreError};

/// The maximum number of concurrent reads by id, for one scope.
const READS_IN_FLIGHT: usize = 4;
/// The size of the documents of a listing from which they are recorded as a page, before the listing is complete.
pub(super) const PAGE_MAX_BYTES: usize = 1 << 20;

/// A CloudScan that may list a scope.
#[derive(Clone, Copy)]
pub(super) struct SweepCandidate<'a> {
    pub subscription: &'a Subscription,
    pub session: &'a Arc<dyn Session>,
}

/// A scope to sweep, and who may.
pub(super) struct SweepPlan<'a> {
    pub due: Due,
    pub info: TypeInfo,
    /// The strictest setting of all CloudScans that see the scope, whichever lists it; `None` for the type's own.
    pub confirmations: Option<u32>,
    /// In the order in which they are tried.
    pub candidates: Vec<SweepCandidate<'a>>,
    /// CloudScans whose proof that they may see the scope has lapsed: each must list it with its own credentials
    /// before it sees what those of another list.
    pub lapsed: Vec<SweepCandidate<'a>>,
    pub visibility: &'a VisibilityRules,
}

/// The CloudScans that see a scope, while it is swept.
struct Audience<'a> {
    lapsed: Vec<SweepCandidate<'a>>,
    visibility: &'a VisibilityRules,
    tried: Tried,
}

/// The CloudScan whose credentials listed a scope. A complete listing proves that it may see the scope.
#[derive(Clone)]
pub(super) struct Lister {
    pub subscriber: Subscriber,
    pub tenant: Arc<str>,
}

/// One swept scope.
pub(super) struct SweptScope {
    pub info: TypeInfo,
    /// With the observations that are not recorded yet.
    pub sweep: Sweep,
    pub listed: Recorded,
    /// Resources that lived in the scope and that a complete sweep missed.
    pub missed: Vec<Missed>,
    /// The changes of its pages, and of the pages of listings that failed before it.
    pub changes: Vec<Change>,
    /// Why a page could not be recorded: the sweep stops then.
    pub unrecorded: Option<StoreError>,
    /// How many resources lived in the scope before.
    pub live_before: usize,
    /// No sweep can confirm what is held: a user must release it.
    pub awaits_release: bool,
    pub unread: BTreeMap<Unread, usize>,
    /// Resources with known tags that could not be read again.
    pub earlier_tags: Vec<String>,
    /// The CloudScan with whose credentials it was listed.
    pub lister: Lister,
    pub session: Arc<dyn Session>,
    pub error: Option<CloudError>,
    pub tried: Tried,
    /// A CloudScan that has not proven that it may see the scope requested it, and its credentials failed: nothing
    /// is recorded.
    pub is_unproven_failure: bool,
}

impl SweptScope {
    pub fn shown(&self) -> usize {
        self.listed.shown() + self.sweep.observations.len()
    }

    /// All of it was listed, and is or can be recorded.
    pub fn is_whole(&self) -> bool {
        self.sweep.outcome.is_complete() && self.unrecorded.is_none()
    }
}

/// A sweep, and the result of committing it.
pub(super) struct Committed {
    pub swept: SweptScope,
    /// How many resources the sweep returned.
    pub shown: usize,
    /// Why it is not recorded.
    pub error: Option<StoreError>,
}

/// The result of one listing of a scope.
pub(super) struct RecordedListing {
    pub started: Timestamp,
    pub recorded: Recorded,
    pub unrecorded: Option<StoreError>,
    /// The observations that are not recorded yet.
    pub observations: Vec<Observation>,
    pub unread: BTreeMap<Unread, usize>,
    pub earlier_tags: Vec<String>,
    pub error: Option<CloudError>,
}

impl RecordedListing {
    fn begun(started: Timestamp) -> Self {
        Self {
            started,
            recorded: Recorded::default(),
            unrecorded: None,
            observations: Vec::new(),
            unread: BTreeMap::new(),
            earlier_tags: Vec::new(),
            error: None,
        }
    }

    pub fn shown(&self) -> usize {
        self.recorded.shown() + self.observations.len()
    }

    /// The error if parts of the listed resources may not be read.
    pub fn denied(&self) -> Option<CloudError> {
        let is_denied = |unread: &&Unread| matches!(unread.reason, Reason::Denied | Reason::DeniedByPolicy);
        let Unread { part, reason, action } = self.unread.keys().find(is_denied)?;
        let part = match part {
            Part::Attributes => "attributes",
            Part::Tags => "tags",
        };
        let message = format!(
            "it may list these resources and not read their {part} ({action}), which others that share the account read"
        );
        Some(CloudError { action: Some(action.clone()), ..CloudError::new(*reason, message) })
    }

    /// Prefers a complete listing, then one with more resources, then one with fewer unread parts.
    pub fn shows_more_than(&self, other: &Self) -> bool {
        let rank = |listed: &Self| {
            (listed.error.is_none(), listed.shown(), std::cmp::Reverse(listed.unread.values().sum::<usize>()))
        };
        rank(self) > rank(other)
    }

    pub fn outcome(&self) -> Outcome {
        match &self.error {
            // Listing stopped when recording failed.
            None if self.unrecorded.is_some() => Outcome::Partial(Reason::Interrupted),
            None => Outcome::Complete,
            Some(error) if self.shown() == 0 => Outcome::Failed(error.reason),
            Some(error) => Outcome::Partial(error.reason),
        }
    }
}

/// Sweeps scopes, and records what it sees.
pub(super) struct Sweeper {
    pub store: Store,
    /// The size of the documents from which they are recorded as a page.
    pub page_bytes: usize,
}

impl Sweeper {
    /// Lists one scope with the credentials of the first candidate that works.
    #[tracing::instrument(
        name = "sweep", skip_all, fields(region = %planned.due.scope.region, resource_type = %planned.due.scope.resource_type, outcome)
    )]
    pub async fn sweep(&self, planned: SweepPlan<'_>) -> SweptScope {
        let SweepPlan { due, info, confirmations, candidates, lapsed, visibility } = planned;
        let Due { scope, cadence, only } = due;
        let now = self.store.now();
        let confirmation = match info.confirmation {
            Confirmation::ReadById => Confirmation::ReadById,
            Confirmation::Sweeps { needed, .. } => Confirmation::Sweeps {
                needed: confirmations.unwrap_or(needed),
                apart: cadence.max(CONFIRMATION_SPACING_MIN),
            },
        };
        let live_before = self.store.live_count(&scope);
        let blank = Sweep {
            scope,
            started: now,
            ended: now,
            cadence: (!cadence.is_zero()).then_some(cadence),
            shape: info.shape,
            ids: info.ids,
            confirmation,
            // Until its end is known.
            outcome: Outcome::Partial(Reason::Interrupted),
            observations: Vec::new(),
            absences: BTreeMap::new(),
            held: false,
            skew_millis: 0,
        };
        let mut audience = Audience { lapsed, visibility, tried: Tried::default() };
        let (mut listed, by, changes) = self.list_with(candidates, &blank, &info, &mut audience).await;
        let is_unproven_failure = only.is_some() && !listed.outcome().is_complete();
        if listed.shown() > 0 && !is_unproven_failure || listed.outcome().is_complete() {
            let admitted = self.admit(&blank.scope, by, &mut audience).await;
            listed.unrecorded = listed.unrecorded.or(admitted.err());
        }
        let mut tried = audience.tried;
        let outcome = listed.outcome();
        // A CloudScan that may read less than others is not shown what they read.
        if outcome.is_complete() && listed.denied().is_none() {
            tried.failed.append(&mut tried.partially_denied);
        }
        tracing::Span::current().record("outcome", outcome.as_str());
        let RecordedListing { started, recorded, unrecorded, observations, unread, earlier_tags, error } = listed;
        let skew_millis = by.session.skew_millis();
        let sweep = Sweep { started, ended: self.store.now(), outcome, observations, skew_millis, ..blank };
        let mut swept = SweptScope {
            info,
            sweep,
            listed: recorded,
            missed: Vec::new(),
            changes,
            unrecorded,
            live_before,
            awaits_release: false,
            unread,
            earlier_tags,
            lister: Lister {
                subscriber: by.subscription.subscriber.clone(),
                tenant: by.subscription.tenant.clone(),
            },
            session: by.session.clone(),
            error,
            tried,
            is_unproven_failure,
        };
        if swept.is_whole() {
            swept.missed = self.store.missed_by(&swept.sweep, &swept.listed);
            if !swept.missed.is_empty() {
                self.record_while_waiting(&mut swept).await;
            }
        }
        swept
    }

    /// Lists with one candidate after the other until a listing is complete, and returns the best listing, whose it is,
    /// and the changes that were recorded.
    async fn list_with<'a>(
        &self,
        candidates: Vec<SweepCandidate<'a>>,
        blank: &Sweep,
        info: &TypeInfo,
        audience: &mut Audience<'_>,
    ) -> (RecordedListing, SweepCandidate<'a>, Vec<Change>) {
        let mut best: Option<(RecordedListing, SweepCandidate<'_>)> = None;
        let mut changes = Vec::new();
        for candidate in candidates {
            let mut listed = self.list(blank, info, candidate, audience).await;
            changes.append(&mut listed.recorded.take_changes());
            let denied = listed.denied();
            let is_last = listed.error.is_none() && denied.is_none() || listed.unrecorded.is_some();
            let subscriber = candidate.subscription.subscriber.clone();
            if let Some(error) = &listed.error {
                audience.tried.failed.push((subscriber, listed.outcome(), error.clone()));
            } else if let Some(denied) = denied {
                let outcome = Outcome::Failed(denied.reason);
                audience.tried.partially_denied.push((subscriber, outcome, denied));
            }
            // Observations of an earlier listing must not be recorded after the pages of this one.
            let is_newer = listed.recorded.shown() > 0;
            if is_last || is_newer || best.as_ref().is_none_or(|(best, _)| listed.shows_more_than(best)) {
                best = Some((listed, candidate));
            }
            if is_last {
                break;
            }
        }
        let (listed, by) = best.expect("a due scope has a candidate");
        (listed, by, changes)
    }

    /// One listing. What exceeds a page is recorded as it arrives.
    async fn list(
        &self,
        blank: &Sweep,
        info: &TypeInfo,
        by: SweepCandidate<'_>,
        audience: &mut Audience<'_>,
    ) -> RecordedListing {
        let session = &**by.session;
        let mut listed = RecordedListing::begun(self.store.now());
        let mut pages = session.list(&blank.scope);
        while let Some(page) = pages.next().await {
            match page {
                Err(error) => listed.error = Some(error),
                Ok(mut observations) => {
                    self.verify_no_tags(&blank.scope, info, session, &mut observations).await;
                    for observation in &mut observations {
                        if self.has_earlier_tags(&blank.scope, observation) {
                            listed.earlier_tags.push(observation.id.clone());
                        }
                        for unread in std::mem::take(&mut observation.unread) {
                            *listed.unread.entry(unread).or_default() += 1;
                        }
                    }
                    listed.observations.append(&mut observations);
                }
            }
            // The rest of a failed listing must not be recorded after the pages of another listing.
            let is_cut_off = listed.error.is_some() && listed.recorded.shown() > 0;
            let is_due = is_cut_off || bytes_of(&listed.observations) >= self.page_bytes;
            if !is_due || listed.observations.is_empty() {
                continue;
            }
            let observations = std::mem::take(&mut listed.observations);
            let (started, skew_millis) = (listed.started, session.skew_millis());
            let page = Sweep { started, ended: self.store.now(), observations, skew_millis, ..blank.clone() };
            let recorded = match self.admit(&blank.scope, by, audience).await {
                Ok(()) => self.record_page(page, &mut listed.recorded).await,
                Err(error) => Err(error),
            };
            if let Err(error) = recorded {
                listed.unrecorded = Some(error);
                break;
            }
        }
        listed
    }

    /// Before the observations of `by` become visible: every CloudScan whose proof has lapsed lists the scope with its
    /// own credentials, and those that must not see what others list stop seeing the scope.
    async fn admit(
        &self,
        scope: &Scope,
        by: SweepCandidate<'_>,
        audience: &mut Audience<'_>,
    ) -> Result<(), StoreError> {
        let Audience { lapsed, visibility, tried } = audience;
        let lister = &by.subscription.subscriber;
        for one in std::mem::take(lapsed) {
            let subscriber = &one.subscription.subscriber;
            if subscriber == lister {
                // If this listing fails, the next one is another's.
                lapsed.push(one);
            } else if !tried.is_tried(subscriber) {
                self.try_out(scope, one, tried).await;
            }
        }
        let expired = visibility.expired(scope, lister, tried);
        if expired.is_empty() {
            return Ok(());
        }
        let scope = scope.clone();
        let revoke = move |store: &Store| {
            expired.iter().try_for_each(|subscriber| store.revoke_visibility(subscriber, &scope))
        };
        self.store.run_blocking(revoke).await
    }

    /// Whether a CloudScan's own credentials list the scope. What they list is not recorded.
    async fn try_out(&self, scope: &Scope, one: SweepCandidate<'_>, tried: &mut Tried) {
        let subscriber = one.subscription.subscriber.clone();
        let mut listed = RecordedListing::begun(self.store.now());
        let mut pages = one.session.list(scope);
        while let Some(page) = pages.next().await {
            match page {
                Err(error) => listed.error = Some(error),
                Ok(observations) => {
                    for unread in observations.into_iter().flat_map(|observation| observation.unread) {
                        *listed.unread.entry(unread).or_default() += 1;
                    }
                }
            }
        }
        if let Some(error) = &listed.error {
            tried.failed.push((subscriber, Outcome::Failed(error.reason), error.clone()));
        } else if let Some(denied) = listed.denied() {
            tried.partially_denied.push((subscriber, Outcome::Failed(denied.reason), denied));
        } else {
            tried.listed.insert(subscriber);
        }
    }

    /// Whether its tags are known, but not from this sweep.
    fn has_earlier_tags(&self, scope: &Scope, observation: &Observation) -> bool {
        !observation.unread.is_empty()
            && observation.tags == Tags::Unknown
            && self.store.known_tags(scope, &observation.id).is_some_and(|tags| tags.known().is_some())
    }

    async fn record_page(&self, page: Sweep, recorded: &mut Recorded) -> Result<(), StoreError> {
        let mut so_far = std::mem::take(recorded);
        *recorded = self
            .store
            .run_blocking(move |store| {
                store.record_page(&page, &mut so_far)?;
                Ok::<_, StoreError>(so_far)
            })
            .await?;
        Ok(())
    }

    /// Records the observations of a sweep that waits for the others, if they are large.
    async fn record_while_waiting(&self, swept: &mut SweptScope) {
        if bytes_of(&swept.sweep.observations) >= self.page_bytes / 4 {
            let observations = std::mem::take(&mut swept.sweep.observations);
            let page = Sweep { observations, ..swept.sweep.clone() };
            swept.unrecorded = self.record_page(page, &mut swept.listed).await.err();
            swept.changes.append(&mut swept.listed.take_changes());
        }
    }

    /// Some APIs return empty tag sets under load. If a set is empty and not already known to be empty, the tags are
    /// read again by a call that fails instead; if it fails, they are unknown.
    async fn verify_no_tags(
        &self,
        scope: &Scope,
        info: &TypeInfo,
        session: &dyn Session,
        observations: &mut [Observation],
    ) {
        let Some(verifying_action) = info.verify_tag_loss else { return };
        let is_empty = |tags: &Tags| tags.known().is_some_and(TagSet::is_empty);
        let mut doubted: Vec<&mut Observation> = observations
            .iter_mut()
            .filter(|o| is_empty(&o.tags) && o.end_state.is_none())
            .filter(|o| !self.store.known_tags(scope, &o.id).is_some_and(|known| is_empty(&known)))
            .collect();
        if doubted.is_empty() {
            return;
        }
        let ids: Vec<&str> = doubted.iter().map(|o| o.id.as_str()).collect();
        let mut answer = session.read_tags(scope, &ids).await;
        for observation in &mut doubted {
            observation.tags = match &mut answer {
                Ok(tags) => tags.remove(&observation.id).map_or(Tags::Unknown, Tags::Known),
                Err(error) => {
                    let action = error.action.clone().unwrap_or_else(|| verifying_action.to_owned());
                    observation.unread.push(Unread { part: Part::Tags, reason: error.reason, action });
                    Tags::Unknown
                }
            };
        }
    }

    /// Reads each resource that the listing missed by id.
    #[tracing::instrument(name = "confirm", skip_all)]
    pub async fn confirm(&self, swept: &mut SweptScope) {
        let Confirmation::ReadById = swept.info.confirmation else { return };
        let missed = std::mem::take(&mut swept.missed);
        let (session, scope) = (&*swept.session, &swept.sweep.scope);
        let read = |Missed { id, .. }: Missed| async move {
            let answer = session.read_by_id(scope, &id).await;
            (id, answer)
        };
        let answers: Vec<_> =
            futures::stream::iter(missed).map(read).buffer_unordered(READS_IN_FLIGHT).collect().await;
        let mut found = Vec::new();
        for (id, answer) in answers {
            match answer {
                Ok(Some(observation)) => found.push(observation),
                Ok(None) => {
                    swept.sweep.absences.insert(id.to_string(), Absence::NotFound);
                }
                Err(error) => {
                    tracing::debug!(%scope, id = &*id, %error, "an absence could not be confirmed");
                    swept.sweep.absences.insert(id.to_string(), Absence::Unconfirmed);
                }
            }
        }
        // A read by id may also return a resource without its tags.
        self.verify_no_tags(scope, &swept.info, session, &mut found).await;
        swept.sweep.observations.append(&mut found);
        swept.sweep.ended = self.store.now();
    }

    /// Observations are dropped once they are recorded.
    #[tracing::instrument(name = "commit", skip_all)]
    pub async fn commit(&self, mut swept: SweptScope, visibility: &VisibilityRules) -> Committed {
        let shown = swept.shown();
        let observations = std::mem::take(&mut swept.sweep.observations);
        let mut sweep = Sweep { observations, ..swept.sweep.clone() };
        let (recorded, lister) = (std::mem::take(&mut swept.listed), swept.lister.clone());
        // Some may have lost their access since the sweep.
        let is_shown = shown > 0 || sweep.outcome.is_complete();
        let expired =
            if is_shown { visibility.expired(&sweep.scope, &lister.subscriber, &swept.tried) } else { Vec::new() };
        let unrecorded = swept.unrecorded.take();
        if unrecorded.is_some() {
            // The ledger records that the sweep was interrupted, if anything can be written at all.
            sweep = Sweep {
                outcome: Outcome::Partial(Reason::Interrupted),
                observations: Vec::new(),
                absences: BTreeMap::new(),
                held: false,
                ..sweep
            };
        }
        let committed = self
            .store
            .run_blocking(move |store| {
                // Before the new observations of other credentials become visible.
                for subscriber in &expired {
                    store.revoke_visibility(subscriber, &sweep.scope)?;
                }
                let Lister { subscriber, tenant } = &lister;
                store.with_tenant_lock(subscriber, tenant, |is_theirs| {
                    store.commit_rest(&sweep, &recorded, is_theirs.then_some(subscriber))
                })
            })
            .await;
        let error = match committed {
            Ok(delta) => {
                swept.changes.extend(delta.changes);
                unrecorded
            }
            Err(error) => unrecorded.or(Some(error)),
        };
        Committed { swept, shown, error }
    }
}

fn bytes_of(observations: &[Observation]) -> usize {
    observations.iter().map(|observation| observation.attributes.as_bytes().len()).sum()
}
