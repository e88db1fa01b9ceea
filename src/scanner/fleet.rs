//! The tasks of all accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::{
    AccountKey, AccountReport, AccountScanner, EarlierTags, Meters, StoreFailure, Subscription, WithoutAccess,
    catch_panic, lock, remembered,
};
use crate::cloud::{AccountTarget, CloudError, Members, Provider, Providers};
use crate::inventory::{AccountId, Scope, Subscriber, Timestamp};
use crate::store::{Store, StoreError};

/// How long a task with nothing to scan (no credentials work) waits before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The maximum number of concurrent rounds per core. After a restart all accounts are due: thousands of concurrent
/// listings take memory for each, and responses time out because they are not read soon enough.
const ROUNDS_PER_CORE: usize = 32;
/// How long a round may go without ending a scope before it gives up its permit: it waits for its cloud, and other
/// rounds do not wait for it.
const PERMIT_IDLE_MAX: Duration = Duration::from_secs(3);
/// The maximum time that a round holds its permit.
const PERMIT_HOLD_MAX: Duration = Duration::from_mins(1);

/// How often a task whose CloudScans are all suspended checks whether their credentials still work.
const SUSPENDED_CHECK_INTERVAL: Duration = Duration::from_hours(1);
const PANICKED: &str = "the program failed while it scanned the account, and begins anew: see the operator's log";
/// The minimum pause between two rounds of a task, whatever is due.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(200);

/// What a task is to scan.
struct DesiredState {
    list: Vec<Subscription>,
    /// Subscribers whose visibilities are to be revoked. The task does that between two rounds: a round in
    /// progress would restore them.
    left: BTreeSet<Subscriber>,
    /// The task has no subscribers left, and accepts no more.
    ended: bool,
}

struct Task {
    desired: Arc<Mutex<DesiredState>>,
    wake: Arc<Notify>,
    reports: Arc<Mutex<BTreeMap<Subscriber, AccountReport>>>,
    handle: JoinHandle<()>,
}

/// A list of accounts, and the parameters it was requested with.
struct AccountList {
    lister: AccountTarget,
    units: Vec<String>,
    requested_at: Option<String>,
    at: Timestamp,
    members: Members,
}

/// The age at which a list of accounts is requested again.
const ACCOUNT_LIST_MAX_AGE: Duration = Duration::from_mins(5);

/// Runs one task per account; CloudScans subscribe. Dropping it ends the tasks.
pub struct Fleet {
    providers: Providers,
    store: Store,
    tasks: Mutex<BTreeMap<AccountKey, Task>>,
    /// Targets without an account id, and the account that their credentials belong to.
    resolved_accounts: Mutex<BTreeMap<Subscriber, (AccountTarget, AccountId)>>,
    /// The accounts of organizations, as last listed.
    listed: Mutex<BTreeMap<Subscriber, AccountList>>,
    without_access: WithoutAccess,
    meters: Meters,
    permits: Arc<Semaphore>,
    is_restored: bool,
    /// Sends the subscribers to notify that a round has ended.
    finished: mpsc::Sender<Subscriber>,
}

impl Fleet {
    /// The receiver gets every subscriber whose account was scanned.
    pub fn new(providers: Providers, store: Store) -> (Arc<Self>, mpsc::Receiver<Subscriber>) {
        // A hint to reconcile: if the queue is full, the next round makes up for it.
        let (finished, receiver) = mpsc::channel(1024);
        let (tasks, resolved_accounts, listed) = (Mutex::default(), Mutex::default(), Mutex::default());
        let meters = Meters::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let permits = Arc::new(Semaphore::new(ROUNDS_PER_CORE * cores));
        let is_restored = store.is_just_restored();
        (
            Arc::new(Self {
                providers,
                store,
                tasks,
                resolved_accounts,
                listed,
                without_access: WithoutAccess::default(),
                meters,
                permits,
                is_restored,
                finished,
            }),
            receiver,
        )
    }

    pub fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Resumes the subscriptions from before a restart, for CloudScans without a new one, as far as they are still
    /// allowed. Use it only if the API server is unreachable: a store may be older than the withdrawal of a
    /// permission, and than the suspension or deletion of a CloudScan.
    pub fn resume(&self, is_allowed: impl Fn(&Subscription) -> bool) -> Result<(), StoreError> {
        for (subscriber, mut subscriptions) in remembered::recall(&self.store, &self.providers)? {
            if self.lock().values().any(|task| task.has_subscriber(&subscriber)) {
                continue;
            }
            let before = subscriptions.len();
            subscriptions.retain(&is_allowed);
            if subscriptions.len() < before {
                tracing::warn!(cloudscan = %subscriber, "what it scanned is not allowed any more, in part or at all");
            }
            let keyed = |s: Subscription| Some((AccountKey::of(&s.target, s.target.account.clone()?), s));
            self.replace(&subscriber, subscriptions.into_iter().filter_map(keyed).collect());
        }
        Ok(())
    }

    /// The accounts of an organization. If they can't be listed, the last complete list is used, even from before
    /// a restart, and the error is returned with it. A requested scan lists them again.
    pub async fn members(
        &self,
        subscriber: &Subscriber,
        lister: &AccountTarget,
        units: &[String],
        requested_at: Option<&str>,
    ) -> Result<(Members, Option<CloudError>), CloudError> {
        let now = self.store.now();
        if let Some(listed) = lock(&self.listed).get(subscriber)
            && (&listed.lister, &*listed.units, listed.requested_at.as_deref()) == (lister, units, requested_at)
            && now.since(listed.at) < ACCOUNT_LIST_MAX_AGE
        {
            return Ok((listed.members.clone(), None));
        }
        let error = match catch_panic(list_members(&self.providers, lister, units)).await {
            Ok(members) => {
                let (owner, list, units_requested) = (subscriber.clone(), members.clone(), units.to_vec());
                let work =
                    move |store: &Store| remembered::remember_members(store, &owner, &units_requested, &list);
                if let Err(error) = self.store.run_blocking(work).await {
                    tracing::warn!(cloudscan = %subscriber, reason = error.reason(), "the list of accounts is not kept: {error}");
                }
                let listed = AccountList {
                    lister: lister.clone(),
                    units: units.to_vec(),
                    requested_at: requested_at.map(str::to_owned),
                    at: now,
                    members: members.clone(),
                };
                lock(&self.listed).insert(subscriber.clone(), listed);
                return Ok((members, None));
            }
            Err(error) => error,
        };
        let (owner, units) = (subscriber.clone(), units.to_vec());
        match self.store.run_blocking(move |store| remembered::recall_members(store, &owner, &units)).await {
            Ok(Some(members)) => Ok((members, Some(error))),
            _ => Err(error),
        }
    }

    /// Replaces the desired subscriptions of a CloudScan.
    pub async fn set(&self, subscriber: &Subscriber, subscriptions: Vec<Subscription>) -> Result<(), CloudError> {
        let mut desired: BTreeMap<AccountKey, Subscription> = BTreeMap::new();
        for subscription in subscriptions {
            let account = self.account_of(subscriber, &subscription.target).await?;
            desired.insert(AccountKey::of(&subscription.target, account), subscription);
        }
        let resolved = desired.iter().map(|(key, subscription)| {
            let mut subscription = subscription.clone();
            subscription.target.account = Some(key.account.clone());
            subscription
        });
        let (owner, resolved) = (subscriber.clone(), resolved.collect::<Vec<_>>());
        let remembered =
            self.store.run_blocking(move |store| remembered::remember(store, &owner, &resolved)).await;
        if let Err(error) = remembered {
            tracing::warn!(cloudscan = %subscriber, reason = error.reason(), "a restart would not know of it: {error}");
        }
        lock(&self.without_access).remove(subscriber);
        self.replace(subscriber, desired);
        Ok(())
    }

    /// Stops scanning for a CloudScan whose spec is rejected. It keeps its visibilities: it is not deleted, and
    /// its selection has not become smaller.
    ///
    /// With `access_ended` the administrator does not allow what it uses any more: once the credentials of another
    /// CloudScan list a scope, it stops seeing it.
    pub async fn refuse(&self, subscriber: &Subscriber, access_ended: bool) {
        if access_ended {
            lock(&self.without_access).insert(subscriber.clone());
        }
        let owner = subscriber.clone();
        let forgotten = self.store.run_blocking(move |store| remembered::remember(store, &owner, &[])).await;
        if let Err(error) = forgotten {
            tracing::warn!(cloudscan = %subscriber, reason = error.reason(), "a restart would go on with it: {error}");
        }
        for task in self.lock().values() {
            task.refuse(subscriber);
        }
    }

    /// Revokes what a CloudScan can see in accounts that it no longer selects, including those deselected while
    /// the operator was down. Call it after [`Fleet::set`] has processed the complete desired set.
    pub fn forget_other_accounts(&self, subscriber: &Subscriber) -> Result<(), StoreError> {
        let tasks = self.lock();
        let is_named = |key| tasks.get(&key).is_some_and(|task| task.has_subscriber(subscriber));
        let dropped = self
            .revoke_visibilities(&tasks, |v, scope| v == subscriber && !is_named(AccountKey::of_scope(scope)))?;
        if dropped { self.close_invisible_scopes(&tasks) } else { Ok(()) }
    }

    /// Revokes the lost visibilities, or has their task do it. Returns whether it revoked any itself.
    fn revoke_visibilities(
        &self,
        tasks: &BTreeMap<AccountKey, Task>,
        is_lost: impl Fn(&Subscriber, &Scope) -> bool,
    ) -> Result<bool, StoreError> {
        let mut dropped = false;
        for (subscriber, scope) in
            self.store.visibilities().iter().filter(|(subscriber, scope)| is_lost(subscriber, scope))
        {
            if !tasks.get(&AccountKey::of_scope(scope)).is_some_and(|task| task.request_release(subscriber)) {
                self.store.revoke_visibility(subscriber, scope)?;
                dropped = true;
            }
        }
        Ok(dropped)
    }

    /// Closes the scopes that are visible to no subscriber, unless a task does it.
    fn close_invisible_scopes(&self, tasks: &BTreeMap<AccountKey, Task>) -> Result<(), StoreError> {
        self.store
            .close_invisible_scopes(|scope| tasks.get(&AccountKey::of_scope(scope)).is_none_or(Task::has_ended))
    }

    /// The account of a target: the one it names, or the one its credentials belong to.
    async fn account_of(&self, subscriber: &Subscriber, target: &AccountTarget) -> Result<AccountId, CloudError> {
        if let Some(account) = &target.account {
            return Ok(account.clone());
        }
        if let Some((known, account)) = lock(&self.resolved_accounts).get(subscriber)
            && known == target
        {
            return Ok(account.clone());
        }
        let account =
            catch_panic(self.providers.get(&target.provider)?.connect(target)).await?.identity().account.clone();
        lock(&self.resolved_accounts).insert(subscriber.clone(), (target.clone(), account.clone()));
        Ok(account)
    }

    fn replace(&self, subscriber: &Subscriber, desired: BTreeMap<AccountKey, Subscription>) {
        let mut tasks = self.lock();
        for (_, task) in tasks.iter().filter(|(key, _)| !desired.contains_key(*key)) {
            task.change(subscriber, None);
        }
        for (key, subscription) in desired {
            match tasks.get(&key) {
                Some(task) if !task.has_ended() => task.change(subscriber, Some(subscription)),
                _ => {
                    // A spec with a provider that is not here was refused.
                    let Ok(provider) = self.providers.get(&key.provider) else { continue };
                    let task = self.spawn(provider.clone(), &key, subscription);
                    tasks.insert(key, task);
                }
            }
        }
        tasks.retain(|_, task| !task.has_ended());
    }

    /// Drops everything of CloudScans that are not in the complete list of existing ones, and closes scopes that
    /// no task scans: this includes CloudScans deleted while the operator was down. `existing` is called while no
    /// CloudScan can subscribe.
    pub fn retain(&self, existing: impl FnOnce() -> BTreeSet<Subscriber>) -> Result<(), StoreError> {
        let tasks = self.lock();
        let existing = existing();
        for task in tasks.values() {
            let gone: Vec<Subscriber> = lock(&task.desired)
                .list
                .iter()
                .map(|s| s.subscriber.clone())
                .filter(|v| !existing.contains(v))
                .collect();
            for subscriber in gone {
                task.change(&subscriber, None);
            }
        }
        lock(&self.resolved_accounts).retain(|subscriber, _| existing.contains(subscriber));
        lock(&self.listed).retain(|subscriber, _| existing.contains(subscriber));
        lock(&self.without_access).retain(|subscriber| existing.contains(subscriber));
        self.revoke_visibilities(&tasks, |subscriber, _| !existing.contains(subscriber))?;
        self.close_invisible_scopes(&tasks)?;
        self.store.retain_notes(&existing)
    }

    /// The report of each account for a CloudScan.
    pub fn reports(&self, subscriber: &Subscriber) -> Vec<AccountReport> {
        self.lock().values().filter_map(|task| lock(&task.reports).get(subscriber).cloned()).collect()
    }

    /// Whether the credentials of a CloudScan do not work in an account.
    pub fn is_locked_out(&self, subscriber: &Subscriber) -> bool {
        let has_failed = |task: &Task| {
            lock(&task.reports).get(subscriber).is_some_and(|report| matches!(report.credentials, Some(Err(_))))
        };
        self.lock().values().any(has_failed)
    }

    /// The resources of a CloudScan whose tags are from an earlier sweep, by scope.
    pub fn earlier_tags(&self, subscriber: &Subscriber) -> BTreeMap<Scope, EarlierTags> {
        let mut earlier = BTreeMap::new();
        for task in self.lock().values() {
            if let Some(report) = lock(&task.reports).get(subscriber) {
                earlier.extend(report.earlier_tags());
            }
        }
        earlier
    }

    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Accounts with a task.
    pub fn accounts(&self) -> Vec<AccountId> {
        self.lock().keys().map(|key| key.account.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AccountKey, Task>> {
        lock(&self.tasks)
    }

    /// A task starts with its first subscription: a task without subscribers ends.
    fn spawn(&self, provider: Arc<dyn Provider>, key: &AccountKey, first: Subscription) -> Task {
        let desired =
            Arc::new(Mutex::new(DesiredState { list: vec![first], left: BTreeSet::new(), ended: false }));
        let reports: Arc<Mutex<BTreeMap<Subscriber, AccountReport>>> = Arc::default();
        let wake = Arc::new(Notify::new());
        let scanner = AccountScanner::new(provider, self.store.clone(), key.account.clone(), key.endpoint.clone())
            .with_meters(self.meters.clone())
            .without_access_of(self.without_access.clone())
            .restored(self.is_restored)
            .without_baseline_changes();
        let running = TaskRunner {
            desired: desired.clone(),
            wake: wake.clone(),
            reports: reports.clone(),
            permits: self.permits.clone(),
            finished: self.finished.clone(),
            store: self.store.clone(),
        };
        let handle = tokio::spawn(running.run(scanner));
        Task { desired, wake, reports, handle }
    }
}

/// All accounts of an organization, or an error.
pub async fn list_members(
    providers: &Providers,
    lister: &AccountTarget,
    units: &[String],
) -> Result<Members, CloudError> {
    providers.get(&lister.provider)?.connect(lister).await?.members(units).await
}

impl Task {
    /// Whether it ended, by itself or by a panic: changes no longer reach it.
    fn has_ended(&self) -> bool {
        lock(&self.desired).ended || self.handle.is_finished()
    }

    fn has_subscriber(&self, subscriber: &Subscriber) -> bool {
        lock(&self.desired).list.iter().any(|s| s.subscriber == *subscriber)
    }

    /// Has the task revoke the visibilities of a CloudScan; false if the task has ended.
    fn request_release(&self, subscriber: &Subscriber) -> bool {
        let mut desired = lock(&self.desired);
        let is_there = !desired.ended && !self.handle.is_finished();
        if is_there {
            desired.left.insert(subscriber.clone());
            self.wake.notify_one();
        }
        is_there
    }

    fn refuse(&self, subscriber: &Subscriber) {
        let is_desired = {
            let list = &mut lock(&self.desired).list;
            let before = list.len();
            list.retain(|subscription| subscription.subscriber != *subscriber);
            list.len() < before
        };
        if is_desired {
            lock(&self.reports).remove(subscriber);
            self.wake.notify_one();
        }
    }

    fn change(&self, subscriber: &Subscriber, subscription: Option<Subscription>) {
        let mut guard = lock(&self.desired);
        let DesiredState { list: desired, left, .. } = &mut *guard;
        if subscription.is_some() {
            left.remove(subscriber);
        }
        let before = desired.iter().position(|s| s.subscriber == *subscriber);
        match (before, subscription) {
            (None, None) => return,
            (Some(i), None) => {
                desired.remove(i);
                left.insert(subscriber.clone());
                lock(&self.reports).remove(subscriber);
            }
            (Some(i), Some(new)) if is_unchanged(&desired[i], &new) => return,
            (Some(i), Some(new)) => desired[i] = new,
            (None, Some(new)) => desired.push(new),
        }
        drop(guard);
        self.wake.notify_one();
    }
}

fn is_unchanged(a: &Subscription, b: &Subscription) -> bool {
    format!("{a:?}") == format!("{b:?}") && a.target == b.target
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in self.lock().values() {
            task.handle.abort();
        }
    }
}

/// The state of a running task: see [`Task`] and [`Fleet`].
struct TaskRunner {
    desired: Arc<Mutex<DesiredState>>,
    wake: Arc<Notify>,
    reports: Arc<Mutex<BTreeMap<Subscriber, AccountReport>>>,
    permits: Arc<Semaphore>,
    finished: mpsc::Sender<Subscriber>,
    store: Store,
}

impl TaskRunner {
    /// Runs until no subscriber is left.
    async fn run(self, mut scanner: AccountScanner) {
        loop {
            let (left, is_last) = {
                let desired = lock(&self.desired);
                (desired.left.clone(), desired.list.is_empty())
            };
            if !left.is_empty() && !scanner.release(left.clone(), is_last).await {
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            // Before the desired state is read: it may change while waiting.
            let permit = self.permits.acquire().await.expect("it is never closed");
            // Changes that woke it meanwhile are read now.
            let _ = self.wake.notified().now_or_never();
            let subscriptions = {
                let mut desired = lock(&self.desired);
                desired.left.retain(|subscriber| !left.contains(subscriber));
                // Subscribers that left meanwhile are released right after the round.
                if !desired.left.is_empty() {
                    self.wake.notify_one();
                }
                desired.ended = desired.list.is_empty() && desired.left.is_empty();
                if desired.ended {
                    return;
                }
                desired.list.clone()
            };
            if subscriptions.is_empty() {
                continue;
            }
            let ended = AtomicUsize::new(0);
            let progress = |_, _| {
                ended.fetch_add(1, Ordering::Relaxed);
            };
            let round = AssertUnwindSafe(scanner.round(&subscriptions, false, &progress)).catch_unwind();
            if holding_permit(permit, PERMIT_IDLE_MAX, &ended, round).await.is_err() {
                // The state of the round is unknown: start again with a new scanner, after a pause.
                tracing::error!("a round failed within the program, and is begun anew: see the lines before");
                self.report_panic(&subscriptions);
                scanner = scanner.reset();
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
            {
                // Only current subscribers: one that left meanwhile has no report.
                let still: BTreeSet<Subscriber> =
                    lock(&self.desired).list.iter().map(|s| s.subscriber.clone()).collect();
                let mut reports = lock(&self.reports);
                *reports = scanner.reports.clone();
                reports.retain(|subscriber, _| still.contains(subscriber));
            }
            for subscription in &subscriptions {
                let _ = self.finished.try_send(subscription.subscriber.clone());
            }
            let is_suspended = subscriptions.iter().all(|subscription| subscription.suspended);
            let pause = match scanner.next() {
                Some(next) => next.since(self.store.now()).max(ROUND_PAUSE_MIN),
                None if is_suspended => SUSPENDED_CHECK_INTERVAL,
                None => RETRY_INTERVAL,
            };
            let failed = scanner.reports.values().any(|r| matches!(r.credentials, Some(Err(_))));
            let pause = if failed { pause.min(RETRY_INTERVAL) } else { pause };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Keeps the earlier report of the account, and adds why it may be outdated.
    fn report_panic(&self, subscriptions: &[Subscription]) {
        let trouble = StoreFailure { reason: "Panicked", message: PANICKED.to_owned() };
        let mut reports = lock(&self.reports);
        for Subscription { subscriber, .. } in subscriptions {
            if let Some(report) = reports.get_mut(subscriber) {
                report.store_error = Some(trouble.clone());
                let _ = self.finished.try_send(subscriber.clone());
            }
        }
    }
}

/// Runs the round, and holds the permit as long as a scope ends in every `quiet` interval.
async fn holding_permit<T>(
    permit: SemaphorePermit<'_>,
    quiet: Duration,
    ended: &AtomicUsize,
    round: impl Future<Output = T>,
) -> T {
    let mut round = pin!(round);
    let started = Instant::now();
    let too_long = async {
        loop {
            let before = ended.load(Ordering::Relaxed);
            tokio::time::sleep(quiet).await;
            if ended.load(Ordering::Relaxed) == before || started.elapsed() > PERMIT_HOLD_MAX {
                break;
            }
        }
    };
    tokio::select! {
        done = &mut round => return done,
        () = too_long => drop(permit),
    }
    round.await
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::cloud::aws::Aws;
    use crate::cloud::{Access, Credentials, Session, TypeInfo};
    use crate::inventory::ProviderFacts;
    use crate::inventory::{LossLimits, Reason};

    /// A provider whose connections wait until `opened` is notified, and then fail.
    #[derive(Default)]
    struct Gate {
        waiting: AtomicUsize,
        opened: Notify,
    }

    #[async_trait]
    impl Provider for Gate {
        fn name(&self) -> &'static str {
            "aws"
        }

        fn types(&self) -> Vec<TypeInfo> {
            Vec::new()
        }

        fn facts(&self) -> ProviderFacts {
            Aws::default().facts()
        }

        fn default_endpoint(&self) -> String {
            String::new()
        }

        /// Panics on some credentials, as the SDK does on keys that are invalid in a header.
        async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
            assert!(target.access.identity.is_none(), "no header can carry it");
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.opened.notified().await;
            Err(CloudError::new(Reason::Unreachable, "closed"))
        }
    }

    fn subscription(account: String) -> Subscription {
        Subscription {
            subscriber: Subscriber::new("team-a/one"),
            tenant: "".into(),
            target: AccountTarget {
                account: Some(AccountId::new(account)),
                access: Access::new(Credentials::Ambient),
                provider: "aws".into(),
                endpoint: "".into(),
                include_regions: Vec::new(),
                exclude_regions: Vec::new(),
            },
            types: Vec::new(),
            interval: Duration::from_mins(5),
            suspended: false,
            loss: LossLimits::DEFAULT,
            confirmations: 2,
            released: Vec::new(),
            requested_at: None,
            generation: 1,
        }
    }

    #[tokio::test]
    async fn credentials_that_the_client_panics_on_keep_nobody_else_from_the_account() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), crate::store::system_clock()).unwrap();
        let account = "000000000001".to_owned();
        let (mut bad, good) = (subscription(account.clone()), subscription(account.clone()));
        (bad.subscriber, bad.target.access.identity) = (Subscriber::new("team-b/bad"), Some("x".to_owned()));
        let gate = Gate::default();
        gate.opened.notify_one();
        let provider: Arc<dyn Provider> = Arc::new(gate);
        let mut scanner = AccountScanner::new(provider.clone(), store.clone(), AccountId::new(account), "".into());
        scanner.round(&[bad.clone(), good.clone()], false, &|_, _| {}).await;
        let reason = |subscriber: &Subscriber| match &scanner.reports[subscriber].credentials {
            Some(Err(error)) => error.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (reason(&bad.subscriber), reason(&good.subscriber)),
            (Reason::InvalidCredentials, Reason::Unreachable)
        );
        let (fleet, _finished) = Fleet::new(Providers::of([provider]), store);
        let listed = fleet.members(&bad.subscriber, &bad.target, &[], None).await;
        assert_eq!(listed.unwrap_err().reason, Reason::InvalidCredentials);
    }

    #[test]
    fn a_round_that_panics_is_in_the_report_that_stands() {
        let dir = tempfile::tempdir().unwrap();
        let (finished, mut heard) = mpsc::channel(1);
        let one = subscription("000000000001".to_owned());
        let reports = BTreeMap::from([(one.subscriber.clone(), AccountReport::default())]);
        let running = TaskRunner {
            desired: Arc::new(Mutex::new(DesiredState {
                list: vec![one.clone()],
                left: BTreeSet::new(),
                ended: false,
            })),
            wake: Arc::default(),
            reports: Arc::new(Mutex::new(reports)),
            permits: Arc::new(Semaphore::new(1)),
            finished,
            store: Store::open(&dir.path().join("store"), crate::store::system_clock()).unwrap(),
        };
        running.report_panic(std::slice::from_ref(&one));
        assert_eq!(heard.try_recv().unwrap(), one.subscriber);
        let trouble = lock(&running.reports)[&one.subscriber].store_error.clone().unwrap();
        assert_eq!((trouble.reason, &*trouble.message), ("Panicked", PANICKED));
    }

    #[tokio::test]
    async fn no_more_accounts_are_scanned_at_once_than_there_are_permits() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), crate::store::system_clock()).unwrap();
        let gate = Arc::new(Gate::default());
        let (fleet, _finished) = Fleet::new(Providers::of([gate.clone() as _]), store);
        let permits = fleet.permits.available_permits();
        let accounts = (0..=permits).map(|n| subscription(format!("{n:012}"))).collect();
        fleet.set(&Subscriber::new("team-a/one"), accounts).await.unwrap();
        let waiting = || gate.waiting.load(Ordering::Relaxed);
        while waiting() < permits {
            tokio::task::yield_now().await;
        }
        // All tasks run on this thread: each has gone as far as it can.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting(), permits);
        gate.opened.notify_one();
        while waiting() <= permits {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_round_keeps_its_permit_for_as_long_as_something_ends() {
        let (permits, ended) = (Semaphore::new(1), AtomicUsize::new(0));
        let quiet = Duration::from_millis(20);
        let round = async {
            for _ in 0..20 {
                ended.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(quiet / 4).await;
            }
            permits.available_permits()
        };
        let permit = permits.acquire().await.unwrap();
        let meanwhile = holding_permit(permit, quiet, &ended, round).await;
        assert_eq!((meanwhile, permits.available_permits()), (0, 1));
    }

    #[tokio::test]
    async fn a_round_in_which_nothing_ends_keeps_nobody_from_theirs() {
        let (permits, nothing) = (Semaphore::new(1), AtomicUsize::new(0));
        let permit = permits.acquire().await.unwrap();
        // This round lasts until another one has had a permit.
        let round = async { drop(permits.acquire().await) };
        let round = holding_permit(permit, Duration::from_millis(1), &nothing, round);
        let ended = tokio::time::timeout(Duration::from_mins(1), round).await;
        assert!(ended.is_ok(), "the permit was never given back");
    }
}
