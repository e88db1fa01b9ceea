//! Scanning: one task per account lists its scopes, confirms what is missing and commits.
//!
//! - [`round`]: one round over the scopes of an account that are due. The same code serves the
//!   operator's tasks and `elava scan`.
//! - [`fleet`]: the tasks of all accounts, and what they know for each CloudScan.
//! - [`meters`]: what it measures of itself.
//! - [`remembered`]: what was wanted, for a restart while the API server is away.
//!
//! A round lists first and concludes last: only when every due scope has been listed is it known
//! whether so much vanished at once that the look is to be doubted before the cloud is.

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
use crate::inventory::{AccountId, LossLimits, Outcome, Reason, Scope, Timestamp, Unread, Viewer};

/// The SDK panics on credentials that no header can carry: that is an error of these, and stops nobody else.
async fn unless_it_panics<T>(call: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        let message = "the client of the cloud failed on these credentials: see the operator's log";
        Err(CloudError::new(Reason::InvalidCredentials, message))
    })
}

/// What one CloudScan wants of one account.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub viewer: Viewer,
    /// Whose the viewer is: what is seen for one that is another's meanwhile proves nothing. Empty where nobody asks.
    pub tenant: Arc<str>,
    pub target: AccountTarget,
    /// The names of the resource types to look at.
    pub types: Vec<&'static str>,
    pub interval: Duration,
    pub suspended: bool,
    pub loss: LossLimits,
    /// Sweeps that must agree where an API has no read by id.
    pub confirmations: u32,
    /// Accounts, or scopes as `account/region/type`, of which somebody says that what the mass-loss breaker holds
    /// there is gone.
    pub released: Vec<String>,
    /// Changes when a scan is asked for now.
    pub requested_at: Option<String>,
    /// The generation of the spec that this was made from.
    pub generation: i64,
}

/// The resources of a scope whose tags are those of an earlier sweep, because they could not be read in the last one, and
/// when they were read; none where that was before this process began.
pub type EarlierTags = Arc<BTreeMap<String, Option<Timestamp>>>;

/// How the last look at a scope went, as one CloudScan may know it.
#[derive(Clone, Debug)]
pub struct ScopeReport {
    pub outcome: Outcome,
    pub error: Option<CloudError>,
    /// The mass-loss breaker holds what this look missed.
    pub held: bool,
    /// And goes on to, until somebody says that it is gone.
    pub awaits_release: bool,
    /// Parts of what was listed that could not be read, and of how many resources.
    pub unread: BTreeMap<Unread, usize>,
    pub earlier_tags: EarlierTags,
    pub ended: Timestamp,
}

impl ScopeReport {
    /// Of a look that showed a CloudScan nothing.
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

/// Why the store did not take what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreTrouble {
    pub reason: &'static str,
    pub message: String,
}

/// What is known of one account for one CloudScan.
#[derive(Clone, Debug, Default)]
pub struct AccountReport {
    pub account: Option<AccountId>,
    /// None until somebody tried.
    pub credentials: Option<Result<Identity, CloudError>>,
    /// The list of regions could not be read, or named ones that are not there.
    pub regions_error: Option<CloudError>,
    pub scopes: BTreeMap<Scope, ScopeReport>,
    /// How many scopes there are to look at.
    pub scopes_wanted: usize,
    pub last_started: Option<Timestamp>,
    pub last_ended: Option<Timestamp>,
    pub next: Option<Timestamp>,
    pub calls: u64,
    /// When the first of them were counted.
    pub counted_since: Option<Timestamp>,
    /// The store refused what was seen.
    pub store_error: Option<StoreTrouble>,
    /// The cloud's clock less ours; zero where they agree.
    pub skew_millis: i64,
    pub rounds: u64,
    /// What the last round was made from.
    pub generation: i64,
    pub handled_request: Option<String>,
}

impl AccountReport {
    /// The scopes with resources whose tags are those of an earlier sweep.
    pub fn earlier_tags(&self) -> impl Iterator<Item = (Scope, EarlierTags)> + '_ {
        round::earlier_tags(&self.scopes)
    }

    /// Every scope was looked at once, whatever the outcome.
    pub fn is_first_scan_complete(&self) -> bool {
        match &self.credentials {
            None => false,
            // There is nothing to look at with credentials that don't work, and that was tried.
            Some(Err(_)) => true,
            Some(Ok(_)) => {
                self.regions_error.is_some() || (self.rounds > 0 && self.scopes.len() >= self.scopes_wanted)
            }
        }
    }
}
