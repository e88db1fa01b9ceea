//! The owner of a resource: from the first of the ordered sources that names one.

use serde::{Deserialize, Serialize};

use super::EvaluationContext;
use crate::inventory::{OwnerSource, OwnershipSettings, Resource, ResourceKey, TagSet};

/// The owner of a resource, and where that is stated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The name as it is stated: a tag's value, `namespace/name` of a volume claim, or the account's default.
    pub name: String,
    /// The source that names the owner.
    pub source: OwnerSource,
}

/// The owner that a set of tags names.
pub(super) fn in_tags<'a>(tags: &'a TagSet, settings: &OwnershipSettings) -> Option<&'a str> {
    settings.tag_keys.iter().find_map(|key| tags.get(key).filter(|value| !value.trim().is_empty()))
}

pub(super) fn of(resource: &Resource, world: &EvaluationContext, settings: &OwnershipSettings) -> Option<Owner> {
    let tags = resource.tags.known();
    let of_other = |key: Option<ResourceKey>| {
        let other = world.resource(&key?)?;
        in_tags(other.tags.known()?, settings).map(str::to_owned)
    };
    let key = &resource.key;
    let named = |source: &OwnerSource| match source {
        OwnerSource::Tags => tags.and_then(|tags| in_tags(tags, settings)).map(str::to_owned),
        OwnerSource::Stack | OwnerSource::AutoScalingGroup | OwnerSource::Cluster => {
            of_other((world.facts.provider(key)?.owning_resource)(*source, key, tags?))
        }
        OwnerSource::VolumeClaim => {
            let tag = |part: &str| tags?.get(&format!("kubernetes.io/created-for/pvc/{part}"));
            Some(format!("{}/{}", tag("namespace")?, tag("name")?))
        }
        OwnerSource::Account => settings.accounts.get(key.account.as_str()).cloned(),
    };
    settings.sources.iter().find_map(|source| Some(Owner { name: named(source)?, source: *source }))
}
