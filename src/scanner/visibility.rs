//! Who stops seeing a scope when the credentials of another CloudScan list it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{WithoutAccess, lock};
use crate::cloud::CloudError;
use crate::inventory::{Outcome, Reason, Scope, Subscriber, Timestamp};
use crate::store::Store;

/// The age from which a proof of visibility is renewed: its CloudScan then moves up in the order of candidates.
pub(super) const PROOF_RENEWAL_AGE: Duration = Duration::from_hours(12);
/// The age at which a proof of visibility ends if its CloudScan can't renew it: it must not see what the
/// credentials of others list.
const PROOF_MAX_AGE: Duration = Duration::from_hours(24);

/// What the credentials of the CloudScans showed in one sweep of a scope.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Their listing failed, or they may read less than the CloudScan whose listing is recorded.
    pub failed: Vec<(Subscriber, Outcome, CloudError)>,
    /// They list the scope, but may not read everything they list.
    pub partially_denied: Vec<(Subscriber, Outcome, CloudError)>,
    /// They list the scope, although the listing of another is recorded.
    pub listed: BTreeSet<Subscriber>,
}

impl Tried {
    pub fn is_tried(&self, subscriber: &Subscriber) -> bool {
        let failed = self.failed.iter().chain(&self.partially_denied);
        self.listed.contains(subscriber) || failed.into_iter().any(|(failed, ..)| failed == subscriber)
    }

    fn lists(&self, subscriber: &Subscriber) -> bool {
        self.listed.contains(subscriber) || self.partially_denied.iter().any(|(partly, ..)| partly == subscriber)
    }

    fn is_denied(&self, subscriber: &Subscriber) -> bool {
        self.failed.iter().any(|(failed, _, error)| {
            failed == subscriber && matches!(error.reason, Reason::Denied | Reason::DeniedByPolicy)
        })
    }
}

/// Who may see what the credentials of others list, as of one round.
pub(super) struct VisibilityRules {
    pub store: Store,
    /// CloudScans whose credentials were refused when they connected.
    pub refused: BTreeSet<Subscriber>,
    pub without_access: WithoutAccess,
    /// After a start some CloudScans are not here yet: those with keys in a Secret wait for the API server. Until
    /// then no proof ends because of its age alone.
    pub is_settled: bool,
}

impl VisibilityRules {
    /// Whether a proof is so old that its CloudScan must be tried before it sees what others list.
    pub fn has_lapsed(&self, proven: Timestamp) -> bool {
        self.store.now().since(proven) >= PROOF_MAX_AGE
    }

    /// The CloudScans that must not see what the credentials of `lister` list: those whose own are denied or give no
    /// access to the account any more, and those whose proof has lapsed and that do not list the scope themselves.
    pub fn expired(&self, scope: &Scope, lister: &Subscriber, tried: &Tried) -> Vec<Subscriber> {
        let without_access = lock(&self.without_access);
        let has_no_access =
            |subscriber: &Subscriber| self.refused.contains(subscriber) || without_access.contains(subscriber);
        let is_stale = |subscriber: &Subscriber, proven: Timestamp| {
            // One that was tried just now has had its chance.
            (self.is_settled || tried.is_tried(subscriber)) && self.has_lapsed(proven) && !tried.lists(subscriber)
        };
        let mut proofs = self.store.proofs(scope);
        proofs.retain(|(subscriber, proven)| {
            subscriber != lister
                && (tried.is_denied(subscriber) || has_no_access(subscriber) || is_stale(subscriber, *proven))
        });
        proofs.into_iter().map(|(subscriber, _)| subscriber).collect()
    }
}
