//! Resource keys and scopes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The region of resources that are listed account-wide (buckets, IAM).
pub const GLOBAL_REGION: &str = "global";

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes one from a text, which is not checked.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text of it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text of it, shared and not copied.
            pub fn into_text(self) -> Arc<str> {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

text_newtype!(
    /// The cloud's own identifier of an account: twelve digits in AWS.
    AccountId
);
text_newtype!(
    /// A region name, or [`GLOBAL_REGION`].
    Region
);
text_newtype!(
    /// The CloudFormation name of a resource type, such as `AWS::EC2::Instance`.
    ResourceType
);
text_newtype!(
    /// The identity of a CloudScan in the store: an opaque string that the caller chooses (`namespace/name`). A
    /// subscriber sees a scope only if it has proven its own credentials on it.
    Subscriber
);

impl Region {
    /// Whether it is [`GLOBAL_REGION`].
    pub fn is_global(&self) -> bool {
        self.as_str() == GLOBAL_REGION
    }
}

impl ResourceType {
    /// Its last part, as people say it: `Instance` of `AWS::EC2::Instance`.
    pub fn short(&self) -> &str {
        short_type(self.as_str())
    }
}

/// The last part of the name of a type.
pub fn short_type(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

/// The unit of one listing. Two scopes that differ in partition or endpoint share nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The name of the provider: `aws`.
    pub provider: Arc<str>,
    /// `aws`, `aws-cn`, `aws-us-gov`: taken from the caller's ARN, never from configuration.
    pub partition: Arc<str>,
    /// Empty for the provider's own endpoints.
    pub endpoint: Arc<str>,
    /// The account that is listed.
    pub account: AccountId,
    /// The region that is listed; [`GLOBAL_REGION`] for types that are listed account-wide.
    pub region: Region,
    /// The type that is listed.
    pub resource_type: ResourceType,
}

impl Scope {
    /// The key of the resource with this id. It names neither the partition nor the endpoint.
    pub fn key(&self, id: &str) -> ResourceKey {
        ResourceKey {
            provider: self.provider.clone(),
            account: self.account.clone(),
            region: self.region.clone(),
            resource_type: self.resource_type.clone(),
            id: id.into(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.provider, self.account, self.region, self.resource_type)?;
        if !self.endpoint.is_empty() {
            write!(f, " at {}", self.endpoint)?;
        }
        Ok(())
    }
}

/// The identifier of a resource everywhere: `aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-1`.
/// The id comes last and unescaped: it may contain `/` and `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// The name of the provider: `aws`.
    pub provider: Arc<str>,
    /// The account that lists the resource.
    pub account: AccountId,
    /// Its region, or [`GLOBAL_REGION`].
    pub region: Region,
    /// The name of its type.
    #[serde(rename = "type")]
    pub resource_type: ResourceType,
    /// The provider's identifier of the resource, unique within its scope. It is never empty in a key that was
    /// parsed.
    pub id: Arc<str>,
}

/// A text that is not a key. It contains that text.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is not a resource key: write PROVIDER/ACCOUNT/REGION/TYPE/ID, such as \
     aws/111122223333/eu-west-1/AWS::EC2::Volume/vol-1, or a bare id"
)]
pub struct KeyError(String);

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{}", self.provider, self.account, self.region, self.resource_type, self.id)
    }
}

impl ResourceKey {
    /// The part of the id that is valid in the name of a Kubernetes object.
    pub fn slug(&self) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let clean: String = self.id.chars().map(letter).collect();
        let clean = clean.trim_matches('-');
        let short = clean.get(..clean.len().min(40)).unwrap_or_default().trim_matches('-');
        if short.is_empty() { "resource".to_owned() } else { short.to_owned() }
    }
}

impl FromStr for ResourceKey {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = s.splitn(5, '/').collect();
        match parts.as_slice() {
            [provider, account, region, resource_type, id]
                if parts.iter().all(|p| !p.is_empty()) && resource_type.contains("::") =>
            {
                Ok(Self {
                    provider: (*provider).into(),
                    account: AccountId::new(*account),
                    region: Region::new(*region),
                    resource_type: ResourceType::new(*resource_type),
                    id: (*id).into(),
                })
            }
            _ => Err(KeyError(s.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_hold_slashes_and_colons() {
        let text = "aws/111122223333/global/AWS::IAM::Role/path/to:role";
        let key: ResourceKey = text.parse().unwrap();
        assert_eq!(&*key.id, "path/to:role");
        assert_eq!(key.to_string(), text);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_shape() {
        for bad in ["vol-1", "aws/1/eu-west-1/vol-1", "aws/1/eu-west-1/AWS::EC2::Volume/", "a//b/c::d/e"] {
            let error = bad.parse::<ResourceKey>().unwrap_err().to_string();
            assert!(error.contains("PROVIDER/ACCOUNT/REGION/TYPE/ID"), "{error}");
        }
    }
}
