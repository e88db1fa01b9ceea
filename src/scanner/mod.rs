//! Scanning: one task per account lists its scopes, confirms what is missing and commits.
//!
//! - [`round`]: one round over the due scopes of an account. The operator's tasks and `elava scan` use the same code.
//! - [`schedule`]: which scopes are due. [`breaker`]: whether so much is missing that nothing is concluded. Both are
//!   pure.
//! - [`sweep`]: one sweep of one scope.
//! - [`fleet`]: the tasks of all accounts, and their reports for each CloudScan.
//! - [`report`]: what is known of an account, for one CloudScan.
//! - [`meters`]: the metrics of scanning.
//! - [`remembered`]: the desired subscriptions, for a restart while the API server is unreachable.
//!
//! A round lists first and concludes last: only when every due scope has been listed is it known whether so much is
//! missing at once that the sweeps are to be doubted rather than the cloud.

mod breaker;
mod fleet;
mod meters;
mod remembered;
mod report;
mod round;
mod schedule;
mod sweep;
mod visibility;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use fleet::{Fleet, list_members};
pub use meters::Meters;
pub use report::{AccountReport, EarlierTags, ScopeReport, StoreFailure};
pub use round::{AccountScanner, Progress, Round};

use futures::FutureExt;

use crate::cloud::{AccountTarget, CloudError};
use crate::inventory::{AccountId, LossLimits, Reason, Scope, Subscriber};

/// The SDK panics on credentials that are invalid in a header: this becomes an error of these credentials, and
/// affects no other CloudScan.
async fn catch_panic<T>(call: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        let message = "the client of the cloud failed on these credentials: see the operator's log";
        Err(CloudError::new(Reason::InvalidCredentials, message))
    })
}

/// An account, as the task that scans it knows it. Accounts of two providers may have the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AccountKey {
    provider: Arc<str>,
    endpoint: Arc<str>,
    account: AccountId,
}

impl AccountKey {
    fn of(target: &AccountTarget, account: AccountId) -> Self {
        Self { provider: target.provider.clone(), endpoint: target.endpoint.clone(), account }
    }

    fn of_scope(scope: &Scope) -> Self {
        let Scope { provider, endpoint, account, .. } = scope;
        Self { provider: provider.clone(), endpoint: endpoint.clone(), account: account.clone() }
    }

    fn has(&self, scope: &Scope) -> bool {
        scope.provider == self.provider && scope.account == self.account && scope.endpoint == self.endpoint
    }
}

/// CloudScans whose access to every account has ended, by a decision of the administrator.
pub type WithoutAccess = Arc<Mutex<BTreeSet<Subscriber>>>;

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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Region, ResourceType};

    #[test]
    fn accounts_of_two_providers_with_one_id_are_two() {
        let scope = |provider: &str, endpoint: &str| Scope {
            provider: provider.into(),
            partition: "p".into(),
            endpoint: endpoint.into(),
            account: AccountId::new("111122223333"),
            region: Region::new("r"),
            resource_type: ResourceType::new("A::B::C"),
        };
        let one = AccountKey::of_scope(&scope("one", ""));
        assert!(one.has(&scope("one", "")));
        assert!(!one.has(&scope("two", "")) && !one.has(&scope("one", "http://x")));
    }
}
