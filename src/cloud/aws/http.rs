//! The body of an answer, on its way through the SDK's runtime.
//!
//! What is recorded is made from the body itself ([`super::convert`]). It can have megabytes, so the body of a successful
//! answer is kept aside, and large ones wait for each other. Errors pass unchanged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Smaller bodies are converted on the thread that reads them.
const OFFLOAD_MIN_BYTES: usize = 64 << 10;
/// Larger bodies wait for a permit. Few answers are as large: a page of 300 instances.
const LARGE_BODY_MIN_BYTES: usize = 1 << 20;
/// About the size of the largest answer: 1,000 instances.
const BODY_BUFFER_MAX_BYTES: usize = 8 << 20;
/// How long a large body waits for its permit. After that it is read without one: if others are slow, that must cost
/// memory rather than the call.
const BODY_PERMIT_WAIT_MAX: Duration = Duration::from_secs(3);

/// A body as received.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Bytes,
    /// Held until the body is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it takes long to convert.
    pub fn is_long(&self) -> bool {
        self.bytes.len() > OFFLOAD_MIN_BYTES
    }
}

/// The body of the answer to the call that runs in this task.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Body>>);

tokio::task_local! {
    static KEPT: Kept;
}

impl Kept {
    /// Keeps the body of the last answer that the call receives.
    pub async fn of<T>(&self, call: impl Future<Output = T>) -> T {
        KEPT.scope(self.clone(), call).await
    }

    pub fn take(&self) -> Body {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, body: Body) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

#[derive(Debug)]
pub(super) struct KeepingClient {
    client: SharedHttpClient,
    large: Arc<Semaphore>,
}

impl KeepingClient {
    /// At most this many large bodies of all accounts are in memory at once, unless they are held for long.
    pub fn over(client: SharedHttpClient, large_bodies: usize) -> SharedHttpClient {
        SharedHttpClient::new(Self { client, large: Arc::new(Semaphore::new(large_bodies)) })
    }
}

impl HttpClient for KeepingClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = self.client.http_connector(settings, components);
        SharedHttpConnector::new(Keeping { connector, large: self.large.clone() })
    }
}

#[derive(Debug)]
struct Keeping {
    connector: SharedHttpConnector,
    large: Arc<Semaphore>,
}

impl HttpConnector for Keeping {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.connector.call(request);
        let large = self.large.clone();
        let Ok(kept) = KEPT.try_with(Clone::clone) else { return answer };
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            if !answer.status().is_success() {
                return Ok(answer);
            }
            let body = std::mem::replace(answer.body_mut(), SdkBody::empty());
            let body = read(body, large, BODY_PERMIT_WAIT_MAX).await?;
            // The runtime checks it; a body that was cut short has failed above.
            answer.headers_mut().remove("content-length");
            kept.put(body);
            Ok(answer)
        })
    }
}

/// The whole body. What has arrived of a large one stays with the connection until it gets a permit.
async fn read(body: SdkBody, large: Arc<Semaphore>, patience: Duration) -> Result<Body, ConnectorError> {
    let announced = body.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut arriving = ByteStream::new(body);
    let mut bytes = Vec::with_capacity(announced.min(LARGE_BODY_MIN_BYTES));
    let mut permit = None;
    let mut has_tried = false;
    while let Some(piece) = arriving.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| ConnectorError::io(error.into()))?);
        if bytes.len() > LARGE_BODY_MIN_BYTES && !has_tried {
            has_tried = true;
            let acquired = tokio::time::timeout(patience, large.clone().acquire_owned()).await;
            permit = acquired.ok().and_then(Result::ok);
            // No more than the largest page, whatever length is announced.
            bytes.reserve(announced.min(BODY_BUFFER_MAX_BYTES).saturating_sub(bytes.len()));
        }
    }
    Ok(Body { bytes: bytes.into(), _permit: permit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_body_waits_for_a_permit_and_a_small_one_for_nothing() {
        let large = Arc::new(Semaphore::new(1));
        let big = || SdkBody::from(vec![b'x'; 2 * LARGE_BODY_MIN_BYTES]);
        let long = Duration::from_hours(1);
        let first = read(big(), large.clone(), long).await.unwrap();
        assert_eq!(first.bytes().len(), 2 * LARGE_BODY_MIN_BYTES);
        let mut second = std::pin::pin!(read(big(), large.clone(), long));
        assert!(futures::poll!(&mut second).is_pending(), "the first is still held");
        let small = read(SdkBody::from("small"), large.clone(), long).await.unwrap();
        assert_eq!(small.bytes(), b"small");
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(large.available_permits(), 0);
        // The permit is never released.
        let third = read(big(), large.clone(), Duration::from_millis(1)).await.unwrap();
        assert_eq!(third.bytes().len(), 2 * LARGE_BODY_MIN_BYTES);
        drop((second, third));
        assert_eq!(large.available_permits(), 1);
    }
}
