//! Whether a user may make a request: the API server decides, by a SubjectAccessReview for every request of resources.
//! Its decisions are cached for a few seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::refusal::Refusal;
use super::{GROUP, VERSION};

/// The times for which kube-apiserver's own delegating servers cache decisions.
const ALLOWED_TTL: Duration = Duration::from_secs(10);
const DENIED_TTL: Duration = Duration::from_secs(10);
/// Cached decisions: at 300 bytes each a megabyte.
const CACHE_MAX_ENTRIES: usize = 4_096;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// The user of a request, from the API server's front proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The access that a request needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccessRequest {
    pub verb: &'static str,
    pub resource: &'static str,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

pub(super) struct Access {
    client: kube::Client,
    known: Mutex<HashMap<(User, AccessRequest), (bool, Instant)>>,
}

impl Access {
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    pub async fn check(&self, user: &User, access: AccessRequest) -> Result<(), Refusal> {
        let requested = (user.clone(), access);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&requested).copied();
        let is_allowed = match known {
            Some((is_allowed, until)) if until > Instant::now() => is_allowed,
            _ => self.review(requested.clone()).await?,
        };
        if is_allowed { Ok(()) } else { Err(denied(&requested)) }
    }

    async fn review(&self, requested: (User, AccessRequest)) -> Result<bool, Refusal> {
        let (user, access) = requested.clone();
        let attributes = ResourceAttributes {
            verb: Some(access.verb.to_owned()),
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some(access.resource.to_owned()),
            namespace: access.namespace,
            name: access.name,
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name),
            uid: user.uid,
            groups: Some(user.groups),
            extra: Some(user.extra),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, api.create(&params, &review)).await;
        let status = match answer {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => return Err(review_failed(&error.to_string())),
            Err(_) => return Err(review_failed("no answer in time")),
        };
        let is_allowed = status.allowed && status.denied != Some(true);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_MAX_ENTRIES {
            let now = Instant::now();
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= CACHE_MAX_ENTRIES {
                known.clear();
            }
        }
        known.insert(requested, (is_allowed, Instant::now() + if is_allowed { ALLOWED_TTL } else { DENIED_TTL }));
        Ok(is_allowed)
    }
}

fn review_failed(why: &str) -> Refusal {
    Refusal::unavailable(format!("the API server did not say whether you may ask: {why}"))
}

/// In the wording of kube-apiserver.
fn denied((user, access): &(User, AccessRequest)) -> Refusal {
    let AccessRequest { verb, resource, namespace, name } = access;
    let named = name.as_ref().map_or(String::new(), |name| format!(" \"{name}\""));
    let within = match namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    Refusal::forbidden(format!(
        "{resource}.{GROUP}{named} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \
         \"{GROUP}\" {within}",
        user.name
    ))
}
