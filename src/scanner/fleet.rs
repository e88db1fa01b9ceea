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
    AccountReport, AccountScanner, EarlierTags, Meters, StoreTrouble, Subscription, remembered, unless_it_panics,
};
use crate::cloud::{AccountTarget, CloudError, Members, Provider};
use crate::inventory::{AccountId, Scope, Timestamp, Viewer};
use crate::store::{Store, StoreError};

/// An account at an endpoint: what one task looks at.
type AccountKey = (Arc<str>, AccountId);

/// A task that has nothing to look at (no credentials work) tries again so often.
const RETRY: Duration = Duration::from_secs(30);

/// Rounds that go on at once for each core. After a restart all accounts are due: listings of thousands together take
/// memory for all of them, and answers come too late because nobody has the time to read them.
const ROUNDS_A_CORE: usize = 32;
/// A round in which no scope ends for so long waits for its cloud: others don't wait for it.
const QUIET: Duration = Duration::from_secs(3);
/// Nor for one that goes on and on.
const LONGEST_TURN: Duration = Duration::from_mins(1);

/// A task whose CloudScans are all suspended sees so often whether it could still get in.
const SUSPENDED: Duration = Duration::from_hours(1);
const PANICKED: &str = "the program failed while it scanned the account, and begins anew: see the operator's log";
/// And no task begins another round sooner, whatever is due.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// What a task is to look at.
struct Wanted {
    list: Vec<Subscription>,
    /// Whose covers are to be dropped. The task does it between two rounds: one that is under way would
    /// give them back.
    left: BTreeSet<Viewer>,
    /// The task has seen that nobody is left, and takes no more.
    ended: bool,
}

struct Task {
    wanted: Arc<Mutex<Wanted>>,
    wake: Arc<Notify>,
    reports: Arc<Mutex<BTreeMap<Viewer, AccountReport>>>,
    handle: JoinHandle<()>,
}

/// A list of accounts, and what it was asked with.
struct Listed {
    lister: AccountTarget,
    units: Vec<String>,
    requested_at: Option<String>,
    at: Timestamp,
    members: Members,
}

/// A list of accounts is asked anew after so long.
const LIST_AGE: Duration = Duration::from_mins(5);

/// Runs one task per account; CloudScans subscribe. Dropping it ends the tasks.
pub struct Fleet {
    provider: Arc<dyn Provider>,
    store: Store,
    tasks: Mutex<BTreeMap<AccountKey, Task>>,
    /// Targets that name no account, and the one that answered.
    unnamed: Mutex<BTreeMap<Viewer, (AccountTarget, AccountId)>>,
    /// The accounts of organisations, as they were listed last.
    listed: Mutex<BTreeMap<Viewer, Listed>>,
    meters: Meters,
    turns: Arc<Semaphore>,
    is_restored: bool,
    /// Tells who should hear that a round has ended.
    finished: mpsc::Sender<Viewer>,
}

impl Fleet {
    /// The receiver hears of every viewer whose account was looked at.
    pub fn new(provider: Arc<dyn Provider>, store: Store) -> (Arc<Self>, mpsc::Receiver<Viewer>) {
        // A hint to look again: one that finds the queue full is made up for by the next round.
        let (finished, receiver) = mpsc::channel(1024);
        let (tasks, unnamed, listed) = (Mutex::default(), Mutex::default(), Mutex::default());
        let meters = Meters::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new(ROUNDS_A_CORE * cores));
        let is_restored = store.is_just_restored();
        (
            Arc::new(Self { provider, store, tasks, unnamed, listed, meters, turns, is_restored, finished }),
            receiver,
        )
    }

    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// Goes on with what was wanted before a restart, for CloudScans that nobody has spoken of since, as far as it is still
    /// allowed: a store may be older than a permission that was withdrawn, and than a CloudScan's suspension or end. So it
    /// is for when the API server can't be asked.
    pub fn resume(&self, is_allowed: impl Fn(&Subscription) -> bool) -> Result<(), StoreError> {
        for (viewer, mut subscriptions) in remembered::recall(&self.store, &self.provider.types())? {
            if self.lock().values().any(|task| task.is_wanted_by(&viewer)) {
                continue;
            }
            let before = subscriptions.len();
            subscriptions.retain(&is_allowed);
            if subscriptions.len() < before {
                tracing::warn!(cloudscan = %viewer, "what it was looking at is not allowed any more, in part or at all");
            }
            let keyed = |s: Subscription| Some(((s.target.endpoint.clone(), s.target.account.clone()?), s));
            self.replace(&viewer, subscriptions.into_iter().filter_map(keyed).collect());
        }
        Ok(())
    }

    /// The accounts of an organisation. Where they can't be listed, the last complete list stands, also one
    /// from before a restart, and the error is told beside it. A scan that is asked for lists them anew.
    pub async fn members(
        &self,
        viewer: &Viewer,
        lister: &AccountTarget,
        units: &[String],
        requested_at: Option<&str>,
    ) -> Result<(Members, Option<CloudError>), CloudError> {
        let now = self.store.now();
        if let Some(listed) = lock(&self.listed).get(viewer)
            && (&listed.lister, &*listed.units, listed.requested_at.as_deref()) == (lister, units, requested_at)
            && now.since(listed.at) < LIST_AGE
        {
            return Ok((listed.members.clone(), None));
        }
        let error = match unless_it_panics(list_members(&*self.provider, lister, units)).await {
            Ok(members) => {
                let (store, owner, list) = (self.store.clone(), viewer.clone(), members.clone());
                let units_asked = units.to_vec();
                let kept = tokio::task::spawn_blocking(move || {
                    remembered::remember_members(&store, &owner, &units_asked, &list)
                });
                if let Ok(Err(error)) = kept.await {
                    tracing::warn!(cloudscan = %viewer, reason = error.reason(), "the list of accounts is not kept: {error}");
                }
                let listed = Listed {
                    lister: lister.clone(),
                    units: units.to_vec(),
                    requested_at: requested_at.map(str::to_owned),
                    at: now,
                    members: members.clone(),
                };
                lock(&self.listed).insert(viewer.clone(), listed);
                return Ok((members, None));
            }
            Err(error) => error,
        };
        let (store, owner, units) = (self.store.clone(), viewer.clone(), units.to_vec());
        let last = tokio::task::spawn_blocking(move || remembered::recall_members(&store, &owner, &units)).await;
        match last {
            Ok(Ok(Some(members))) => Ok((members, Some(error))),
            _ => Err(error),
        }
    }

    /// What a CloudScan wants, in place of what it wanted before.
    pub async fn set(&self, viewer: &Viewer, subscriptions: Vec<Subscription>) -> Result<(), CloudError> {
        let mut wanted: BTreeMap<AccountKey, Subscription> = BTreeMap::new();
        for subscription in subscriptions {
            let account = self.account_of(viewer, &subscription.target).await?;
            wanted.insert((subscription.target.endpoint.clone(), account), subscription);
        }
        let resolved = wanted.iter().map(|((_, account), subscription)| {
            let mut subscription = subscription.clone();
            subscription.target.account = Some(account.clone());
            subscription
        });
        let (store, owner, resolved) = (self.store.clone(), viewer.clone(), resolved.collect::<Vec<_>>());
        let remembered =
            tokio::task::spawn_blocking(move || remembered::remember(&store, &owner, &resolved)).await;
        if let Ok(Err(error)) = remembered {
            tracing::warn!(cloudscan = %viewer, reason = error.reason(), "a restart would not know of it: {error}");
        }
        self.replace(viewer, wanted);
        Ok(())
    }

    /// Ends the looking for a CloudScan whose spec is refused. What it covers stays covered: it is neither deleted, nor does
    /// it want less.
    pub async fn refuse(&self, viewer: &Viewer) {
        let (store, owner) = (self.store.clone(), viewer.clone());
        let forgotten = tokio::task::spawn_blocking(move || remembered::remember(&store, &owner, &[])).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(cloudscan = %viewer, reason = error.reason(), "a restart would go on with it: {error}");
        }
        for task in self.lock().values() {
            task.refuse(viewer);
        }
    }

    /// Drops what a CloudScan covers in accounts that it does not name any more, also where it ceased
    /// to while the operator was down. To be called after [`Fleet::set`] took its whole desired set.
    pub fn forget_other_accounts(&self, viewer: &Viewer) -> Result<(), StoreError> {
        let tasks = self.lock();
        let is_named = |key| tasks.get(&key).is_some_and(|task| task.is_wanted_by(viewer));
        let dropped = self.drop_covers(&tasks, |v, scope| v == viewer && !is_named(key_of(scope)))?;
        if dropped { self.close_unwatched(&tasks) } else { Ok(()) }
    }

    /// Drops the covers that are lost, or has their task do it. Tells whether it dropped any itself.
    fn drop_covers(
        &self,
        tasks: &BTreeMap<AccountKey, Task>,
        is_lost: impl Fn(&Viewer, &Scope) -> bool,
    ) -> Result<bool, StoreError> {
        let mut dropped = false;
        for (viewer, scope) in self.store.covers().iter().filter(|(viewer, scope)| is_lost(viewer, scope)) {
            if !tasks.get(&key_of(scope)).is_some_and(|task| task.leave(viewer)) {
                self.store.drop_cover(viewer, scope)?;
                dropped = true;
            }
        }
        Ok(dropped)
    }

    /// Closes the scopes that nobody covers, where no task does it.
    fn close_unwatched(&self, tasks: &BTreeMap<AccountKey, Task>) -> Result<(), StoreError> {
        self.store.close_uncovered(|scope| tasks.get(&key_of(scope)).is_none_or(Task::has_ended))
    }

    /// The account that a target names, or that its credentials answer for.
    async fn account_of(&self, viewer: &Viewer, target: &AccountTarget) -> Result<AccountId, CloudError> {
        if let Some(account) = &target.account {
            return Ok(account.clone());
        }
        if let Some((known, account)) = lock(&self.unnamed).get(viewer)
            && known == target
        {
            return Ok(account.clone());
        }
        let account = unless_it_panics(self.provider.connect(target)).await?.identity().account.clone();
        lock(&self.unnamed).insert(viewer.clone(), (target.clone(), account.clone()));
        Ok(account)
    }

    fn replace(&self, viewer: &Viewer, wanted: BTreeMap<AccountKey, Subscription>) {
        let mut tasks = self.lock();
        for (_, task) in tasks.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            task.change(viewer, None);
        }
        for (key, subscription) in wanted {
            match tasks.get(&key) {
                Some(task) if !task.has_ended() => task.change(viewer, Some(subscription)),
                _ => {
                    let task = self.spawn(&key, subscription);
                    tasks.insert(key, task);
                }
            }
        }
        tasks.retain(|_, task| !task.has_ended());
    }

    /// Drops whatever belongs to CloudScans that are not in the complete list of those that exist, and
    /// closes scopes that no task looks at: deleted while the operator was down is deleted too.
    /// `existing` is asked while nobody can subscribe.
    pub fn retain(&self, existing: impl FnOnce() -> BTreeSet<Viewer>) -> Result<(), StoreError> {
        let tasks = self.lock();
        let existing = existing();
        for task in tasks.values() {
            let gone: Vec<Viewer> = lock(&task.wanted)
                .list
                .iter()
                .map(|s| s.viewer.clone())
                .filter(|v| !existing.contains(v))
                .collect();
            for viewer in gone {
                task.change(&viewer, None);
            }
        }
        lock(&self.unnamed).retain(|viewer, _| existing.contains(viewer));
        lock(&self.listed).retain(|viewer, _| existing.contains(viewer));
        self.drop_covers(&tasks, |viewer, _| !existing.contains(viewer))?;
        self.close_unwatched(&tasks)?;
        self.store.retain_notes(&existing)
    }

    /// What is known of each account for a CloudScan.
    pub fn reports(&self, viewer: &Viewer) -> Vec<AccountReport> {
        self.lock().values().filter_map(|task| lock(&task.reports).get(viewer).cloned()).collect()
    }

    /// The resources of a CloudScan whose tags are those of an earlier sweep, by scope.
    pub fn earlier_tags(&self, viewer: &Viewer) -> BTreeMap<Scope, EarlierTags> {
        let mut earlier = BTreeMap::new();
        for task in self.lock().values() {
            if let Some(report) = lock(&task.reports).get(viewer) {
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
        self.lock().keys().map(|(_, account)| account.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AccountKey, Task>> {
        lock(&self.tasks)
    }

    /// A task begins with its first subscription: one that finds nobody ends.
    fn spawn(&self, (endpoint, account): &AccountKey, first: Subscription) -> Task {
        let wanted = Arc::new(Mutex::new(Wanted { list: vec![first], left: BTreeSet::new(), ended: false }));
        let reports: Arc<Mutex<BTreeMap<Viewer, AccountReport>>> = Arc::default();
        let wake = Arc::new(Notify::new());
        let scanner =
            AccountScanner::new(self.provider.clone(), self.store.clone(), account.clone(), endpoint.clone())
                .metered_by(self.meters.clone())
                .restored(self.is_restored)
                .without_first_sights();
        let running = Running {
            wanted: wanted.clone(),
            wake: wake.clone(),
            reports: reports.clone(),
            turns: self.turns.clone(),
            finished: self.finished.clone(),
            store: self.store.clone(),
        };
        let handle = tokio::spawn(running.run(scanner));
        Task { wanted, wake, reports, handle }
    }
}

/// The accounts of an organisation, all of them or an error.
pub async fn list_members(
    provider: &dyn Provider,
    lister: &AccountTarget,
    units: &[String],
) -> Result<Members, CloudError> {
    provider.connect(lister).await?.members(units).await
}

fn key_of(scope: &Scope) -> AccountKey {
    (scope.endpoint.clone(), scope.account.clone())
}

impl Task {
    /// Whether it ended, by itself or by a panic: what it is told now nobody hears.
    fn has_ended(&self) -> bool {
        lock(&self.wanted).ended || self.handle.is_finished()
    }

    fn is_wanted_by(&self, viewer: &Viewer) -> bool {
        lock(&self.wanted).list.iter().any(|s| s.viewer == *viewer)
    }

    /// Has the covers of a CloudScan dropped; false when the task has ended and will not.
    fn leave(&self, viewer: &Viewer) -> bool {
        let mut wanted = lock(&self.wanted);
        let is_there = !wanted.ended && !self.handle.is_finished();
        if is_there {
            wanted.left.insert(viewer.clone());
            self.wake.notify_one();
        }
        is_there
    }

    fn refuse(&self, viewer: &Viewer) {
        let is_wanted = {
            let list = &mut lock(&self.wanted).list;
            let before = list.len();
            list.retain(|subscription| subscription.viewer != *viewer);
            list.len() < before
        };
        if is_wanted {
            lock(&self.reports).remove(viewer);
            self.wake.notify_one();
        }
    }

    fn change(&self, viewer: &Viewer, subscription: Option<Subscription>) {
        let mut guard = lock(&self.wanted);
        let Wanted { list: wanted, left, .. } = &mut *guard;
        if subscription.is_some() {
            left.remove(viewer);
        }
        let before = wanted.iter().position(|s| s.viewer == *viewer);
        match (before, subscription) {
            (None, None) => return,
            (Some(i), None) => {
                wanted.remove(i);
                left.insert(viewer.clone());
                lock(&self.reports).remove(viewer);
            }
            (Some(i), Some(new)) if same(&wanted[i], &new) => return,
            (Some(i), Some(new)) => wanted[i] = new,
            (None, Some(new)) => wanted.push(new),
        }
        drop(guard);
        self.wake.notify_one();
    }
}

fn same(a: &Subscription, b: &Subscription) -> bool {
    format!("{a:?}") == format!("{b:?}") && a.target == b.target
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in self.lock().values() {
            task.handle.abort();
        }
    }
}

/// What a task works with: see [`Task`] and [`Fleet`].
struct Running {
    wanted: Arc<Mutex<Wanted>>,
    wake: Arc<Notify>,
    reports: Arc<Mutex<BTreeMap<Viewer, AccountReport>>>,
    turns: Arc<Semaphore>,
    finished: mpsc::Sender<Viewer>,
    store: Store,
}

impl Running {
    /// Until nobody wants the account any more.
    async fn run(self, mut scanner: AccountScanner) {
        loop {
            let (left, is_last) = {
                let wanted = lock(&self.wanted);
                (wanted.left.clone(), wanted.list.is_empty())
            };
            if !left.is_empty() && !scanner.release(left.clone(), is_last).await {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            // Before what is wanted is read: it may be something else by then.
            let turn = self.turns.acquire().await.expect("nobody closes it");
            // What it was woken for meanwhile is read now.
            let _ = self.wake.notified().now_or_never();
            let subscriptions = {
                let mut wanted = lock(&self.wanted);
                wanted.left.retain(|viewer| !left.contains(viewer));
                // Who left while it waited is let go of right after the round.
                if !wanted.left.is_empty() {
                    self.wake.notify_one();
                }
                wanted.ended = wanted.list.is_empty() && wanted.left.is_empty();
                if wanted.ended {
                    return;
                }
                wanted.list.clone()
            };
            if subscriptions.is_empty() {
                continue;
            }
            let ended = AtomicUsize::new(0);
            let progress = |_, _| {
                ended.fetch_add(1, Ordering::Relaxed);
            };
            let round = AssertUnwindSafe(scanner.round(&subscriptions, false, &progress)).catch_unwind();
            if in_turn(turn, QUIET, &ended, round).await.is_err() {
                // What was under way is not known: it is begun anew, and not at once.
                tracing::error!("a round failed within the program, and is begun anew: see the lines before");
                self.report_panic(&subscriptions);
                scanner = scanner.anew();
                tokio::time::sleep(RETRY).await;
                continue;
            }
            {
                // Only those still wanted: one that left meanwhile has no report.
                let still: BTreeSet<Viewer> = lock(&self.wanted).list.iter().map(|s| s.viewer.clone()).collect();
                let mut reports = lock(&self.reports);
                *reports = scanner.reports.clone();
                reports.retain(|viewer, _| still.contains(viewer));
            }
            for subscription in &subscriptions {
                let _ = self.finished.try_send(subscription.viewer.clone());
            }
            let is_suspended = subscriptions.iter().all(|subscription| subscription.suspended);
            let pause = match scanner.next() {
                Some(next) => next.since(self.store.now()).max(SHORTEST_PAUSE),
                None if is_suspended => SUSPENDED,
                None => RETRY,
            };
            let failed = scanner.reports.values().any(|r| matches!(r.credentials, Some(Err(_))));
            let pause = if failed { pause.min(RETRY) } else { pause };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What was reported of the account before stays, with what keeps it from being true.
    fn report_panic(&self, subscriptions: &[Subscription]) {
        let trouble = StoreTrouble { reason: "Panicked", message: PANICKED.to_owned() };
        let mut reports = lock(&self.reports);
        for Subscription { viewer, .. } in subscriptions {
            if let Some(report) = reports.get_mut(viewer) {
                report.store_error = Some(trouble.clone());
                let _ = self.finished.try_send(viewer.clone());
            }
        }
    }
}

/// Does it all, in its turn for as long as something ends in every `quiet`.
async fn in_turn<T>(
    turn: SemaphorePermit<'_>,
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
            if ended.load(Ordering::Relaxed) == before || started.elapsed() > LONGEST_TURN {
                break;
            }
        }
    };
    tokio::select! {
        done = &mut round => return done,
        () = too_long => drop(turn),
    }
    round.await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::cloud::{Credentials, Session, TypeInfo};
    use crate::inventory::{LossLimits, Reason};

    /// Lets nobody in, and nobody know, until it is told to.
    #[derive(Default)]
    struct Gate {
        waiting: AtomicUsize,
        told: Notify,
    }

    #[async_trait]
    impl Provider for Gate {
        fn name(&self) -> &'static str {
            "aws"
        }

        fn types(&self) -> Vec<TypeInfo> {
            Vec::new()
        }

        fn default_endpoint(&self) -> String {
            String::new()
        }

        /// Panics on some credentials, as the SDK does on keys that no header can carry.
        async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
            assert!(target.external_id.is_none(), "no header can carry it");
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.told.notified().await;
            Err(CloudError::new(Reason::Unreachable, "closed"))
        }
    }

    fn subscription(account: String) -> Subscription {
        Subscription {
            viewer: Viewer::new("team-a/one"),
            tenant: "".into(),
            target: AccountTarget {
                account: Some(AccountId::new(account)),
                role_arn: None,
                external_id: None,
                credentials: Credentials::Chain,
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
        (bad.viewer, bad.target.external_id) = (Viewer::new("team-b/bad"), Some("x".to_owned()));
        let gate = Gate::default();
        gate.told.notify_one();
        let provider: Arc<dyn Provider> = Arc::new(gate);
        let mut scanner = AccountScanner::new(provider.clone(), store.clone(), AccountId::new(account), "".into());
        scanner.round(&[bad.clone(), good.clone()], false, &|_, _| {}).await;
        let reason = |viewer: &Viewer| match &scanner.reports[viewer].credentials {
            Some(Err(error)) => error.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!((reason(&bad.viewer), reason(&good.viewer)), (Reason::InvalidCredentials, Reason::Unreachable));
        let (fleet, _finished) = Fleet::new(provider, store);
        let listed = fleet.members(&bad.viewer, &bad.target, &[], None).await;
        assert_eq!(listed.unwrap_err().reason, Reason::InvalidCredentials);
    }

    #[test]
    fn a_round_that_panics_is_in_the_report_that_stands() {
        let dir = tempfile::tempdir().unwrap();
        let (finished, mut heard) = mpsc::channel(1);
        let one = subscription("000000000001".to_owned());
        let reports = BTreeMap::from([(one.viewer.clone(), AccountReport::default())]);
        let running = Running {
            wanted: Arc::new(Mutex::new(Wanted { list: vec![one.clone()], left: BTreeSet::new(), ended: false })),
            wake: Arc::default(),
            reports: Arc::new(Mutex::new(reports)),
            turns: Arc::new(Semaphore::new(1)),
            finished,
            store: Store::open(&dir.path().join("store"), crate::store::system_clock()).unwrap(),
        };
        running.report_panic(std::slice::from_ref(&one));
        assert_eq!(heard.try_recv().unwrap(), one.viewer);
        let trouble = lock(&running.reports)[&one.viewer].store_error.clone().unwrap();
        assert_eq!((trouble.reason, &*trouble.message), ("Panicked", PANICKED));
    }

    #[tokio::test]
    async fn no_more_accounts_are_looked_at_at_once_than_there_are_turns() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), crate::store::system_clock()).unwrap();
        let gate = Arc::new(Gate::default());
        let (fleet, _finished) = Fleet::new(gate.clone(), store);
        let turns = fleet.turns.available_permits();
        let accounts = (0..=turns).map(|n| subscription(format!("{n:012}"))).collect();
        fleet.set(&Viewer::new("team-a/one"), accounts).await.unwrap();
        let waiting = || gate.waiting.load(Ordering::Relaxed);
        while waiting() < turns {
            tokio::task::yield_now().await;
        }
        // All tasks are of this thread: whoever could go on has.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting(), turns);
        gate.told.notify_one();
        while waiting() <= turns {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_round_has_its_turn_for_as_long_as_something_ends() {
        let (turns, ended) = (Semaphore::new(1), AtomicUsize::new(0));
        let quiet = Duration::from_millis(20);
        let round = async {
            for _ in 0..20 {
                ended.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(quiet / 4).await;
            }
            turns.available_permits()
        };
        let turn = turns.acquire().await.unwrap();
        let meanwhile = in_turn(turn, quiet, &ended, round).await;
        assert_eq!((meanwhile, turns.available_permits()), (0, 1));
    }

    #[tokio::test]
    async fn a_round_in_which_nothing_ends_keeps_nobody_from_theirs() {
        let (turns, nothing) = (Semaphore::new(1), AtomicUsize::new(0));
        let turn = turns.acquire().await.unwrap();
        // This one lasts until another has had a turn.
        let round = async { drop(turns.acquire().await) };
        let round = in_turn(turn, Duration::from_millis(1), &nothing, round);
        let ended = tokio::time::timeout(Duration::from_mins(1), round).await;
        assert!(ended.is_ok(), "the turn was never given back");
    }
}
