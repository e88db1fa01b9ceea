//! AWS: one file per service, each type declared in one place. Calls are data, on the runtime of the official SDK.
//!
//! - [`declare`]: how a type is declared; [`services`]: the types.
//! - [`organization`]: the accounts of an organization.
//! - [`governor`]: the rate of calls. [`request`], [`call`], [`http`] and [`convert`]: one call, and its body as the
//!   object that the AWS CLI prints.
//! - [`error`]: the meaning of AWS's errors.

mod call;
mod convert;
mod declare;
mod error;
mod facts;
mod governor;
mod http;
mod organization;
mod request;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_stream::try_stream;
use async_trait::async_trait;
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::service_clock_skew::ServiceClockSkewInterceptor;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    Access, AccountTarget, Calls, CloudError, Credentials, Identity, Members, Pages, Provider, Session, TypeInfo,
    remove,
};
use crate::inventory::{
    AccountId, Document, Observation, Part, ProviderFacts, Reason, Region, Scope, TagSet, Tags, Unread,
};
use call::{AnswerStats, Answered, Caller, action};
use declare::{
    ById, Call, Declaration, ListAnswer, ListRequest, TagSource, at_path, items, next_page, tag_set, text,
    time_field,
};
use error::{Failure, classify, is_access_ended};
use governor::{Attempts, Governor};
use http::KeepingClient;

// The names in an access, as `api::aws` writes them.
const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
const EXTERNAL_ID: &str = "externalID";

/// Static keys.
pub fn keys(access_key_id: &str, secret_access_key: &str) -> Credentials {
    let keys = [(ACCESS_KEY_ID, access_key_id), (SECRET_ACCESS_KEY, secret_access_key)];
    Credentials::Keys(keys.into_iter().collect())
}

/// An access that assumes a role, if there is one.
pub fn access(credentials: Credentials, role_arn: Option<String>) -> Access {
    Access { identity: role_arn, ..Access::new(credentials) }
}

/// The region in which an account's identity and regions are requested when nothing else names a region.
const HOME_REGION: &str = "us-east-1";
/// Limits of one attempt, and of one call with its retries. Reads without a limit can make a scan hang for a night.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects of one listing that need further calls and are processed concurrently.
const DETAIL_CALLS_IN_FLIGHT: usize = 8;
/// Large bodies of all accounts in memory at once: a number for each core that converts them, up to a maximum for which
/// a pod without a CPU limit has memory, on any node.
const LARGE_BODIES_PER_CORE: usize = 4;
const LARGE_BODIES_MAX: usize = 16;
/// Smaller pages are converted on the task's own thread.
const OFFLOAD_MIN_OBJECTS: usize = 100;
/// Maximum number of pages of one listing: a token that never ends must not make it endless.
const PAGES_MAX: usize = 10_000;

fn declarations() -> impl Iterator<Item = &'static Declaration> {
    services::TYPES.iter().copied().flatten()
}

fn declaration(scope: &Scope) -> &'static Declaration {
    let name = scope.resource_type.as_str();
    declarations().find(|d| d.name == name).expect("scopes are built from declared types only")
}

/// All sessions of a process share one governor and one pool of connections.
#[derive(Debug)]
pub struct Aws {
    governor: Arc<Governor>,
    /// Pages that are converted concurrently.
    cores: Arc<Semaphore>,
    /// For answers that the SDK itself reads: credentials are fetched during a sweep as well.
    http: SharedHttpClient,
    /// The same, but keeps the bodies that are recorded.
    keeping: SharedHttpClient,
    /// The process's own credential chain, by endpoint. It has its own clients, shared by all of a thousand accounts.
    chains: Mutex<BTreeMap<Arc<str>, SdkConfig>>,
    /// By endpoint, how far its clock differs from ours: calls are signed with its time.
    clocks: Mutex<BTreeMap<Arc<str>, SharedInterceptor>>,
}

impl Default for Aws {
    fn default() -> Self {
        Self::new(governor::DEFAULT_SHARE)
    }
}

impl Aws {
    /// Uses this share of the rate that AWS allows an account.
    pub fn new(share: f64) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .build_https();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            governor: Arc::new(Governor::new(share)),
            cores: Arc::new(Semaphore::new(cores)),
            http: http.clone(),
            keeping: KeepingClient::over(http, (LARGE_BODIES_PER_CORE * cores).min(LARGE_BODIES_MAX)),
            chains: Mutex::default(),
            clocks: Mutex::default(),
        }
    }

    /// The configuration before a role is assumed.
    async fn base(&self, target: &AccountTarget) -> SdkConfig {
        let is_ambient = target.access.credentials == Credentials::Ambient;
        if is_ambient && let Some(known) = self.chains().get(&target.endpoint) {
            return known.clone();
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            // Shared by all clients of the session: otherwise each would fetch credentials of its own.
            .identity_cache(IdentityCache::lazy().build())
            .retry_config(RetryConfig::standard())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            );
        if let Credentials::Keys(keys) = &target.access.credentials {
            let key = |name: &str| keys.get(name).unwrap_or_default();
            let token = keys.get(SESSION_TOKEN).map(str::to_owned);
            let keys = Keys::new(key(ACCESS_KEY_ID), key(SECRET_ACCESS_KEY), token, None, "Secret");
            loader = loader.credentials_provider(keys);
        }
        if !target.endpoint.is_empty() {
            loader = loader.endpoint_url(&*target.endpoint);
        }
        let base = loader.load().await;
        if is_ambient {
            self.chains().insert(target.endpoint.clone(), base.clone());
        }
        base
    }

    /// Outlives sessions: one that failed because of the clock is made again, and must not begin with the wrong time.
    fn clock(&self, endpoint: &Arc<str>) -> SharedInterceptor {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = || SharedInterceptor::new(ServiceClockSkewInterceptor::new());
        clocks.entry(endpoint.clone()).or_insert_with(clock).clone()
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, SdkConfig>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request as it is written, without its host. Tests compare it with what the AWS CLI writes.
    pub fn request(service: &str, operation: &str, input: &Value) -> Result<WrittenRequest, String> {
        let written = request::service(service).and_then(|service| service.request(operation, input));
        let request::Request { method, path, headers, body } = written.map_err(|error| error.to_string())?;
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(WrittenRequest { method: method.to_owned(), path, headers, body })
    }

    /// The URL of a service in a region, and the region that requests are signed for. Tests compare them with what the
    /// AWS CLI resolves.
    pub fn endpoint(
        service: &str,
        (partition, region): (&str, &str),
        fips: bool,
        dual_stack: bool,
    ) -> Result<(String, String), String> {
        let service = request::service(service).map_err(|error| error.to_string())?;
        let endpoint = service.endpoint(partition, region, fips, dual_stack).map_err(|error| error.to_string())?;
        Ok((endpoint.url, endpoint.signing_region))
    }

    /// The service, operation and parameters of each type's listing: of a page, and of one id.
    pub fn listings() -> Vec<(&'static str, &'static str, Vec<Value>)> {
        let inputs = |declaration: &'static Declaration| {
            let list = &declaration.list;
            (list.service, list.operation, list.samples())
        };
        declarations().map(inputs).collect()
    }

    /// The paths of each type's parts in the answers of its calls. Tests compare them with the services' models.
    pub fn paths() -> Vec<Value> {
        declarations().map(Declaration::paths).collect()
    }
}

/// A request without its host.
#[derive(Debug)]
pub struct WrittenRequest {
    /// `GET` or `POST`.
    pub method: String,
    /// With the query string.
    pub path: String,
    /// By their lower-case names.
    pub headers: BTreeMap<String, String>,
    /// Empty if there is none.
    pub body: String,
}

#[async_trait]
impl Provider for Aws {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn facts(&self) -> ProviderFacts {
        facts::facts()
    }

    fn calls(&self) -> Calls {
        self.governor.calls()
    }

    fn types(&self) -> Vec<TypeInfo> {
        declarations().map(Declaration::info).collect()
    }

    fn default_endpoint(&self) -> String {
        // The SDK would use it anyway; named, it becomes part of the scope's identity.
        std::env::var("AWS_ENDPOINT_URL").unwrap_or_default()
    }

    async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
        if let Credentials::Unavailable(why) = &target.access.credentials {
            return Err(CloudError::new(Reason::InvalidCredentials, why.clone()));
        }
        let mut base = self.base(target).await;
        if base.region().is_none() {
            let region = home_region(&target.include_regions);
            base = base.into_builder().region(aws_config::Region::new(region)).build();
        }
        let config = match &target.access.identity {
            None => base,
            Some(role) => {
                let mut assume = AssumeRoleProvider::builder(role).session_name("elava");
                if let Some(external_id) = target.access.parameters.get(EXTERNAL_ID) {
                    assume = assume.external_id(external_id);
                }
                // It refreshes before it expires: the SDK caches what a provider returns.
                let provider = assume.configure(&base).build().await;
                let builder = base.into_builder().credentials_provider(SharedCredentialsProvider::new(provider));
                // A cache of its own, because a cache never forgets a provider.
                builder.identity_cache(IdentityCache::lazy().build()).build()
            }
        };
        let clock = self.clock(&target.endpoint);
        let identity = identify(&config, &clock, target).await.inspect_err(|error| {
            // The credentials may have changed, such as a file that was rewritten.
            if target.access.credentials == Credentials::Ambient && error.reason == Reason::InvalidCredentials {
                self.chains().remove(&target.endpoint);
            }
        })?;
        let session = AwsSession {
            identity,
            target: target.clone(),
            calls: config.to_builder().http_client(self.keeping.clone()).build(),
            config,
            governor: self.governor.clone(),
            cores: self.cores.clone(),
            seen: Arc::default(),
            clock,
        };
        Ok(Arc::new(session))
    }
}

/// A region that is enabled in every account of the partition that the named regions belong to. Never a named region:
/// it may be misspelt, and then no call would succeed.
fn home_region(named: &[Region]) -> &'static str {
    home_of(match named.first().map_or("", Region::as_str) {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        region if region.starts_with("eusc-") => "aws-eusc",
        _ => "aws",
    })
}

/// The region for resources that are global to a partition.
fn home_of(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "cn-north-1",
        "aws-us-gov" => "us-gov-west-1",
        "aws-eusc" => "eusc-de-east-1",
        _ => HOME_REGION,
    }
}

/// GetCallerIdentity needs no permission, so it distinguishes wrong credentials from missing permissions.
async fn identify(
    config: &SdkConfig,
    clock: &SharedInterceptor,
    target: &AccountTarget,
) -> Result<Identity, CloudError> {
    let client = aws_sdk_sts::config::Builder::from(config).interceptor(clock.clone()).build();
    let answer = match aws_sdk_sts::Client::from_conf(client).get_caller_identity().send().await {
        Ok(answer) => answer,
        Err(error) => {
            let mut failed = match classify(&error, "sts:GetCallerIdentity") {
                Failure::Error(failed) => failed,
                Failure::NotFound { .. } => {
                    CloudError::new(Reason::ServerError, "sts:GetCallerIdentity: not found")
                }
            };
            failed.access_ended = is_access_ended(&error);
            if let Some(role) = &target.access.identity
                && failed.reason != Reason::Unreachable
                && failed.reason != Reason::TimedOut
            {
                failed = CloudError {
                    reason: Reason::InvalidCredentials,
                    action: Some("sts:AssumeRole".to_owned()),
                    message: format!(
                        "the role {role} can't be assumed: check its ARN, its trust policy and the external id \
                         ({})",
                        failed.message
                    ),
                    ..failed
                };
            }
            return Err(failed);
        }
    };
    let account = answer.account().unwrap_or_default();
    let arn = answer.arn().unwrap_or_default().to_owned();
    if let Some(desired) = &target.account
        && desired.as_str() != account
    {
        let message = format!(
            "the credentials answer for account {account}, not {desired}: name the role or Secret of {desired}"
        );
        let error = CloudError::new(Reason::WrongAccount, message);
        return Err(CloudError { access_ended: true, ..error });
    }
    let partition = arn.split(':').nth(1).unwrap_or("aws").into();
    Ok(Identity { account: AccountId::new(account), partition, name: arn })
}

struct AwsSession {
    identity: Identity,
    target: AccountTarget,
    /// For the SDK's own clients.
    config: SdkConfig,
    /// For calls of ours, whose answers keep their bodies.
    calls: SdkConfig,
    governor: Arc<Governor>,
    cores: Arc<Semaphore>,
    seen: Arc<AnswerStats>,
    clock: SharedInterceptor,
}

/// One account in one region, while something in it is scanned. Clients are created on demand: an organization has a
/// hundred thousand combinations of account, region and service.
pub(super) struct Regional {
    config: SdkConfig,
    account: AccountId,
    partition: Arc<str>,
    region: Arc<str>,
    governor: Arc<Governor>,
    cores: Arc<Semaphore>,
    seen: Arc<AnswerStats>,
    clock: SharedInterceptor,
}

impl Regional {
    fn new(session: &AwsSession, region: &str) -> Self {
        Self {
            config: session.calls.clone(),
            account: session.identity.account.clone(),
            partition: session.identity.partition.clone(),
            region: region.into(),
            governor: session.governor.clone(),
            cores: session.cores.clone(),
            seen: session.seen.clone(),
            clock: session.clock.clone(),
        }
    }

    /// The listing of buckets contains their creation time only in the first region of all; nothing is known about
    /// other partitions.
    fn lists_bucket_creation(&self) -> bool {
        &*self.region == HOME_REGION
    }

    /// The same account in another region.
    fn elsewhere(&self, region: &str) -> Self {
        let region = if region.is_empty() { &self.region } else { region };
        Self {
            config: self.config.clone(),
            account: self.account.clone(),
            partition: self.partition.clone(),
            region: region.into(),
            governor: self.governor.clone(),
            cores: self.cores.clone(),
            seen: self.seen.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Runs slow work on a separate thread: a page of a thousand instances takes a twentieth of a second, during which
    /// its task would delay all others of its thread. Running more than there are cores would only use memory.
    async fn aside<T: Send + 'static>(&self, is_long: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
        if !is_long {
            return work();
        }
        let _permit = self.cores.acquire().await.expect("it is never closed");
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends: no task waits for this any more.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// One call at the governor's rate, with its answer as received.
    async fn query(
        &self,
        service: &'static str,
        operation: &'static str,
        input: Value,
    ) -> Result<Answered, Failure> {
        let caller = Caller {
            config: &self.config,
            partition: &self.partition,
            region: &self.region,
            clock: self.clock.clone(),
        };
        let prepared = caller.prepare(service, operation, &input, self.seen.clone());
        let prepared = prepared.map_err(|error| {
            let message = format!("{}: {error}", action(service, operation));
            Failure::Error(CloudError::new(Reason::Malformed, message))
        })?;
        let mut may_sign_again = true;
        let mut attempts = Attempts::new(&self.governor, (&self.account, &self.region), service, operation);
        loop {
            attempts.wait().await;
            let answer = prepared.send().await;
            let failed = answer.as_ref().err().and_then(Failure::reason);
            // The answer shows that the clocks differ: the next attempt is signed with the cloud's time.
            let is_skewed = self.seen.skew_millis.load(Ordering::Relaxed) != 0;
            if failed == Some(Reason::InvalidCredentials) && is_skewed && std::mem::take(&mut may_sign_again) {
                continue;
            }
            if !attempts.should_retry(failed) {
                return answer;
            }
        }
    }

    /// The same, with its answer as the object that the AWS CLI prints.
    async fn send(&self, service: &'static str, operation: &'static str, input: Value) -> Result<Value, Failure> {
        let answered = self.query(service, operation, input).await?;
        self.converted(answered).await
    }

    /// The items of all pages of a listing, with these further parameters.
    async fn send_all(
        &self,
        list: &Call,
        further: Value,
        items_at: &[&str],
        next_at: &str,
    ) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut token = None;
        let mut seen_tokens = BTreeSet::new();
        loop {
            let mut input = list.input(&ListRequest::Page { within: None, token: token.take() });
            if let (Some(input), Some(further)) = (input.as_object_mut(), further.as_object()) {
                input.extend(further.clone());
            }
            let mut answer = self.send(list.service, list.operation, input).await?;
            token = next_page(&answer, next_at);
            all.append(&mut items(&mut answer, items_at));
            match &token {
                None => return Ok(all),
                Some(token) if seen_tokens.len() < PAGES_MAX && seen_tokens.insert(token.clone()) => {}
                Some(_) => {
                    let message = format!("the pages of {} do not end", list.operation);
                    return Err(Failure::Error(CloudError::new(Reason::Malformed, message)));
                }
            }
        }
    }

    /// The answer as the object that the AWS CLI prints.
    async fn converted(&self, answered: Answered) -> Result<Value, Failure> {
        let is_long = answered.is_long();
        self.aside(is_long, move || answered.converted()).await
    }
}

impl AwsSession {
    fn regional(&self, scope: &Scope) -> Regional {
        // Not the operator's own region: in other regions buckets have other dates.
        let region =
            if scope.region.is_global() { home_of(&self.identity.partition) } else { scope.region.as_str() };
        Regional::new(self, region)
    }
}

/// Converts described objects to observations: with tags and place, and without volatile and secret fields.
async fn observe(
    regional: &Regional,
    declaration: &'static Declaration,
    objects: Vec<Value>,
) -> Result<Vec<Observation>, CloudError> {
    let is_many = objects.len() > OFFLOAD_MIN_OBJECTS;
    let complete = |object| complete(regional, declaration, object);
    let completed = futures::stream::iter(objects).map(complete).buffered(DETAIL_CALLS_IN_FLIGHT);
    let completed: Vec<Option<Described>> = completed.try_collect().await?;
    let completed = completed.into_iter().flatten().collect();
    let tagged: Vec<Described> = if let TagSource::Calls(most, call) = declaration.tags {
        tags_of_many(regional, declaration, completed, most, call).await
    } else {
        let tagged = |described| tagged(regional, declaration, described);
        futures::stream::iter(completed).map(tagged).buffered(DETAIL_CALLS_IN_FLIGHT).collect().await
    };
    let account = regional.account.clone();
    let seen = move || tagged.into_iter().map(|described| observation(declaration, &account, described)).collect();
    regional.aside(is_many, seen).await
}

/// An object on its way to an observation: what its listing and the further calls returned.
struct Described {
    object: Value,
    /// Only the listing's fields: its attributes may not be read.
    is_bare: bool,
    tags: Tags,
    unread: Vec<Unread>,
}

impl Described {
    fn of(object: Value) -> Self {
        Self { object, is_bare: false, tags: Tags::Unknown, unread: Vec::new() }
    }

    fn miss(&mut self, part: Part, failure: Failure, action: &str) {
        let unread = match failure {
            // The resource was just listed: it is busy, or not visible everywhere yet. That does not prove absence.
            Failure::NotFound { code } => {
                tracing::debug!(code, "a further call does not find what was listed");
                Unread { part, reason: Reason::ServerError, action: action.to_owned() }
            }
            Failure::Error(error) => {
                tracing::debug!(%error, "a further call failed");
                Unread { part, reason: error.reason, action: error.action.unwrap_or_else(|| action.to_owned()) }
            }
        };
        self.unread.push(unread);
    }
}

fn is_denied(error: &CloudError) -> bool {
    matches!(error.reason, Reason::Denied | Reason::DeniedByPolicy)
}

/// Adds what the listing lacks. `None`: the resource vanished between the listing and the call that describes it. A
/// listed resource that may not be described still exists: a key whose policy denies this account hides no other key.
async fn complete(
    regional: &Regional,
    declaration: &Declaration,
    object: Value,
) -> Result<Option<Described>, CloudError> {
    let mut described = Described::of(object);
    if let Some(describe) = declaration.describe {
        match describe(regional, &mut described.object).await {
            Ok(()) => {}
            Err(Failure::NotFound { code }) if declaration.is_absence(&code) => return Ok(None),
            Err(failure) => {
                let is_of_it_alone = match &failure {
                    Failure::NotFound { .. } => true,
                    Failure::Error(error) => is_denied(error),
                };
                if !is_of_it_alone || !declaration.contains_id(&mut described.object) {
                    return Err(as_error(failure, declaration));
                }
                described.is_bare = true;
                described.miss(Part::Attributes, failure, declaration.further_action());
                return Ok(Some(described));
            }
        }
    }
    if let Some(enrich) = declaration.enrich {
        match enrich(regional, &mut described.object).await {
            Ok(()) => {}
            // Omitting what could not be read this time would be recorded as a change, there and back.
            Err(Failure::Error(error)) if !is_denied(&error) => return Err(error),
            Err(failure @ Failure::NotFound { .. }) => {
                described.is_bare = true;
                described.miss(Part::Attributes, failure, declaration.further_action());
            }
            // Fields that may not be read are left out of the document: that is no reason to doubt the listing.
            Err(failure) => described.miss(Part::Attributes, failure, declaration.further_action()),
        }
    }
    Ok(Some(described))
}

fn end_state(declaration: &Declaration, object: &Value) -> Option<String> {
    let (path, states) = declaration.end_states?;
    let state = at_path(object, path)?.as_str()?;
    states.contains(&state).then(|| state.to_owned())
}

/// Adds an object's tags. A call for tags proves nothing about the resource itself: ElastiCache does not find the tags
/// of a cluster while it takes its nightly snapshot.
async fn tagged(regional: &Regional, declaration: &Declaration, mut described: Described) -> Described {
    match declaration.tags {
        // A resource that has ended has no more tags to read.
        TagSource::Call(call) if !described.is_bare && end_state(declaration, &described.object).is_none() => {
            match call(regional, &described.object).await {
                Ok(tags) => described.tags = tags,
                Err(failure) => described.miss(Part::Tags, failure, declaration.tag_action()),
            }
        }
        _ => described.tags = own_tags(declaration, &mut described.object),
    }
    described
}

/// The tags that an object itself contains, removed from it.
fn own_tags(declaration: &Declaration, object: &mut Value) -> Tags {
    match declaration.tags {
        TagSource::Inline(field, _) => {
            let tags = tag_set(object.get(field));
            remove(object, field);
            Tags::Known(tags)
        }
        TagSource::Untaggable => Tags::Untaggable,
        TagSource::Call(_) | TagSource::Calls(..) => Tags::Unknown,
    }
}

type TagCalls = for<'a> fn(&'a Regional, Vec<String>) -> BoxFuture<'a, Result<BTreeMap<String, TagSet>, Failure>>;

/// Reads tags of many resources in one call. A resource that has vanished fails the call for all: they are then read
/// one by one.
async fn tags_of_many(
    regional: &Regional,
    declaration: &Declaration,
    mut objects: Vec<Described>,
    most: usize,
    call: TagCalls,
) -> Vec<Described> {
    let id = |described: &Described| text(&described.object, declaration.id).to_owned();
    for some in objects.chunks_mut(most) {
        let answered = call(regional, some.iter().map(id).collect()).await;
        for described in some {
            let one = match &answered {
                Ok(tags) => Ok(tags.get(&id(described)).cloned()),
                Err(Failure::Error(error)) => Err(Failure::Error(error.clone())),
                Err(Failure::NotFound { .. }) => {
                    call(regional, vec![id(described)]).await.map(|tags| tags.into_values().next())
                }
            };
            let missing = || Failure::NotFound { code: "an answer without it".to_owned() };
            match one.and_then(|tags| tags.ok_or_else(missing)) {
                Ok(tags) => described.tags = Tags::Known(tags),
                Err(failure) => described.miss(Part::Tags, failure, declaration.tag_action()),
            }
        }
    }
    objects
}

fn observation(
    declaration: &Declaration,
    account: &AccountId,
    described: Described,
) -> Result<Observation, CloudError> {
    let Described { mut object, is_bare, mut tags, unread } = described;
    let id = text(&object, declaration.id).to_owned();
    if id.is_empty() {
        let message = format!("{} came without its {}", declaration.name, declaration.id);
        return Err(CloudError::new(Reason::Malformed, message));
    }
    if is_bare {
        let attributes = Document::unknown();
        return Ok(Observation { id, tags: Tags::Unknown, attributes, birth: None, end_state: None, unread });
    }
    if facts::owner_account(&object).is_some_and(|owner| owner != account.as_str()) {
        tags = Tags::Untaggable;
    }
    let end_state = end_state(declaration, &object);
    replace_passing_states(declaration, &mut object);
    let birth = declaration.birth.and_then(|field| time_field(&object, field));
    for path in declaration.volatile.iter().chain(declaration.secret) {
        remove(&mut object, path);
    }
    sort_lists(&mut object);
    Ok(Observation { id, tags, attributes: (&object).into(), birth, end_state, unread })
}

/// A passing state is replaced by the lasting one that it starts from and returns to.
fn replace_passing_states(declaration: &Declaration, object: &mut Value) {
    let Some((path, _)) = declaration.end_states else { return };
    let steps = || path.split('.');
    if let Some(state) = steps().try_fold(object, |value, step| value.get_mut(step))
        && let Some((_, lasting)) = declaration.passing_states.iter().find(|(passing, _)| state == passing)
    {
        *state = Value::from(*lasting);
    }
}

/// Lists whose order matters: the first cache behavior that matches is used, the first policy is tried first.
const ORDERED: [&str; 2] = ["CacheBehaviors", "TerminationPolicies"];

/// Other lists in described objects are sets (groups, attachments, addresses): AWS guarantees no order, and a different
/// order is not a change.
fn sort_lists(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort_lists);
            if items.len() > 1 {
                items.sort_by_cached_key(ToString::to_string);
            }
        }
        Value::Object(fields) => {
            fields
                .iter_mut()
                .filter(|(name, _)| !ORDERED.contains(&name.as_str()))
                .for_each(|(_, field)| sort_lists(field));
        }
        _ => {}
    }
}

fn as_error(failure: Failure, declaration: &Declaration) -> CloudError {
    match failure {
        Failure::Error(error) => error,
        Failure::NotFound { code } => CloudError::new(
            Reason::ServerError,
            format!(
                "AWS answered {code} on {}, which does not mean that there is no such resource",
                declaration.name
            ),
        ),
    }
}

/// What a failed read by id proves: that the resource does not exist, or nothing.
fn absent(failure: Failure, declaration: &Declaration) -> Result<Option<Observation>, CloudError> {
    match failure {
        Failure::NotFound { code } if declaration.is_absence(&code) => Ok(None),
        failure => Err(as_error(failure, declaration)),
    }
}

/// One page of a listing, and the token of the next. If one id is requested, only that one: some listings match the
/// beginning of a name.
async fn page(
    regional: &Regional,
    declaration: &'static Declaration,
    which: ListRequest,
) -> Result<(Vec<Observation>, Option<String>), Failure> {
    let only = if let ListRequest::Id(id) = &which { Some(id.clone()) } else { None };
    let is_requested = move |object: &Value| only.as_ref().is_none_or(|id| text(object, declaration.id) == id);
    let list = &declaration.list;
    let fetched = match declaration.fetch {
        Some(fetch) => fetch(regional, list, which).await?,
        None => regional.query(list.service, list.operation, list.input(&which)).await?.into(),
    };
    let mut rest = match fetched {
        ListAnswer::Completed(answer) => answer,
        // A page may contain a thousand objects and megabytes: each becomes an observation before the next is read.
        ListAnswer::Raw(answered) if declaration.lists_all() => {
            let is_long = answered.is_long();
            let account = regional.account.clone();
            let convert = move || {
                let mut observations = Vec::new();
                let mut take = |mut object| {
                    if !is_requested(&object) {
                        return;
                    }
                    let tags = own_tags(declaration, &mut object);
                    let described = Described { tags, ..Described::of(object) };
                    observations.push(observation(declaration, &account, described));
                };
                let mut rest = answered.convert_each(declaration.items, &mut take)?;
                let token = next_page(&rest, declaration.next_page);
                items(&mut rest, declaration.items).into_iter().for_each(take);
                let observations = observations.into_iter().collect::<Result<_, _>>().map_err(Failure::Error)?;
                Ok((observations, token))
            };
            return regional.aside(is_long, convert).await;
        }
        ListAnswer::Raw(answered) => regional.converted(answered).await?,
    };
    let token = next_page(&rest, declaration.next_page);
    let mut objects = items(&mut rest, declaration.items);
    objects.retain(is_requested);
    Ok((observe(regional, declaration, objects).await.map_err(Failure::Error)?, token))
}

/// All pages of a listing, or of its part within one parent.
fn pages_within<'a>(
    regional: &'a Regional,
    declaration: &'static Declaration,
    within: Option<String>,
) -> impl Stream<Item = Result<Vec<Observation>, Failure>> + Send + 'a {
    try_stream! {
        let mut token = None;
        let mut seen_tokens = BTreeSet::new();
        for _ in 0..PAGES_MAX {
            let which = ListRequest::Page { within: within.clone(), token: token.take() };
            let observations;
            (observations, token) = page(regional, declaration, which).await?;
            yield observations;
            match &token {
                None => return,
                Some(token) if !seen_tokens.insert(token.clone()) => break,
                Some(_) => {}
            }
        }
        let message = format!("the pages of {} do not end", declaration.name);
        Err(Failure::Error(CloudError::new(Reason::Malformed, message)))?;
    }
}

#[async_trait]
impl Session for AwsSession {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn verify(&self) -> Result<(), CloudError> {
        let target = AccountTarget { account: Some(self.identity.account.clone()), ..self.target.clone() };
        identify(&self.config, &self.clock, &target).await.map(drop)
    }

    async fn regions(&self) -> Result<Vec<Region>, CloudError> {
        let AccountTarget { include_regions: include, exclude_regions: exclude, .. } = &self.target;
        let client = aws_sdk_ec2::Client::new(&self.config);
        let enabled: Vec<Region> = match client.describe_regions().all_regions(true).send().await {
            Ok(answer) => answer
                .regions()
                .iter()
                .filter(|region| region.opt_in_status() != Some("not-opted-in"))
                .filter_map(|region| region.region_name().map(Region::from))
                .collect(),
            Err(error) => match classify(&error, "ec2:DescribeRegions") {
                // Named regions can be scanned without the list of all.
                Failure::Error(error) if error.reason == Reason::Denied && !include.is_empty() => include.clone(),
                Failure::Error(error) => return Err(error),
                Failure::NotFound { .. } => {
                    return Err(CloudError::new(Reason::ServerError, "ec2:DescribeRegions: not found"));
                }
            },
        };
        if let Some(wrong) = include.iter().find(|region| !enabled.contains(region)) {
            let names: Vec<&str> = enabled.iter().map(Region::as_str).collect();
            let message = format!(
                "the region {wrong} is not enabled in account {}, or does not exist: enable it, or take it out of \
                 regions.include; enabled are {}",
                self.identity.account,
                names.join(", ")
            );
            return Err(CloudError::new(Reason::RegionDisabled, message));
        }
        let desired = if include.is_empty() { enabled } else { include.clone() };
        Ok(desired.into_iter().filter(|region| !exclude.contains(region)).collect())
    }

    fn list<'a>(&'a self, scope: &'a Scope) -> Pages<'a> {
        let declaration = declaration(scope);
        let regional = self.regional(scope);
        let pages = try_stream! {
            let within = match declaration.within {
                None => vec![None],
                Some(within) => within(&regional).await?.into_iter().map(Some).collect(),
            };
            for within in within {
                let is_within = within.is_some();
                let mut pages = pin!(pages_within(&regional, declaration, within));
                while let Some(page) = pages.next().await {
                    match page {
                        Ok(observations) => yield observations,
                        // The parent was deleted meanwhile, and with it everything in it.
                        Err(Failure::NotFound { .. }) if is_within => break,
                        Err(failure) => Err(failure)?,
                    }
                }
            }
        };
        pages.map_err(move |failure| as_error(failure, declaration)).boxed()
    }

    async fn read_by_id(&self, scope: &Scope, id: &str) -> Result<Option<Observation>, CloudError> {
        let declaration = declaration(scope);
        let regional = self.regional(scope);
        let found = match declaration.by_id {
            ById::Sweeps => {
                let message = format!("{} has no read by id: complete sweeps must agree", declaration.name);
                return Err(CloudError::new(Reason::Malformed, message));
            }
            ById::Exists(exists) => match exists(&regional, id).await {
                Ok(()) => return Ok(Some(Observation::unread(id))),
                Err(failure) => return absent(failure, declaration),
            },
            ById::Describe(shown) => match complete(&regional, declaration, shown(id)).await? {
                None => return Ok(None),
                // A read that is denied proves nothing.
                Some(Described { is_bare: true, unread, .. }) => {
                    let unread = unread.into_iter().next();
                    return Err(unread.map_or_else(
                        || CloudError::new(Reason::Denied, "its attributes may not be read"),
                        |Unread { reason, action, .. }| {
                            let message = format!("{action} does not describe it");
                            CloudError { action: Some(action), ..CloudError::new(reason, message) }
                        },
                    ));
                }
                Some(described) => {
                    let described = tagged(&regional, declaration, described).await;
                    vec![observation(declaration, &regional.account, described)?]
                }
            },
            ById::Listing => match page(&regional, declaration, ListRequest::Id(id.to_owned())).await {
                Ok((found, _)) => found,
                Err(failure) => return absent(failure, declaration),
            },
        };
        // Another resource may have its name by now.
        Ok(found.into_iter().find(|observation| observation.id == id))
    }

    async fn read_tags(&self, scope: &Scope, ids: &[&str]) -> Result<BTreeMap<String, TagSet>, CloudError> {
        let declaration = declaration(scope);
        let Some(verify) = declaration.verify_tags else {
            let message = format!("the tags of {} are never read again", declaration.name);
            return Err(CloudError::new(Reason::Malformed, message));
        };
        verify(&self.regional(scope), ids).await.map_err(|failure| as_error(failure, declaration))
    }

    async fn members(&self, units: &[String]) -> Result<Members, CloudError> {
        let regional = Regional::new(self, home_of(&self.identity.partition));
        let list = organization::members(&regional, units).await.map_err(|failure| match failure {
            Failure::Error(error) => error,
            Failure::NotFound { code } => {
                let message = format!(
                    "the organization of account {} has no such unit ({code}): see spec.provider.aws.organization.units",
                    self.identity.account
                );
                CloudError::new(Reason::Malformed, message)
            }
        })?;
        Ok(Members { partition: self.identity.partition.clone(), list })
    }

    fn take_calls(&self) -> u64 {
        self.seen.calls.swap(0, Ordering::Relaxed)
    }

    fn skew_millis(&self) -> i64 {
        self.seen.skew_millis.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_declaration_is_incomplete() {
        // Their APIs report no creation time: one life under a name can't be distinguished from the next.
        const WITHOUT_CREATION_TIME: [&str; 5] = [
            "AWS::CloudWatch::Alarm",
            "AWS::ECS::Cluster",
            "AWS::Lambda::Function",
            "AWS::OpenSearchService::Domain",
            "AWS::SNS::Topic",
        ];
        let mut names = BTreeSet::new();
        for declaration in declarations() {
            let name = declaration.name;
            assert!(names.insert(name), "{name} is declared twice");
            assert_eq!(name.split("::").count(), 3, "{name} is no name of CloudFormation's");
            assert!(!declaration.items.is_empty() && !declaration.id.is_empty(), "{name}");
            let is_action =
                |action: &&str| action.split_once(':').is_some_and(|(s, a)| !s.is_empty() && !a.is_empty());
            assert!(!declaration.actions.is_empty() && declaration.actions.iter().all(is_action), "{name}");
            let is_reported = declaration.birth.is_some() || WITHOUT_CREATION_TIME.contains(&name);
            assert!(!declaration.reusable_ids || is_reported, "{name}: what tells one life from the next?");
            let is_described = declaration.describe.is_some();
            assert!(!matches!(declaration.by_id, ById::Describe(_)) || is_described, "{name}: described by what?");
            // If its description is denied, its id comes from the listing. A node group's does not: its id is its ARN,
            // which no listing contains; its scope is then incomplete.
            if let ById::Describe(shown) = declaration.by_id {
                let is_named = declaration.contains_id(&mut shown("some/id"));
                assert_eq!(
                    is_named,
                    name != "AWS::EKS::Nodegroup",
                    "{name}: what is its id without a description?"
                );
            }
            assert!(declaration.within.is_none() || !matches!(declaration.by_id, ById::Listing), "{name}");
            // A listing that takes an id may return an empty list instead of an error, which proves the absence.
            let answers_nothing = [
                "AWS::AutoScaling::AutoScalingGroup",
                "AWS::CloudWatch::Alarm",
                "AWS::Logs::LogGroup",
                "AWS::S3::Bucket",
            ];
            let is_read = !matches!(declaration.by_id, ById::Sweeps) && !answers_nothing.contains(&name);
            assert_eq!(is_read, !declaration.not_found.is_empty(), "{name}: what says that there is none?");
            let end_states = declaration.end_states.map_or(1, |(_, states)| states.len());
            assert!(end_states > 0 && declaration.shape > 0, "{name}");
        }
        assert!(names.len() >= 50, "{}", names.len());
    }

    #[test]
    fn a_list_in_another_order_is_the_same_document() {
        let mut a = serde_json::json!({"Groups": [{"Id": "b"}, {"Id": "a", "Ports": [2, 1]}]});
        let mut b = serde_json::json!({"Groups": [{"Id": "a", "Ports": [1, 2]}, {"Id": "b"}]});
        sort_lists(&mut a);
        sort_lists(&mut b);
        assert_eq!(a, b);
        let mut policies = serde_json::json!({"TerminationPolicies": ["OldestInstance", "Default"]});
        let before = policies.clone();
        sort_lists(&mut policies);
        assert_eq!(policies, before, "they are tried in their order");
    }
}
