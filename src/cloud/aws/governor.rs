//! Elava's share of the call rate that AWS allows an account.
//!
//! AWS limits calls by account, region and API with token buckets, which the customer's own tools use too. For each of
//! them there is a bucket here, shared by all CloudScans, that fills at a share of AWS's rate. Being throttled halves
//! the rate, and successful calls restore it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cloud::Calls;
use crate::inventory::{AccountId, Reason};

/// The share that is used unless another is configured.
pub const DEFAULT_SHARE: f64 = 0.25;
/// One call, with its retries.
const ATTEMPTS_MAX: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Being throttled reduces the rate to no less than this part of the share.
const RATE_FACTOR_MIN: f64 = 1.0 / 32.0;
/// How much of the share each successful call restores.
const RATE_RECOVERY_PER_CALL: f64 = 0.02;
/// Number of buckets beyond which those that are full again are dropped.
const BUCKETS_MAX: usize = 4_096;

/// Calls per second that AWS allows, and calls at once.
#[derive(Clone, Copy)]
struct Limit {
    rate: f64,
    burst: f64,
}

impl Limit {
    /// - EC2: <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>, filtered or paged
    ///   Describe calls
    /// - Route 53: <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html>
    /// - S3 limits requests by prefix, far above what is requested here:
    ///   <https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>
    /// - RDS was measured at about 12; the others publish limits of 5 to 100 or none.
    fn of(service: &str) -> Self {
        let (rate, burst) = match service {
            "ec2" => (20.0, 100.0),
            "rds" => (12.0, 50.0),
            "route53" => (5.0, 20.0),
            "s3" => (400.0, 800.0),
            _ => (10.0, 40.0),
        };
        Self { rate, burst }
    }
}

/// A bucket, stored as the time when it will be full: "generic cell rate algorithm".
#[derive(Clone, Copy)]
struct Bucket {
    full: Instant,
    /// The factor of the share that is left after throttling.
    pace: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Api {
    account: AccountId,
    region: Arc<str>,
    service: &'static str,
    operation: &'static str,
}

#[derive(Default)]
struct Inner {
    buckets: BTreeMap<Api, Bucket>,
    calls: Calls,
}

/// Shared by every session.
pub(super) struct Governor {
    share: f64,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Governor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Governor").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Governor {
    pub fn new(share: f64) -> Self {
        Self { share, inner: Mutex::default() }
    }

    pub fn calls(&self) -> Calls {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a token. Returns how long to wait for it.
    fn take(&self, api: &Api, now: Instant) -> Duration {
        let mut inner = self.lock();
        inner.calls.entry((api.service, api.operation)).or_default().made += 1;
        if inner.buckets.len() >= BUCKETS_MAX {
            inner.buckets.retain(|_, bucket| bucket.full > now || bucket.pace < 1.0);
        }
        let Limit { rate, burst } = Limit::of(api.service);
        let bucket = inner.buckets.entry(api.clone()).or_insert(Bucket { full: now, pace: 1.0 });
        let one = Duration::from_secs_f64(1.0 / (rate * self.share * bucket.pace));
        // The share of the burst, which includes this call. There is no burst after throttling.
        let at_once = if bucket.pace < 1.0 { 0.0 } else { (burst * self.share - 1.0).max(0.0) };
        let room = one.mul_f64(at_once);
        let wait = bucket.full.saturating_duration_since(now).saturating_sub(room);
        bucket.full = bucket.full.max(now) + one;
        wait
    }

    fn learn(&self, api: &Api, failed: Option<Reason>) {
        let mut inner = self.lock();
        let counts = inner.calls.entry((api.service, api.operation)).or_default();
        match failed {
            None => {}
            Some(Reason::Throttled) => counts.throttled += 1,
            Some(_) => counts.failed += 1,
        }
        let Some(bucket) = inner.buckets.get_mut(api) else { return };
        match failed {
            None => bucket.pace = (bucket.pace + RATE_RECOVERY_PER_CALL).min(1.0),
            Some(Reason::Throttled) => bucket.pace = (bucket.pace / 2.0).max(RATE_FACTOR_MIN),
            Some(_) => {}
        }
    }
}

/// One call and its retries, each with a permit of the governor.
pub(super) struct Attempts<'a> {
    governor: &'a Governor,
    api: Api,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(
        governor: &'a Governor,
        (account, region): (&AccountId, &Arc<str>),
        service: &'static str,
        operation: &'static str,
    ) -> Self {
        let api = Api { account: account.clone(), region: region.clone(), service, operation };
        Self { governor, api, made: 0 }
    }

    pub async fn wait(&mut self) {
        let backoff = match self.made {
            0 => Duration::ZERO,
            made => FIRST_BACKOFF * 2_u32.pow(made - 1),
        };
        self.made += 1;
        let wait = self.governor.take(&self.api, Instant::now()).max(backoff);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether a retry is useful.
    pub fn should_retry(&self, failed: Option<Reason>) -> bool {
        self.governor.learn(&self.api, failed);
        let passes = matches!(
            failed,
            Some(Reason::Throttled | Reason::TimedOut | Reason::Unreachable | Reason::ServerError)
        );
        passes && self.made < ATTEMPTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(account: &str) -> Api {
        Api {
            account: AccountId::new(account),
            region: "eu-west-1".into(),
            service: "ec2",
            operation: "DescribeVolumes",
        }
    }

    /// How long this number of calls takes if each starts as soon as it may, from `now` on.
    fn span(governor: &Governor, api: &Api, calls: u32, now: &mut Instant) -> Duration {
        let began = *now;
        for _ in 0..calls {
            *now += governor.take(api, *now);
        }
        *now - began
    }

    #[test]
    fn a_quarter_of_what_is_allowed_is_taken_at_once_and_a_quarter_of_the_rate_after_it() {
        let governor = Governor::new(DEFAULT_SHARE);
        let mut now = Instant::now();
        assert_eq!(span(&governor, &api("1"), 25, &mut now), Duration::ZERO);
        assert!((19.9..20.1).contains(&span(&governor, &api("1"), 100, &mut now).as_secs_f64()));
        assert_eq!(span(&governor, &api("2"), 25, &mut now), Duration::ZERO, "another account has its own");
    }

    #[test]
    fn being_throttled_slows_down_and_success_brings_it_back() {
        let governor = Governor::new(DEFAULT_SHARE);
        let mut now = Instant::now();
        span(&governor, &api("1"), 100, &mut now);
        let usual = span(&governor, &api("1"), 10, &mut now);
        governor.learn(&api("1"), Some(Reason::Throttled));
        governor.learn(&api("1"), Some(Reason::Throttled));
        span(&governor, &api("1"), 1, &mut now);
        assert!(span(&governor, &api("1"), 10, &mut now) > usual * 3, "a quarter of the pace");
        for _ in 0..50 {
            governor.learn(&api("1"), None);
        }
        // Waits that the reduced rate caused are over.
        span(&governor, &api("1"), 100, &mut now);
        assert!(span(&governor, &api("1"), 10, &mut now) < usual * 11 / 10);
        assert_eq!(governor.calls()[&("ec2", "DescribeVolumes")].throttled, 2);
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let governor = Governor::new(DEFAULT_SHARE);
        let now = Instant::now();
        for n in 0..BUCKETS_MAX {
            governor.take(&api(&n.to_string()), now);
        }
        governor.take(&api("new"), now + Duration::from_hours(1));
        assert_eq!(governor.lock().buckets.len(), 1);
    }
}
