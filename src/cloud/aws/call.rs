//! One call through the SDK: what its answer says besides what was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};

use super::http::Kept;
use crate::inventory::CLOCK_TOLERANCE;

/// Keeps the body of the last answer, and counts attempts: each is a call that AWS bills and limits.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    pub body: Kept,
    seen: Arc<Seen>,
}

/// What the answers of a session say besides what they were asked.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub calls: AtomicU64,
    /// The cloud's clock less ours, by the last answer.
    pub skew_millis: AtomicI64,
}

impl Seen {
    /// `Date` counts in seconds; what differs by less than the tolerance is no difference.
    fn see(&self, date: Option<&str>, now: SystemTime) {
        let Some(date) = date.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok()) else { return };
        let ours = now.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let skew = date.secs().saturating_mul(1000).saturating_sub(ours);
        let is_skewed = u128::from(skew.unsigned_abs()) > CLOCK_TOLERANCE.as_millis();
        self.skew_millis.store(if is_skewed { skew } else { 0 }, Ordering::Relaxed);
    }
}

impl Capture {
    pub fn new(seen: Arc<Seen>) -> Self {
        Self { body: Kept::default(), seen }
    }
}

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "ElavaCapture"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.seen.see(context.response().headers().get("date"), SystemTime::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_off_by_more_than_the_tolerance_is_seen_and_seconds_are_not() {
        let seen = Seen::default();
        // 2026-11-24T12:00:00Z
        let now = UNIX_EPOCH + Duration::from_hours(498_756);
        let see = |date: &str| {
            seen.see(Some(date), now);
            seen.skew_millis.load(Ordering::Relaxed)
        };
        assert_eq!(see("Tue, 24 Nov 2026 12:00:30 GMT"), 0);
        assert_eq!(see("Tue, 24 Nov 2026 12:05:01 GMT"), 301_000);
        assert_eq!(see("no date"), 301_000, "what says nothing changes nothing");
        assert_eq!(see("Tue, 24 Nov 2026 11:00:00 GMT"), -3_600_000);
    }
}
