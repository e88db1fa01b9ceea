//! The body of an answer, on its way to the SDK.
//!
//! What is recorded is made from the body itself ([`super::convert`]), and of an answer that is a success the SDK's
//! own objects are thrown away. EC2's can have megabytes: the SDK gets such a one, and every JSON, without its
//! content, which halves the work of a listing. Errors, and all else, it gets as they are.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;

/// Smaller XML is not worth it.
const LARGE: usize = 16 << 10;

/// The body of the call that runs in this task.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<u8>>>);

tokio::task_local! {
    static KEPT: Kept;
}

impl Kept {
    /// Keeps the body of the last answer that the call gets.
    pub async fn of<T>(&self, call: impl Future<Output = T>) -> T {
        KEPT.scope(self.clone(), call).await
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, body: Vec<u8>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

#[derive(Debug)]
pub(super) struct KeepingClient(SharedHttpClient);

impl KeepingClient {
    pub fn over(client: SharedHttpClient) -> SharedHttpClient {
        SharedHttpClient::new(Self(client))
    }
}

impl HttpClient for KeepingClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Keeping(self.0.http_connector(settings, components)))
    }
}

#[derive(Debug)]
struct Keeping(SharedHttpConnector);

impl HttpConnector for Keeping {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.0.call(request);
        let Ok(kept) = KEPT.try_with(Clone::clone) else { return answer };
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            if !answer.status().is_success() {
                return Ok(answer);
            }
            let body = std::mem::replace(answer.body_mut(), SdkBody::empty());
            let read = ByteStream::new(body).collect().await;
            let body = read.map_err(|error| ConnectorError::io(error.into()))?.to_vec();
            let passed_on = match without_content(&body) {
                Some(bare) => {
                    // The SDK compares it; a body that was cut short failed above.
                    answer.headers_mut().remove("content-length");
                    bare
                }
                None => body.clone(),
            };
            *answer.body_mut() = SdkBody::from(passed_on);
            kept.put(body);
            Ok(answer)
        })
    }
}

/// JSON, or a large answer of EC2, as one that holds nothing.
fn without_content(body: &[u8]) -> Option<Vec<u8>> {
    if body.first() == Some(&b'{') {
        return Some(b"{}".to_vec());
    }
    if body.len() < LARGE {
        return None;
    }
    let head = std::str::from_utf8(&body[..512]).ok()?;
    let root = head.strip_prefix("<?xml").map_or(Some(head), |rest| Some(rest.split_once("?>")?.1))?;
    let (root, _) = root.trim_start().strip_prefix('<')?.split_once('>')?;
    if !root.contains("http://ec2.amazonaws.com/") {
        return None;
    }
    let name = root.split_whitespace().next()?;
    Some(format!("<{name}></{name}>").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_what_is_large_and_of_ec2_go_on_without_their_content() {
        let large = "<item/>".repeat(LARGE);
        let ec2 = format!(
            "<?xml version=\"1.0\"?>\n<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{large}"
        );
        let bare = b"<DescribeVolumesResponse></DescribeVolumesResponse>".to_vec();
        assert_eq!(without_content(ec2.as_bytes()), Some(bare));
        assert_eq!(without_content(&ec2.as_bytes()[..2_000]), None);
        let other = format!("<ListBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{large}");
        assert_eq!(without_content(other.as_bytes()), None);
        assert_eq!(without_content(b"{\"TableNames\": [\"a\"]}"), Some(b"{}".to_vec()));
    }
}
