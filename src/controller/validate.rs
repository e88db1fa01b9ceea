//! Is the spec one that can be worked with? Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::{AwsProvider, CloudScanSpec, SpecError};
use crate::cloud::TypeInfo;
use crate::inventory::{LossLimits, RuleSettings};

/// A spec that makes sense, in the words of the scanner and the rules.
#[derive(Clone, Debug)]
pub struct Valid {
    pub interval: Duration,
    pub suspended: bool,
    pub types: Vec<&'static str>,
    pub loss: LossLimits,
    pub rules: RuleSettings,
    pub aws: AwsProvider,
}

/// Only a change of the spec, or of the operator's settings, mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A bounded name, for the condition.
    pub reason: &'static str,
    pub message: String,
}

impl From<SpecError> for Refusal {
    fn from(error: SpecError) -> Self {
        Refusal { reason: "InvalidSpec", message: error.to_string() }
    }
}

/// Which endpoints a CloudScan may name.
#[derive(Clone, Debug)]
pub enum AllowedEndpoints {
    /// For `elava scan`: whoever runs it could send its credentials anywhere anyway.
    Any,
    These(BTreeSet<String>),
}

pub fn validate(spec: &CloudScanSpec, types: &[TypeInfo], endpoints: &AllowedEndpoints) -> Result<Valid, Refusal> {
    let Some(aws) = &spec.provider.aws else {
        return Err(SpecError::new("spec.provider", "name the cloud to look at: set spec.provider.aws").into());
    };
    if let (Some(endpoint), AllowedEndpoints::These(allowed)) = (&aws.endpoint_url, endpoints)
        && !allowed.contains(endpoint.trim_end_matches('/'))
    {
        return Err(Refusal {
            reason: "EndpointNotAllowed",
            message: format!(
                "spec.provider.aws.endpointURL: {endpoint} is not on the operator's list, and credentials are sent to \
                 whatever it names: ask its administrator to start it with --allow-endpoint={endpoint} (chart value \
                 allowedEndpoints)"
            ),
        });
    }
    Ok(Valid {
        interval: spec.interval()?,
        suspended: spec.suspend,
        types: chosen_types(spec, types)?,
        loss: spec.loss_limits(),
        rules: spec.rule_settings()?,
        aws: aws.clone(),
    })
}

/// The names that are most like one that is not known.
fn nearest(name: &str, known: &BTreeSet<&'static str>) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = known.iter().copied().collect();
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    names.truncate(3);
    names
}

fn chosen_types(spec: &CloudScanSpec, types: &[TypeInfo]) -> Result<Vec<&'static str>, SpecError> {
    let known: BTreeSet<&'static str> = types.iter().map(|t| t.name).collect();
    let lists = [
        ("spec.resourceTypes.include", &spec.resource_types.include),
        ("spec.resourceTypes.exclude", &spec.resource_types.exclude),
        ("spec.tagPolicy.exemptTypes", &spec.tag_policy.exempt_types),
    ];
    for (path, list) in lists {
        if let Some((i, name)) = list.iter().enumerate().find(|(_, name)| !known.contains(name.as_str())) {
            let nearest = nearest(name, &known).join(", ");
            return Err(SpecError::new(
                format!("{path}[{i}]"),
                format!(
                    "{name} is not a resource type that this Elava knows; the nearest are {nearest}; elava types lists all {}",
                    known.len()
                ),
            ));
        }
    }
    let selection = &spec.resource_types;
    let wanted = |name: &&'static str| {
        let named = |list: &[String]| list.iter().any(|n| n == name);
        (selection.include.is_empty() || named(&selection.include)) && !named(&selection.exclude)
    };
    let chosen: Vec<&'static str> = known.into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err(SpecError::new("spec.resourceTypes", "exclude leaves none of the included types to look at"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{Provider, aws::Aws};
    use serde_json::json;

    fn refused(spec: serde_json::Value, endpoints: &AllowedEndpoints) -> Refusal {
        let spec: CloudScanSpec = serde_json::from_value(spec).unwrap();
        validate(&spec, &Aws::default().types(), endpoints).unwrap_err()
    }

    #[test]
    fn what_cel_cannot_see_is_refused_with_the_path_and_what_to_do() {
        let any = AllowedEndpoints::Any;
        let typo =
            refused(json!({"provider": {"aws": {}}, "resourceTypes": {"include": ["AWS::EC2::Volumes"]}}), &any);
        assert!(typo.message.starts_with("spec.resourceTypes.include[0]: AWS::EC2::Volumes is not"), "{typo}");
        assert!(typo.message.contains("the nearest are AWS::EC2::Volume,"), "{typo}");

        let policy = json!({"required": [{"key": "team", "pattern": "a("}]});
        let pattern = refused(json!({"provider": {"aws": {}}, "tagPolicy": policy}), &any);
        assert!(pattern.message.starts_with("spec.tagPolicy.required[0].pattern: 'a('"), "{pattern}");

        let types = json!({"include": ["AWS::EC2::Volume"], "exclude": ["AWS::EC2::Volume"]});
        let none = refused(json!({"provider": {"aws": {}}, "resourceTypes": types}), &any);
        assert!(none.message.contains("leaves none"), "{none}");
    }

    #[test]
    fn an_endpoint_must_be_on_the_list() {
        let spec = json!({"provider": {"aws": {"endpointURL": "http://127.0.0.1:5000/"}}});
        let refusal = refused(spec.clone(), &AllowedEndpoints::These(BTreeSet::new()));
        assert_eq!(refusal.reason, "EndpointNotAllowed");
        assert!(refusal.message.contains("--allow-endpoint"), "{refusal}");
        let allowed = AllowedEndpoints::These(["http://127.0.0.1:5000".to_owned()].into());
        let spec: CloudScanSpec = serde_json::from_value(spec).unwrap();
        assert!(validate(&spec, &Aws::default().types(), &allowed).is_ok());
    }
}
