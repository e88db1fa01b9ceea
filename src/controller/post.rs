//! One POST to a receiver that a user configured and that may answer anything. A separate module, so that it can be
//! fuzzed alone.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;

/// Deadline for the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Only the status of the answer is read. Its body is never read or shown: otherwise a user could read internal
/// services by naming them as the receiver. Redirects are not followed.
pub async fn post<C>(http: &Client<C, Full<Bytes>>, request: hyper::Request<Full<Bytes>>) -> Result<(), String>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let answered = tokio::time::timeout(REQUEST_TIMEOUT, http.request(request)).await;
    let answer =
        answered.map_err(|_| format!("the receiver did not answer within {} s", REQUEST_TIMEOUT.as_secs()))?;
    let answer = answer.map_err(|error| {
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let last = causes.last().map(ToString::to_string);
        format!("the receiver can't be reached: {}", last.unwrap_or_else(|| error.to_string()))
    })?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
}
