//! Whether a user may ask: the API server decides, by a SubjectAccessReview for every request of resources. What
//! it said is believed for a few seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::refusal::Refusal;
use super::{GROUP, VERSION};

/// As long as kube-apiserver's own delegating servers believe a yes and a no.
const ALLOWED_FOR: Duration = Duration::from_secs(10);
const DENIED_FOR: Duration = Duration::from_secs(10);
/// Answers that are remembered: at 300 bytes each a megabyte.
const REMEMBERED: usize = 4_096;
const DEADLINE: Duration = Duration::from_secs(10);

/// Who asks, as the API server's front proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wish {
    pub verb: &'static str,
    pub resource: &'static str,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

pub(super) struct Access {
    client: kube::Client,
    known: Mutex<HashMap<(User, Wish), (bool, Instant)>>,
}

impl Access {
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    pub async fn check(&self, user: &User, wish: Wish) -> Result<(), Refusal> {
        let asked = (user.clone(), wish);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&asked).copied();
        let is_allowed = match known {
            Some((is_allowed, until)) if until > Instant::now() => is_allowed,
            _ => self.review(asked.clone()).await?,
        };
        if is_allowed { Ok(()) } else { Err(denied(&asked)) }
    }

    async fn review(&self, asked: (User, Wish)) -> Result<bool, Refusal> {
        let (user, wish) = asked.clone();
        let attributes = ResourceAttributes {
            verb: Some(wish.verb.to_owned()),
            group: Some(GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some(wish.resource.to_owned()),
            namespace: wish.namespace,
            name: wish.name,
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
        let answer = tokio::time::timeout(DEADLINE, api.create(&params, &review)).await;
        let status = match answer {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => return Err(unanswered(&error.to_string())),
            Err(_) => return Err(unanswered("no answer in time")),
        };
        let is_allowed = status.allowed && status.denied != Some(true);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            let now = Instant::now();
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(asked, (is_allowed, Instant::now() + if is_allowed { ALLOWED_FOR } else { DENIED_FOR }));
        Ok(is_allowed)
    }
}

fn unanswered(why: &str) -> Refusal {
    Refusal::unavailable(format!("the API server did not say whether you may ask: {why}"))
}

/// In the words of kube-apiserver's own.
fn denied((user, wish): &(User, Wish)) -> Refusal {
    let Wish { verb, resource, namespace, name } = wish;
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
