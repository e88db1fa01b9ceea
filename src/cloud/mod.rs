//! Clouds, seen from the scanner: providers, sessions, listings. It knows no store and no Kubernetes.
//!
//! A [`Session`] is one identity in one account, verified before anything is listed with it. What a
//! listing shows is an [`Observation`]; what goes wrong is a [`CloudError`] with a bounded reason, the
//! action that was missing, and what to do.

// What only some services need has no use without them.
#[cfg_attr(not(feature = "services"), allow(dead_code, unused_imports, unused_macros))]
pub mod aws;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inventory::{AccountId, Confirmation, IdReuse, Observation, Reason, Region, Scope, TagSet};

/// How often a type is worth looking at: the interval times the class factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CadenceClass {
    /// Changes by the minute: instances, volumes. 5 min at the default interval.
    Fast,
    /// Changes by the day: VPCs, images. 1 h.
    Slow,
    /// Hardly ever changes, and takes a call for each: keys, certificates. 6 h.
    Rare,
}

impl CadenceClass {
    pub const fn factor(self) -> u32 {
        match self {
            CadenceClass::Fast => 1,
            CadenceClass::Slow => 12,
            CadenceClass::Rare => 72,
        }
    }
}

/// What everybody but the provider needs to know of a resource type.
#[derive(Clone, Copy, Debug)]
pub struct TypeInfo {
    pub name: &'static str,
    /// Listed account-wide, in region `global`.
    pub global: bool,
    pub ids: IdReuse,
    pub confirmation: Confirmation,
    /// The version of the set of fields that are kept.
    pub shape: u16,
    pub cadence: CadenceClass,
    /// The permissions that a scan of the type needs.
    pub actions: &'static [&'static str],
    /// How its tags are read, for people.
    pub tags: &'static str,
    /// Fields of the described object that are not kept, because they change by themselves.
    pub volatile: &'static [&'static str],
    /// Fields that are not kept, because of what may be in them.
    pub secret: &'static [&'static str],
    /// Tags come with the listing and can be empty under load: where there are none they are asked again.
    pub verify_tag_loss: bool,
}

/// Takes a field out, in each object of the lists on its path.
pub fn remove(value: &mut Value, path: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| remove(item, path)),
        Value::Object(fields) => match path.split_once('.') {
            None => drop(fields.remove(path)),
            Some((step, rest)) => {
                if let Some(inner) = fields.get_mut(step) {
                    remove(inner, rest);
                }
            }
        },
        _ => {}
    }
}

/// What is taken out of the documents that a store holds of types, with a name for all of it.
#[derive(Clone, Debug)]
pub struct Secrets {
    by_type: BTreeMap<&'static str, &'static [&'static str]>,
}

impl Secrets {
    pub fn of(types: &[TypeInfo]) -> Self {
        let with_some = types.iter().filter(|info| !info.secret.is_empty());
        Self { by_type: with_some.map(|info| (info.name, info.secret)).collect() }
    }

    /// The same for the same paths.
    pub fn name(&self) -> String {
        blake3::hash(format!("{:?}", self.by_type).as_bytes()).to_hex()[..16].to_owned()
    }

    pub fn are_of(&self, resource_type: &str) -> bool {
        self.by_type.contains_key(resource_type)
    }

    pub fn remove(&self, resource_type: &str, document: &mut Value) {
        for path in self.by_type.get(resource_type).into_iter().copied().flatten() {
            remove(document, path);
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CloudError {
    pub reason: Reason,
    /// The permission that was asked for.
    pub action: Option<String>,
    pub message: String,
}

impl CloudError {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, action: None, message: message.into() }
    }
}

/// Where credentials come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The process's own chain: environment, profile, IRSA, Pod Identity, instance role.
    Chain,
    Static {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
    },
    /// There should be some, but nobody can get at them, for this reason. Nothing falls back to other
    /// credentials.
    Unavailable(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Chain => "Chain",
            Credentials::Static { .. } => "Static(..)",
            Credentials::Unavailable(_) => "Unavailable",
        })
    }
}

/// One account to look at, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountTarget {
    /// None: the account that the credentials answer for.
    pub account: Option<AccountId>,
    pub role_arn: Option<String>,
    pub external_id: Option<String>,
    pub credentials: Credentials,
    /// Empty for the provider's own.
    pub endpoint: Arc<str>,
    pub include_regions: Vec<Region>,
    pub exclude_regions: Vec<Region>,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub account: AccountId,
    pub partition: Arc<str>,
    pub arn: String,
}

/// One account of an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub account: AccountId,
    /// Suspended and closed accounts let nobody in: that says nothing of what is in them.
    pub is_active: bool,
}

/// A complete list of the accounts of an organisation, or of some of its units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub partition: Arc<str>,
    pub list: Vec<Member>,
}

/// One listing, page by page as the cloud answers: an error is the last, and without one it was complete.
pub type Pages<'a> = BoxStream<'a, Result<Vec<Observation>, CloudError>>;

/// A listing in one piece: what was seen, and the error that cut it short.
#[derive(Debug)]
pub struct Listing {
    pub observations: Vec<Observation>,
    pub error: Option<CloudError>,
}

impl Listing {
    pub async fn of(mut pages: Pages<'_>) -> Self {
        let mut listing = Self { observations: Vec::new(), error: None };
        while let Some(page) = pages.next().await {
            match page {
                Ok(observations) => listing.observations.extend(observations),
                Err(error) => listing.error = Some(error),
            }
        }
        listing
    }
}

#[async_trait]
pub trait Provider: Send + Sync {
    fn name(&self) -> &'static str;
    fn types(&self) -> Vec<TypeInfo>;
    /// The endpoint that the environment names for whoever names none; empty for the provider's own.
    fn default_endpoint(&self) -> String;
    /// Gets in, and checks who answers: a session for another account than the one named is refused.
    async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError>;
}

#[async_trait]
pub trait Session: Send + Sync {
    fn identity(&self) -> &Identity;
    /// Asks again who answers: credentials may have been replaced by another account's since.
    async fn verify(&self) -> Result<(), CloudError>;
    /// The regions to look at, after the target's include and exclude.
    async fn regions(&self) -> Result<Vec<Region>, CloudError>;
    fn list<'a>(&'a self, scope: &'a Scope) -> Pages<'a>;
    /// Asks for one id. `None` means that the cloud says it does not exist.
    async fn read_by_id(&self, scope: &Scope, id: &str) -> Result<Option<Observation>, CloudError>;
    /// Asks again for the tags of some resources by a call that fails instead of answering nothing.
    async fn read_tags(&self, scope: &Scope, ids: &[&str]) -> Result<BTreeMap<String, TagSet>, CloudError>;
    /// The accounts of the organisation that this one belongs to, or of some of its units and those below.
    /// An error rather than a part of them.
    async fn members(&self, units: &[String]) -> Result<Members, CloudError>;
    /// How far the cloud's clock is ahead of ours, in milliseconds; zero within the tolerance.
    fn skew_millis(&self) -> i64;
    /// Calls made since the last time this was asked.
    fn take_calls(&self) -> u64;
}
