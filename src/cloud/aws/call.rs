//! One call on the SDK's runtime, which signs it and fetches credentials: the request ([`super::request`]), its answer, and
//! what the answer contains besides the requested data.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_runtime::auth::{SigV4OperationSigningConfig, SigningOptions};
use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::retries::classifiers::AwsErrorCodeClassifier;
use aws_runtime::service_clock_skew::DisableClockSkewCorrection;
use aws_runtime::user_agent::{ApiMetadata, UserAgentInterceptor};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{AuthSchemeOptionResolverParams, SharedAuthScheme};
use aws_smithy_runtime_api::client::identity::SharedIdentityResolver;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_runtime_api::client::interceptors::context::{
    AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::{ConfigBag, Layer};
use aws_smithy_types::date_time::{DateTime, Format};
use aws_smithy_types::error::ErrorMetadata;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SigningName;
use aws_types::region::{Region, SigningRegion};
use aws_types::service_config::ServiceConfigKey;
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::Value;

use super::convert::{self, ConvertError};
use super::error::{Failure, classify};
use super::http::{Body, Kept};
use super::request::{Endpoint, Request, RequestError, Service, service};
use crate::cloud::CloudError;
use crate::inventory::{CLOCK_TOLERANCE, Reason};

/// An error that a service answered with.
#[derive(Debug)]
pub(super) struct CallError(ErrorMetadata);

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code().unwrap_or("no code"), self.0.message().unwrap_or("no message"))
    }
}

impl std::error::Error for CallError {}

impl ProvideErrorMetadata for CallError {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

/// Who calls, and where.
pub(super) struct Caller<'a> {
    pub config: &'a SdkConfig,
    pub partition: &'a str,
    pub region: &'a str,
    /// Measures how far the clocks differ, and corrects the time that is signed.
    pub clock: SharedInterceptor,
}

/// A call that can be sent, again if need be.
pub(super) struct Prepared {
    service: &'static str,
    operation: &'static str,
    request: Arc<Request>,
    call: Operation<Arc<Request>, (), CallError>,
    capture: Capture,
}

impl Caller<'_> {
    pub fn prepare(
        &self,
        name: &'static str,
        operation: &'static str,
        input: &Value,
        seen: Arc<AnswerStats>,
    ) -> Result<Prepared, RequestError> {
        let called = service(name)?;
        let mut request = called.request(operation, input)?;
        let mut endpoint = self.endpoint(called)?;
        if let Some(bucket) = input["Bucket"].as_str().filter(|_| name == "s3") {
            self.address_bucket(called, bucket, &mut endpoint, &mut request);
        }
        let capture = Capture::new(seen);
        let call = self.operation(called, name, operation, &endpoint, capture.clone());
        Ok(Prepared { service: name, operation, request: Arc::new(request), call, capture })
    }

    /// The endpoint that the configuration names, for this service or for all.
    fn configured_endpoint(&self, called: &Service) -> Option<String> {
        let of_all = || self.config.endpoint_url().map(str::to_owned);
        if self.config.get_origin("endpoint_url").is_client_config() {
            return of_all();
        }
        let key =
            ServiceConfigKey::builder().service_id(&called.id).env("AWS_ENDPOINT_URL").profile("endpoint_url");
        let of_service = |key| self.config.service_config()?.load_config(key);
        key.build().ok().and_then(of_service).or_else(of_all)
    }

    fn endpoint(&self, called: &Service) -> Result<Endpoint, RequestError> {
        let fips = self.config.use_fips().unwrap_or(false);
        let dual_stack = self.config.use_dual_stack().unwrap_or(false);
        match self.configured_endpoint(called) {
            // What runs at that address is not known, and a call without FIPS must not pass for one with it.
            Some(_) if fips || dual_stack => Err(RequestError::ConfiguredEndpoint { service: called.id.clone() }),
            Some(url) => Ok(Endpoint { url, signing_region: self.region.to_owned() }),
            None => called.endpoint(self.partition, self.region, fips, dual_stack),
        }
    }

    /// S3 answers for a bucket under the bucket's own host name. A certificate for all buckets does not cover names with
    /// dots, and endpoints other than AWS's rarely have such host names: there the bucket stays in the path.
    fn address_bucket(&self, called: &Service, bucket: &str, endpoint: &mut Endpoint, request: &mut Request) {
        let is_label =
            bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let is_host_name = is_label && !bucket.starts_with('-') && !bucket.ends_with('-');
        if !is_host_name || self.configured_endpoint(called).is_some() {
            return;
        }
        let Some(rest) = request.path.strip_prefix(&format!("/{bucket}")) else { return };
        request.path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        endpoint.url = endpoint.url.replacen("https://", &format!("https://{bucket}."), 1);
    }

    fn operation(
        &self,
        called: &'static Service,
        name: &'static str,
        operation: &'static str,
        endpoint: &Endpoint,
        capture: Capture,
    ) -> Operation<Arc<Request>, (), CallError> {
        let mut options = SigningOptions::default();
        if name == "s3" {
            // As S3 signs: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
            options.double_uri_encode = false;
            options.normalize_uri_path = false;
            options.content_sha256_header = true;
        }
        let mut layer = Layer::new("ElavaCall");
        layer.store_put(SigV4OperationSigningConfig {
            region: Some(SigningRegion::from(Region::new(endpoint.signing_region.clone()))),
            name: Some(SigningName::from(called.signing.as_str())),
            signing_options: options,
            ..SigV4OperationSigningConfig::default()
        });
        layer.store_put(AuthSchemeOptionResolverParams::new(()));
        layer.store_put(ApiMetadata::new(called.id.as_str(), env!("CARGO_PKG_VERSION")));
        if let Some(is_disabled) = self.config.disable_clock_skew_correction() {
            layer.store_put(DisableClockSkewCorrection::from(is_disabled));
        }
        if let Some(app) = self.config.app_name() {
            layer.store_put(app.clone());
        }
        let components = RuntimeComponentsBuilder::new("ElavaCall")
            .with_auth_scheme(SharedAuthScheme::new(SigV4AuthScheme::new()))
            .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID])))
            .with_identity_cache(self.config.identity_cache())
            .with_interceptor(self.clock.clone())
            .with_interceptor(RequestInfoInterceptor::new())
            .with_interceptor(UserAgentInterceptor::new())
            .with_interceptor(InvocationIdInterceptor::new())
            .with_interceptor(capture);
        let components = match self.config.credentials_provider() {
            Some(provider) => components.with_identity_resolver(SCHEME_ID, SharedIdentityResolver::new(provider)),
            None => components,
        };
        let mut call = Operation::builder()
            .service_name(name)
            .operation_name(operation)
            .endpoint_url(&endpoint.url)
            .no_retry()
            // After a transient error the connection is not used again; nothing else follows from these classifiers.
            .with_connection_poisoning()
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(TransientErrorClassifier::<CallError>::new())
            .retry_classifier(AwsErrorCodeClassifier::<CallError>::new())
            .timeout_config(self.config.timeout_config().cloned().unwrap_or_else(TimeoutConfig::disabled));
        if let Some(version) = self.config.behavior_version() {
            call = call.behavior_version(version);
        }
        if let Some(client) = self.config.http_client() {
            call = call.http_client(client);
        }
        if let Some(sleep) = self.config.sleep_impl() {
            call = call.sleep_impl(sleep);
        }
        if let Some(time) = self.config.time_source() {
            call = call.time_source(time);
        }
        call.runtime_plugin(
            StaticRuntimePlugin::new().with_config(layer.freeze()).with_runtime_components(components),
        )
        .serializer(|request: Arc<Request>| on_the_wire(&request))
        .deserializer(|answer: &HttpResponse| {
            if answer.status().is_success() { Ok(()) } else { Err(OrchestratorError::operation(error_in(answer))) }
        })
        .build()
    }
}

impl Prepared {
    /// The answer, or the meaning of its error.
    pub async fn send(&self) -> Result<Answered, Failure> {
        let sent = self.capture.body.of(self.call.invoke(self.request.clone())).await;
        sent.map_err(|error| classify(&error, &action(self.service, self.operation)))?;
        Ok(Answered { service: self.service, operation: self.operation, body: self.capture.body.take() })
    }
}

fn on_the_wire(request: &Request) -> Result<HttpRequest, BoxError> {
    let body = if request.body.is_empty() { SdkBody::empty() } else { SdkBody::from(request.body.as_str()) };
    let mut wire = HttpRequest::new(body);
    wire.set_method(request.method)?;
    wire.set_uri(request.path.as_str())?;
    for (name, value) in &request.headers {
        wire.headers_mut().try_insert(*name, value.clone())?;
    }
    if !request.body.is_empty() {
        wire.headers_mut().try_insert("content-length", request.body.len().to_string())?;
    }
    Ok(wire)
}

/// The code and the message of an error, wherever its protocol has them.
fn error_in(answer: &HttpResponse) -> CallError {
    let body = answer.body().bytes().unwrap_or_default();
    // "ns#Code:http://...", or "Code;Sender".
    let bare = |code: &str| {
        let code = code.split([':', ';']).next().unwrap_or_default();
        code.rsplit('#').next().unwrap_or_default().to_owned()
    };
    let header = |name: &str| answer.headers().get(name).map(bare);
    let (in_body, message) = match serde_json::from_slice::<Value>(body) {
        Ok(fields) => {
            let one_of = |names: &[&str]| names.iter().find_map(|name| fields.get(*name)?.as_str());
            let code = one_of(&["__type", "code", "Code"]).map(bare);
            (code, one_of(&["message", "Message", "errorMessage"]).map(str::to_owned))
        }
        Err(_) => (xml_text(body, "Code"), xml_text(body, "Message").or_else(|| xml_text(body, "message"))),
    };
    // A service that spoke the Query protocol once still has the codes of that.
    let code = header("x-amzn-query-error").or_else(|| header("x-amzn-errortype")).or(in_body);
    let mut meta = ErrorMetadata::builder();
    if let Some(code) = code.filter(|code| !code.is_empty()) {
        meta = meta.code(code);
    }
    if let Some(message) = message {
        meta = meta.message(message);
    }
    CallError(meta.build())
}

/// The text of the first element with this name.
fn xml_text(body: &[u8], element: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let mut reader = Reader::from_str(&text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) if start.local_name().as_ref() == element => {
                let inner = reader.read_text(start.name()).ok()?;
                return quick_xml::escape::unescape(&inner).ok().map(std::borrow::Cow::into_owned);
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

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
}

/// The permission that a call needs: IAM has other names for some services and calls.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>
pub(super) fn action(service: &str, operation: &str) -> String {
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

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> HttpResponse {
        let mut answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            answer.headers_mut().insert(*name, *value);
        }
        answer
    }

    #[test]
    fn an_error_has_its_code_and_message_in_every_protocol() {
        let ec2 = "<?xml version=\"1.0\"?><Response><Errors><Error><Code>InvalidVolume.NotFound</Code>\
                   <Message>The volume &apos;vol-1&apos; does not exist.</Message></Error></Errors></Response>";
        let query = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>DBInstanceNotFound</Code>\
                     <Message>no x</Message></Error></ErrorResponse>";
        let s3 = "<Error><Code>NoSuchTagSet</Code><Message>none</Message><BucketName>b</BucketName></Error>";
        let cases: [(&[(&str, &str)], &str, Option<&str>, Option<&str>); 9] = [
            (&[], ec2, Some("InvalidVolume.NotFound"), Some("The volume 'vol-1' does not exist.")),
            (&[], query, Some("DBInstanceNotFound"), Some("no x")),
            (&[], s3, Some("NoSuchTagSet"), Some("none")),
            (
                &[],
                r#"{"__type": "com.amazonaws.kms#NotFoundException", "message": "m"}"#,
                Some("NotFoundException"),
                Some("m"),
            ),
            (
                &[("x-amzn-errortype", "ResourceNotFoundException:http://internal.amazon.com/coral/")],
                r#"{"Message": "no function"}"#,
                Some("ResourceNotFoundException"),
                Some("no function"),
            ),
            (&[], r#"{"code": "FileSystemNotFound", "message": "m"}"#, Some("FileSystemNotFound"), Some("m")),
            (
                &[("x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender")],
                r#"{"__type": "com.amazonaws.sqs#QueueDoesNotExist"}"#,
                Some("AWS.SimpleQueueService.NonExistentQueue"),
                None,
            ),
            (&[], "", None, None),
            (&[], "<html>502 Bad Gateway", None, None),
        ];
        for (headers, body, code, message) in cases {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, *value)).collect();
            let error = error_in(&answer(400, headers.leak(), body));
            assert_eq!((error.code(), error.message()), (code, message), "{body}");
        }
    }

    #[test]
    fn a_bucket_is_in_the_host_name_where_a_certificate_allows_it() {
        let config = SdkConfig::builder().build();
        let emulated = SdkConfig::builder().endpoint_url("http://127.0.0.1:1").build();
        let addressed = |config: &SdkConfig, bucket: &str| {
            let clock = SharedInterceptor::new(InvocationIdInterceptor::new());
            let caller = Caller { config, partition: "aws", region: "eu-west-1", clock };
            let s3 = service("s3").unwrap();
            let mut request = s3.request("GetBucketTagging", &serde_json::json!({"Bucket": bucket})).unwrap();
            let mut endpoint = caller.endpoint(s3).unwrap();
            caller.address_bucket(s3, bucket, &mut endpoint, &mut request);
            format!("{}{}", endpoint.url, request.path)
        };
        assert_eq!(addressed(&config, "my-bucket"), "https://my-bucket.s3.eu-west-1.amazonaws.com/?tagging");
        assert_eq!(addressed(&config, "my.bucket"), "https://s3.eu-west-1.amazonaws.com/my.bucket?tagging");
        assert_eq!(addressed(&config, "Old_Bucket"), "https://s3.eu-west-1.amazonaws.com/Old_Bucket?tagging");
        assert_eq!(addressed(&emulated, "my-bucket"), "http://127.0.0.1:1/my-bucket?tagging");
    }

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
