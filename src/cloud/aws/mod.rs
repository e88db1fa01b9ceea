//! AWS through the official SDK: one file per service, each type declared in one place.
//!
//! - [`declare`]: what a type is; [`ec2`], [`s3`], [`rds`]: the types.
//! - [`call`], [`convert`]: one call, and its body as the object that the AWS CLI prints.
//! - [`error`]: what AWS's errors mean.

mod call;
mod convert;
mod declare;
mod ec2;
mod error;
mod rds;
mod s3;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::{AccountTarget, CloudError, Credentials, Identity, Listing, Provider, Session, TypeInfo};
use crate::inventory::{AccountId, Observation, Reason, Region, Scope, TagSet, Tags};
use call::{Capture, Seen};
use declare::{Declaration, TagSource, Which, at_path, items};
use error::{Failure, classify};

/// Where the account is asked who it is and which regions it has, when nothing else names a region.
const HOME_REGION: &str = "us-east-1";
/// One attempt, and one call with its retries. Unbounded reads are how a scan hangs for a night.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
/// Tag calls of one listing in flight: S3 and RDS answer one object a call.
const TAG_CALLS: usize = 8;
/// The most pages of one listing: a token that never ends must not either.
const MAX_PAGES: usize = 10_000;

fn declarations() -> impl Iterator<Item = &'static Declaration> {
    ec2::TYPES.iter().chain(s3::TYPES).chain(rds::TYPES)
}

fn declaration(scope: &Scope) -> &'static Declaration {
    let name = scope.resource_type.as_str();
    declarations().find(|d| d.name == name).expect("scopes are built from declared types only")
}

#[derive(Debug, Default)]
pub struct Aws;

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
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS))
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
        let mut base = loader.load().await;
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
                base.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
            }
        };
        let identity = identify(&config, target).await?;
        let session = AwsSession {
            identity,
            target: target.clone(),
            config,
            regional: Mutex::new(BTreeMap::new()),
            seen: Arc::default(),
        };
        Ok(Arc::new(session))
    }
}

/// A region that is enabled in every account of the partition that the named regions lie in. Never one
/// of those: it may be misspelt, and then nothing at all would answer.
fn home_region(named: &[Region]) -> &'static str {
    match named.first().map_or("", Region::as_str) {
        region if region.starts_with("cn-") => "cn-north-1",
        region if region.starts_with("us-gov-") => "us-gov-west-1",
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
                Failure::NotFound => CloudError::new(Reason::ServerError, "sts:GetCallerIdentity: not found"),
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
    regional: Mutex<BTreeMap<Region, Arc<Regional>>>,
    seen: Arc<Seen>,
}

/// The clients of one region.
pub(super) struct Regional {
    ec2: aws_sdk_ec2::Client,
    s3: aws_sdk_s3::Client,
    rds: aws_sdk_rds::Client,
    config: SdkConfig,
    seen: Arc<Seen>,
}

impl Regional {
    fn new(config: &SdkConfig, region: &str, path_style: bool, seen: Arc<Seen>) -> Self {
        let config = config.to_builder().region(aws_config::Region::new(region.to_owned())).build();
        // Endpoints that are not AWS's rarely answer for bucket host names.
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(path_style).build();
        Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            rds: aws_sdk_rds::Client::new(&config),
            config,
            seen,
        }
    }

    fn capture(&self) -> Capture {
        Capture::new(self.seen.clone())
    }

    /// The same clients in another region.
    fn elsewhere(&self, region: Option<&str>) -> Regional {
        let here = self.config.region().map(ToString::to_string).unwrap_or_default();
        let path_style = self.config.endpoint_url().is_some();
        Regional::new(&self.config, region.unwrap_or(&here), path_style, self.seen.clone())
    }

    /// The converted body of an answer, or what its error means.
    fn answer<E>(
        &self,
        service: &str,
        operation: &str,
        capture: &Capture,
        sent: Result<(), SdkError<E, HttpResponse>>,
    ) -> Result<Value, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        // ListBuckets is the one operation whose permission has another name.
        let action = match operation {
            "ListBuckets" => "s3:ListAllMyBuckets".to_owned(),
            _ => format!("{service}:{operation}"),
        };
        sent.map_err(|error| classify(&error, &action))?;
        convert::convert(service, operation, &capture.take())
            .map_err(|error| Failure::Error(CloudError::new(Reason::Malformed, format!("{action}: {error}"))))
    }
}

impl AwsSession {
    fn regional(&self, scope: &Scope) -> Arc<Regional> {
        let home = || self.config.region().map_or(HOME_REGION.to_owned(), ToString::to_string);
        let region = if scope.region.is_global() { home() } else { scope.region.to_string() };
        let mut cache = self.regional.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path_style = self.config.endpoint_url().is_some();
        cache
            .entry(Region::new(region.as_str()))
            .or_insert_with(|| Arc::new(Regional::new(&self.config, &region, path_style, self.seen.clone())))
            .clone()
    }

    /// Turns described objects into observations: tags, place, and without what is volatile.
    async fn observe(
        &self,
        regional: &Regional,
        declaration: &Declaration,
        objects: Vec<Value>,
    ) -> Result<Vec<Observation>, CloudError> {
        let observe = |object| observe(regional, declaration, object);
        let observed: Vec<Option<Observation>> =
            futures::stream::iter(objects).map(observe).buffered(TAG_CALLS).try_collect().await?;
        Ok(observed.into_iter().flatten().collect())
    }
}

/// `None`: it vanished between the listing and the further calls.
async fn observe(
    regional: &Regional,
    declaration: &Declaration,
    mut object: Value,
) -> Result<Option<Observation>, CloudError> {
    let Some(id) = object.get(declaration.id).and_then(Value::as_str).map(str::to_owned) else {
        let message = format!("{} came without its {}", declaration.name, declaration.id);
        return Err(CloudError::new(Reason::Malformed, message));
    };
    if let Some(enrich) = declaration.enrich {
        match enrich(regional, &mut object).await {
            Ok(()) => {}
            Err(Failure::NotFound) => return Ok(None),
            // What can't be read is left out of the document: it is no reason to doubt the listing.
            Err(Failure::Error(error)) => tracing::debug!(id, %error, "a further call failed"),
        }
    }
    let end_state = declaration.end_states.and_then(|(path, states)| {
        let state = at_path(&object, path)?.as_str()?;
        states.contains(&state).then(|| state.to_owned())
    });
    let tags = match declaration.tags {
        TagSource::Inline(field) => {
            let tags = tag_set(object.get(field));
            remove(&mut object, field);
            Tags::Known(tags)
        }
        TagSource::Call(_) if end_state.is_some() => Tags::Unknown,
        TagSource::Call(call) => match call(regional, &object).await {
            Ok(tags) => Tags::Known(tags),
            Err(Failure::NotFound) => return Ok(None),
            Err(Failure::Error(error)) => {
                tracing::debug!(id, %error, "its tags are unknown");
                Tags::Unknown
            }
        },
    };
    let birth = declaration.birth.and_then(|field| convert::time_field(&object, field));
    for field in declaration.volatile {
        remove(&mut object, field);
    }
    sort_lists(&mut object);
    Ok(Some(Observation { id, tags, attributes: (&object).into(), birth, end_state }))
}

fn remove(object: &mut Value, field: &str) {
    if let Value::Object(fields) = object {
        fields.remove(field);
    }
}

/// Lists in described objects are sets (groups, attachments, addresses): AWS gives no order to rely
/// on, and a mere change of order is no change.
fn sort_lists(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort_lists);
            items.sort_by_cached_key(ToString::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(sort_lists),
        _ => {}
    }
}

/// `[{Key, Value}]` as a set.
fn tag_set(list: Option<&Value>) -> TagSet {
    tag_list(list).collect()
}

fn tag_list(list: Option<&Value>) -> impl Iterator<Item = (String, String)> {
    let text = |tag: &Value, field| tag.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let tags = list.and_then(Value::as_array).into_iter().flatten();
    tags.map(move |tag| (text(tag, "Key"), text(tag, "Value")))
}

fn next_page(answer: &Value, field: &str) -> Option<String> {
    answer.get(field).and_then(Value::as_str).filter(|token| !token.is_empty()).map(str::to_owned)
}

fn as_error(failure: Failure, declaration: &Declaration) -> CloudError {
    match failure {
        Failure::Error(error) => error,
        Failure::NotFound => {
            CloudError::new(Reason::ServerError, format!("the listing of {} was not found", declaration.name))
        }
    }
}

#[async_trait]
impl Session for AwsSession {
    fn identity(&self) -> &Identity {
        &self.identity
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
                Failure::NotFound => {
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

    async fn list(&self, scope: &Scope) -> Listing {
        let declaration = declaration(scope);
        let regional = self.regional(scope);
        let mut observations = Vec::new();
        let mut token = None;
        let mut seen_tokens = std::collections::BTreeSet::new();
        for _ in 0..MAX_PAGES {
            let mut answer = match (declaration.fetch)(&regional, Which::Page(token.take())).await {
                Ok(answer) => answer,
                Err(failure) => return Listing { observations, error: Some(as_error(failure, declaration)) },
            };
            token = next_page(&answer, declaration.next_page);
            let objects = items(&mut answer, declaration.items);
            match self.observe(&regional, declaration, objects).await {
                Ok(page) => observations.extend(page),
                Err(error) => return Listing { observations, error: Some(error) },
            }
            match &token {
                None => return Listing { observations, error: None },
                Some(token) if !seen_tokens.insert(token.clone()) => break,
                Some(_) => {}
            }
        }
        let message = format!("the pages of {} do not end", declaration.name);
        Listing { observations, error: Some(CloudError::new(Reason::Malformed, message)) }
    }

    async fn read_by_id(&self, scope: &Scope, id: &str) -> Result<Option<Observation>, CloudError> {
        let declaration = declaration(scope);
        let regional = self.regional(scope);
        let mut answer = match (declaration.fetch)(&regional, Which::Id(id.to_owned())).await {
            Ok(answer) => answer,
            Err(Failure::NotFound) => return Ok(None),
            Err(Failure::Error(error)) => return Err(error),
        };
        let mut objects = items(&mut answer, declaration.items);
        objects.retain(|object| object.get(declaration.id).and_then(Value::as_str) == Some(id));
        Ok(self.observe(&regional, declaration, objects).await?.pop())
    }

    async fn read_tags(&self, scope: &Scope, id: &str) -> Result<TagSet, CloudError> {
        let declaration = declaration(scope);
        let regional = self.regional(scope);
        ec2::read_tags(&regional, id).await.map_err(|failure| as_error(failure, declaration))
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
        let mut names = std::collections::BTreeSet::new();
        for declaration in declarations() {
            assert!(names.insert(declaration.name), "{} is declared twice", declaration.name);
            assert!(!declaration.items.is_empty() && !declaration.id.is_empty(), "{}", declaration.name);
            assert!(!declaration.actions.is_empty(), "{}", declaration.name);
            // Without a birth field, one life under a reusable id can't be told from the next.
            assert!(!declaration.reusable_ids || declaration.birth.is_some(), "{}", declaration.name);
        }
        assert_eq!(names.len(), 16);
    }

    #[test]
    fn a_list_in_another_order_is_the_same_document() {
        let mut a = serde_json::json!({"Groups": [{"Id": "b"}, {"Id": "a", "Ports": [2, 1]}]});
        let mut b = serde_json::json!({"Groups": [{"Id": "a", "Ports": [1, 2]}, {"Id": "b"}]});
        sort_lists(&mut a);
        sort_lists(&mut b);
        assert_eq!(a, b);
    }
}
