//! Scanning: one task per account lists its scopes, confirms what is missing and commits.
//!
//! - [`round`]: one round over the due scopes of an account. The operator's tasks and `elava scan` use the same code.
//! - [`fleet`]: the tasks of all accounts, and their reports for each CloudScan.
//! - [`meters`]: the metrics of scanning.
//! - [`remembered`]: the desired subscriptions, for a restart while the API server is unreachable.
//!
//! A round lists first and concludes last: only when every due scope has been listed is it known whether so much is
//! missing at once that the sweeps are to be doubted rather than the cloud.

mod fleet;
mod meters;
mod remembered;
mod round;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

pub use fleet::{Fleet, list_members};
pub use meters::Meters;
pub use round::{AccountScanner, Progress, Round};

use futures::FutureExt;

use crate::cloud::{AccountTarget, CloudError, Identity};
use crate::inventory::{AccountId, LossLimits, Outcome, Reason, Scope, Subscriber, Timestamp, Unread};

/// The SDK panics on credentials that are invalid in a header: this becomes an error of these credentials, and
/// affects no other CloudScan.
async fn catch_panic<T>(call: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        let message = "the client of the cloud failed on these credentials: see the operator's log";
        Err(CloudError::new(Reason::InvalidCredentials, message))
    })
}

/// What one CloudScan requests for one account.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub subscriber: Subscriber,
    /// The tenant of the subscriber: results for a subscriber that meanwhile belongs to another tenant prove
    /// nothing. Empty if tenants are not checked.
    pub tenant: Arc<str>,
    pub target: AccountTarget,
    /// The names of the resource types to scan.
    pub types: Vec<&'static str>,
    pub interval: Duration,
    pub suspended: bool,
    pub loss: LossLimits,
    /// The number of sweeps that must agree if an API has no read by id.
    pub confirmations: u32,
    /// Accounts, or scopes as `account/region/type`, where a user has confirmed that what the mass-loss breaker
    /// holds is gone.
    pub released: Vec<String>,
    /// A new value requests a scan now.
    pub requested_at: Option<String>,
    /// The generation of the spec of this subscription.
    pub generation: i64,
}

/// The resources of a scope whose tags are from an earlier sweep, because they could not be read in the last one,
/// and when they were read; `None` if that was before this process started.
pub type EarlierTags = Arc<BTreeMap<String, Option<Timestamp>>>;

/// The result of the last sweep of a scope, as far as one CloudScan may know it.
#[derive(Clone, Debug)]
pub struct ScopeReport {
    pub outcome: Outcome,
    pub error: Option<CloudError>,
    /// The mass-loss breaker holds what this sweep missed.
    pub held: bool,
    /// It stays held until a user confirms that it is gone.
    pub awaits_release: bool,
    /// Parts of listed resources that could not be read, with the number of resources.
    pub unread: BTreeMap<Unread, usize>,
    pub earlier_tags: EarlierTags,
    pub ended: Timestamp,
}

impl ScopeReport {
    /// For a sweep that returned nothing to a CloudScan.
    fn failed(outcome: Outcome, error: CloudError, ended: Timestamp) -> Self {
        Self {
            outcome,
            error: Some(error),
            held: false,
            awaits_release: false,
            unread: BTreeMap::new(),
            earlier_tags: EarlierTags::default(),
            ended,
        }
    }
}

/// Why the store did not record the observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFailure {
    pub reason: &'static str,
    pub message: String,
}

/// What is known about one account, for one CloudScan.
#[derive(Clone, Debug, Default)]
pub struct AccountReport {
    pub account: Option<AccountId>,
    /// `None` until a connection was tried.
    pub credentials: Option<Result<Identity, CloudError>>,
    /// The list of regions could not be read, or selected regions do not exist.
    pub regions_error: Option<CloudError>,
    pub scopes: BTreeMap<Scope, ScopeReport>,
    /// The number of scopes to scan.
    pub scopes_desired: usize,
    pub last_started: Option<Timestamp>,
    pub last_ended: Option<Timestamp>,
    pub next: Option<Timestamp>,
    pub calls: u64,
    /// When counting the calls began.
    pub counted_since: Option<Timestamp>,
    /// The store did not record the observations.
    pub store_error: Option<StoreFailure>,
    /// The cloud's clock minus ours; zero if they agree.
    pub skew_millis: i64,
    pub rounds: u64,
    /// The generation of the spec in the last round.
    pub generation: i64,
    pub handled_request: Option<String>,
}

impl AccountReport {
    /// The scopes with resources whose tags are from an earlier sweep.
    pub fn earlier_tags(&self) -> impl Iterator<Item = (Scope, EarlierTags)> + '_ {
        round::earlier_tags(&self.scopes)
    }

    /// Every scope was scanned once, whatever the outcome.
    pub fn is_first_scan_complete(&self) -> bool {
        match &self.credentials {
            None => false,
            // With credentials that don't work there is nothing to scan, and that was tried.
            Some(Err(_)) => true,
            Some(Ok(_)) => {
                self.regions_error.is_some() || (self.rounds > 0 && self.scopes.len() >= self.scopes_desired)
            }
        }
    }
}
