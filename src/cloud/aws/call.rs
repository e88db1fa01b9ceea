//! One call through the SDK: its answer, and what the answer contains besides the requested data.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use serde_json::Value;

use super::convert::{self, ConvertError};
use super::error::{Failure, classify};
use super::http::{Body, Kept};
use crate::cloud::CloudError;
use crate::inventory::{CLOCK_TOLERANCE, Reason};

/// A successful answer, as received.
pub(super) struct Answered {
    service: &'static str,
    operation: &'static str,
    body: Body,
}

impl Answered {
    /// Whether it takes long to convert.
    pub fn is_long(&self) -> bool {
        self.body.is_long()
    }

    /// As the object that the AWS CLI prints.
    pub fn converted(&self) -> Result<Value, Failure> {
        convert::convert(self.service, self.operation, self.body.bytes()).map_err(|error| self.malformed(&error))
    }

    /// The same, but passes the objects at the path to `take` one by one, where the answer can be read that way.
    pub fn convert_each(&self, path: &[&str], take: &mut dyn FnMut(Value)) -> Result<Value, Failure> {
        convert::convert_each(self.service, self.operation, self.body.bytes(), path, take)
            .map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, error: &ConvertError) -> Failure {
        let message = format!("{}: {error}", action(self.service, self.operation));
        Failure::Error(CloudError::new(Reason::Malformed, message))
    }
}

/// Keeps the body of the last answer, and counts attempts: each is a call that AWS bills and limits.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    pub body: Kept,
    seen: Arc<AnswerStats>,
}

/// What the answers of a session contain besides the requested data.
#[derive(Debug, Default)]
pub(super) struct AnswerStats {
    pub calls: AtomicU64,
    /// The cloud's clock minus the operator's, by the last answer.
    pub skew_millis: AtomicI64,
}

impl AnswerStats {
    /// `Date` has whole seconds; a difference within the tolerance counts as none.
    fn see(&self, date: Option<&str>, now: SystemTime) {
        let Some(date) = date.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok()) else { return };
        let ours = now.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let skew = date.secs().saturating_mul(1000).saturating_sub(ours);
        let is_skewed = u128::from(skew.unsigned_abs()) > CLOCK_TOLERANCE.as_millis();
        self.skew_millis.store(if is_skewed { skew } else { 0 }, Ordering::Relaxed);
    }
}

impl Capture {
    pub fn new(seen: Arc<AnswerStats>) -> Self {
        Self { body: Kept::default(), seen }
    }

    /// The body of the call's answer, or the meaning of its error.
    pub fn answered<E>(
        &self,
        service: &'static str,
        operation: &'static str,
        sent: Result<(), SdkError<E, HttpResponse>>,
    ) -> Result<Answered, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        sent.map_err(|error| classify(&error, &action(service, operation)))?;
        Ok(Answered { service, operation, body: self.body.take() })
    }
}

/// The permission that a call needs: IAM has other names for some services and calls.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>
fn action(service: &str, operation: &str) -> String {
    let prefix = match service {
        "elbv2" => "elasticloadbalancing",
        "efs" => "elasticfilesystem",
        "emr" => "elasticmapreduce",
        "opensearch" => "es",
        "stepfunctions" => "states",
        "apigateway" => return "apigateway:GET".to_owned(),
        _ => service,
    };
    match operation {
        "ListBuckets" => "s3:ListAllMyBuckets".to_owned(),
        _ => format!("{prefix}:{operation}"),
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
        let seen = AnswerStats::default();
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
