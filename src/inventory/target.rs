//! Where and with which credentials an account is scanned, as far as everybody but its provider needs to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AccountId, Region};

/// The content of a Secret, which only its provider reads.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretKeys(BTreeMap<String, String>);

impl SecretKeys {
    /// The value under a key of the Secret; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for SecretKeys {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(keys: I) -> Self {
        Self(keys.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// Where credentials come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The process's own, which the provider finds in the environment.
    Ambient,
    /// Those of a Secret, under the keys that the provider defines.
    Keys(SecretKeys),
    /// There should be credentials, but they can't be read, for this reason. Other credentials are never used instead.
    Unavailable(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Ambient => "Ambient",
            Credentials::Keys(_) => "Keys(..)",
            Credentials::Unavailable(_) => "Unavailable",
        })
    }
}

/// How to get into an account. Its provider alone knows what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The credentials that are used first: for the account itself, or to assume [`Access::identity`].
    pub credentials: Credentials,
    /// The identity that the credentials assume there, as the provider writes it; none for their own.
    pub identity: Option<String>,
    /// Further settings, none of them secret.
    pub parameters: BTreeMap<String, String>,
}

impl Access {
    /// Access by these credentials as they are, without further settings.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, identity: None, parameters: BTreeMap::new() }
    }
}

/// An account to scan, and how to access it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountTarget {
    /// The name of the provider, which is the first part of each key.
    pub provider: Arc<str>,
    /// None: the account that the credentials belong to.
    pub account: Option<AccountId>,
    /// Empty for the provider's own endpoint.
    pub endpoint: Arc<str>,
    /// Only these regions are scanned. Empty: all regions that are enabled in the account.
    pub include_regions: Vec<Region>,
    /// These regions are not scanned, even if they are included.
    pub exclude_regions: Vec<Region>,
    /// How to access the account.
    pub access: Access,
}

/// One account of an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The id of the account.
    pub account: AccountId,
    /// Suspended and closed accounts deny access: that is no information about their resources.
    pub is_active: bool,
}

/// A complete list of the accounts of an organization, or of some of its units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The partition of the account that lists them, and therefore of all of them.
    pub partition: Arc<str>,
    /// The accounts, each once.
    pub list: Vec<Member>,
}
