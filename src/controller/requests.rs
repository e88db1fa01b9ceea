//! Limits how often a CloudScan may request a scan at once. A requested scan may use the calls of any CloudScan that
//! shares the scope, so that a request is limited like an interval is.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::inventory::Subscriber;

/// The last accepted request of each CloudScan: a value of the annotation `elava.dev/reconcile-requested-at`.
#[derive(Default)]
pub(super) struct Requests {
    accepted: Mutex<BTreeMap<Subscriber, Accepted>>,
}

struct Accepted {
    value: Option<String>,
    /// None if no scan was requested with it since the operator started.
    at: Option<Instant>,
}

/// The request that is in force, and for how long a newer one is deferred.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub value: Option<String>,
    pub deferred: Option<Duration>,
}

impl Requests {
    /// Accepts a new value unless one was accepted less than `min_interval` before `now`. `handled` is the last
    /// handled value according to the status: after a restart it is no request.
    pub fn accept(
        &self,
        subscriber: &Subscriber,
        value: Option<&String>,
        handled: Option<&String>,
        now: Instant,
        min_interval: Duration,
    ) -> Request {
        let mut accepted = lock(&self.accepted);
        let Some(last) = accepted.get_mut(subscriber) else {
            let at = (value.is_some() && value != handled).then_some(now);
            accepted.insert(subscriber.clone(), Accepted { value: value.cloned(), at });
            return Request { value: value.cloned(), deferred: None };
        };
        if last.value.as_ref() == value {
            return Request { value: value.cloned(), deferred: None };
        }
        let passed = last.at.map_or(min_interval, |at| now.saturating_duration_since(at));
        if let Some(remaining) = min_interval.checked_sub(passed).filter(|remaining| !remaining.is_zero()) {
            return Request { value: last.value.clone(), deferred: Some(remaining) };
        }
        *last = Accepted { value: value.cloned(), at: Some(now) };
        Request { value: value.cloned(), deferred: None }
    }

    pub fn retain(&self, exists: impl Fn(&Subscriber) -> bool) {
        lock(&self.accepted).retain(|subscriber, _| exists(subscriber));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_no_more_frequent_than_the_minimum_interval() {
        let (requests, start) = (Requests::default(), Instant::now());
        let subscriber = Subscriber::new("team-a/one");
        let accept = |value: Option<&str>, seconds: u64| {
            let (value, now) = (value.map(str::to_owned), start + Duration::from_secs(seconds));
            let handled = Some("handled".to_owned());
            let Request { value, deferred } =
                requests.accept(&subscriber, value.as_ref(), handled.as_ref(), now, Duration::from_mins(1));
            (value, deferred.map_or(0, |remaining| remaining.as_secs()))
        };
        let text = |value: &str| Some(value.to_owned());
        assert_eq!(accept(Some("handled"), 0), (text("handled"), 0));
        assert_eq!(accept(Some("a"), 1), (text("a"), 0), "the first one after a start is accepted at once");
        assert_eq!(accept(Some("b"), 2), (text("a"), 59));
        assert_eq!(accept(Some("c"), 31), (text("a"), 30));
        // To remove the annotation and to set it again is not faster.
        assert_eq!(accept(None, 32), (text("a"), 29));
        assert_eq!(accept(Some("a"), 33), (text("a"), 0));
        assert_eq!(accept(Some("c"), 61), (text("c"), 0));
        assert_eq!(accept(Some("d"), 62), (text("c"), 59));
        // A CloudScan that was deleted and created again has proven nothing: its requests use its own calls alone.
        requests.retain(|_| false);
        assert_eq!(accept(Some("d"), 63), (text("d"), 0));
        assert_eq!(accept(Some("e"), 64), (text("d"), 59), "a request that was not handled counts");
    }
}
