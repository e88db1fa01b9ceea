//! Clouds, as the scanner uses them: providers, sessions, listings. This module knows no store and no Kubernetes.
//!
//! A [`Session`] is one identity in one account, verified before anything is listed with it. A listing returns
//! [`Observation`]s. A failure is a [`CloudError`] with a reason from a fixed set, the missing action, and what to do.

pub mod aws;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

pub use crate::inventory::{Access, AccountTarget, Credentials, Member, Members, SecretKeys};
use crate::inventory::{
    AccountId, Confirmation, Facts, IdReuse, Observation, ProviderFacts, Reason, Region, Scope, TagSet,
};

/// How often a type is swept: the interval times the factor of the class.
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
    /// How many intervals lie between two sweeps of a type of this class.
    pub const fn factor(self) -> u32 {
        match self {
            CadenceClass::Fast => 1,
            CadenceClass::Slow => 12,
            CadenceClass::Rare => 72,
        }
    }
}

/// What other modules need to know of a resource type.
#[derive(Clone, Copy, Debug)]
pub struct TypeInfo {
    /// The name of the type, as in [`Scope::resource_type`].
    pub name: &'static str,
    /// Listed account-wide, in region `global`.
    pub global: bool,
    /// Whether its ids can be reused.
    pub ids: IdReuse,
    /// How its absences are confirmed.
    pub confirmation: Confirmation,
    /// The version of the set of fields that are kept.
    pub shape: u16,
    /// How often it is swept.
    pub cadence: CadenceClass,
    /// The permissions that a scan of the type needs.
    pub actions: &'static [&'static str],
    /// An emulator supports it, and the tests use that; otherwise it was only tried on a stand-in that speaks the
    /// documented wire format.
    pub is_emulated: bool,
    /// How its tags are read, as text for people.
    pub tags: &'static str,
    /// Fields of the described object that are not kept, because they change by themselves.
    pub volatile: &'static [&'static str],
    /// Fields that are not kept because they may contain secrets.
    pub secret: &'static [&'static str],
    /// Tags come with the listing and can be empty under load: if there are none they are read again, by this call.
    pub verify_tag_loss: Option<&'static str>,
}

/// Removes a field, in each object of the lists on its path.
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

/// The secret fields to remove from the documents in a store, by type.
#[derive(Clone, Debug)]
pub struct Secrets {
    by_type: BTreeMap<&'static str, &'static [&'static str]>,
}

impl Secrets {
    /// The secret fields of some types. Types without any are left out.
    pub fn of(types: &[TypeInfo]) -> Self {
        let with_some = types.iter().filter(|info| !info.secret.is_empty());
        Self { by_type: with_some.map(|info| (info.name, info.secret)).collect() }
    }

    /// A name for the set: the same paths have the same name.
    pub fn name(&self) -> String {
        blake3::hash(format!("{:?}", self.by_type).as_bytes()).to_hex()[..16].to_owned()
    }

    /// Whether documents of a type may contain a secret.
    pub fn are_of(&self, resource_type: &str) -> bool {
        self.by_type.contains_key(resource_type)
    }

    /// Removes the secret fields from a document of a type, in place. A document of a type without any stays as it
    /// is.
    pub fn remove(&self, resource_type: &str, document: &mut Value) {
        for path in self.by_type.get(resource_type).into_iter().copied().flatten() {
            remove(document, path);
        }
    }
}

/// A call or a listing that failed, with what a user needs to know of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CloudError {
    /// The reason, from a fixed set.
    pub reason: Reason,
    /// The permission that was needed.
    pub action: Option<String>,
    /// What failed and what to do, as one text for conditions, events and the command line.
    pub message: String,
    /// The provider answered that access to the account ended, as opposed to a failure that may pass.
    pub access_ended: bool,
}

impl CloudError {
    /// An error without an action, which leaves open whether access ended.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, action: None, message: message.into(), access_ended: false }
    }
}

/// The identity of the credentials, as reported by the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account that the credentials belong to.
    pub account: AccountId,
    /// The partition of that account: `aws`.
    pub partition: Arc<str>,
    /// Who it is, as the provider writes it.
    pub name: String,
}

/// One listing, page by page as the cloud returns it. An error is the last item; without one the listing was complete.
pub type Pages<'a> = BoxStream<'a, Result<Vec<Observation>, CloudError>>;

/// A listing as a whole: the observations, and the error that ended it early.
#[derive(Debug)]
pub struct Listing {
    /// The observations of all pages, in the order in which they came. A resource on two pages is in it twice.
    pub observations: Vec<Observation>,
    /// Why the listing ended early; `None` if it is complete.
    pub error: Option<CloudError>,
}

impl Listing {
    /// Reads all pages into memory.
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

/// A cloud: it creates sessions and knows the types that they list.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The first part of each of its keys: `aws`. No other provider has the same name.
    fn name(&self) -> &'static str;
    /// The types that its sessions can list, each once.
    fn types(&self) -> Vec<TypeInfo>;
    /// What the rules and queries need to know of its types.
    fn facts(&self) -> ProviderFacts;
    /// Calls since the process started, by service and operation.
    fn calls(&self) -> Calls {
        Calls::new()
    }
    /// The endpoint that the environment names, for targets that name none; empty for the provider's own.
    fn default_endpoint(&self) -> String;
    /// Connects and checks the identity: a session for an account other than the one named is refused.
    ///
    /// # Errors
    ///
    /// [`CloudError`] with the reason [`Reason::InvalidCredentials`] if there are no credentials or they are
    /// refused, [`Reason::WrongAccount`] if they belong to another account, otherwise with that of the call that
    /// failed.
    async fn connect(&self, target: &AccountTarget) -> Result<Arc<dyn Session>, CloudError>;
}

/// The providers of this program, by name.
#[derive(Clone, Default)]
pub struct Providers {
    by_name: Arc<BTreeMap<&'static str, Arc<dyn Provider>>>,
}

impl Providers {
    /// The providers of this list. Of two with the same name the later is used.
    pub fn of(providers: impl IntoIterator<Item = Arc<dyn Provider>>) -> Self {
        Self { by_name: Arc::new(providers.into_iter().map(|provider| (provider.name(), provider)).collect()) }
    }

    /// The provider with a name.
    ///
    /// # Errors
    ///
    /// [`CloudError`] with the reason [`Reason::InvalidCredentials`] if there is none: the program was built
    /// without it.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Provider>, CloudError> {
        self.by_name.get(name).ok_or_else(|| {
            CloudError::new(
                Reason::InvalidCredentials,
                format!("this Elava was built without the provider {name}"),
            )
        })
    }

    /// The types of one provider; empty if there is no such provider.
    pub fn types(&self, name: &str) -> Vec<TypeInfo> {
        self.by_name.get(name).map(|provider| provider.types()).unwrap_or_default()
    }

    /// The types of all providers, in the order of the providers' names.
    pub fn all_types(&self) -> Vec<TypeInfo> {
        self.by_name.values().flat_map(|provider| provider.types()).collect()
    }

    /// The endpoint of targets of a provider that name none; empty for the provider's own, or if there is no such
    /// provider.
    pub fn default_endpoint(&self, name: &str) -> String {
        self.by_name.get(name).map(|provider| provider.default_endpoint()).unwrap_or_default()
    }

    /// What the rules and queries need to know of the types of all providers.
    pub fn facts(&self) -> Facts {
        Facts::of(self.by_name.values().map(|provider| provider.facts()))
    }

    /// Calls since the process started, by service and operation.
    pub fn calls(&self) -> Calls {
        self.by_name.values().flat_map(|provider| provider.calls()).collect()
    }
}

/// The calls of a process, by service and operation.
pub type Calls = BTreeMap<(&'static str, &'static str), CallCounts>;

/// Calls of one operation since the process started; each retry counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// All calls, whatever their result.
    pub made: u64,
    /// Calls that failed because the provider limits their rate.
    pub throttled: u64,
    /// Calls that failed for any other reason. The answer that a resource does not exist is no failure.
    pub failed: u64,
}

/// One identity in one account, with which its resources are listed and read. Calls may run concurrently.
#[async_trait]
pub trait Session: Send + Sync {
    /// The identity that was verified when the session was created.
    fn identity(&self) -> &Identity;
    /// Checks the identity again: the credentials may have been replaced by those of another account.
    ///
    /// # Errors
    ///
    /// [`CloudError`] with the reason [`Reason::WrongAccount`] if the credentials belong to another account now,
    /// otherwise with that of the call that failed.
    async fn verify(&self) -> Result<(), CloudError>;
    /// The regions to scan, after the target's include and exclude.
    ///
    /// # Errors
    ///
    /// [`CloudError`] with the reason [`Reason::RegionDisabled`] if an included region is not enabled in the
    /// account, otherwise with that of the call that failed.
    async fn regions(&self) -> Result<Vec<Region>, CloudError>;
    /// Lists a scope of one of the provider's types. Calls are made as the pages are read; none are made after an
    /// error.
    ///
    /// # Panics
    ///
    /// Panics if the scope is of a type that the provider does not have.
    fn list<'a>(&'a self, scope: &'a Scope) -> Pages<'a>;
    /// Reads one resource by its id. `None` means that the cloud reports that it does not exist.
    ///
    /// # Errors
    ///
    /// [`CloudError`] if the call fails, or if the type has no read by id ([`Reason::Malformed`]): nothing follows
    /// for the resource.
    async fn read_by_id(&self, scope: &Scope, id: &str) -> Result<Option<Observation>, CloudError>;
    /// Reads the tags of some resources again, by a call that fails instead of returning none.
    ///
    /// # Errors
    ///
    /// [`CloudError`] if the call fails, or if the type has no such call ([`Reason::Malformed`]).
    async fn read_tags(&self, scope: &Scope, ids: &[&str]) -> Result<BTreeMap<String, TagSet>, CloudError>;
    /// The accounts of the organization that this one belongs to, or of some of its units and those below. Returns an
    /// error instead of a part of them.
    ///
    /// # Errors
    ///
    /// [`CloudError`] if any of the calls fails, or if there is no such unit ([`Reason::Malformed`]).
    async fn members(&self, units: &[String]) -> Result<Members, CloudError>;
    /// How far the cloud's clock is ahead of the operator's, in milliseconds; zero within the tolerance.
    fn skew_millis(&self) -> i64;
    /// Calls made since the last time this was called.
    fn take_calls(&self) -> u64;
}
