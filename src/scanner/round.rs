//! One round over the scopes of one account.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{AccountReport, EarlierTags, Meters, ScopeReport, StoreFailure, Subscription, catch_panic};
use crate::cloud::{AccountTarget, CloudError, Provider, Session, TypeInfo};
use crate::inventory::{
    Absence, AccountId, CONFIRMATION_SPACING_MIN, Change, ChangeKind, Confirmation, EndCause, GLOBAL_REGION,
    LossLimits, Moment, Observation, Outcome, Part, Reason, Region, ResourceType, Scope, Subscriber, Sweep,
    TagSet, Tags, Timestamp, Unread,
};
use crate::store::{Missed, Recorded, Store, StoreError};

/// The maximum number of scopes of one account that are listed concurrently. Four fifths of a listing is waiting
/// for the cloud; more would only hit the account's request rate limits.
const SCOPES_IN_FLIGHT: usize = 6;
/// The maximum number of concurrent reads by id, for one scope.
const READS_IN_FLIGHT: usize = 4;
/// The size of the documents of a listing from which they are recorded as a page, before the listing is complete.
const PAGE_MAX_BYTES: usize = 1 << 20;
/// The interval of a scope that stays empty doubles with each sweep, up to twelve times the cadence and at most
/// this.
const EMPTY_CADENCE_MAX: Duration = Duration::from_hours(1);
const EMPTY_CADENCE_FACTOR_MAX: u32 = 12;
/// The interval between attempts on scopes that a policy of the organization denies.
const DENIED_CADENCE: Duration = Duration::from_hours(24);
/// How long credentials are assumed to still belong to the same account: a file, a Secret's role or a profile can
/// be replaced during a session, and credentials of a role are refreshed about this often.
const IDENTITY_CHECK_INTERVAL: Duration = Duration::from_mins(15);
/// The age from which a proof of visibility is renewed: its CloudScan then moves up in the order of candidates.
const PROOF_RENEWAL_AGE: Duration = Duration::from_hours(12);
/// The age at which a proof of visibility ends if its CloudScan can't renew it: it must not see what the
/// credentials of others list.
const PROOF_MAX_AGE: Duration = Duration::from_hours(24);
/// How long after its first round a scanner begins to treat absent CloudScans as unable to get in.
const SETTLING_TIME: Duration = Duration::from_hours(1);

/// Called after each scope with the number of listed scopes and the total.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// The results of a round.
#[derive(Debug, Default)]
pub struct Round {
    pub changes: Vec<Change>,
    pub scopes: BTreeMap<Scope, ScopeReport>,
    /// What the store reported; these errors are expected to recur.
    pub store_errors: Vec<StoreFailure>,
}

impl Round {
    /// The scopes with resources whose tags are from an earlier sweep.
    pub fn earlier_tags(&self) -> impl Iterator<Item = (Scope, EarlierTags)> + '_ {
        earlier_tags(&self.scopes)
    }
}

pub(super) fn earlier_tags(
    scopes: &BTreeMap<Scope, ScopeReport>,
) -> impl Iterator<Item = (Scope, EarlierTags)> + '_ {
    let with_some = scopes.iter().filter(|(_, report)| !report.earlier_tags.is_empty());
    with_some.map(|(scope, report)| (scope.clone(), report.earlier_tags.clone()))
}

struct Connected {
    session: Arc<dyn Session>,
    /// The last complete list, which is kept if a later one fails.
    regions: Option<Vec<Region>>,
    /// When the identity of the session was last verified.
    verified: Timestamp,
}

/// A subscription with a working session, and its scopes.
struct Ready {
    subscription: Subscription,
    session: Arc<dyn Session>,
    scopes: BTreeMap<Scope, TypeInfo>,
}

/// A scope to sweep.
#[derive(Clone)]
struct Due {
    scope: Scope,
    cadence: Duration,
    /// Use only the credentials of this CloudScan, and report to it alone unless they list the scope.
    only: Option<Subscriber>,
}

/// Scans one account for all its subscribers.
pub struct AccountScanner {
    provider: Arc<dyn Provider>,
    store: Store,
    account: AccountId,
    endpoint: Arc<str>,
    sessions: BTreeMap<Subscriber, Connected>,
    next_due: BTreeMap<Scope, Timestamp>,
    /// The number of consecutive complete sweeps that found a scope empty.
    empty: BTreeMap<Scope, u32>,
    /// Scopes that a policy of the organization denies: usual for a dozen regions, and changed by hand.
    denied_by_policy: BTreeSet<Scope>,
    handled_requests: BTreeMap<Subscriber, Option<String>>,
    /// CloudScans that have not proven that they may see a scope, and were not tried when another one's
    /// credentials listed it: each is tried in a round that follows at once.
    waiting: BTreeMap<Scope, BTreeSet<Subscriber>>,
    /// When the credentials, role or external id of a CloudScan changed: what it proved before must be proven
    /// again.
    changed_targets: BTreeMap<Subscriber, Timestamp>,
    /// The last target of each CloudScan.
    targets: BTreeMap<Subscriber, AccountTarget>,
    /// When the first round began.
    began: Option<Timestamp>,
    /// The remembered proofs come from a backup and are as old as it: no CloudScan gets an hour to renew them.
    is_restored: bool,
    /// When how many resources were newly missed and not held, as far back as the longest cadence. `None` until
    /// the losses that an earlier process recorded are read.
    losses: Option<VecDeque<(Timestamp, usize)>>,
    page_bytes: usize,
    reports_baseline: bool,
    meters: Meters,
    pub reports: BTreeMap<Subscriber, AccountReport>,
}

/// The CloudScan whose credentials listed a scope.
#[derive(Clone)]
struct ProvenBy {
    subscriber: Subscriber,
    tenant: Arc<str>,
}

/// One swept scope.
struct SweptScope {
    info: TypeInfo,
    /// With the observations that are not recorded yet.
    sweep: Sweep,
    listed: Recorded,
    /// Resources that lived in the scope and that a complete sweep missed.
    missed: Vec<Missed>,
    /// The changes of its pages, and of the pages of listings that failed before it.
    changes: Vec<Change>,
    /// Why a page could not be recorded: the sweep stops then.
    unrecorded: Option<StoreError>,
    /// How many resources lived in the scope before.
    live_before: usize,
    /// No sweep can confirm what is held: a user must release it.
    awaits_release: bool,
    unread: BTreeMap<Unread, usize>,
    /// Resources with known tags that could not be read again.
    earlier_tags: Vec<String>,
    prover: Option<ProvenBy>,
    session: Arc<dyn Session>,
    error: Option<CloudError>,
    /// CloudScans whose own credentials failed on this scope.
    failed: Vec<(Subscriber, Outcome, CloudError)>,
    /// CloudScans that were not tried: nothing is concluded about what they may see.
    untried: Vec<Subscriber>,
    /// A CloudScan that has not proven that it may see the scope requested it, and its credentials failed: nothing
    /// is recorded.
    is_unproven_failure: bool,
}

impl SweptScope {
    fn shown(&self) -> usize {
        self.listed.shown() + self.sweep.observations.len()
    }

    /// All of it was listed, and is or can be recorded.
    fn is_whole(&self) -> bool {
        self.sweep.outcome.is_complete() && self.unrecorded.is_none()
    }
}

/// A sweep, and the result of committing it.
struct Committed {
    swept: SweptScope,
    /// How many resources the sweep returned.
    shown: usize,
    /// Why it is not recorded.
    error: Option<StoreError>,
}

/// The result of one listing of a scope.
struct Listing {
    started: Timestamp,
    recorded: Recorded,
    unrecorded: Option<StoreError>,
    /// The observations that are not recorded yet.
    observations: Vec<Observation>,
    unread: BTreeMap<Unread, usize>,
    earlier_tags: Vec<String>,
    error: Option<CloudError>,
}

impl Listing {
    fn shown(&self) -> usize {
        self.recorded.shown() + self.observations.len()
    }

    /// The error if parts of the listed resources may not be read.
    fn denied(&self) -> Option<CloudError> {
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
    fn shows_more_than(&self, other: &Self) -> bool {
        let rank = |listed: &Self| {
            (listed.error.is_none(), listed.shown(), std::cmp::Reverse(listed.unread.values().sum::<usize>()))
        };
        rank(self) > rank(other)
    }

    fn outcome(&self) -> Outcome {
        match &self.error {
            // Listing stopped when recording failed.
            None if self.unrecorded.is_some() => Outcome::Partial(Reason::Interrupted),
            None => Outcome::Complete,
            Some(error) if self.shown() == 0 => Outcome::Failed(error.reason),
            Some(error) => Outcome::Partial(error.reason),
        }
    }
}

impl AccountScanner {
    pub fn new(provider: Arc<dyn Provider>, store: Store, account: AccountId, endpoint: Arc<str>) -> Self {
        Self {
            provider,
            store,
            account,
            endpoint,
            sessions: BTreeMap::new(),
            next_due: BTreeMap::new(),
            empty: BTreeMap::new(),
            denied_by_policy: BTreeSet::new(),
            handled_requests: BTreeMap::new(),
            waiting: BTreeMap::new(),
            changed_targets: BTreeMap::new(),
            targets: BTreeMap::new(),
            began: None,
            is_restored: false,
            losses: None,
            page_bytes: PAGE_MAX_BYTES,
            reports_baseline: true,
            meters: Meters::default(),
            reports: BTreeMap::new(),
        }
    }

    /// Records listings in pages of this size.
    #[must_use]
    pub fn with_page_bytes(self, page_bytes: usize) -> Self {
        Self { page_bytes, ..self }
    }

    /// Leaves resources that existed before the first scan out of the changes of a round: a million of them are of
    /// no use.
    #[must_use]
    pub fn without_baseline_changes(self) -> Self {
        Self { reports_baseline: false, ..self }
    }

    /// A new scanner of the same account, which has scanned nothing yet.
    #[must_use]
    pub fn reset(self) -> Self {
        let fresh = Self::new(self.provider, self.store, self.account, self.endpoint);
        Self {
            is_restored: self.is_restored,
            page_bytes: self.page_bytes,
            reports_baseline: self.reports_baseline,
            meters: self.meters,
            ..fresh
        }
    }

    /// Whether the store was just restored from a backup.
    #[must_use]
    pub fn restored(self, is_restored: bool) -> Self {
        Self { is_restored, ..self }
    }

    /// Uses these meters.
    #[must_use]
    pub fn with_meters(self, meters: Meters) -> Self {
        Self { meters, ..self }
    }

    /// When the next scope is due; `None` if there is nothing to scan.
    pub fn next(&self) -> Option<Timestamp> {
        if self.waiting.is_empty() { self.next_due.values().min().copied() } else { Some(self.store.now()) }
    }

    /// Runs one round: over everything that is due, or over all scopes.
    #[tracing::instrument(name = "scan", skip_all, fields(account = %self.account))]
    pub async fn round(&mut self, subscriptions: &[Subscription], all: bool, progress: Progress<'_>) -> Round {
        let started = self.store.now();
        self.began.get_or_insert(started);
        self.drop_unsubscribed(subscriptions);
        let ready = self.connect_all(subscriptions).await;
        self.close_undesired_scopes(subscriptions, &ready).await;
        let due = self.due(&ready, all);
        // A CloudScan that can't get in yet is scanned at once when it can, not after the interval.
        for Ready { subscription, .. } in ready.iter().filter(|r| !r.subscription.suspended) {
            self.handled_requests.insert(subscription.subscriber.clone(), subscription.requested_at.clone());
        }

        let total = due.len();
        let mut round = Round::default();
        let mut waiting: Vec<SweptScope> = Vec::new();
        let is_own_scope = |scope: &Scope| scope.account == self.account && scope.endpoint == self.endpoint;
        let (live_before, missed_before) = self.store.lives_among(is_own_scope);
        let mut listings = {
            let this = &*self;
            let ready = &ready;
            let sweep_scope = move |due| this.sweep_scope(due, ready);
            futures::stream::iter(due.iter().cloned()).map(sweep_scope).buffer_unordered(SCOPES_IN_FLIGHT)
        };
        let mut commits = FuturesUnordered::new();
        let mut done = 0;
        progress(0, total);
        let mut settled = Vec::new();
        loop {
            // While some commits wait for the disk, other scopes are listed, but no more than are held in memory
            // anyway.
            tokio::select! {
                Some(swept) = listings.next(), if commits.len() < SCOPES_IN_FLIGHT => {
                    done += 1;
                    progress(done, total);
                    if swept.is_unproven_failure {
                        settled.push(Committed { shown: 0, error: None, swept });
                        continue;
                    }
                    // A sweep that missed something waits until the whole account is known: see the module
                    // documentation.
                    if swept.is_whole() && !swept.missed.is_empty() {
                        waiting.push(swept);
                    } else {
                        commits.push(self.commit(swept));
                    }
                }
                Some(committed) = commits.next() => settled.push(committed),
                else => break,
            }
        }
        drop((listings, commits));
        let account_limits = waiting
            .iter()
            .map(|swept| limits_of(&self.authoritative(&ready, &swept.sweep.scope), &swept.sweep.scope))
            .reduce(LossLimits::strictest)
            .unwrap_or(LossLimits::DEFAULT);
        let newly = |swept: &SweptScope| swept.missed.iter().filter(|m| !m.is_suspect).count();
        // Includes what was missed before, also in scopes that were not swept now: scopes are not due together, so
        // a loss across the account shows in one after the other.
        let here: BTreeSet<&Scope> = waiting.iter().map(|swept| &swept.sweep.scope).collect();
        let elsewhere = missed_before.iter().filter(|(scope, _)| !here.contains(&***scope));
        let elsewhere: usize = elsewhere.map(|(_, count)| count).sum();
        let now_missed: usize = waiting.iter().map(newly).sum();
        let gone = if now_missed > 0 { self.earlier_losses(&ready).await } else { 0 };
        let account_held =
            now_missed > 0 && account_limits.exceeded(now_missed + elsewhere + gone, live_before + gone);
        // If an API has no read by id, a second sweep is no proof.
        let lost = waiting.iter().map(|swept| swept.missed.len()).sum::<usize>() + elsewhere;
        let account_lost = account_limits.exceeded(lost, live_before);
        for mut swept in waiting {
            let scope = &swept.sweep.scope;
            let new = newly(&swept);
            let limits = limits_of(&self.authoritative(&ready, scope), scope);
            let is_new = new > 0 && (account_held || limits.exceeded(new, swept.live_before));
            let has_no_proof = matches!(swept.info.confirmation, Confirmation::Sweeps { .. }) && account_lost;
            let is_unproven =
                has_no_proof && swept.missed.iter().any(|m| m.is_held) && !self.is_released(&ready, scope);
            swept.sweep.held = is_new || is_unproven;
            swept.awaits_release = swept.sweep.held && has_no_proof;
            if !swept.sweep.held {
                // What was held before has been doubted once, and is not an unnoticed loss.
                if let Some(losses) = self.losses.as_mut().filter(|_| new > 0) {
                    losses.push_back((started, new));
                }
                self.confirm(&mut swept).await;
            }
            settled.push(self.commit(swept).await);
        }
        for committed in settled {
            self.apply_result(committed, &ready, &mut round);
        }
        self.finish(started, subscriptions, &ready, &round);
        round
    }

    /// How many resources went missing in earlier rounds without being held, as far back as the longest cadence in
    /// force.
    async fn earlier_losses(&mut self, ready: &[Ready]) -> usize {
        let active = ready.iter().filter(|r| !r.subscription.suspended);
        let cadences =
            active.flat_map(|r| r.scopes.values().map(|info| r.subscription.interval * info.cadence.factor()));
        let since = self.store.now().minus(cadences.max().unwrap_or_default());
        if self.losses.is_none() {
            self.losses = Some(self.recorded_losses_since(since).await);
        }
        let losses = self.losses.get_or_insert_default();
        while losses.front().is_some_and(|(at, _)| *at < since) {
            losses.pop_front();
        }
        losses.iter().map(|(_, missed)| missed).sum()
    }

    /// The losses in the account that the store has recorded, oldest first: resources that no sweep returned any
    /// more. A resource that was listed in an end state is not a loss.
    async fn recorded_losses_since(&self, since: Timestamp) -> VecDeque<(Timestamp, usize)> {
        let ended = self.store.run_blocking(move |store| {
            let ended = |from| store.disappeared(from, Moment::Now, None);
            match ended(Moment::Time(since)) {
                // Older revisions are not retained, or there was no scan yet.
                Err(StoreError::TooEarly { revision, .. }) => ended(Moment::Revision(revision)),
                ended => ended,
            }
        });
        let ended = match ended.await {
            Ok(ended) => ended,
            Err(error) => {
                // The breaker then starts counting now.
                tracing::error!(account = %self.account, "what was lost lately could not be read: {error}");
                Vec::new()
            }
        };
        // For any endpoint: keys do not contain it, and one loss too many only delays a sweep.
        let is_own_scope = |change: &&Change| change.resource.account == self.account;
        let is_absence = |change: &&Change| change.end.as_ref().is_some_and(|end| end.cause == EndCause::Absent);
        let mut lost: VecDeque<_> =
            ended.iter().filter(is_own_scope).filter(is_absence).map(|change| (change.time, 1)).collect();
        lost.make_contiguous().sort_unstable();
        lost
    }

    /// Revokes what the given CloudScans can see of this account, and with `all` closes each scope that is then
    /// visible to no subscriber. Returns false if it could not be written.
    pub async fn release(&self, left: BTreeSet<Subscriber>, all: bool) -> bool {
        let (account, endpoint) = (self.account.clone(), self.endpoint.clone());
        let is_own_scope = move |scope: &Scope| scope.account == account && scope.endpoint == endpoint;
        let released = self.store.run_blocking(move |store| {
            for (subscriber, scope) in
                store.visibilities().iter().filter(|(v, scope)| left.contains(v) && is_own_scope(scope))
            {
                store.revoke_visibility(subscriber, scope)?;
            }
            if all { store.close_invisible_scopes(is_own_scope) } else { Ok(()) }
        });
        let released = released.await;
        self.log_write_error(released.as_ref().err());
        released.is_ok()
    }

    fn log_write_error(&self, unwritten: Option<&StoreError>) {
        if let Some(error) = unwritten {
            tracing::error!(account = %self.account, reason = error.reason(), "scopes could not be closed: {error}");
        }
    }

    fn drop_unsubscribed(&mut self, subscriptions: &[Subscription]) {
        let desired: BTreeSet<&Subscriber> = subscriptions.iter().map(|s| &s.subscriber).collect();
        self.sessions.retain(|subscriber, _| desired.contains(subscriber));
        self.reports.retain(|subscriber, _| desired.contains(subscriber));
        self.handled_requests.retain(|subscriber, _| desired.contains(subscriber));
        self.changed_targets.retain(|subscriber, _| desired.contains(subscriber));
        self.targets.retain(|subscriber, _| desired.contains(subscriber));
    }

    async fn connect_all(&mut self, subscriptions: &[Subscription]) -> Vec<Ready> {
        let mut ready = Vec::new();
        for subscription in subscriptions {
            let mut report = self.reports.remove(&subscription.subscriber).unwrap_or_default();
            report.account = Some(self.account.clone());
            match catch_panic(self.connect(subscription)).await {
                Err(error) => {
                    // Once for each reason: thousands of accounts may keep failing.
                    let known = matches!(&report.credentials, Some(Err(before)) if before.reason == error.reason);
                    if !known {
                        tracing::warn!(
                            cloudscan = %subscription.subscriber, account = %self.account,
                            reason = error.reason.as_str(), "cannot get into the account: {error}"
                        );
                    }
                    report.credentials = Some(Err(error));
                }
                Ok((session, regions)) => {
                    report.credentials = Some(Ok(session.identity().clone()));
                    let scopes = match regions {
                        Ok(regions) => {
                            report.regions_error = None;
                            self.scopes(subscription, &session, &regions)
                        }
                        Err((error, last)) => {
                            report.regions_error = Some(error);
                            last.map(|regions| self.scopes(subscription, &session, &regions)).unwrap_or_default()
                        }
                    };
                    report.scopes_desired = scopes.len();
                    report.scopes.retain(|scope, _| scopes.contains_key(scope));
                    ready.push(Ready { subscription: subscription.clone(), session, scopes });
                }
            }
            self.reports.insert(subscription.subscriber.clone(), report);
        }
        ready
    }

    #[allow(clippy::type_complexity)] // the error contains the last complete list
    async fn connect(
        &mut self,
        subscription: &Subscription,
    ) -> Result<(Arc<dyn Session>, Result<Vec<Region>, (CloudError, Option<Vec<Region>>)>), CloudError> {
        let now = self.store.now();
        let before = self.targets.insert(subscription.subscriber.clone(), subscription.target.clone());
        if before.is_some_and(|before| before != subscription.target) {
            self.changed_targets.insert(subscription.subscriber.clone(), now);
            self.sessions.remove(&subscription.subscriber);
        }
        let known = self.sessions.get(&subscription.subscriber);
        let known =
            known.map(|connected| (connected.session.clone(), connected.regions.clone(), connected.verified));
        let (session, last, verified) = if let Some((session, regions, verified)) = known {
            let is_due = now.since(verified) >= IDENTITY_CHECK_INTERVAL;
            let verification = if is_due { session.verify().await } else { Ok(()) };
            match verification {
                Err(error) if matches!(error.reason, Reason::WrongAccount | Reason::InvalidCredentials) => {
                    // Create a new session in the next round.
                    self.sessions.remove(&subscription.subscriber);
                    return Err(error);
                }
                // If the identity can't be verified, it is tried again in the next round.
                Err(_) => (session, regions, verified),
                Ok(()) => (session, regions, if is_due { now } else { verified }),
            }
        } else {
            let mut target = subscription.target.clone();
            target.account.get_or_insert_with(|| self.account.clone());
            (self.provider.connect(&target).await?, None, now)
        };
        let listed = session.regions().await;
        let regions = listed.as_ref().ok().cloned().or_else(|| last.clone());
        let connected = Connected { session: session.clone(), regions, verified };
        self.sessions.insert(subscription.subscriber.clone(), connected);
        Ok((session, listed.map_err(|error| (error, last))))
    }

    fn scopes(
        &self,
        subscription: &Subscription,
        session: &Arc<dyn Session>,
        regions: &[Region],
    ) -> BTreeMap<Scope, TypeInfo> {
        let global = [Region::from(GLOBAL_REGION)];
        let desired = |info: &TypeInfo| subscription.types.contains(&info.name);
        let mut scopes = BTreeMap::new();
        for info in self.provider.types().into_iter().filter(desired) {
            for region in if info.global { &global } else { regions } {
                let scope = Scope {
                    provider: self.provider.name().into(),
                    partition: session.identity().partition.clone(),
                    endpoint: self.endpoint.clone(),
                    account: self.account.clone(),
                    region: region.clone(),
                    resource_type: ResourceType::new(info.name),
                };
                scopes.insert(scope, info);
            }
        }
        scopes
    }

    /// Closes scopes that no CloudScan selects any more, and revokes the visibility of CloudScans that no longer
    /// select them. A CloudScan that could not get in keeps its visibility: "could not scan" is not "does not
    /// request".
    async fn close_undesired_scopes(&mut self, subscriptions: &[Subscription], ready: &[Ready]) {
        let undecided: BTreeSet<&Subscriber> = subscriptions
            .iter()
            .map(|s| &s.subscriber)
            .filter(|subscriber| {
                let report = &self.reports[*subscriber];
                report.regions_error.is_some() || !matches!(report.credentials, Some(Ok(_)))
            })
            .collect();
        let visibilities = self.store.visibilities();
        let is_absent = |subscriber: &Subscriber| !subscriptions.iter().any(|s| s.subscriber == *subscriber);
        let kept: BTreeSet<&Scope> =
            visibilities.iter().filter(|(v, _)| is_absent(v)).map(|(_, s)| &**s).collect();
        let is_own_scope = |scope: &Scope| scope.account == self.account && scope.endpoint == self.endpoint;
        let desires = |subscriber: &Subscriber, scope: &Scope| {
            undecided.contains(subscriber)
                || ready.iter().any(|r| r.subscription.subscriber == *subscriber && r.scopes.contains_key(scope))
        };
        let is_lost = |v: &Subscriber, scope: &Scope| is_own_scope(scope) && !desires(v, scope) && !is_absent(v);
        let lost: Vec<_> = visibilities.iter().filter(|(v, scope)| is_lost(v, scope)).cloned().collect();
        let closed: Vec<_> = if undecided.is_empty() {
            let desired = |scope: &Scope| ready.iter().any(|r| r.scopes.contains_key(scope));
            let is_closed = |scope: &Scope| is_own_scope(scope) && !desired(scope) && !kept.contains(scope);
            self.store.open_scopes().into_iter().filter(|scope| is_closed(scope)).collect()
        } else {
            Vec::new()
        };
        let desired: BTreeSet<&Scope> = ready.iter().flat_map(|r| r.scopes.keys()).collect();
        // Suspended scopes are never due: they would stay overdue, and start a new round whenever one ends.
        let active = ready.iter().filter(|r| !r.subscription.suspended);
        let active: BTreeSet<&Scope> = active.flat_map(|r| r.scopes.keys()).collect();
        self.next_due.retain(|scope, _| active.contains(scope));
        self.empty.retain(|scope, _| active.contains(scope));
        self.denied_by_policy.retain(|scope| desired.contains(scope));
        let written = self
            .store
            .run_blocking(move |store| {
                for (subscriber, scope) in &lost {
                    store.revoke_visibility(subscriber, scope)?;
                }
                store.close_scopes(&closed)
            })
            .await;
        self.log_write_error(written.err().as_ref());
    }

    /// The cadence, doubled with each further empty sweep; daily if a policy denies it.
    fn backed_off(&self, scope: &Scope, cadence: Duration) -> Duration {
        if self.denied_by_policy.contains(scope) {
            return cadence.max(DENIED_CADENCE);
        }
        let empty_sweeps = self.empty.get(scope).copied().unwrap_or_default();
        // The first sweep may have run before the resources that the scope is for were created.
        let factor = EMPTY_CADENCE_FACTOR_MAX.min(1 << empty_sweeps.saturating_sub(1).min(16));
        cadence.saturating_mul(factor).min(EMPTY_CADENCE_MAX).max(cadence)
    }

    /// If CloudScans share a scope, the shortest interval of those that may see it applies; `interval` if there is none.
    fn current_cadence(
        &self,
        authoritative: &[&Ready],
        interval: Duration,
        info: TypeInfo,
        scope: &Scope,
    ) -> Duration {
        let own = interval * info.cadence.factor();
        self.backed_off(scope, cadence_of(authoritative, scope).unwrap_or(own))
    }

    /// If something appears, more may appear: empty scopes in its region return to their usual cadence.
    fn reset_empty_backoff(&mut self, region: &Region) {
        let now = self.store.now();
        let asleep: Vec<Scope> = self.empty.keys().filter(|scope| scope.region == *region).cloned().collect();
        for scope in asleep {
            if self.empty.remove(&scope).is_some_and(|empty_sweeps| empty_sweeps > 1) {
                self.next_due.insert(scope, now);
            }
        }
    }

    /// The scopes to sweep now.
    fn due(&mut self, ready: &[Ready], all: bool) -> Vec<Due> {
        let now = self.store.now();
        let mut due: BTreeMap<Scope, Due> = BTreeMap::new();
        self.retain_waiting(ready);
        for Ready { subscription, scopes, .. } in ready.iter().filter(|r| !r.subscription.suspended) {
            let subscriber = &subscription.subscriber;
            let requested = self.handled_requests.get(subscriber) != Some(&subscription.requested_at);
            for (scope, info) in scopes {
                let authoritative = self.authoritative(ready, scope);
                let shortest = self.current_cadence(&authoritative, subscription.interval, *info, scope);
                // A shorter interval takes effect at once, not after the last long one.
                let next = self.next_due.entry(scope.clone()).or_insert(now);
                *next = (*next).min(now.plus(shortest));
                let is_deciding = authoritative.iter().any(|r| r.subscription.subscriber == *subscriber);
                if all || *next <= now || (requested && is_deciding) {
                    due.insert(scope.clone(), Due { scope: scope.clone(), cadence: shortest, only: None });
                } else if requested {
                    self.waiting.entry(scope.clone()).or_default().insert(subscriber.clone());
                }
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        // In a due scope they are tried first anyway.
        waiting.retain(|scope, _| !due.contains_key(scope));
        for (scope, subscribers) in &mut waiting {
            // One per round, with its own credentials only: it uses no other CloudScan's credentials.
            let Some(subscriber) = subscribers.pop_first() else { continue };
            let Some(of_it) = ready.iter().find(|r| r.subscription.subscriber == subscriber) else { continue };
            let (authoritative, interval) = (self.authoritative(ready, scope), of_it.subscription.interval);
            let cadence = self.current_cadence(&authoritative, interval, of_it.scopes[scope], scope);
            due.insert(scope.clone(), Due { scope: scope.clone(), cadence, only: Some(subscriber) });
        }
        waiting.retain(|_, subscribers| !subscribers.is_empty());
        self.waiting = waiting;
        due.into_values().collect()
    }

    /// A CloudScan that can't be tried now is tried when the scope is due again.
    fn retain_waiting(&mut self, ready: &[Ready]) {
        self.waiting.retain(|scope, subscribers| {
            subscribers.retain(|subscriber| {
                let is_it = |r: &&Ready| r.subscription.subscriber == *subscriber && !r.subscription.suspended;
                ready.iter().find(is_it).is_some_and(|r| r.scopes.contains_key(scope))
            });
            !subscribers.is_empty()
        });
    }

    /// The active CloudScans whose settings apply to a scope: those that have proven that they may see it, or all
    /// that select it if none has yet.
    fn authoritative<'a>(&self, ready: &'a [Ready], scope: &Scope) -> Vec<&'a Ready> {
        let naming = ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(scope));
        if ready.len() == 1 {
            return naming.collect();
        }
        let (proven, unproven): (Vec<&Ready>, Vec<&Ready>) =
            naming.partition(|r| self.store.proven(&r.subscription.subscriber, scope).is_some());
        if proven.is_empty() { unproven } else { proven }
    }

    /// The active CloudScans that may list a scope, in order: those without a proof, then those whose proof is
    /// due, the oldest first, then the rest. So each is tried in time.
    fn candidates<'a>(&self, scope: &Scope, only: Option<&Subscriber>, ready: &'a [Ready]) -> Vec<&'a Ready> {
        let now = self.store.now();
        let proof_is_due = |subscriber: &Subscriber, proven: Timestamp| {
            let changed = self.changed_targets.get(subscriber);
            now.since(proven) >= PROOF_RENEWAL_AGE || changed.is_some_and(|changed| proven < *changed)
        };
        let is_requested = |r: &&Ready| only.is_none_or(|only| r.subscription.subscriber == *only);
        let active = ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(scope));
        let mut candidates: Vec<&Ready> = active.filter(is_requested).collect();
        candidates.sort_by_key(|r| {
            let subscriber = &r.subscription.subscriber;
            match self.store.proven(subscriber, scope) {
                None => (0, Timestamp::default()),
                Some(at) if proof_is_due(subscriber, at) => (1, at),
                Some(_) => (2, Timestamp::default()),
            }
        });
        candidates
    }

    /// Lists one scope with the credentials of the first candidate that works.
    #[tracing::instrument(
        name = "sweep", skip_all, fields(region = %due.scope.region, resource_type = %due.scope.resource_type, outcome)
    )]
    async fn sweep_scope(&self, due: Due, ready: &[Ready]) -> SweptScope {
        let Due { scope, cadence, only } = due;
        let now = self.store.now();
        let candidates = self.candidates(&scope, only.as_ref(), ready);
        let info = candidates[0].scopes[&scope];
        let confirmation = match info.confirmation {
            Confirmation::ReadById => Confirmation::ReadById,
            // The strictest setting of all CloudScans that see the scope, whichever lists it.
            Confirmation::Sweeps { needed, .. } => Confirmation::Sweeps {
                needed: self
                    .authoritative(ready, &scope)
                    .iter()
                    .map(|r| r.subscription.confirmations)
                    .max()
                    .unwrap_or(needed),
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
        let mut failed = Vec::new();
        // CloudScans whose credentials list the scope, but may not read everything they list.
        let mut partially_denied = Vec::new();
        let mut best: Option<(Listing, &Ready)> = None;
        let mut changes = Vec::new();
        let mut candidates = candidates.into_iter();
        for candidate in candidates.by_ref() {
            let mut listed = self.list(&blank, &info, &*candidate.session).await;
            changes.append(&mut listed.recorded.take_changes());
            let denied = listed.denied();
            let is_last = listed.error.is_none() && denied.is_none() || listed.unrecorded.is_some();
            let subscriber = candidate.subscription.subscriber.clone();
            if let Some(error) = &listed.error {
                failed.push((subscriber, listed.outcome(), error.clone()));
            } else if let Some(denied) = denied {
                partially_denied.push((subscriber, Outcome::Failed(denied.reason), denied));
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
        let untried = candidates.map(|r| r.subscription.subscriber.clone()).collect();
        let (listed, by) = best.expect("a due scope has a candidate");
        let outcome = listed.outcome();
        // A CloudScan that may read less than others is not shown what they read.
        if outcome.is_complete() && listed.denied().is_none() {
            failed.append(&mut partially_denied);
        }
        tracing::Span::current().record("outcome", outcome.as_str());
        let Listing { started, recorded, unrecorded, observations, unread, earlier_tags, error } = listed;
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
            prover: outcome.is_complete().then(|| ProvenBy {
                subscriber: by.subscription.subscriber.clone(),
                tenant: by.subscription.tenant.clone(),
            }),
            session: by.session.clone(),
            error,
            failed,
            untried,
            is_unproven_failure: only.is_some() && !outcome.is_complete(),
        };
        if swept.is_whole() {
            swept.missed = self.store.missed_by(&swept.sweep, &swept.listed);
            if !swept.missed.is_empty() {
                self.record_while_waiting(&mut swept).await;
            }
        }
        swept
    }

    /// One listing. What exceeds a page is recorded as it arrives.
    async fn list(&self, blank: &Sweep, info: &TypeInfo, session: &dyn Session) -> Listing {
        let mut listed = Listing {
            started: self.store.now(),
            recorded: Recorded::default(),
            unrecorded: None,
            observations: Vec::new(),
            unread: BTreeMap::new(),
            earlier_tags: Vec::new(),
            error: None,
        };
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
            if let Err(error) = self.record_page(page, &mut listed.recorded).await {
                listed.unrecorded = Some(error);
                break;
            }
        }
        listed
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
    async fn confirm(&self, swept: &mut SweptScope) {
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
    async fn commit(&self, mut swept: SweptScope) -> Committed {
        let shown = swept.shown();
        let observations = std::mem::take(&mut swept.sweep.observations);
        let mut sweep = Sweep { observations, ..swept.sweep.clone() };
        let (recorded, prover) = (std::mem::take(&mut swept.listed), swept.prover.clone());
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
        let expired_subscribers = self.expired_subscribers(&swept);
        let committed = self
            .store
            .run_blocking(move |store| {
                // Before the new observations of other credentials become visible.
                for subscriber in &expired_subscribers {
                    store.revoke_visibility(subscriber, &sweep.scope)?;
                }
                match &prover {
                    None => store.commit_rest(&sweep, &recorded, None),
                    Some(ProvenBy { subscriber, tenant }) => {
                        store.with_tenant_lock(subscriber, tenant, |is_theirs| {
                            store.commit_rest(&sweep, &recorded, is_theirs.then_some(subscriber))
                        })
                    }
                }
            })
            .await;
        let error = match committed {
            Ok(delta) => {
                swept.changes.extend(delta.changes);
                unrecorded
            }
            Err(error) => unrecorded.or(Some(error)),
        };
        if !self.reports_baseline {
            swept.changes.retain(|change| !change.baseline);
        }
        Committed { swept, shown, error }
    }

    /// The CloudScans that stop seeing a scope, because others' credentials list it now: those whose own were
    /// denied or give no access to the account any more, and those whose proof is too old and was not renewed when they were
    /// tried.
    fn expired_subscribers(&self, swept: &SweptScope) -> Vec<Subscriber> {
        let Some(prover) = &swept.prover else { return Vec::new() };
        let now = self.store.now();
        let is_denied = |subscriber: &Subscriber| {
            swept.failed.iter().any(|(failed, _, error)| {
                failed == subscriber && matches!(error.reason, Reason::Denied | Reason::DeniedByPolicy)
            })
        };
        let has_no_access = |subscriber: &Subscriber| {
            let credentials = self.reports.get(subscriber).and_then(|report| report.credentials.as_ref());
            matches!(credentials, Some(Err(error)) if error.access_ended)
        };
        // After a start some CloudScans are not here yet: those with keys in a Secret wait for the API server.
        let is_settled = self.is_restored || self.began.is_some_and(|began| now.since(began) >= SETTLING_TIME);
        let has_lapsed = |subscriber: &Subscriber, proven: Timestamp| {
            is_settled && now.since(proven) >= PROOF_MAX_AGE && !swept.untried.contains(subscriber)
        };
        let proofs = self.store.proofs(&swept.sweep.scope).into_iter();
        let expired_subscribers = proofs.filter(|(subscriber, proven)| {
            *subscriber != prover.subscriber
                && (is_denied(subscriber) || has_no_access(subscriber) || has_lapsed(subscriber, *proven))
        });
        expired_subscribers.map(|(subscriber, _)| subscriber).collect()
    }

    /// Whether a CloudScan that sees the scope confirms, for it or its account, that what is held is gone.
    fn is_released(&self, ready: &[Ready], scope: &Scope) -> bool {
        let of_scope = format!("{}/{}/{}", scope.account, scope.region, scope.resource_type);
        let sees = |r: &&Ready| {
            !r.subscription.suspended
                && r.scopes.contains_key(scope)
                && self.store.proven(&r.subscription.subscriber, scope).is_some()
        };
        let released = ready.iter().filter(sees).flat_map(|r| &r.subscription.released);
        released.into_iter().any(|released| *released == scope.account.as_str() || *released == of_scope)
    }

    fn apply_result(&mut self, committed: Committed, ready: &[Ready], round: &mut Round) {
        let Committed { swept, shown, error: unrecorded } = committed;
        if swept.is_unproven_failure {
            self.report_failed_proof(swept);
            return;
        }
        let has_prover = swept.prover.is_some() && unrecorded.is_none();
        let SweptScope { sweep, error, failed, awaits_release, unread, earlier_tags, changes, .. } = swept;
        if sweep.outcome.is_complete() {
            if shown == 0 && self.store.live_count(&sweep.scope) == 0 {
                *self.empty.entry(sweep.scope.clone()).or_default() += 1;
            } else {
                self.empty.remove(&sweep.scope);
            }
        }
        if changes.iter().any(|c| c.change == ChangeKind::Appeared && !c.baseline) {
            self.reset_empty_backoff(&sweep.scope.region);
        }
        round.changes.extend(changes);
        match unrecorded {
            None => self.meters.swept(sweep.outcome),
            Some(error) => {
                // The store logs once that the volume is full, and once that there is room again.
                if matches!(error, StoreError::DiskFull { .. }) {
                    tracing::debug!(scope = %sweep.scope, reason = error.reason(), "not recorded: {error}");
                } else {
                    tracing::error!(scope = %sweep.scope, reason = error.reason(), "not recorded: {error}");
                }
                let message = format!("{}: {error}", sweep.scope);
                round.store_errors.push(StoreFailure { reason: error.reason(), message });
            }
        }
        if sweep.outcome == Outcome::Failed(Reason::DeniedByPolicy) {
            self.denied_by_policy.insert(sweep.scope.clone());
        } else {
            self.denied_by_policy.remove(&sweep.scope);
        }
        if let Some(cadence) = sweep.cadence {
            let is_denied = self.denied_by_policy.contains(&sweep.scope);
            let cadence = if is_denied { cadence.max(DENIED_CADENCE) } else { cadence };
            self.next_due.insert(sweep.scope.clone(), sweep.started.plus(jittered(cadence, &sweep.scope)));
        }
        let Sweep { outcome, held, ended, .. } = sweep;
        let last = self.reports.values().filter_map(|report| report.scopes.get(&sweep.scope));
        let last = last.max_by_key(|last| last.ended);
        // Read in the previous sweep, unless that one could not read them either, or was not complete.
        let read_last = |id: &String| {
            let last = last?;
            let whole = last.outcome.is_complete().then_some(last.ended);
            last.earlier_tags.get(id).copied().unwrap_or(whole)
        };
        let mut earlier: BTreeMap<_, _> =
            earlier_tags.into_iter().map(|id| (read_last(&id), id)).map(|(read, id)| (id, read)).collect();
        if let Some(last) = last.filter(|_| !sweep.outcome.is_complete()) {
            // Resources that this sweep did not return keep their entry.
            for (id, read) in &*last.earlier_tags {
                earlier.entry(id.clone()).or_insert(*read);
            }
        }
        let earlier_tags = Arc::new(earlier);
        let report = ScopeReport { outcome, error, held, awaits_release, unread, earlier_tags, ended };
        for Ready { subscription, scopes, .. } in ready {
            if !scopes.contains_key(&sweep.scope) || subscription.suspended {
                continue;
            }
            let own = failed.iter().find(|(subscriber, ..)| *subscriber == subscription.subscriber);
            let sees = self.store.proven(&subscription.subscriber, &sweep.scope).is_some();
            let own = match own {
                Some((_, outcome, error)) if sees => {
                    ScopeReport { outcome: *outcome, error: Some(error.clone()), ..report.clone() }
                }
                // It gets no report about what the credentials of others listed.
                Some((_, outcome, error)) => ScopeReport::failed(*outcome, error.clone(), report.ended),
                None if sees => report.clone(),
                None => {
                    // It was not tried. If another CloudScan's listing succeeded and was recorded, it gets a round of
                    // its own; otherwise the next sweep tries it.
                    if has_prover {
                        self.waiting
                            .entry(sweep.scope.clone())
                            .or_default()
                            .insert(subscription.subscriber.clone());
                    }
                    continue;
                }
            };
            if own.error.as_ref().is_some_and(|e| e.reason == Reason::InvalidCredentials) {
                // Create a new session in the next round: keys may have been rotated.
                self.sessions.remove(&subscription.subscriber);
            }
            let account = self.reports.get_mut(&subscription.subscriber).expect("made when it connected");
            account.scopes.insert(sweep.scope.clone(), own);
        }
        round.scopes.insert(sweep.scope, report);
    }

    /// Reports a sweep for one CloudScan that may not see the scope to that CloudScan only.
    fn report_failed_proof(&mut self, swept: SweptScope) {
        let SweptScope { sweep, failed, .. } = swept;
        for (subscriber, outcome, error) in failed {
            if error.reason == Reason::InvalidCredentials {
                self.sessions.remove(&subscriber);
            }
            let report = ScopeReport::failed(outcome, error, sweep.ended);
            if let Some(account) = self.reports.get_mut(&subscriber) {
                account.scopes.insert(sweep.scope.clone(), report);
            }
        }
    }

    fn finish(&mut self, started: Timestamp, subscriptions: &[Subscription], ready: &[Ready], round: &Round) {
        let ended = self.store.now();
        let next = self.next();
        for (subscriber, report) in &mut self.reports {
            // Of an account that its credentials do not get into nothing is reported of when others scan it.
            let has_access = matches!(report.credentials, Some(Ok(_)));
            report.next = next.filter(|_| has_access);
            // A round that was woken with nothing due is not a scan.
            if has_access && !round.scopes.is_empty() {
                report.last_started = Some(started);
                report.last_ended = Some(ended);
            }
            report.rounds += 1;
            report.store_error = round.store_errors.first().cloned();
            if let Some(subscription) = subscriptions.iter().find(|s| s.subscriber == *subscriber) {
                report.generation = subscription.generation;
                if !self.waiting.values().any(|subscribers| subscribers.contains(subscriber)) {
                    report.handled_request.clone_from(&subscription.requested_at);
                }
            }
            if let Some(ready) = ready.iter().find(|r| r.subscription.subscriber == *subscriber) {
                report.calls += ready.session.take_calls();
                report.counted_since.get_or_insert(started);
                report.skew_millis = ready.session.skew_millis();
            }
        }
        if round.scopes.is_empty() {
            return;
        }
        self.meters.scanned(ended.since(started));
        tracing::info!(
            account = %self.account,
            scopes = round.scopes.len(),
            complete = round.scopes.values().filter(|s| s.outcome.is_complete()).count(),
            changes = round.changes.len(),
            seconds = ended.since(started).as_secs_f64(),
            "scan"
        );
    }
}

/// If CloudScans share a scope, the shortest cadence and the strictest limits apply.
fn cadence_of(ready: &[&Ready], scope: &Scope) -> Option<Duration> {
    ready.iter().filter_map(|r| Some(r.subscription.interval * r.scopes.get(scope)?.cadence.factor())).min()
}

fn limits_of(ready: &[&Ready], scope: &Scope) -> LossLimits {
    ready
        .iter()
        .filter(|r| r.scopes.contains_key(scope))
        .map(|r| r.subscription.loss)
        .reduce(LossLimits::strictest)
        .unwrap_or(LossLimits::DEFAULT)
}

fn bytes_of(observations: &[Observation]) -> usize {
    observations.iter().map(|observation| observation.attributes.as_bytes().len()).sum()
}

/// Adds up to a tenth, the same for a scope each time: a thousand scopes must not start at once, and the gaps in
/// the ledger stay even.
fn jittered(cadence: Duration, scope: &Scope) -> Duration {
    let hash = blake3::hash(scope.to_string().as_bytes());
    cadence + cadence.mul_f64(f64::from(hash.as_bytes()[0]) / 2560.0)
}
