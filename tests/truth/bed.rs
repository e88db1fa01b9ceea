//! One account of the emulator behind the proxy, a store with a clock that the test moves, and the scanner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use elava::cloud::aws::{access, keys};
use elava::cloud::{AccountTarget, Provider};
use elava::inventory::{
    AccountId, Filter, LossLimits, Moment, Outcome, Region, Resource, Snapshot, Subscriber, TagSet, Tags,
    Timestamp,
};
use elava::scanner::{AccountScanner, Round, Subscription};
use elava::store::{Clock, Store};

use crate::support::aws::{Emulator, Hands};
use crate::support::proxy::{Call, Proxy};

pub const IRELAND: &str = "eu-west-1";
pub const VIRGINIA: &str = "us-east-1";

pub type TagMap = BTreeMap<String, String>;

pub struct Bed {
    pub account: String,
    pub hands: Hands,
    pub store: Store,
    pub now: Arc<AtomicI64>,
    pub provider: Arc<dyn Provider>,
    pub scanner: AccountScanner,
    pub subscription: Subscription,
    _dir: tempfile::TempDir,
}

impl Bed {
    pub async fn new(
        account: String,
        types: &[&'static str],
        regions: &[&str],
        aws: &Emulator,
        proxy: &Proxy,
        provider: Arc<dyn Provider>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(Timestamp::from(jiff::Timestamp::now()).as_millis()));
        let ticking = now.clone();
        let clock: Clock = Arc::new(move || Timestamp::from_millis(ticking.load(Ordering::Relaxed)));
        let store = Store::open(&dir.path().join("elava.redb"), clock).unwrap();
        let endpoint: Arc<str> = proxy.url.as_str().into();
        let target = AccountTarget {
            account: Some(AccountId::new(account.as_str())),
            provider: "aws".into(),
            access: access(keys("somebody", "somebody"), Some(format!("arn:aws:iam::{account}:role/elava"))),
            endpoint: endpoint.clone(),
            include_regions: regions.iter().map(|region| Region::new(*region)).collect(),
            exclude_regions: Vec::new(),
        };
        let subscription = Subscription {
            subscriber: Subscriber::new("team-a/one"),
            tenant: "".into(),
            target,
            types: types.to_vec(),
            interval: Duration::from_mins(5),
            suspended: false,
            loss: LossLimits::DEFAULT,
            confirmations: 2,
            released: Vec::new(),
            requested_at: None,
            generation: 1,
        };
        let scanner =
            AccountScanner::new(provider.clone(), store.clone(), AccountId::new(account.as_str()), endpoint);
        let hands = aws.hands(&account, IRELAND).await;
        Self { account, hands, store, now, provider, scanner, subscription, _dir: dir }
    }

    /// A scanner that has not swept anything yet.
    pub fn another_scanner(&self) -> AccountScanner {
        let target = &self.subscription.target;
        let account = AccountId::new(self.account.as_str());
        AccountScanner::new(self.provider.clone(), self.store.clone(), account, target.endpoint.clone())
    }

    pub fn pass(&self, span: Duration) {
        self.now.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sweeps everything twenty minutes later: nothing is young.
    pub async fn sweep_once(&mut self) -> Round {
        let subscription = self.subscription.clone();
        self.sweep_for(&[subscription]).await
    }

    /// The CloudScan of the bed, and an equal one of another team.
    pub fn two_cloud_scans(&self) -> [Subscription; 2] {
        let second = Subscription { subscriber: Subscriber::new("team-b/two"), ..self.subscription.clone() };
        [self.subscription.clone(), second]
    }

    /// Does the same for several CloudScans.
    pub async fn sweep_for(&mut self, subscriptions: &[Subscription]) -> Round {
        self.pass(Duration::from_mins(20));
        let round = self.scanner.round(subscriptions, true, &|_, _| {}).await;
        assert!(round.store_errors.is_empty(), "{:?}", round.store_errors);
        round
    }

    /// Sweeps the scopes that are due after this time.
    pub async fn wait(&mut self, span: Duration) -> Round {
        self.pass(span);
        self.scanner.round(std::slice::from_ref(&self.subscription), false, &|_, _| {}).await
    }

    /// The newest life of each id.
    pub fn recorded(&self) -> BTreeMap<String, Resource> {
        let filter =
            Filter { ended_since: Some(Timestamp::from_millis(0)), include_unwatched: true, ..Filter::default() };
        let mut recorded: BTreeMap<String, Resource> = BTreeMap::new();
        for resource in self.store.snapshot(Moment::Now).unwrap().resources(&filter).unwrap() {
            let id = resource.key.id.to_string();
            if recorded.get(&id).is_none_or(|other| !other.is_live()) {
                recorded.insert(id, resource);
            }
        }
        recorded
    }

    pub fn is_mine(&self) -> impl Fn(&Call) -> bool + Send + Sync + use<> {
        let account = self.account.clone();
        move |call| call.account == account
    }
}

pub fn is_same(tags: &TagSet, had: &TagMap) -> bool {
    tags.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<TagMap>() == *had
}

/// The value of the tag `owner`; None if the tags are unknown or do not include it.
pub fn owner(resource: &Resource) -> Option<&str> {
    match &resource.tags {
        Tags::Known(tags) => tags.get("owner"),
        _ => None,
    }
}

/// The outcome of the sweep of a type in a region.
pub fn outcome(round: &Round, resource_type: &str, region: &str) -> Outcome {
    let of = |scope: &&elava::inventory::Scope| {
        scope.resource_type.as_str() == resource_type && scope.region.as_str() == region
    };
    let found = round.scopes.iter().find(|(scope, _)| of(scope));
    found.unwrap_or_else(|| panic!("{resource_type} in {region} was not looked at")).1.outcome
}
