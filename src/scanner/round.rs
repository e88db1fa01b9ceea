//! One round over the scopes of one account.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::{AccountReport, ScopeReport, StoreTrouble, Subscription};
use crate::cloud::{CloudError, Listing, Provider, Session, TypeInfo};
use crate::inventory::{
    Absence, AccountId, Change, ChangeKind, Confirmation, GLOBAL_REGION, LossLimits, Observation, Outcome, Reason,
    Region, ResourceType, Scope, Sweep, TagSet, Tags, Timestamp, Viewer,
};
use crate::store::{Store, StoreError};

/// Scopes of one account that are listed at once. Four fifths of a listing is waiting for AWS; more
/// would only meet the account's request buckets.
const SCOPES_IN_FLIGHT: usize = 6;
/// Reads by id in flight, for one scope.
const READS_IN_FLIGHT: usize = 4;
/// A scope that stays empty is looked at half as often after each look, down to a twelfth and to this.
const EMPTY_CADENCE: Duration = Duration::from_hours(1);
const EMPTY_FACTOR: u32 = 12;
/// What a policy of the organisation denies is asked for again so often.
const DENIED_CADENCE: Duration = Duration::from_hours(24);
/// A proof of cover is renewed by taking its CloudScan's turn first once it is this old.
const PROOF_AGE: Duration = Duration::from_hours(24);

/// Told after each scope: how many of how many are listed.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Send + Sync);

/// What a round did.
#[derive(Debug, Default)]
pub struct Round {
    pub changes: Vec<Change>,
    pub scopes: BTreeMap<Scope, ScopeReport>,
    /// Bound to fail again: what the store said.
    pub store_errors: Vec<StoreTrouble>,
}

struct Connected {
    target: crate::cloud::AccountTarget,
    session: Arc<dyn Session>,
    /// The last complete list stands when a later one fails.
    regions: Option<Vec<Region>>,
}

/// The scopes of one subscription, while it is working.
struct Ready {
    subscription: Subscription,
    session: Arc<dyn Session>,
    scopes: BTreeMap<Scope, TypeInfo>,
}

/// Looks at one account for all CloudScans that want it.
pub struct AccountScanner {
    provider: Arc<dyn Provider>,
    store: Store,
    account: AccountId,
    endpoint: Arc<str>,
    sessions: BTreeMap<Viewer, Connected>,
    next_due: BTreeMap<Scope, Timestamp>,
    /// How many complete looks in a row showed nothing in a scope, of those that have shown none.
    empty: BTreeMap<Scope, u32>,
    /// What an organisation's policy denies: the norm for a dozen regions, and changed by hand.
    denied_by_policy: BTreeSet<Scope>,
    handled_requests: BTreeMap<Viewer, Option<String>>,
    pub reports: BTreeMap<Viewer, AccountReport>,
}

/// One scope, looked at.
struct Looked {
    info: TypeInfo,
    sweep: Sweep,
    prover: Option<Viewer>,
    session: Option<Arc<dyn Session>>,
    error: Option<CloudError>,
    /// CloudScans whose own credentials failed on it.
    failed: Vec<(Viewer, Outcome, CloudError)>,
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
            reports: BTreeMap::new(),
        }
    }

    /// When the next scope is due; none when there is nothing to look at.
    pub fn next(&self) -> Option<Timestamp> {
        self.next_due.values().min().copied()
    }

    /// One round: everything that is due, or all of it.
    pub async fn round(&mut self, subscriptions: &[Subscription], all: bool, progress: Progress<'_>) -> Round {
        let started = self.store.now();
        self.forget_others(subscriptions);
        let ready = self.connect_all(subscriptions).await;
        self.close_what_nobody_wants(subscriptions, &ready).await;
        let due = self.due(&ready, all);
        // Who could not get in yet is looked for at once when it can, not after the interval.
        for Ready { subscription, .. } in ready.iter().filter(|r| !r.subscription.suspended) {
            self.handled_requests.insert(subscription.viewer.clone(), subscription.requested_at.clone());
        }

        let total = due.len();
        let mut round = Round::default();
        let mut waiting = Vec::new();
        let mut live_before = 0;
        let mut listings = {
            let this = &*self;
            let ready = &ready;
            let look = move |(scope, cadence)| this.look(scope, cadence, ready);
            futures::stream::iter(due.iter().cloned()).map(look).buffer_unordered(SCOPES_IN_FLIGHT)
        };
        let mut done = 0;
        progress(0, total);
        let mut settled = Vec::new();
        while let Some(looked) = listings.next().await {
            done += 1;
            progress(done, total);
            live_before += self.store.live_count(&looked.sweep.scope);
            // What missed something waits until the whole account is known: see the module's header.
            if looked.sweep.outcome.is_complete() && !self.store.missed_by(&looked.sweep).is_empty() {
                waiting.push(looked);
            } else {
                settled.push(self.commit(looked).await);
            }
        }
        drop(listings);
        let newly = |looked: &Looked| {
            self.store.missed_by(&looked.sweep).iter().filter(|(_, missed_before)| !missed_before).count()
        };
        let limits = |looked: &Looked| limits_of(&ready, &looked.sweep.scope);
        let account_limits =
            waiting.iter().map(limits).reduce(LossLimits::strictest).unwrap_or(LossLimits::DEFAULT);
        let missing: usize = waiting.iter().map(newly).sum();
        let account_held = account_limits.exceeded(missing, live_before);
        for mut looked in waiting {
            let missing = newly(&looked);
            let live = self.store.live_count(&looked.sweep.scope);
            looked.sweep.held = missing > 0 && (account_held || limits(&looked).exceeded(missing, live));
            if !looked.sweep.held {
                self.confirm(&mut looked).await;
            }
            settled.push(self.commit(looked).await);
        }
        for (looked, committed) in settled {
            self.settle(looked, committed, &ready, &mut round);
        }
        self.finish(started, subscriptions, &ready, &round);
        round
    }

    /// Drops what the given CloudScans cover of this account, and with `all` closes each scope that
    /// nobody covers then; false when it could not be written.
    pub async fn release(&self, left: BTreeSet<Viewer>, all: bool) -> bool {
        let (account, endpoint) = (self.account.clone(), self.endpoint.clone());
        let mine = move |scope: &Scope| scope.account == account && scope.endpoint == endpoint;
        let released = blocking(&self.store, move |store| {
            for (viewer, scope) in store.covers().iter().filter(|(v, scope)| left.contains(v) && mine(scope)) {
                store.drop_cover(viewer, scope)?;
            }
            if all { store.close_uncovered(mine) } else { Ok(()) }
        });
        let released = released.await;
        self.complain(released.as_ref().err());
        released.is_ok()
    }

    fn complain(&self, unwritten: Option<&StoreError>) {
        if let Some(error) = unwritten {
            tracing::error!(account = %self.account, reason = error.reason(), "scopes could not be closed: {error}");
        }
    }

    fn forget_others(&mut self, subscriptions: &[Subscription]) {
        let wanted: BTreeSet<&Viewer> = subscriptions.iter().map(|s| &s.viewer).collect();
        self.sessions.retain(|viewer, _| wanted.contains(viewer));
        self.reports.retain(|viewer, _| wanted.contains(viewer));
        self.handled_requests.retain(|viewer, _| wanted.contains(viewer));
    }

    async fn connect_all(&mut self, subscriptions: &[Subscription]) -> Vec<Ready> {
        let mut ready = Vec::new();
        for subscription in subscriptions {
            let mut report = self.reports.remove(&subscription.viewer).unwrap_or_default();
            report.account = Some(self.account.clone());
            match self.connect(subscription).await {
                Err(error) => {
                    tracing::warn!(
                        cloudscan = %subscription.viewer, account = %self.account, reason = error.reason.as_str(),
                        "cannot get into the account: {error}"
                    );
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
                    report.scopes_wanted = scopes.len();
                    report.scopes.retain(|scope, _| scopes.contains_key(scope));
                    ready.push(Ready { subscription: subscription.clone(), session, scopes });
                }
            }
            self.reports.insert(subscription.viewer.clone(), report);
        }
        ready
    }

    #[allow(clippy::type_complexity)] // the error carries the list that stands
    async fn connect(
        &mut self,
        subscription: &Subscription,
    ) -> Result<(Arc<dyn Session>, Result<Vec<Region>, (CloudError, Option<Vec<Region>>)>), CloudError> {
        let same = |connected: &&Connected| connected.target == subscription.target;
        let known = self.sessions.get(&subscription.viewer).filter(same);
        let (session, last) = if let Some(connected) = known {
            (connected.session.clone(), connected.regions.clone())
        } else {
            self.sessions.remove(&subscription.viewer);
            let mut target = subscription.target.clone();
            target.account.get_or_insert_with(|| self.account.clone());
            (self.provider.connect(&target).await?, None)
        };
        let listed = session.regions().await;
        let regions = listed.as_ref().ok().cloned().or_else(|| last.clone());
        let connected = Connected { target: subscription.target.clone(), session: session.clone(), regions };
        self.sessions.insert(subscription.viewer.clone(), connected);
        Ok((session, listed.map_err(|error| (error, last))))
    }

    fn scopes(
        &self,
        subscription: &Subscription,
        session: &Arc<dyn Session>,
        regions: &[Region],
    ) -> BTreeMap<Scope, TypeInfo> {
        let global = [Region::from(GLOBAL_REGION)];
        let wanted = |info: &TypeInfo| subscription.types.contains(&info.name);
        let mut scopes = BTreeMap::new();
        for mut info in self.provider.types().into_iter().filter(wanted) {
            if let Confirmation::Sweeps(_) = info.confirmation {
                info.confirmation = Confirmation::Sweeps(subscription.confirmations);
            }
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

    /// Scopes that no CloudScan names any more are closed, and covers of those that ceased to name
    /// them dropped. Whoever could not get in keeps what it had: "could not look" is not "does not want".
    async fn close_what_nobody_wants(&mut self, subscriptions: &[Subscription], ready: &[Ready]) {
        let undecided: BTreeSet<&Viewer> = subscriptions
            .iter()
            .map(|s| &s.viewer)
            .filter(|viewer| {
                let report = &self.reports[*viewer];
                report.regions_error.is_some() || !matches!(report.credentials, Some(Ok(_)))
            })
            .collect();
        let covers = self.store.covers();
        let is_absent = |viewer: &Viewer| !subscriptions.iter().any(|s| s.viewer == *viewer);
        let kept: BTreeSet<&Scope> = covers.iter().filter(|(v, _)| is_absent(v)).map(|(_, s)| &**s).collect();
        let mine = |scope: &Scope| scope.account == self.account && scope.endpoint == self.endpoint;
        let wants = |viewer: &Viewer, scope: &Scope| {
            undecided.contains(viewer)
                || ready.iter().any(|r| r.subscription.viewer == *viewer && r.scopes.contains_key(scope))
        };
        let is_lost = |v: &Viewer, scope: &Scope| mine(scope) && !wants(v, scope) && !is_absent(v);
        let lost: Vec<_> = covers.iter().filter(|(v, scope)| is_lost(v, scope)).cloned().collect();
        let closed: Vec<_> = if undecided.is_empty() {
            let wanted = |scope: &Scope| ready.iter().any(|r| r.scopes.contains_key(scope));
            let is_closed = |scope: &Scope| mine(scope) && !wanted(scope) && !kept.contains(scope);
            self.store.open_scopes().into_iter().filter(|scope| is_closed(scope)).collect()
        } else {
            Vec::new()
        };
        let wanted: BTreeSet<&Scope> = ready.iter().flat_map(|r| r.scopes.keys()).collect();
        self.next_due.retain(|scope, _| wanted.contains(scope));
        self.empty.retain(|scope, _| wanted.contains(scope));
        self.denied_by_policy.retain(|scope| wanted.contains(scope));
        let written = blocking(&self.store, move |store| {
            for (viewer, scope) in &lost {
                store.drop_cover(viewer, scope)?;
            }
            store.close_scopes(&closed)
        })
        .await;
        self.complain(written.err().as_ref());
    }

    /// Twice as long after each look that showed nothing again; daily where a policy denies it.
    fn backed_off(&self, scope: &Scope, cadence: Duration) -> Duration {
        if self.denied_by_policy.contains(scope) {
            return cadence.max(DENIED_CADENCE);
        }
        let looks = self.empty.get(scope).copied().unwrap_or_default();
        // The first may have come before what it was made for.
        let factor = EMPTY_FACTOR.min(1 << looks.saturating_sub(1).min(16));
        cadence.saturating_mul(factor).min(EMPTY_CADENCE).max(cadence)
    }

    /// Where something appears, more may appear: what was empty in its region is looked at as usual again.
    fn wake(&mut self, region: &Region) {
        let now = self.store.now();
        let asleep: Vec<Scope> = self.empty.keys().filter(|scope| scope.region == *region).cloned().collect();
        for scope in asleep {
            if self.empty.remove(&scope).is_some_and(|looks| looks > 1) {
                self.next_due.insert(scope, now);
            }
        }
    }

    /// The scopes to look at now, each with its cadence.
    fn due(&mut self, ready: &[Ready], all: bool) -> Vec<(Scope, Duration)> {
        let now = self.store.now();
        let mut due: BTreeMap<Scope, Duration> = BTreeMap::new();
        for Ready { subscription, scopes, .. } in ready.iter().filter(|r| !r.subscription.suspended) {
            let requested = self.handled_requests.get(&subscription.viewer) != Some(&subscription.requested_at);
            for (scope, info) in scopes {
                // Where CloudScans share a scope, the shortest interval holds.
                let cadence = subscription.interval * info.cadence.factor();
                let shortest = cadence_of(ready, scope).unwrap_or(cadence).min(cadence);
                let shortest = self.backed_off(scope, shortest);
                // A shorter interval takes hold at once, not after the last long one.
                let next = self.next_due.entry(scope.clone()).or_insert(now);
                *next = (*next).min(now.plus(shortest));
                if all || requested || *next <= now {
                    due.insert(scope.clone(), shortest);
                }
            }
        }
        due.into_iter().collect()
    }

    /// Lists one scope with the credentials of the CloudScan whose turn it is, or the next whose work.
    async fn look(&self, scope: Scope, cadence: Duration, ready: &[Ready]) -> Looked {
        let mut candidates: Vec<&Ready> =
            ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(&scope)).collect();
        let now = self.store.now();
        let proof_is_due = |r: &&Ready| {
            self.store.proven(&r.subscription.viewer, &scope).is_none_or(|at| now.since(at) >= PROOF_AGE)
        };
        candidates.sort_by_key(|r| !proof_is_due(r));
        let info = candidates[0].scopes[&scope];
        let mut failed = Vec::new();
        let mut best: Option<(Listing, Timestamp, &Ready)> = None;
        for candidate in candidates {
            let started = self.store.now();
            let listing = candidate.session.list(&scope).await;
            let complete = listing.error.is_none();
            if let Some(error) = &listing.error {
                failed.push((candidate.subscription.viewer.clone(), outcome_of(&listing), error.clone()));
            }
            if complete || best.as_ref().is_none_or(|(b, ..)| b.observations.len() < listing.observations.len()) {
                best = Some((listing, started, candidate));
            }
            if complete {
                break;
            }
        }
        let (listing, started, by) = best.expect("a due scope has a candidate");
        let outcome = outcome_of(&listing);
        let error = listing.error;
        let sweep = Sweep {
            scope,
            started,
            ended: self.store.now(),
            cadence: (!cadence.is_zero()).then_some(cadence),
            shape: info.shape,
            ids: info.ids,
            confirmation: info.confirmation,
            outcome,
            observations: listing.observations,
            absences: BTreeMap::new(),
            held: false,
            skew_millis: by.session.skew_millis(),
        };
        let mut looked = Looked {
            info,
            sweep,
            prover: outcome.is_complete().then(|| by.subscription.viewer.clone()),
            session: Some(by.session.clone()),
            error,
            failed,
        };
        self.verify_no_tags(&mut looked).await;
        looked
    }

    /// EC2 answers empty tag sets under load: where there are none, and it is not known already that there
    /// are none, they are asked again by a call that fails instead, and are unknown when that fails.
    async fn verify_no_tags(&self, looked: &mut Looked) {
        let Some(session) = looked.session.clone().filter(|_| looked.info.verify_tag_loss) else { return };
        let scope = looked.sweep.scope.clone();
        let is_empty = |tags: &Tags| tags.known().is_some_and(TagSet::is_empty);
        let mut doubted: Vec<&mut Observation> = looked
            .sweep
            .observations
            .iter_mut()
            .filter(|o| is_empty(&o.tags) && o.end_state.is_none())
            .filter(|o| !self.store.known_tags(&scope, &o.id).is_some_and(|known| is_empty(&known)))
            .collect();
        if doubted.is_empty() {
            return;
        }
        let ids: Vec<&str> = doubted.iter().map(|o| o.id.as_str()).collect();
        let mut answer = session.read_tags(&scope, &ids).await.unwrap_or_default();
        for observation in &mut doubted {
            observation.tags = answer.remove(&observation.id).map_or(Tags::Unknown, Tags::Known);
        }
    }

    /// Asks by id for each that the listing missed.
    async fn confirm(&self, looked: &mut Looked) {
        let (Some(session), Confirmation::ReadById) = (&looked.session, looked.info.confirmation) else { return };
        let missed = self.store.missed_by(&looked.sweep);
        let scope = &looked.sweep.scope;
        let read = |(id, _): (Arc<str>, bool)| async move {
            let answer = session.read_by_id(scope, &id).await;
            (id, answer)
        };
        let answers: Vec<_> =
            futures::stream::iter(missed).map(read).buffer_unordered(READS_IN_FLIGHT).collect().await;
        for (id, answer) in answers {
            match answer {
                Ok(Some(observation)) => looked.sweep.observations.push(observation),
                Ok(None) => {
                    looked.sweep.absences.insert(id.to_string(), Absence::NotFound);
                }
                Err(error) => {
                    tracing::debug!(%scope, id = &*id, %error, "an absence could not be confirmed");
                    looked.sweep.absences.insert(id.to_string(), Absence::Unconfirmed);
                }
            }
        }
        // What is read by id may come without its tags as well.
        self.verify_no_tags(looked).await;
        looked.sweep.ended = self.store.now();
    }

    async fn commit(&self, looked: Looked) -> (Looked, Result<Vec<Change>, StoreError>) {
        let prover = looked.prover.clone();
        let sweep = looked.sweep.clone();
        let committed = blocking(&self.store, move |store| store.commit(&sweep, prover.as_ref())).await;
        (looked, committed.map(|delta| delta.changes))
    }

    fn settle(
        &mut self,
        looked: Looked,
        committed: Result<Vec<Change>, StoreError>,
        ready: &[Ready],
        round: &mut Round,
    ) {
        let Looked { sweep, error, failed, .. } = looked;
        if sweep.outcome.is_complete() {
            if sweep.observations.is_empty() && self.store.live_count(&sweep.scope) == 0 {
                *self.empty.entry(sweep.scope.clone()).or_default() += 1;
            } else {
                self.empty.remove(&sweep.scope);
            }
        }
        match committed {
            Ok(changes) => {
                if changes.iter().any(|c| c.change == ChangeKind::Appeared && !c.baseline) {
                    self.wake(&sweep.scope.region);
                }
                round.changes.extend(changes);
            }
            Err(error) => {
                tracing::error!(scope = %sweep.scope, reason = error.reason(), "not recorded: {error}");
                let message = format!("{}: {error}", sweep.scope);
                round.store_errors.push(StoreTrouble { reason: error.reason(), message });
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
        let report = ScopeReport { outcome: sweep.outcome, error, held: sweep.held, ended: sweep.ended };
        for Ready { subscription, scopes, .. } in ready {
            if !scopes.contains_key(&sweep.scope) || subscription.suspended {
                continue;
            }
            let own = failed.iter().find(|(viewer, ..)| *viewer == subscription.viewer);
            let own = match own {
                Some((_, outcome, error)) => {
                    ScopeReport { outcome: *outcome, error: Some(error.clone()), ..report.clone() }
                }
                None => report.clone(),
            };
            if own.error.as_ref().is_some_and(|e| e.reason == Reason::InvalidCredentials) {
                // A fresh session next round: keys may have been rotated.
                self.sessions.remove(&subscription.viewer);
            }
            let account = self.reports.get_mut(&subscription.viewer).expect("made when it connected");
            account.scopes.insert(sweep.scope.clone(), own);
        }
        round.scopes.insert(sweep.scope, report);
    }

    fn finish(&mut self, started: Timestamp, subscriptions: &[Subscription], ready: &[Ready], round: &Round) {
        let ended = self.store.now();
        let next = self.next();
        for (viewer, report) in &mut self.reports {
            report.next = next;
            // Woken for nothing that is due: that was no look.
            if !round.scopes.is_empty() {
                report.last_started = Some(started);
                report.last_ended = Some(ended);
            }
            report.rounds += 1;
            report.store_error = round.store_errors.first().cloned();
            if let Some(subscription) = subscriptions.iter().find(|s| s.viewer == *viewer) {
                report.generation = subscription.generation;
                report.handled_request.clone_from(&subscription.requested_at);
            }
            if let Some(ready) = ready.iter().find(|r| r.subscription.viewer == *viewer) {
                report.calls += ready.session.take_calls();
                report.counted_since.get_or_insert(started);
                report.skew_millis = ready.session.skew_millis();
            }
        }
        if round.scopes.is_empty() {
            return;
        }
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

/// The shortest cadence and the strictest limits hold where CloudScans share a scope.
fn cadence_of(ready: &[Ready], scope: &Scope) -> Option<Duration> {
    ready
        .iter()
        .filter(|r| !r.subscription.suspended)
        .filter_map(|r| Some(r.subscription.interval * r.scopes.get(scope)?.cadence.factor()))
        .min()
}

fn limits_of(ready: &[Ready], scope: &Scope) -> LossLimits {
    ready
        .iter()
        .filter(|r| r.scopes.contains_key(scope))
        .map(|r| r.subscription.loss)
        .reduce(LossLimits::strictest)
        .unwrap_or(LossLimits::DEFAULT)
}

fn outcome_of(listing: &Listing) -> Outcome {
    match &listing.error {
        None => Outcome::Complete,
        Some(error) if listing.observations.is_empty() => Outcome::Failed(error.reason),
        Some(error) => Outcome::Partial(error.reason),
    }
}

/// Up to a tenth later, the same for a scope each time: a thousand scopes must not all knock at once,
/// and the ledger's gaps stay even.
fn jittered(cadence: Duration, scope: &Scope) -> Duration {
    let hash = blake3::hash(scope.to_string().as_bytes());
    cadence + cadence.mul_f64(f64::from(hash.as_bytes()[0]) / 2560.0)
}

async fn blocking<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(Err(StoreError::Poisoned))
}
