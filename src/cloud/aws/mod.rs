//! AWS through the official SDK: one file per service, each type declared in one place.
//!
//! - [`declare`]: what a type is; [`services`]: the types.
//! - [`organization`]: which accounts there are.
//! - [`governor`]: how much may be asked, [`call`], [`http`] and [`convert`]: one call, and its body
//!   as the object that the AWS CLI prints.
//! - [`error`]: what AWS's errors mean.

mod call;
mod convert;
mod declare;
mod error;
mod governor;
mod http;
mod organization;
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
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    AccountTarget, CloudError, Credentials, Identity, Members, Pages, Provider, Session, TypeInfo, remove,
};
use crate::inventory::{
    AccountId, Document, Observation, Part, Reason, Region, Scope, TagSet, Tags, Unread, shared_by,
};
use call::{Answered, Capture, Seen};
use declare::{ById, Declaration, Listed, TagSource, Which, at_path, items, next_page, tag_set, text, time_field};
use error::{Failure, classify};
use governor::{Attempts, Governor};
use http::KeepingClient;

pub use governor::{CallCounts, Calls};

/// Where the account is asked who it is and which regions it has, when nothing else names a region.
const HOME_REGION: &str = "us-east-1";
/// One attempt, and one call with its retries. Unbounded reads are how a scan hangs for a night.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects of one listing in flight that need calls of their own.
const TAG_CALLS: usize = 8;
/// Large bodies of all accounts that are in memory at once: so many for each core that converts them, up to a bound
/// that a pod without a limit of CPU has memory for, on whatever node.
const LARGE_BODIES: usize = 4;
const MOST_LARGE_BODIES: usize = 16;
/// Fewer become observations where they are.
const MANY_OBJECTS: usize = 100;
/// The most pages of one listing: a token that never ends must not either.
const MAX_PAGES: usize = 10_000;

fn declarations() -> impl Iterator<Item = &'static Declaration> {
    services::TYPES.iter().copied().flatten()
}

fn declaration(scope: &Scope) -> &'static Declaration {
    let name = scope.resource_type.as_str();
    declarations().find(|d| d.name == name).expect("scopes are built from declared types only")
}

/// All sessions of a process ask in the time of one governor, over one pool of connections.
#[derive(Debug)]
pub struct Aws {
    governor: Arc<Governor>,
    /// Pages that are worked on at once.
    cores: Arc<Semaphore>,
    /// For whoever reads the answers: credentials are fetched in the middle of a look as well.
    http: SharedHttpClient,
    /// The same, that keeps bodies for what is recorded.
    keeping: SharedHttpClient,
    /// The process's own chain of credentials, by endpoint. It has clients of its own, which a thousand accounts
    /// share.
    chains: Mutex<BTreeMap<Arc<str>, SdkConfig>>,
}

impl Default for Aws {
    fn default() -> Self {
        Self::new(governor::DEFAULT_SHARE)
    }
}

impl Aws {
    /// Takes such a share of what AWS lets an account ask.
    pub fn new(share: f64) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .build_https();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            governor: Arc::new(Governor::new(share)),
            cores: Arc::new(Semaphore::new(cores)),
            http: http.clone(),
            keeping: KeepingClient::over(http, (LARGE_BODIES * cores).min(MOST_LARGE_BODIES)),
            chains: Mutex::default(),
        }
    }

    /// Who asks before any role is assumed.
    async fn base(&self, target: &AccountTarget) -> SdkConfig {
        let is_chain = target.credentials == Credentials::Chain;
        if is_chain && let Some(known) = self.chains().get(&target.endpoint) {
            return known.clone();
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            // One for all clients of the session: each would ask for credentials of its own.
            .identity_cache(IdentityCache::lazy().build())
            .retry_config(RetryConfig::standard())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            );
        if let Credentials::Static { access_key_id, secret_access_key, session_token } = &target.credentials {
            let keys = Keys::new(access_key_id, secret_access_key, session_token.clone(), None, "Secret");
            loader = loader.credentials_provider(keys);
        }
        if !target.endpoint.is_empty() {
            loader = loader.endpoint_url(&*target.endpoint);
        }
        let base = loader.load().await;
        if is_chain {
            self.chains().insert(target.endpoint.clone(), base.clone());
        }
        base
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, SdkConfig>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the parts of each type stand in the answers of its calls: what tests hold against the services' models.
    pub fn paths() -> Vec<Value> {
        declarations().map(Declaration::paths).collect()
    }

    /// Calls since the process began.
    pub fn calls(&self) -> Calls {
        self.governor.calls()
    }
}

#[async_trait]
impl Provider for Aws {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn types(&self) -> Vec<TypeInfo> {
        declarations().map(Declaration::info).collect()
    }

    fn default_endpoint(&self) -> String {
        // The SDK would follow it anyway; named, it becomes part of the scope's identity.
        std::env::var("AWS_ENDPOINT_URL").unwrap_or_default()
    }

    async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
        if let Credentials::Unavailable(why) = &target.credentials {
            return Err(CloudError::new(Reason::InvalidCredentials, why.clone()));
        }
        let mut base = self.base(target).await;
        if base.region().is_none() {
            let region = home_region(&target.include_regions);
            base = base.into_builder().region(aws_config::Region::new(region)).build();
        }
        let config = match &target.role_arn {
            None => base,
            Some(role) => {
                let mut assume = AssumeRoleProvider::builder(role).session_name("elava");
                if let Some(external_id) = &target.external_id {
                    assume = assume.external_id(external_id);
                }
                // Refreshes by itself before it expires: the SDK caches what a provider gives.
                let provider = assume.configure(&base).build().await;
                let builder = base.into_builder().credentials_provider(SharedCredentialsProvider::new(provider));
                // Of its own: a cache never forgets a provider.
                builder.identity_cache(IdentityCache::lazy().build()).build()
            }
        };
        let identity = identify(&config, target).await.inspect_err(|error| {
            // It may be another by now, such as a file that was written anew.
            if target.credentials == Credentials::Chain && error.reason == Reason::InvalidCredentials {
                self.chains().remove(&target.endpoint);
            }
        })?;
        let session = AwsSession {
            identity,
            target: target.clone(),
            config,
            governor: self.governor.clone(),
            cores: self.cores.clone(),
            keeping: self.keeping.clone(),
            seen: Arc::default(),
        };
        Ok(Arc::new(session))
    }
}

/// A region that is enabled in every account of the partition that the named regions lie in. Never one
/// of those: it may be misspelt, and then nothing at all would answer.
fn home_region(named: &[Region]) -> &'static str {
    home_of(match named.first().map_or("", Region::as_str) {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        region if region.starts_with("eusc-") => "aws-eusc",
        _ => "aws",
    })
}

/// Where what is global to a partition is asked for.
fn home_of(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "cn-north-1",
        "aws-us-gov" => "us-gov-west-1",
        "aws-eusc" => "eusc-de-east-1",
        _ => HOME_REGION,
    }
}

/// GetCallerIdentity needs no permission, so it tells wrong credentials from missing rights.
async fn identify(config: &SdkConfig, target: &AccountTarget) -> Result<Identity, CloudError> {
    let answer = match aws_sdk_sts::Client::new(config).get_caller_identity().send().await {
        Ok(answer) => answer,
        Err(error) => {
            let mut failed = match classify(&error, "sts:GetCallerIdentity") {
                Failure::Error(failed) => failed,
                Failure::NotFound { .. } => {
                    CloudError::new(Reason::ServerError, "sts:GetCallerIdentity: not found")
                }
            };
            // The role is assumed on the way out, so its refusal hides in the chain of sources.
            if let Some(role) = &target.role_arn
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
                };
            }
            return Err(failed);
        }
    };
    let account = answer.account().unwrap_or_default();
    let arn = answer.arn().unwrap_or_default().to_owned();
    if let Some(wanted) = &target.account
        && wanted.as_str() != account
    {
        return Err(CloudError::new(
            Reason::WrongAccount,
            format!(
                "the credentials answer for account {account}, not {wanted}: name the role or Secret of {wanted}"
            ),
        ));
    }
    let partition = arn.split(':').nth(1).unwrap_or("aws").into();
    Ok(Identity { account: AccountId::new(account), partition, arn })
}

struct AwsSession {
    identity: Identity,
    target: AccountTarget,
    config: SdkConfig,
    governor: Arc<Governor>,
    cores: Arc<Semaphore>,
    keeping: SharedHttpClient,
    seen: Arc<Seen>,
}

/// One account in one region, for as long as something of it is looked at. A client is made when it is asked
/// for: an organisation has a hundred thousand places to ask.
pub(super) struct Regional {
    config: SdkConfig,
    account: AccountId,
    region: Arc<str>,
    governor: Arc<Governor>,
    cores: Arc<Semaphore>,
    seen: Arc<Seen>,
}

macro_rules! clients {
    ($($name:ident: $sdk:ident),* $(,)?) => {
        impl Regional {
            $(fn $name(&self) -> $sdk::Client {
                $sdk::Client::new(&self.config)
            })*
        }
    };
}

clients! {
    ec2: aws_sdk_ec2,
    organizations: aws_sdk_organizations,
}

#[cfg(feature = "services")]
clients! {
    acm: aws_sdk_acm,
    apigateway: aws_sdk_apigateway,
    autoscaling: aws_sdk_autoscaling,
    backup: aws_sdk_backup,
    cloudformation: aws_sdk_cloudformation,
    cloudfront: aws_sdk_cloudfront,
    cloudwatch: aws_sdk_cloudwatch,
    dynamodb: aws_sdk_dynamodb,
    ecr: aws_sdk_ecr,
    ecs: aws_sdk_ecs,
    efs: aws_sdk_efs,
    eks: aws_sdk_eks,
    elasticache: aws_sdk_elasticache,
    elbv2: aws_sdk_elasticloadbalancingv2,
    emr: aws_sdk_emr,
    fsx: aws_sdk_fsx,
    iam: aws_sdk_iam,
    kafka: aws_sdk_kafka,
    kinesis: aws_sdk_kinesis,
    kms: aws_sdk_kms,
    lambda: aws_sdk_lambda,
    logs: aws_sdk_cloudwatchlogs,
    opensearch: aws_sdk_opensearch,
    rds: aws_sdk_rds,
    redshift: aws_sdk_redshift,
    route53: aws_sdk_route53,
    sagemaker: aws_sdk_sagemaker,
    secretsmanager: aws_sdk_secretsmanager,
    sns: aws_sdk_sns,
    sqs: aws_sdk_sqs,
    stepfunctions: aws_sdk_sfn,
}

impl Regional {
    fn new(session: &AwsSession, region: &str) -> Self {
        let config = session.config.to_builder().region(aws_config::Region::new(region.to_owned()));
        // The governor repeats what is worth it, so that every attempt takes its turn.
        let config = config.retry_config(RetryConfig::disabled()).http_client(session.keeping.clone()).build();
        Self {
            config,
            account: session.identity.account.clone(),
            region: region.into(),
            governor: session.governor.clone(),
            cores: session.cores.clone(),
            seen: session.seen.clone(),
        }
    }

    #[cfg(feature = "services")]
    fn s3(&self) -> aws_sdk_s3::Client {
        // Endpoints that are not AWS's rarely answer for bucket host names.
        let path_style = self.config.endpoint_url().is_some();
        let config = aws_sdk_s3::config::Builder::from(&self.config).force_path_style(path_style).build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// The listing of buckets dates them by when they were made only in the first region of all: of those of other
    /// partitions nothing is known.
    #[cfg(feature = "services")]
    fn tells_birth_of_buckets(&self) -> bool {
        &*self.region == HOME_REGION
    }

    /// The same account in another region.
    #[cfg(feature = "services")]
    fn elsewhere(&self, region: &str) -> Self {
        let region = if region.is_empty() { &self.region } else { region };
        Self {
            config: self.config.to_builder().region(aws_config::Region::new(region.to_owned())).build(),
            account: self.account.clone(),
            region: region.into(),
            governor: self.governor.clone(),
            cores: self.cores.clone(),
            seen: self.seen.clone(),
        }
    }

    /// What takes long on a thread of its own: a page of a thousand instances takes a twentieth of a second, in which
    /// its task would hold up all others of its thread. More at once than there are cores would only take memory.
    async fn aside<T: Send + 'static>(&self, is_long: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
        if !is_long {
            return work();
        }
        let _turn = self.cores.acquire().await.expect("it is never closed");
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends: nobody waits for this any more.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn attempts(&self, service: &'static str, operation: &'static str) -> Attempts<'_> {
        Attempts::new(&self.governor, (&self.account, &self.region), service, operation)
    }

    fn capture(&self) -> Capture {
        Capture::new(self.seen.clone())
    }

    /// The answer as the object that the AWS CLI prints.
    async fn converted(&self, answered: Answered) -> Result<Value, Failure> {
        let is_long = answered.is_long();
        self.aside(is_long, move || answered.converted()).await
    }
}

impl AwsSession {
    fn regional(&self, scope: &Scope) -> Regional {
        // Whatever region the operator runs in: buckets are dated otherwise elsewhere.
        let region =
            if scope.region.is_global() { home_of(&self.identity.partition) } else { scope.region.as_str() };
        Regional::new(self, region)
    }
}

/// Turns described objects into observations: tags, place, and without what is volatile or secret.
async fn observe(
    regional: &Regional,
    declaration: &'static Declaration,
    objects: Vec<Value>,
) -> Result<Vec<Observation>, CloudError> {
    let is_many = objects.len() > MANY_OBJECTS;
    let complete = |object| complete(regional, declaration, object);
    let completed = futures::stream::iter(objects).map(complete).buffered(TAG_CALLS);
    let completed: Vec<Option<Described>> = completed.try_collect().await?;
    let completed = completed.into_iter().flatten().collect();
    let tagged: Vec<Described> = if let TagSource::Calls(most, call) = declaration.tags {
        tags_of_many(regional, declaration, completed, most, call).await
    } else {
        let tagged = |described| tagged(regional, declaration, described);
        futures::stream::iter(completed).map(tagged).buffered(TAG_CALLS).collect().await
    };
    let account = regional.account.clone();
    let seen = move || tagged.into_iter().map(|described| observation(declaration, &account, described)).collect();
    regional.aside(is_many, seen).await
}

/// An object on its way to an observation: what its listing and the further calls told of it.
struct Described {
    object: Value,
    /// Only what the listing shows: its attributes may not be read.
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
            // Of a thing that was just listed: it is busy, or not everywhere yet. That is no absence.
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

/// With what the listing lacks. `None`: it vanished between the listing and the call that describes it. What was listed
/// and may not be described is there all the same: a key whose policy shuts this account out hides no other key.
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
                if !is_of_it_alone || !declaration.names_itself(&mut described.object) {
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
            // What could not be read this time would look like a change, there and back.
            Err(Failure::Error(error)) if !is_denied(&error) => return Err(error),
            Err(failure @ Failure::NotFound { .. }) => {
                described.is_bare = true;
                described.miss(Part::Attributes, failure, declaration.further_action());
            }
            // What may not be read is left out of the document: it is no reason to doubt the listing.
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

/// An object with its tags. A call for tags proves nothing of the thing itself: ElastiCache does not find the tags of a
/// cluster that is making its nightly snapshot.
async fn tagged(regional: &Regional, declaration: &Declaration, mut described: Described) -> Described {
    match declaration.tags {
        // What has ended has no more to tell.
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

/// The tags that an object itself tells, taken out of it.
fn own_tags(declaration: &Declaration, object: &mut Value) -> Tags {
    match declaration.tags {
        TagSource::Inline(field) => {
            let tags = tag_set(object.get(field));
            remove(object, field);
            Tags::Known(tags)
        }
        TagSource::Untaggable => Tags::Untaggable,
        TagSource::Call(_) | TagSource::Calls(..) => Tags::Unknown,
    }
}

type TagCalls = for<'a> fn(&'a Regional, Vec<String>) -> BoxFuture<'a, Result<BTreeMap<String, TagSet>, Failure>>;

/// So many in one call. One that vanished meanwhile fails the call for all: they are asked one by one then.
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
            let untold = || Failure::NotFound { code: "an answer without it".to_owned() };
            match one.and_then(|tags| tags.ok_or_else(untold)) {
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
    if shared_by(&object, account).is_some() {
        tags = Tags::Untaggable;
    }
    let end_state = end_state(declaration, &object);
    pass_states(declaration, &mut object);
    let birth = declaration.birth.and_then(|field| time_field(&object, field));
    for path in declaration.volatile.iter().chain(declaration.secret) {
        remove(&mut object, path);
    }
    sort_lists(&mut object);
    Ok(Observation { id, tags, attributes: (&object).into(), birth, end_state, unread })
}

/// A state that comes and goes by itself is recorded as the one that it comes from and goes to.
fn pass_states(declaration: &Declaration, object: &mut Value) {
    let Some((path, _)) = declaration.end_states else { return };
    let steps = || path.split('.');
    if let Some(state) = steps().try_fold(object, |value, step| value.get_mut(step))
        && let Some((_, lasting)) = declaration.passing_states.iter().find(|(passing, _)| state == passing)
    {
        *state = Value::from(*lasting);
    }
}

/// Lists whose order means something: the first behavior that fits is taken, the first policy is tried first.
const ORDERED: [&str; 2] = ["CacheBehaviors", "TerminationPolicies"];

/// Other lists in described objects are sets (groups, attachments, addresses): AWS gives no order to rely
/// on, and a mere change of order is no change.
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

/// What a failed read by id proves: that there is no such resource, or nothing.
fn absent(failure: Failure, declaration: &Declaration) -> Result<Option<Observation>, CloudError> {
    match failure {
        Failure::NotFound { code } if declaration.is_absence(&code) => Ok(None),
        failure => Err(as_error(failure, declaration)),
    }
}

/// One page of a listing, and the token of the next. Of an answer about one id only that one: some listings take the
/// beginning of a name.
async fn page(
    regional: &Regional,
    declaration: &'static Declaration,
    which: Which,
) -> Result<(Vec<Observation>, Option<String>), Failure> {
    let only = if let Which::Id(id) = &which { Some(id.clone()) } else { None };
    let is_asked_for = move |object: &Value| only.as_ref().is_none_or(|id| text(object, declaration.id) == id);
    let mut rest = match (declaration.fetch)(regional, which).await? {
        Listed::Completed(answer) => answer,
        // A thousand objects of megabytes: each becomes an observation before the next is read.
        Listed::AsItCame(answered) if declaration.tells_all() => {
            let is_long = answered.is_long();
            let account = regional.account.clone();
            let convert = move || {
                let mut observations = Vec::new();
                let mut take = |mut object| {
                    if !is_asked_for(&object) {
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
        Listed::AsItCame(answered) => regional.converted(answered).await?,
    };
    let token = next_page(&rest, declaration.next_page);
    let mut objects = items(&mut rest, declaration.items);
    objects.retain(is_asked_for);
    Ok((observe(regional, declaration, objects).await.map_err(Failure::Error)?, token))
}

/// All pages of a listing, or of the part of it that is within something.
fn pages_within<'a>(
    regional: &'a Regional,
    declaration: &'static Declaration,
    within: Option<String>,
) -> impl Stream<Item = Result<Vec<Observation>, Failure>> + Send + 'a {
    try_stream! {
        let mut token = None;
        let mut seen_tokens = BTreeSet::new();
        for _ in 0..MAX_PAGES {
            let which = Which::Page { within: within.clone(), token: token.take() };
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
        identify(&self.config, &target).await.map(drop)
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
                // Named regions can be looked at without the list of all.
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
        let wanted = if include.is_empty() { enabled } else { include.clone() };
        Ok(wanted.into_iter().filter(|region| !exclude.contains(region)).collect())
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
                        // What it is listed in is gone meanwhile, and with it all that was there.
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
                        |Unread { reason, action, .. }| CloudError {
                            reason,
                            message: format!("{action} does not describe it"),
                            action: Some(action),
                        },
                    ));
                }
                Some(described) => {
                    let described = tagged(&regional, declaration, described).await;
                    vec![observation(declaration, &regional.account, described)?]
                }
            },
            ById::Listing => match page(&regional, declaration, Which::Id(id.to_owned())).await {
                Ok((found, _)) => found,
                Err(failure) => return absent(failure, declaration),
            },
        };
        // Another may have its name by now.
        Ok(found.into_iter().find(|observation| observation.id == id))
    }

    async fn read_tags(&self, scope: &Scope, ids: &[&str]) -> Result<BTreeMap<String, TagSet>, CloudError> {
        let declaration = declaration(scope);
        let Some(verify) = declaration.verify_tags else {
            let message = format!("the tags of {} are never asked again", declaration.name);
            return Err(CloudError::new(Reason::Malformed, message));
        };
        verify(&self.regional(scope), ids).await.map_err(|failure| as_error(failure, declaration))
    }

    async fn members(&self, units: &[String]) -> Result<Members, CloudError> {
        let home = home_region(&self.target.include_regions);
        let regional = Regional::new(self, home);
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
        // Their APIs tell no time of creation: one life under a name can't be told from the next.
        const BIRTH_UNTOLD: [&str; 5] = [
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
            let is_told = declaration.birth.is_some() || BIRTH_UNTOLD.contains(&name);
            assert!(!declaration.reusable_ids || is_told, "{name}: what tells one life from the next?");
            let is_described = declaration.describe.is_some();
            assert!(!matches!(declaration.by_id, ById::Describe(_)) || is_described, "{name}: described by what?");
            // Where its description is denied, it is known by what the listing shows. A node group is not: its id is its ARN,
            // which no listing tells; its scope is incomplete then.
            if let ById::Describe(shown) = declaration.by_id {
                let is_named = declaration.names_itself(&mut shown("some/id"));
                assert_eq!(
                    is_named,
                    name != "AWS::EKS::Nodegroup",
                    "{name}: what is its id without a description?"
                );
            }
            assert!(declaration.within.is_none() || !matches!(declaration.by_id, ById::Listing), "{name}");
            // A listing that takes an id may answer an empty list instead, and so prove it.
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
