//! One POST to a receiver that somebody named, who may answer anything. Of itself alone, so that it is fuzzed without the
//! rest.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;

/// Until when it must have answered.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What it answers beside its status is not read, and never shown: whoever names a receiver would read inner services by
/// it. No redirect is followed.
pub async fn post<C>(http: &Client<C, Full<Bytes>>, request: hyper::Request<Full<Bytes>>) -> Result<(), String>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let answered = tokio::time::timeout(DEADLINE, http.request(request)).await;
    let answer = answered.map_err(|_| format!("the receiver did not answer within {} s", DEADLINE.as_secs()))?;
    let answer = answer.map_err(|error| {
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let last = causes.last().map(ToString::to_string);
        format!("the receiver can't be reached: {}", last.unwrap_or_else(|| error.to_string()))
    })?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
}
