//! One round over the scopes of one account.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{AccountReport, EarlierTags, Meters, ScopeReport, StoreTrouble, Subscription, unless_it_panics};
use crate::cloud::{AccountTarget, CloudError, Provider, Session, TypeInfo};
use crate::inventory::{
    Absence, AccountId, Change, ChangeKind, Confirmation, EndCause, GLOBAL_REGION, LossLimits, Moment,
    Observation, Outcome, Part, Reason, Region, ResourceType, SWEEPS_APART, Scope, Sweep, TagSet, Tags, Timestamp,
    Unread, Viewer,
};
use crate::store::{Missed, Recorded, Store, StoreError};

/// Scopes of one account that are listed at once. Four fifths of a listing is waiting for AWS; more
/// would only meet the account's request buckets.
const SCOPES_IN_FLIGHT: usize = 6;
/// Reads by id in flight, for one scope.
const READS_IN_FLIGHT: usize = 4;
/// Documents of a listing that are held before they are recorded as a page of it, whatever is still to come.
const PAGE_BYTES: usize = 1 << 20;
/// A scope that stays empty is looked at half as often after each look, down to a twelfth and to this.
const EMPTY_CADENCE: Duration = Duration::from_hours(1);
const EMPTY_FACTOR: u32 = 12;
/// What a policy of the organisation denies is asked for again so often.
const DENIED_CADENCE: Duration = Duration::from_hours(24);
/// How long credentials are taken to be the account's that they were: a file, a Secret's role or a profile can be replaced
/// while the session lives, and credentials of a role are refreshed about so often.
const VERIFIED_FOR: Duration = Duration::from_mins(15);
/// A proof of cover is renewed by taking its CloudScan's turn first once it is this old,
const PROOF_RENEWED: Duration = Duration::from_hours(12);
/// and ends with this age where its CloudScan can't renew it: what the credentials of others show is not its to see.
const PROOF_LASTS: Duration = Duration::from_hours(24);
/// So long after its first round a scanner takes those that are not there for those that can't get in.
const SETTLED: Duration = Duration::from_hours(1);

/// The call that tells of tags what a listing left out, where its error names none.
const VERIFYING_ACTION: &str = "ec2:DescribeTags";

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

impl Round {
    /// The scopes with resources whose tags are those of an earlier sweep.
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
    /// The last complete list stands when a later one fails.
    regions: Option<Vec<Region>>,
    /// When it was last asked who answers.
    verified: Timestamp,
}

/// The scopes of one subscription, while it is working.
struct Ready {
    subscription: Subscription,
    session: Arc<dyn Session>,
    scopes: BTreeMap<Scope, TypeInfo>,
}

/// A scope that is to be looked at.
#[derive(Clone)]
struct Due {
    scope: Scope,
    cadence: Duration,
    /// With the credentials of this CloudScan alone, and for it alone unless they show it.
    only: Option<Viewer>,
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
    /// CloudScans that have not proven to see a scope, and were not tried when another one's credentials listed it: each is
    /// tried in a round that follows at once.
    waiting: BTreeMap<Scope, BTreeSet<Viewer>>,
    /// Since when a CloudScan has other credentials, another role or another external id: what it proved before is to be
    /// proven anew.
    changed_targets: BTreeMap<Viewer, Timestamp>,
    /// How each got in last.
    targets: BTreeMap<Viewer, AccountTarget>,
    /// When the first round began.
    began: Option<Timestamp>,
    /// What is remembered as proven is as old as a backup: nobody has an hour to prove it again.
    is_restored: bool,
    /// When how much was missed anew, and not held: as far back as the longest cadence. Until the first of it nothing
    /// is known of what the process before this one lost.
    losses: Option<VecDeque<(Timestamp, usize)>>,
    page_bytes: usize,
    tells_first_sights: bool,
    meters: Meters,
    pub reports: BTreeMap<Viewer, AccountReport>,
}

/// Whose credentials showed a scope.
#[derive(Clone)]
struct Prover {
    viewer: Viewer,
    tenant: Arc<str>,
}

/// One scope, looked at.
struct Looked {
    info: TypeInfo,
    /// With what is not recorded yet.
    sweep: Sweep,
    listed: Recorded,
    /// What lived in the scope and a whole look did not show.
    missed: Vec<Missed>,
    /// What its pages changed, and those of listings that failed before it.
    changes: Vec<Change>,
    /// Why a page could not be recorded: the look is not gone on with then.
    unrecorded: Option<StoreError>,
    /// How many lived in the scope before.
    live_before: usize,
    /// What is held can be proven by no look.
    awaits_release: bool,
    unread: BTreeMap<Unread, usize>,
    /// Whose known tags could not be read again.
    earlier_tags: Vec<String>,
    prover: Option<Prover>,
    session: Arc<dyn Session>,
    error: Option<CloudError>,
    /// CloudScans whose own credentials failed on it.
    failed: Vec<(Viewer, Outcome, CloudError)>,
    /// Those whose turn did not come: nothing is said of what they may see.
    untried: Vec<Viewer>,
    /// Somebody asked for it who has not proven to see the scope, and does not: nothing is recorded.
    is_refused: bool,
}

impl Looked {
    fn shown(&self) -> usize {
        self.listed.shown() + self.sweep.observations.len()
    }

    /// All of it was seen, and is or can be recorded.
    fn is_whole(&self) -> bool {
        self.sweep.outcome.is_complete() && self.unrecorded.is_none()
    }
}

/// A look, and what became of it in the store.
struct Committed {
    looked: Looked,
    /// How many resources it showed.
    shown: usize,
    /// Why it is not recorded.
    error: Option<StoreError>,
}

/// What one listing of a scope came to.
struct Listed {
    started: Timestamp,
    recorded: Recorded,
    unrecorded: Option<StoreError>,
    /// Those that are not recorded yet.
    observations: Vec<Observation>,
    unread: BTreeMap<Unread, usize>,
    earlier_tags: Vec<String>,
    error: Option<CloudError>,
}

impl Listed {
    fn shown(&self) -> usize {
        self.recorded.shown() + self.observations.len()
    }

    /// That some of what it lists may not be read.
    fn denied(&self) -> Option<CloudError> {
        let is_denied = |unread: &&Unread| matches!(unread.reason, Reason::Denied | Reason::DeniedByPolicy);
        let Unread { part, reason, action } = self.unread.keys().find(is_denied)?;
        let part = match part {
            Part::Attributes => "attributes",
            Part::Tags => "tags",
        };
        Some(CloudError {
            reason: *reason,
            action: Some(action.clone()),
            message: format!(
                "it may list these resources and not read their {part} ({action}), which others that share the account read"
            ),
        })
    }

    /// Rather a whole listing, then one that shows more, then one of which more could be read.
    fn tells_more_than(&self, other: &Self) -> bool {
        let rank = |listed: &Self| {
            (listed.error.is_none(), listed.shown(), std::cmp::Reverse(listed.unread.values().sum::<usize>()))
        };
        rank(self) > rank(other)
    }

    fn outcome(&self) -> Outcome {
        match &self.error {
            // What could not be recorded was not gone on with.
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
            page_bytes: PAGE_BYTES,
            tells_first_sights: true,
            meters: Meters::default(),
            reports: BTreeMap::new(),
        }
    }

    /// Records listings in pages of so many bytes.
    #[must_use]
    pub fn in_pages_of(self, page_bytes: usize) -> Self {
        Self { page_bytes, ..self }
    }

    /// Leaves out of its rounds what was there before the first look: a million of them tell nobody anything.
    #[must_use]
    pub fn without_first_sights(self) -> Self {
        Self { tells_first_sights: false, ..self }
    }

    /// One of the same account that has looked at nothing yet.
    #[must_use]
    pub fn anew(self) -> Self {
        let fresh = Self::new(self.provider, self.store, self.account, self.endpoint);
        Self {
            is_restored: self.is_restored,
            page_bytes: self.page_bytes,
            tells_first_sights: self.tells_first_sights,
            meters: self.meters,
            ..fresh
        }
    }

    /// On a store that was just made from a backup.
    #[must_use]
    pub fn restored(self, is_restored: bool) -> Self {
        Self { is_restored, ..self }
    }

    /// Counts with these.
    #[must_use]
    pub fn metered_by(self, meters: Meters) -> Self {
        Self { meters, ..self }
    }

    /// When the next scope is due; none when there is nothing to look at.
    pub fn next(&self) -> Option<Timestamp> {
        if self.waiting.is_empty() { self.next_due.values().min().copied() } else { Some(self.store.now()) }
    }

    /// One round: everything that is due, or all of it.
    #[tracing::instrument(name = "scan", skip_all, fields(account = %self.account))]
    pub async fn round(&mut self, subscriptions: &[Subscription], all: bool, progress: Progress<'_>) -> Round {
        let started = self.store.now();
        self.began.get_or_insert(started);
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
        let mut waiting: Vec<Looked> = Vec::new();
        let mine = |scope: &Scope| scope.account == self.account && scope.endpoint == self.endpoint;
        let (live_before, missed_before) = self.store.lives_among(mine);
        let mut listings = {
            let this = &*self;
            let ready = &ready;
            let look = move |due| this.look(due, ready);
            futures::stream::iter(due.iter().cloned()).map(look).buffer_unordered(SCOPES_IN_FLIGHT)
        };
        let mut commits = FuturesUnordered::new();
        let mut done = 0;
        progress(0, total);
        let mut settled = Vec::new();
        loop {
            // While some wait for the disk others are listed, but no more than are held in memory anyway.
            tokio::select! {
                Some(looked) = listings.next(), if commits.len() < SCOPES_IN_FLIGHT => {
                    done += 1;
                    progress(done, total);
                    if looked.is_refused {
                        settled.push(Committed { shown: 0, error: None, looked });
                        continue;
                    }
                    // What missed something waits until the whole account is known: see the module's header.
                    if looked.is_whole() && !looked.missed.is_empty() {
                        waiting.push(looked);
                    } else {
                        commits.push(self.commit(looked));
                    }
                }
                Some(committed) = commits.next() => settled.push(committed),
                else => break,
            }
        }
        drop((listings, commits));
        let account_limits = waiting
            .iter()
            .map(|looked| limits_of(&self.deciding(&ready, &looked.sweep.scope), &looked.sweep.scope))
            .reduce(LossLimits::strictest)
            .unwrap_or(LossLimits::DEFAULT);
        let newly = |looked: &Looked| looked.missed.iter().filter(|m| !m.is_suspect).count();
        // Counted with what was missed before, also where nothing was looked at now: scopes are not due together, so a
        // loss all over the account shows in one after the other.
        let here: BTreeSet<&Scope> = waiting.iter().map(|looked| &looked.sweep.scope).collect();
        let elsewhere = missed_before.iter().filter(|(scope, _)| !here.contains(&***scope));
        let elsewhere: usize = elsewhere.map(|(_, count)| count).sum();
        let now_missed: usize = waiting.iter().map(newly).sum();
        let gone = if now_missed > 0 { self.gone_before(&ready).await } else { 0 };
        let account_held =
            now_missed > 0 && account_limits.exceeded(now_missed + elsewhere + gone, live_before + gone);
        // Where no API can be asked for one, a second look is no proof.
        let lost = waiting.iter().map(|looked| looked.missed.len()).sum::<usize>() + elsewhere;
        let account_lost = account_limits.exceeded(lost, live_before);
        for mut looked in waiting {
            let scope = &looked.sweep.scope;
            let new = newly(&looked);
            let limits = limits_of(&self.deciding(&ready, scope), scope);
            let is_new = new > 0 && (account_held || limits.exceeded(new, looked.live_before));
            let has_no_proof = matches!(looked.info.confirmation, Confirmation::Sweeps { .. }) && account_lost;
            let is_unproven =
                has_no_proof && looked.missed.iter().any(|m| m.is_held) && !self.is_released(&ready, scope);
            looked.sweep.held = is_new || is_unproven;
            looked.awaits_release = looked.sweep.held && has_no_proof;
            if !looked.sweep.held {
                // What was held before was doubted once, and is not a loss that nobody noticed.
                if let Some(losses) = self.losses.as_mut().filter(|_| new > 0) {
                    losses.push_back((started, new));
                }
                self.confirm(&mut looked).await;
            }
            settled.push(self.commit(looked).await);
        }
        for committed in settled {
            self.settle(committed, &ready, &mut round);
        }
        self.finish(started, subscriptions, &ready, &round);
        round
    }

    /// How much went missing in the rounds before this without being held, as far back as the longest cadence in force.
    async fn gone_before(&mut self, ready: &[Ready]) -> usize {
        let active = ready.iter().filter(|r| !r.subscription.suspended);
        let cadences =
            active.flat_map(|r| r.scopes.values().map(|info| r.subscription.interval * info.cadence.factor()));
        let since = self.store.now().minus(cadences.max().unwrap_or_default());
        if self.losses.is_none() {
            self.losses = Some(self.lost_since(since).await);
        }
        let losses = self.losses.get_or_insert_default();
        while losses.front().is_some_and(|(at, _)| *at < since) {
            losses.pop_front();
        }
        losses.iter().map(|(_, missed)| missed).sum()
    }

    /// What the store says was lost in the account, oldest first: nothing showed it any more. What was seen to end is
    /// no loss.
    async fn lost_since(&self, since: Timestamp) -> VecDeque<(Timestamp, usize)> {
        let ended = blocking(&self.store, move |store| {
            let ended = |from| store.disappeared(from, Moment::Now, None);
            match ended(Moment::Time(since)) {
                // What is older is not kept, or was before the first look.
                Err(StoreError::TooEarly { revision, .. }) => ended(Moment::Revision(revision)),
                ended => ended,
            }
        });
        let ended = match ended.await {
            Ok(ended) => ended,
            Err(error) => {
                // The breaker then counts from now on.
                tracing::error!(account = %self.account, "what was lost lately could not be read: {error}");
                Vec::new()
            }
        };
        // Of whatever endpoint: that is in no key, and one loss too many only makes a sweep wait.
        let mine = |change: &&Change| change.resource.account == self.account;
        let is_absence = |change: &&Change| change.end.as_ref().is_some_and(|end| end.cause == EndCause::Absent);
        let mut lost: VecDeque<_> =
            ended.iter().filter(mine).filter(is_absence).map(|change| (change.time, 1)).collect();
        lost.make_contiguous().sort_unstable();
        lost
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
        self.changed_targets.retain(|viewer, _| wanted.contains(viewer));
        self.targets.retain(|viewer, _| wanted.contains(viewer));
    }

    async fn connect_all(&mut self, subscriptions: &[Subscription]) -> Vec<Ready> {
        let mut ready = Vec::new();
        for subscription in subscriptions {
            let mut report = self.reports.remove(&subscription.viewer).unwrap_or_default();
            report.account = Some(self.account.clone());
            match unless_it_panics(self.connect(subscription)).await {
                Err(error) => {
                    // Once for each reason: thousands of accounts may go on failing.
                    let known = matches!(&report.credentials, Some(Err(before)) if before.reason == error.reason);
                    if !known {
                        tracing::warn!(
                            cloudscan = %subscription.viewer, account = %self.account,
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
        let now = self.store.now();
        let before = self.targets.insert(subscription.viewer.clone(), subscription.target.clone());
        if before.is_some_and(|before| before != subscription.target) {
            self.changed_targets.insert(subscription.viewer.clone(), now);
            self.sessions.remove(&subscription.viewer);
        }
        let known = self.sessions.get(&subscription.viewer);
        let known =
            known.map(|connected| (connected.session.clone(), connected.regions.clone(), connected.verified));
        let (session, last, verified) = if let Some((session, regions, verified)) = known {
            let is_due = now.since(verified) >= VERIFIED_FOR;
            let is_it = if is_due { session.verify().await } else { Ok(()) };
            match is_it {
                Err(error) if matches!(error.reason, Reason::WrongAccount | Reason::InvalidCredentials) => {
                    // A fresh session next round.
                    self.sessions.remove(&subscription.viewer);
                    return Err(error);
                }
                // Whoever can't be asked is asked again next round.
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
        for info in self.provider.types().into_iter().filter(wanted) {
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
        // What is suspended is never due: overdue for good, it would have a round begin whenever one ends.
        let active = ready.iter().filter(|r| !r.subscription.suspended);
        let active: BTreeSet<&Scope> = active.flat_map(|r| r.scopes.keys()).collect();
        self.next_due.retain(|scope, _| active.contains(scope));
        self.empty.retain(|scope, _| active.contains(scope));
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

    /// The scopes to look at now.
    fn due(&mut self, ready: &[Ready], all: bool) -> Vec<Due> {
        let now = self.store.now();
        let mut due: BTreeMap<Scope, Due> = BTreeMap::new();
        self.forget_waiting_but(ready);
        for Ready { subscription, scopes, .. } in ready.iter().filter(|r| !r.subscription.suspended) {
            let viewer = &subscription.viewer;
            let requested = self.handled_requests.get(viewer) != Some(&subscription.requested_at);
            for (scope, info) in scopes {
                let deciding = self.deciding(ready, scope);
                // Where CloudScans share a scope, the shortest interval of those that may see it holds.
                let cadence = subscription.interval * info.cadence.factor();
                let shortest = self.backed_off(scope, cadence_of(&deciding, scope).unwrap_or(cadence));
                // A shorter interval takes hold at once, not after the last long one.
                let next = self.next_due.entry(scope.clone()).or_insert(now);
                *next = (*next).min(now.plus(shortest));
                let is_deciding = deciding.iter().any(|r| r.subscription.viewer == *viewer);
                if all || *next <= now || (requested && is_deciding) {
                    due.insert(scope.clone(), Due { scope: scope.clone(), cadence: shortest, only: None });
                } else if requested {
                    self.waiting.entry(scope.clone()).or_default().insert(viewer.clone());
                }
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        // They are tried first, whoever else is.
        waiting.retain(|scope, _| !due.contains_key(scope));
        for (scope, viewers) in &mut waiting {
            // One in each round, with its own credentials alone: it asks nothing of those of others.
            let Some(viewer) = viewers.pop_first() else { continue };
            let Some(of_it) = ready.iter().find(|r| r.subscription.viewer == viewer) else { continue };
            let cadence = of_it.subscription.interval * of_it.scopes[scope].cadence.factor();
            let cadence = cadence_of(&self.deciding(ready, scope), scope).unwrap_or(cadence);
            let cadence = self.backed_off(scope, cadence);
            due.insert(scope.clone(), Due { scope: scope.clone(), cadence, only: Some(viewer) });
        }
        waiting.retain(|_, viewers| !viewers.is_empty());
        self.waiting = waiting;
        due.into_values().collect()
    }

    /// Whoever can't be tried now is tried when the scope is due again.
    fn forget_waiting_but(&mut self, ready: &[Ready]) {
        self.waiting.retain(|scope, viewers| {
            viewers.retain(|viewer| {
                let is_it = |r: &&Ready| r.subscription.viewer == *viewer && !r.subscription.suspended;
                ready.iter().find(is_it).is_some_and(|r| r.scopes.contains_key(scope))
            });
            !viewers.is_empty()
        });
    }

    /// The active CloudScans whose settings count for a scope: those that have proven to see it, or all that name it where
    /// none has yet.
    fn deciding<'a>(&self, ready: &'a [Ready], scope: &Scope) -> Vec<&'a Ready> {
        let naming = ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(scope));
        if ready.len() == 1 {
            return naming.collect();
        }
        let (proven, unproven): (Vec<&Ready>, Vec<&Ready>) =
            naming.partition(|r| self.store.proven(&r.subscription.viewer, scope).is_some());
        if proven.is_empty() { unproven } else { proven }
    }

    /// The active CloudScans that may list a scope: who has proven nothing first, then whose proof is the oldest of those
    /// that are due, so that each has its turn.
    fn candidates<'a>(&self, scope: &Scope, only: Option<&Viewer>, ready: &'a [Ready]) -> Vec<&'a Ready> {
        let now = self.store.now();
        let proof_is_due = |viewer: &Viewer, proven: Timestamp| {
            let changed = self.changed_targets.get(viewer);
            now.since(proven) >= PROOF_RENEWED || changed.is_some_and(|changed| proven < *changed)
        };
        let is_asked = |r: &&Ready| only.is_none_or(|only| r.subscription.viewer == *only);
        let active = ready.iter().filter(|r| !r.subscription.suspended && r.scopes.contains_key(scope));
        let mut candidates: Vec<&Ready> = active.filter(is_asked).collect();
        candidates.sort_by_key(|r| {
            let viewer = &r.subscription.viewer;
            match self.store.proven(viewer, scope) {
                None => (0, Timestamp::default()),
                Some(at) if proof_is_due(viewer, at) => (1, at),
                Some(_) => (2, Timestamp::default()),
            }
        });
        candidates
    }

    /// Lists one scope with the credentials of the CloudScan whose turn it is, or the next whose work.
    #[tracing::instrument(
        name = "look", skip_all, fields(region = %due.scope.region, resource_type = %due.scope.resource_type, outcome)
    )]
    async fn look(&self, due: Due, ready: &[Ready]) -> Looked {
        let Due { scope, cadence, only } = due;
        let now = self.store.now();
        let candidates = self.candidates(&scope, only.as_ref(), ready);
        let info = candidates[0].scopes[&scope];
        let confirmation = match info.confirmation {
            Confirmation::ReadById => Confirmation::ReadById,
            // The strictest of all that see the scope, whoever lists it.
            Confirmation::Sweeps { needed, .. } => Confirmation::Sweeps {
                needed: self
                    .deciding(ready, &scope)
                    .iter()
                    .map(|r| r.subscription.confirmations)
                    .max()
                    .unwrap_or(needed),
                apart: cadence.max(SWEEPS_APART),
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
            // Until it is known how it ends.
            outcome: Outcome::Partial(Reason::Interrupted),
            observations: Vec::new(),
            absences: BTreeMap::new(),
            held: false,
            skew_millis: 0,
        };
        let mut failed = Vec::new();
        // Those whose credentials list it, and may not read all of what they list.
        let mut half_blind = Vec::new();
        let mut best: Option<(Listed, &Ready)> = None;
        let mut changes = Vec::new();
        let mut candidates = candidates.into_iter();
        for candidate in candidates.by_ref() {
            let mut listed = self.list(&blank, &info, &*candidate.session).await;
            changes.append(&mut listed.recorded.take_changes());
            let denied = listed.denied();
            let is_last = listed.error.is_none() && denied.is_none() || listed.unrecorded.is_some();
            let viewer = candidate.subscription.viewer.clone();
            if let Some(error) = &listed.error {
                failed.push((viewer, listed.outcome(), error.clone()));
            } else if let Some(denied) = denied {
                half_blind.push((viewer, Outcome::Failed(denied.reason), denied));
            }
            // What was seen before its pages were recorded must not come after them.
            let is_newer = listed.recorded.shown() > 0;
            if is_last || is_newer || best.as_ref().is_none_or(|(best, _)| listed.tells_more_than(best)) {
                best = Some((listed, candidate));
            }
            if is_last {
                break;
            }
        }
        let untried = candidates.map(|r| r.subscription.viewer.clone()).collect();
        let (listed, by) = best.expect("a due scope has a candidate");
        let outcome = listed.outcome();
        // Who reads less than others is not shown what they read.
        if outcome.is_complete() && listed.denied().is_none() {
            failed.append(&mut half_blind);
        }
        tracing::Span::current().record("outcome", outcome.as_str());
        let Listed { started, recorded, unrecorded, observations, unread, earlier_tags, error } = listed;
        let skew_millis = by.session.skew_millis();
        let sweep = Sweep { started, ended: self.store.now(), outcome, observations, skew_millis, ..blank };
        let mut looked = Looked {
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
            prover: outcome.is_complete().then(|| Prover {
                viewer: by.subscription.viewer.clone(),
                tenant: by.subscription.tenant.clone(),
            }),
            session: by.session.clone(),
            error,
            failed,
            untried,
            is_refused: only.is_some() && !outcome.is_complete(),
        };
        if looked.is_whole() {
            looked.missed = self.store.missed_by(&looked.sweep, &looked.listed);
            if !looked.missed.is_empty() {
                self.put_aside(&mut looked).await;
            }
        }
        looked
    }

    /// One listing. What of it is more than a page is recorded as it comes.
    async fn list(&self, blank: &Sweep, info: &TypeInfo, session: &dyn Session) -> Listed {
        let mut listed = Listed {
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
            // The rest of one that failed must not come after the pages of another listing.
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

    /// Whether its tags are known, and not from this sweep.
    fn has_earlier_tags(&self, scope: &Scope, observation: &Observation) -> bool {
        !observation.unread.is_empty()
            && observation.tags == Tags::Unknown
            && self.store.known_tags(scope, &observation.id).is_some_and(|tags| tags.known().is_some())
    }

    async fn record_page(&self, page: Sweep, recorded: &mut Recorded) -> Result<(), StoreError> {
        let mut so_far = std::mem::take(recorded);
        *recorded = blocking(&self.store, move |store| {
            store.record_page(&page, &mut so_far)?;
            Ok(so_far)
        })
        .await?;
        Ok(())
    }

    /// What a look that waits for the others showed is recorded meanwhile, where that is much.
    async fn put_aside(&self, looked: &mut Looked) {
        if bytes_of(&looked.sweep.observations) >= self.page_bytes / 4 {
            let observations = std::mem::take(&mut looked.sweep.observations);
            let page = Sweep { observations, ..looked.sweep.clone() };
            looked.unrecorded = self.record_page(page, &mut looked.listed).await.err();
            looked.changes.append(&mut looked.listed.take_changes());
        }
    }

    /// EC2 answers empty tag sets under load: where there are none, and it is not known already that there
    /// are none, they are asked again by a call that fails instead, and are unknown when that fails.
    async fn verify_no_tags(
        &self,
        scope: &Scope,
        info: &TypeInfo,
        session: &dyn Session,
        observations: &mut [Observation],
    ) {
        if !info.verify_tag_loss {
            return;
        }
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
                    let action = error.action.clone().unwrap_or_else(|| VERIFYING_ACTION.to_owned());
                    observation.unread.push(Unread { part: Part::Tags, reason: error.reason, action });
                    Tags::Unknown
                }
            };
        }
    }

    /// Asks by id for each that the listing missed.
    #[tracing::instrument(name = "confirm", skip_all)]
    async fn confirm(&self, looked: &mut Looked) {
        let Confirmation::ReadById = looked.info.confirmation else { return };
        let missed = std::mem::take(&mut looked.missed);
        let (session, scope) = (&*looked.session, &looked.sweep.scope);
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
                    looked.sweep.absences.insert(id.to_string(), Absence::NotFound);
                }
                Err(error) => {
                    tracing::debug!(%scope, id = &*id, %error, "an absence could not be confirmed");
                    looked.sweep.absences.insert(id.to_string(), Absence::Unconfirmed);
                }
            }
        }
        // What is read by id may come without its tags as well.
        self.verify_no_tags(scope, &looked.info, session, &mut found).await;
        looked.sweep.observations.append(&mut found);
        looked.sweep.ended = self.store.now();
    }

    /// What was seen is let go of once it is recorded.
    #[tracing::instrument(name = "commit", skip_all)]
    async fn commit(&self, mut looked: Looked) -> Committed {
        let shown = looked.shown();
        let observations = std::mem::take(&mut looked.sweep.observations);
        let mut sweep = Sweep { observations, ..looked.sweep.clone() };
        let (recorded, prover) = (std::mem::take(&mut looked.listed), looked.prover.clone());
        let unrecorded = looked.unrecorded.take();
        if unrecorded.is_some() {
            // The ledger hears that it was cut off, if anything can be written at all.
            sweep = Sweep {
                outcome: Outcome::Partial(Reason::Interrupted),
                observations: Vec::new(),
                absences: BTreeMap::new(),
                held: false,
                ..sweep
            };
        }
        let lapsed = self.lapsed(&looked);
        let committed = blocking(&self.store, move |store| {
            // Before what the credentials of others have just shown is there to be seen.
            for viewer in &lapsed {
                store.drop_cover(viewer, &sweep.scope)?;
            }
            match &prover {
                None => store.commit_rest(&sweep, &recorded, None),
                Some(Prover { viewer, tenant }) => store.as_tenant(viewer, tenant, |is_theirs| {
                    store.commit_rest(&sweep, &recorded, is_theirs.then_some(viewer))
                }),
            }
        })
        .await;
        let error = match committed {
            Ok(delta) => {
                looked.changes.extend(delta.changes);
                unrecorded
            }
            Err(error) => unrecorded.or(Some(error)),
        };
        if !self.tells_first_sights {
            looked.changes.retain(|change| !change.baseline);
        }
        Committed { looked, shown, error }
    }

    /// The CloudScans that cease to see a scope, because it is others' credentials that show it now: those whose own were
    /// denied, and those whose proof is too old and who did not renew it when their turn came.
    fn lapsed(&self, looked: &Looked) -> Vec<Viewer> {
        let Some(prover) = &looked.prover else { return Vec::new() };
        let now = self.store.now();
        let is_denied = |viewer: &Viewer| {
            looked.failed.iter().any(|(failed, _, error)| {
                failed == viewer && matches!(error.reason, Reason::Denied | Reason::DeniedByPolicy)
            })
        };
        // After a start not all are here yet: those with keys in a Secret wait for the API server.
        let is_settled = self.is_restored || self.began.is_some_and(|began| now.since(began) >= SETTLED);
        let has_lapsed = |viewer: &Viewer, proven: Timestamp| {
            is_settled && now.since(proven) >= PROOF_LASTS && !looked.untried.contains(viewer)
        };
        let proofs = self.store.proofs(&looked.sweep.scope).into_iter();
        let lapsed = proofs.filter(|(viewer, proven)| {
            *viewer != prover.viewer && (is_denied(viewer) || has_lapsed(viewer, *proven))
        });
        lapsed.map(|(viewer, _)| viewer).collect()
    }

    /// Somebody who sees the scope says of it, or of its account, that what is held there is gone.
    fn is_released(&self, ready: &[Ready], scope: &Scope) -> bool {
        let of_scope = format!("{}/{}/{}", scope.account, scope.region, scope.resource_type);
        let sees = |r: &&Ready| {
            !r.subscription.suspended
                && r.scopes.contains_key(scope)
                && self.store.proven(&r.subscription.viewer, scope).is_some()
        };
        let released = ready.iter().filter(sees).flat_map(|r| &r.subscription.released);
        released.into_iter().any(|released| *released == scope.account.as_str() || *released == of_scope)
    }

    fn settle(&mut self, committed: Committed, ready: &[Ready], round: &mut Round) {
        let Committed { looked, shown, error: unrecorded } = committed;
        if looked.is_refused {
            self.settle_refused(looked);
            return;
        }
        let has_prover = looked.prover.is_some() && unrecorded.is_none();
        let Looked { sweep, error, failed, awaits_release, unread, earlier_tags, changes, .. } = looked;
        if sweep.outcome.is_complete() {
            if shown == 0 && self.store.live_count(&sweep.scope) == 0 {
                *self.empty.entry(sweep.scope.clone()).or_default() += 1;
            } else {
                self.empty.remove(&sweep.scope);
            }
        }
        if changes.iter().any(|c| c.change == ChangeKind::Appeared && !c.baseline) {
            self.wake(&sweep.scope.region);
        }
        round.changes.extend(changes);
        match unrecorded {
            None => self.meters.looked(sweep.outcome),
            Some(error) => {
                // The store says once that the volume is full, and once that there is room again.
                if matches!(error, StoreError::DiskFull { .. }) {
                    tracing::debug!(scope = %sweep.scope, reason = error.reason(), "not recorded: {error}");
                } else {
                    tracing::error!(scope = %sweep.scope, reason = error.reason(), "not recorded: {error}");
                }
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
        let Sweep { outcome, held, ended, .. } = sweep;
        let last = self.reports.values().filter_map(|report| report.scopes.get(&sweep.scope));
        let last = last.max_by_key(|last| last.ended);
        // Read in the sweep before this, unless that one could not read them either, or showed not all.
        let read_last = |id: &String| {
            let last = last?;
            let whole = last.outcome.is_complete().then_some(last.ended);
            last.earlier_tags.get(id).copied().unwrap_or(whole)
        };
        let mut earlier: BTreeMap<_, _> =
            earlier_tags.into_iter().map(|id| (read_last(&id), id)).map(|(read, id)| (id, read)).collect();
        if let Some(last) = last.filter(|_| !sweep.outcome.is_complete()) {
            // What was not shown this time is as it was.
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
            let own = failed.iter().find(|(viewer, ..)| *viewer == subscription.viewer);
            let sees = self.store.proven(&subscription.viewer, &sweep.scope).is_some();
            let own = match own {
                Some((_, outcome, error)) if sees => {
                    ScopeReport { outcome: *outcome, error: Some(error.clone()), ..report.clone() }
                }
                // What the credentials of others showed it does not hear.
                Some((_, outcome, error)) => ScopeReport::failed(*outcome, error.clone(), report.ended),
                None if sees => report.clone(),
                None => {
                    // Another one's listing did well, and was recorded: otherwise its turn comes with the next.
                    if has_prover {
                        self.waiting.entry(sweep.scope.clone()).or_default().insert(subscription.viewer.clone());
                    }
                    continue;
                }
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

    /// Of what one CloudScan asked for that does not see it, nobody else hears.
    fn settle_refused(&mut self, looked: Looked) {
        let Looked { sweep, failed, .. } = looked;
        for (viewer, outcome, error) in failed {
            if error.reason == Reason::InvalidCredentials {
                self.sessions.remove(&viewer);
            }
            let report = ScopeReport::failed(outcome, error, sweep.ended);
            if let Some(account) = self.reports.get_mut(&viewer) {
                account.scopes.insert(sweep.scope.clone(), report);
            }
        }
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
                if !self.waiting.values().any(|viewers| viewers.contains(viewer)) {
                    report.handled_request.clone_from(&subscription.requested_at);
                }
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

/// The shortest cadence and the strictest limits hold where CloudScans share a scope.
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
