//! One round over the scopes of one account.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::breaker::{self, AccountLosses, Judgement, RecentLosses, ScopeLosses};
use super::schedule::{self, Due, Schedule, Selected};
use super::sweep::{Committed, PAGE_MAX_BYTES, SweepCandidate, SweepPlan, Sweeper, SweptScope};
use super::visibility::{PROOF_RENEWAL_AGE, Tried, VisibilityRules};
use super::{
    AccountKey, AccountReport, EarlierTags, Meters, ScopeReport, StoreFailure, Subscription, WithoutAccess,
    catch_panic, report,
};
use crate::cloud::{AccountTarget, CloudError, Provider, Session, TypeInfo};
use crate::inventory::{
    AccountId, Change, ChangeKind, Confirmation, EndCause, GLOBAL_REGION, LossLimits, Moment, Reason, Region,
    ResourceType, Scope, Subscriber, Sweep, Timestamp,
};
use crate::store::{Store, StoreError};

/// The maximum number of scopes of one account that are listed concurrently. Four fifths of a listing is waiting
/// for the cloud; more would only hit the account's request rate limits.
const SCOPES_IN_FLIGHT: usize = 6;
/// How long credentials are assumed to still belong to the same account: a file, a Secret's role or a profile can
/// be replaced during a session, and credentials of a role are refreshed about this often.
const IDENTITY_CHECK_INTERVAL: Duration = Duration::from_mins(15);
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
        report::earlier_tags(&self.scopes)
    }
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

/// Scans one account for all its subscribers.
pub struct AccountScanner {
    provider: Arc<dyn Provider>,
    store: Store,
    account: AccountId,
    endpoint: Arc<str>,
    sessions: BTreeMap<Subscriber, Connected>,
    schedule: Schedule,
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
    losses: Option<RecentLosses>,
    sweeper: Sweeper,
    reports_baseline: bool,
    meters: Meters,
    without_access: WithoutAccess,
    pub reports: BTreeMap<Subscriber, AccountReport>,
}

impl AccountScanner {
    pub fn new(provider: Arc<dyn Provider>, store: Store, account: AccountId, endpoint: Arc<str>) -> Self {
        let sweeper = Sweeper { store: store.clone(), page_bytes: PAGE_MAX_BYTES };
        Self {
            provider,
            store,
            account,
            endpoint,
            sessions: BTreeMap::new(),
            schedule: Schedule::default(),
            changed_targets: BTreeMap::new(),
            targets: BTreeMap::new(),
            began: None,
            is_restored: false,
            losses: None,
            sweeper,
            reports_baseline: true,
            meters: Meters::default(),
            without_access: WithoutAccess::default(),
            reports: BTreeMap::new(),
        }
    }

    fn key(&self) -> AccountKey {
        let (endpoint, account) = (self.endpoint.clone(), self.account.clone());
        AccountKey { provider: self.provider.name().into(), endpoint, account }
    }

    /// Records listings in pages of this size.
    #[must_use]
    pub fn with_page_bytes(self, page_bytes: usize) -> Self {
        Self { sweeper: Sweeper { page_bytes, ..self.sweeper }, ..self }
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
            sweeper: self.sweeper,
            reports_baseline: self.reports_baseline,
            meters: self.meters,
            without_access: self.without_access,
            ..fresh
        }
    }

    /// CloudScans that stop seeing a scope once the credentials of others list it.
    #[must_use]
    pub fn without_access_of(self, without_access: WithoutAccess) -> Self {
        Self { without_access, ..self }
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
        self.schedule.next(self.store.now())
    }

    /// Runs one round: over everything that is due, or over all scopes.
    #[tracing::instrument(name = "scan", skip_all, fields(account = %self.account))]
    pub async fn round(&mut self, subscriptions: &[Subscription], all: bool, progress: Progress<'_>) -> Round {
        let started = self.store.now();
        self.began.get_or_insert(started);
        self.drop_unsubscribed(subscriptions);
        let ready = self.connect_all(subscriptions).await;
        self.close_undesired_scopes(subscriptions, &ready).await;
        let store = self.store.clone();
        let is_proven = |subscriber: &Subscriber, scope: &Scope| store.proven(subscriber, scope).is_some();
        let due = self.schedule.due(store.now(), &selected(&ready), &is_proven, all);

        let total = due.len();
        let mut round = Round::default();
        let mut waiting: Vec<SweptScope> = Vec::new();
        let own = self.key();
        let is_own_scope = |scope: &Scope| own.has(scope);
        let (live_before, missed_before) = self.store.lives_among(is_own_scope);
        let visibility = self.visibility();
        let mut listings = {
            let (this, ready, visibility) = (&*self, &ready, &visibility);
            let sweep = move |due| this.sweeper.sweep(this.planned(due, ready, visibility));
            futures::stream::iter(due.iter().cloned()).map(sweep).buffer_unordered(SCOPES_IN_FLIGHT)
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
                    // A sweep that missed something waits until the whole account is known: see the documentation of
                    // the scanner.
                    if swept.is_whole() && !swept.missed.is_empty() {
                        waiting.push(swept);
                    } else {
                        commits.push(self.commit(swept, &visibility));
                    }
                }
                Some(committed) = commits.next() => settled.push(committed),
                else => break,
            }
        }
        drop((listings, commits));
        let losses: Vec<ScopeLosses> = waiting.iter().map(|swept| self.losses_of(swept, &ready)).collect();
        let here: BTreeSet<&Scope> = waiting.iter().map(|swept| &swept.sweep.scope).collect();
        let elsewhere = missed_before.iter().filter(|(scope, _)| !here.contains(&***scope));
        let elsewhere = elsewhere.map(|(_, count)| count).sum();
        let has_new = losses.iter().any(|losses| losses.new > 0);
        let gone = if has_new { self.earlier_losses(&ready).await } else { 0 };
        let judgements = breaker::judge(&losses, AccountLosses { elsewhere, gone, live_before });
        for (mut swept, (losses, judgement)) in waiting.into_iter().zip(losses.into_iter().zip(judgements)) {
            swept.sweep.held = judgement != Judgement::Proceed;
            swept.awaits_release = judgement == Judgement::AwaitRelease;
            if !swept.sweep.held {
                // What was held before has been doubted once, and is not an unnoticed loss.
                if let Some(recent) = self.losses.as_mut().filter(|_| losses.new > 0) {
                    recent.add(started, losses.new);
                }
                self.sweeper.confirm(&mut swept).await;
            }
            settled.push(self.commit(swept, &visibility).await);
        }
        for committed in settled {
            self.apply_result(committed, &ready, &mut round);
        }
        self.finish(started, subscriptions, &ready, &round);
        round
    }

    /// What a sweep missed, for the breaker.
    fn losses_of(&self, swept: &SweptScope, ready: &[Ready]) -> ScopeLosses {
        let scope = &swept.sweep.scope;
        ScopeLosses {
            new: swept.missed.iter().filter(|missed| !missed.is_suspect).count(),
            missed: swept.missed.len(),
            is_held: swept.missed.iter().any(|missed| missed.is_held),
            live_before: swept.live_before,
            limits: limits_of(&self.authoritative(ready, scope), scope),
            has_no_read_by_id: matches!(swept.info.confirmation, Confirmation::Sweeps { .. }),
            is_released: self.is_released(ready, scope),
        }
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
        self.losses.get_or_insert_default().since(since)
    }

    /// The losses in the account that the store has recorded, oldest first: resources that no sweep returned any
    /// more. A resource that was listed in an end state is not a loss.
    async fn recorded_losses_since(&self, since: Timestamp) -> RecentLosses {
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
        let is_own_scope = |change: &&Change| {
            change.resource.account == self.account && *change.resource.provider == *self.provider.name()
        };
        let is_absence = |change: &&Change| change.end.as_ref().is_some_and(|end| end.cause == EndCause::Absent);
        let lost = ended.iter().filter(is_own_scope).filter(is_absence);
        RecentLosses::of(lost.map(|change| change.time).collect())
    }

    /// Revokes what the given CloudScans can see of this account, and with `all` closes each scope that is then
    /// visible to no subscriber. Returns false if it could not be written.
    pub async fn release(&self, left: BTreeSet<Subscriber>, all: bool) -> bool {
        let own = self.key();
        let is_own_scope = move |scope: &Scope| own.has(scope);
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
        self.schedule.retain_subscribers(|subscriber| desired.contains(subscriber));
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
    /// select them. A CloudScan that could not connect keeps its visibility, and so does one that has no subscription
    /// at this moment: [`AccountScanner::release`] ends that.
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
        let own = self.key();
        let is_own_scope = |scope: &Scope| own.has(scope);
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
        let active = ready.iter().filter(|r| !r.subscription.suspended);
        let active: BTreeSet<&Scope> = active.flat_map(|r| r.scopes.keys()).collect();
        self.schedule.retain_scopes(&active, &desired);
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

    /// The active CloudScans whose settings apply to a scope.
    fn authoritative<'a>(&self, ready: &'a [Ready], scope: &Scope) -> Vec<Selected<'a>> {
        let is_proven = |subscriber: &Subscriber, scope: &Scope| self.store.proven(subscriber, scope).is_some();
        schedule::authoritative(&selected(ready), scope, &is_proven)
    }

    fn planned<'a>(&self, due: Due, ready: &'a [Ready], visibility: &'a VisibilityRules) -> SweepPlan<'a> {
        let candidate = |r: &'a Ready| SweepCandidate { subscription: &r.subscription, session: &r.session };
        let candidates = self.candidates(&due.scope, due.only.as_ref(), ready);
        let has_lapsed = |r: &&Ready| {
            let proven = self.store.proven(&r.subscription.subscriber, &due.scope);
            proven.is_some_and(|proven| visibility.has_lapsed(proven))
        };
        let lapsed = active_in(ready, &due.scope).filter(has_lapsed).map(candidate).collect();
        let info = candidates[0].scopes[&due.scope];
        let confirmations = match info.confirmation {
            Confirmation::ReadById => None,
            Confirmation::Sweeps { .. } => {
                let authoritative = self.authoritative(ready, &due.scope);
                authoritative.iter().map(|one| one.subscription.confirmations).max()
            }
        };
        SweepPlan {
            info,
            confirmations,
            candidates: candidates.into_iter().map(candidate).collect(),
            lapsed,
            visibility,
            due,
        }
    }

    /// Who may see what the credentials of others list.
    fn visibility(&self) -> VisibilityRules {
        let is_refused = |report: &AccountReport| matches!(&report.credentials, Some(Err(e)) if e.access_ended);
        let refused = self.reports.iter().filter(|(_, report)| is_refused(report));
        VisibilityRules {
            store: self.store.clone(),
            refused: refused.map(|(subscriber, _)| subscriber.clone()).collect(),
            without_access: self.without_access.clone(),
            is_settled: self.is_restored
                || self.began.is_some_and(|began| self.store.now().since(began) >= SETTLING_TIME),
        }
    }

    async fn commit(&self, swept: SweptScope, visibility: &VisibilityRules) -> Committed {
        let mut committed = self.sweeper.commit(swept, visibility).await;
        if !self.reports_baseline {
            committed.swept.changes.retain(|change| !change.baseline);
        }
        committed
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
        let mut candidates: Vec<&Ready> = active_in(ready, scope).filter(is_requested).collect();
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
        let has_prover = swept.sweep.outcome.is_complete() && unrecorded.is_none();
        let SweptScope {
            sweep,
            error,
            tried: Tried { failed, .. },
            awaits_release,
            unread,
            earlier_tags,
            changes,
            ..
        } = swept;
        if changes.iter().any(|c| c.change == ChangeKind::Appeared && !c.baseline) {
            self.schedule.appeared(&sweep.scope.region, self.store.now());
        }
        let is_empty = shown == 0 && self.store.live_count(&sweep.scope) == 0;
        self.schedule.swept(&sweep.scope, sweep.started, sweep.outcome, is_empty, sweep.cadence);
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
        let Sweep { outcome, held, ended, .. } = sweep;
        let last = self.reports.values().filter_map(|report| report.scopes.get(&sweep.scope));
        let last = last.max_by_key(|last| last.ended);
        let earlier_tags = Arc::new(report::earlier_tags_after(earlier_tags, last, sweep.outcome));
        let report = ScopeReport { outcome, error, held, awaits_release, unread, earlier_tags, ended };
        for Ready { subscription, scopes, .. } in ready {
            if !scopes.contains_key(&sweep.scope) || subscription.suspended {
                continue;
            }
            let own = failed.iter().find(|(subscriber, ..)| *subscriber == subscription.subscriber);
            let sees = self.store.proven(&subscription.subscriber, &sweep.scope).is_some();
            let own = own.map(|(_, outcome, error)| (*outcome, error.clone()));
            let Some(own) = report.as_seen(sees, own) else {
                // It was not tried. If another CloudScan's listing succeeded and was recorded, it gets a round of its
                // own; otherwise the next sweep tries it.
                if has_prover {
                    self.schedule.wait(&sweep.scope, &subscription.subscriber);
                }
                continue;
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
        let SweptScope { sweep, tried, .. } = swept;
        for (subscriber, outcome, error) in tried.failed {
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
                if !self.schedule.is_waiting(subscriber) {
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

/// The CloudScans that may list a scope.
fn active_in<'a>(ready: &'a [Ready], scope: &Scope) -> impl Iterator<Item = &'a Ready> {
    ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(scope))
}

/// What the CloudScans that are not suspended select.
fn selected(ready: &[Ready]) -> Vec<Selected<'_>> {
    let active = ready.iter().filter(|r| !r.subscription.suspended);
    active.map(|r| Selected { subscription: &r.subscription, scopes: &r.scopes }).collect()
}

/// If CloudScans share a scope, the strictest limits apply.
fn limits_of(selected: &[Selected<'_>], scope: &Scope) -> LossLimits {
    let selecting = selected.iter().filter(|one| one.scopes.contains_key(scope));
    let limits = selecting.map(|one| one.subscription.loss);
    limits.reduce(LossLimits::strictest).unwrap_or(LossLimits::DEFAULT)
}
