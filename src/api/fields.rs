//! What several specs share.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// name is the name of the Secret. Required.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9.-]+$') && self.matches('^[a-z0-9]') && self.matches('[a-z0-9]$')").message("the name of a Secret has lower case letters, digits, - and . and begins and ends with a letter or digit"))]
    pub name: String,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
