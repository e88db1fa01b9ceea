//! References that have to be followed through a template, or can't be followed at all.

use serde_json::Value;

use super::names::{AUTO_SCALING_GROUP, ECS_SERVICE, LAUNCH_TEMPLATE, NODE_GROUP};
use crate::inventory::{Pins, texts};

fn image_is_a_parameter(document: &Value) -> bool {
    let of_group = texts(document, "MixedInstancesPolicy.LaunchTemplate.Overrides.ImageId");
    let mut images = texts(document, "Versions.LaunchTemplateData.ImageId").into_iter().chain(of_group);
    images.any(|id| id.starts_with("resolve:"))
}

/// How to see whether a document references others in a way that can't be followed: by a parameter of Systems Manager,
/// by a launch configuration, or by a CodeDeploy deployment that has a second target group.
pub(super) fn is_opaque(resource_type: &str) -> Option<fn(&Value) -> bool> {
    match resource_type {
        LAUNCH_TEMPLATE => Some(image_is_a_parameter),
        AUTO_SCALING_GROUP => {
            Some(|group| image_is_a_parameter(group) || !texts(group, "LaunchConfigurationName").is_empty())
        }
        ECS_SERVICE => Some(|service| {
            texts(service, "deploymentController.type").iter().any(|by| by == "CODE_DEPLOY" || by == "EXTERNAL")
        }),
        _ => None,
    }
}

/// The numbered versions of launch templates that a document pins. `$Default` and `$Latest` are read with the
/// template.
pub(super) fn pins(resource_type: &str) -> Option<Pins> {
    let of: fn(&Value) -> Vec<(String, i64)> = match resource_type {
        AUTO_SCALING_GROUP => |group| {
            pinned(
                group,
                &[
                    "LaunchTemplate",
                    "MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification",
                    "MixedInstancesPolicy.LaunchTemplate.Overrides.LaunchTemplateSpecification",
                ],
            )
        },
        NODE_GROUP => |group| pinned(group, &["launchTemplate"]),
        _ => return None,
    };
    Some(Pins { to: LAUNCH_TEMPLATE, of })
}

fn pinned(document: &Value, paths: &[&str]) -> Vec<(String, i64)> {
    let one_of = |specification: &Value, names: [&str; 2]| {
        names.iter().find_map(|name| specification.get(*name)?.as_str()).map(str::to_owned)
    };
    let pinned = |specification: &Value| {
        let version = one_of(specification, ["Version", "version"])?.parse().ok()?;
        Some((one_of(specification, ["LaunchTemplateId", "id"])?, version))
    };
    paths.iter().flat_map(|path| objects(document, path)).filter_map(pinned).collect()
}

/// The versions in the document of a launch template.
pub(super) fn versions(resource_type: &str) -> Option<fn(&Value) -> Vec<i64>> {
    (resource_type == LAUNCH_TEMPLATE).then_some(|template| {
        objects(template, "Versions").iter().filter_map(|version| version["VersionNumber"].as_i64()).collect()
    })
}

/// All objects at a path that passes through lists.
fn objects<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.').fold(vec![value], |found, step| {
        let within = found.into_iter().filter_map(|value| value.get(step));
        within.flat_map(|value| value.as_array().map_or(vec![value], |items| items.iter().collect())).collect()
    })
}
