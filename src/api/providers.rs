//! `spec.provider`, one of the providers, and the rules of the schema that depend on how providers write things.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aws::{self, AwsProvider};
use super::provider::ProviderSpec;

/// A cloud provider.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// aws scans Amazon Web Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsProvider>,
}

impl Provider {
    /// The part of the spec that is set.
    pub fn spec(&self) -> Option<Arc<dyn ProviderSpec>> {
        self.aws.clone().map(|aws| Arc::new(aws) as Arc<dyn ProviderSpec>)
    }
}

/// The field of `spec.provider` to set, for an error message.
pub const PROVIDER_FIELDS: &str = "spec.provider.aws";
pub(super) const ONE_PROVIDER: &str = "has(self.aws)";
pub(super) const ONE_PROVIDER_MESSAGE: &str =
    "name the cloud to scan: set spec.provider.aws (it may be empty: aws: {})";

pub(super) const TYPES: &str = "self.all(t, t.matches('^[A-Za-z0-9]+::[A-Za-z0-9]+::[A-Za-z0-9]+$'))";
pub(super) const TYPES_MESSAGE: &str =
    "a resource type is written as CloudFormation does, such as AWS::EC2::Instance";

pub(super) const TYPE_PATTERNS: &str =
    "self.all(t, t.matches('^[A-Za-z0-9]+::([*]|[A-Za-z0-9]+::([*]|[A-Za-z0-9]+))$'))";
pub(super) const TYPE_PATTERNS_MESSAGE: &str = "a resource type is written as CloudFormation does, such as AWS::EC2::Instance; AWS::EC2::* names all of a service";

pub(super) const SETTABLE_TAG: &str = "!self.startsWith('aws:')";
pub(super) const SETTABLE_TAG_MESSAGE: &str =
    "keys that begin with aws: can't be set by users: no resource could ever comply";

/// Whether the text can be an identity of a provider, or the pattern of one.
pub fn is_identity(text: &str) -> bool {
    aws::is_role(text)
}

/// Whether what an administrator grants, an identity or the pattern of one, includes this identity.
pub fn is_granted(granted: &str, identity: &str) -> bool {
    aws::is_role_granted(granted, identity)
}
