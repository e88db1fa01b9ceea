//! What is known of an account and its scopes, for one CloudScan.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cloud::{CloudError, Identity};
use crate::inventory::{AccountId, Outcome, Scope, Timestamp, Unread};

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
    pub(super) fn failed(outcome: Outcome, error: CloudError, ended: Timestamp) -> Self {
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

    /// The report of a shared scope for one CloudScan: `sees` is whether it may see the scope, `own` is how its own
    /// credentials failed, if they did. `None` for a CloudScan that may not see it and was not tried.
    pub(super) fn as_seen(&self, sees: bool, own: Option<(Outcome, CloudError)>) -> Option<Self> {
        match own {
            Some((outcome, error)) if sees => Some(Self { outcome, error: Some(error), ..self.clone() }),
            // It gets no report about what the credentials of others listed.
            Some((outcome, error)) => Some(Self::failed(outcome, error, self.ended)),
            None => sees.then(|| self.clone()),
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
        earlier_tags(&self.scopes)
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

/// The scopes with resources whose tags are from an earlier sweep.
pub(super) fn earlier_tags(
    scopes: &BTreeMap<Scope, ScopeReport>,
) -> impl Iterator<Item = (Scope, EarlierTags)> + '_ {
    let with_some = scopes.iter().filter(|(_, report)| !report.earlier_tags.is_empty());
    with_some.map(|(scope, report)| (scope.clone(), report.earlier_tags.clone()))
}

/// The resources whose tags are from an earlier sweep, after a sweep that could not read those of `unread` again.
/// `last` is the report of the sweep before.
pub(super) fn earlier_tags_after(
    unread: Vec<String>,
    last: Option<&ScopeReport>,
    outcome: Outcome,
) -> BTreeMap<String, Option<Timestamp>> {
    // Read in the previous sweep, unless that one could not read them either, or was not complete.
    let read_last = |id: &String| {
        let last = last?;
        let whole = last.outcome.is_complete().then_some(last.ended);
        last.earlier_tags.get(id).copied().unwrap_or(whole)
    };
    let mut earlier: BTreeMap<_, _> =
        unread.into_iter().map(|id| (read_last(&id), id)).map(|(at, id)| (id, at)).collect();
    if let Some(last) = last.filter(|_| !outcome.is_complete()) {
        // Resources that this sweep did not return keep their entry.
        for (id, read) in &*last.earlier_tags {
            earlier.entry(id.clone()).or_insert(*read);
        }
    }
    earlier
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Reason;

    fn report(outcome: Outcome, ended: i64, earlier: &[(&str, Option<i64>)]) -> ScopeReport {
        let at = |seconds: &i64| Timestamp::from_millis(seconds * 1000);
        let earlier = earlier.iter().map(|(id, read)| ((*id).to_owned(), read.as_ref().map(at)));
        ScopeReport {
            outcome,
            error: None,
            held: false,
            awaits_release: false,
            unread: BTreeMap::new(),
            earlier_tags: Arc::new(earlier.collect()),
            ended: at(&ended),
        }
    }

    #[test]
    fn tags_that_could_not_be_read_are_as_of_the_sweep_that_read_them_last() {
        let complete = report(Outcome::Complete, 60, &[("old", Some(10)), ("gone", Some(20))]);
        let partial = report(Outcome::Partial(Reason::Throttled), 60, &[("old", Some(10))]);
        let read = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        for (unread, last, outcome, expected) in [
            (vec!["new"], None, Outcome::Complete, vec![("new", None)]),
            (vec!["new", "old"], Some(&complete), Outcome::Complete, vec![("new", read(60)), ("old", read(10))]),
            (vec!["new"], Some(&partial), Outcome::Complete, vec![("new", None)]),
            // What this sweep did not return keeps its time.
            (
                vec![],
                Some(&complete),
                Outcome::Failed(Reason::Denied),
                vec![("gone", read(20)), ("old", read(10))],
            ),
        ] {
            let unread = unread.into_iter().map(str::to_owned).collect();
            let after = earlier_tags_after(unread, last, outcome);
            assert_eq!(after.iter().map(|(id, at)| (id.as_str(), *at)).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_cloudscan_hears_of_a_shared_scope_what_it_may_see() {
        let shared = report(Outcome::Complete, 60, &[("old", Some(10))]);
        let denied = || Some((Outcome::Failed(Reason::Denied), CloudError::new(Reason::Denied, "no")));
        let seen = |sees, own| shared.as_seen(sees, own).map(|one| (one.outcome, one.earlier_tags.len()));
        assert_eq!(seen(true, None), Some((Outcome::Complete, 1)));
        assert_eq!(seen(true, denied()), Some((Outcome::Failed(Reason::Denied), 1)));
        assert_eq!(seen(false, denied()), Some((Outcome::Failed(Reason::Denied), 0)), "nothing of the others'");
        assert_eq!(seen(false, None), None, "it was not tried");
    }
}
