//! Checks whether a spec is valid. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{CloudScanSpec, PROVIDER_FIELDS, ProviderSpec, SpecError, is_granted, is_identity, reason};
use crate::cloud::TypeInfo;
use crate::inventory::{LossLimits, RuleSettings};
use crate::scanner::Subscription;

/// A valid spec, in the types of the scanner and the rules.
#[derive(Clone, Debug)]
pub struct Valid {
    pub interval: Duration,
    pub suspended: bool,
    pub types: Vec<&'static str>,
    pub loss: LossLimits,
    pub rules: RuleSettings,
    pub provider: Arc<dyn ProviderSpec>,
}

/// A spec that is refused. Only a change of the spec, or of the operator's settings, resolves it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// One of a fixed set of names, for the condition.
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    /// Whether the administrator does not allow what it would use.
    pub fn is_of_access(&self) -> bool {
        matches!(self.reason, reason::ROLE_NOT_ALLOWED | reason::ENDPOINT_NOT_ALLOWED)
    }
}

impl From<SpecError> for Refusal {
    fn from(error: SpecError) -> Self {
        Refusal { reason: reason::INVALID_SPEC, message: error.to_string() }
    }
}

/// What the operator's administrator allows CloudScans to use. Anything not named is denied.
#[derive(Clone, Debug)]
pub enum Allowed {
    /// For `elava scan`: its user has the credentials, and could send them anywhere anyway.
    Anything,
    These {
        /// Endpoints in place of the providers' own.
        endpoints: BTreeSet<String>,
        roles: Vec<RoleGrant>,
    },
}

/// Allows the CloudScans of a namespace to have the operator's own credentials assume a role, or to use them as they
/// are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleGrant {
    /// `*` for every namespace.
    pub namespace: String,
    /// An ARN, the beginning of an ARN with `*` at its end, `arn:aws:iam::*:role/NAME` for the role NAME of any
    /// account, or [`OWN`].
    pub role: String,
}

/// The operator's own credentials, without a role.
pub const OWN: &str = "own";

impl std::str::FromStr for RoleGrant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allows_role = |role: &str| role == OWN || role == "*" || is_identity(role);
        match text.split_once('=') {
            Some((namespace, role)) if !namespace.is_empty() && allows_role(role) => {
                Ok(Self { namespace: namespace.to_owned(), role: role.to_owned() })
            }
            _ => Err(
                "it is NAMESPACE=ROLE, such as team-a=arn:aws:iam::111122223333:role/elava, team-a=own for the \
                      operator's own credentials, or * for every namespace"
                    .to_owned(),
            ),
        }
    }
}

impl RoleGrant {
    fn allows(&self, namespace: &str, role: &str) -> bool {
        (self.namespace == "*" || self.namespace == namespace) && is_granted(&self.role, role)
    }
}

impl Allowed {
    /// Whether a CloudScan of a namespace may have this role assumed, or use the operator's credentials as they are.
    pub fn allows_role(&self, namespace: &str, role: Option<&str>) -> bool {
        match self {
            Allowed::Anything => true,
            Allowed::These { roles, .. } => roles.iter().any(|grant| grant.allows(namespace, role.unwrap_or(OWN))),
        }
    }

    /// Whether a remembered subscription would be accepted today. `default_endpoint` comes from the operator's
    /// environment and is always allowed.
    pub fn allows_remembered(&self, subscription: &Subscription, default_endpoint: &str) -> bool {
        let target = &subscription.target;
        let (namespace, _) = subscription.subscriber.as_str().split_once('/').unwrap_or_default();
        (*target.endpoint == *default_endpoint || self.allows_endpoint(&target.endpoint))
            && self.allows_role(namespace, target.access.identity.as_deref())
    }

    /// Whether credentials may be sent to this endpoint.
    pub fn allows_endpoint(&self, endpoint: &str) -> bool {
        match self {
            Allowed::Anything => true,
            Allowed::These { endpoints, .. } => endpoints.contains(endpoint.trim_end_matches('/')),
        }
    }
}

/// What the administrator must grant, in the notation of the settings.
pub fn grants_needed(provider: &dyn ProviderSpec) -> BTreeSet<String> {
    provider.identities().into_iter().map(|role| role.unwrap_or_else(|| OWN.to_owned())).collect()
}

pub fn validate(
    spec: &CloudScanSpec,
    namespace: &str,
    types: impl Fn(&str) -> Vec<TypeInfo>,
    allowed: &Allowed,
) -> Result<Valid, Refusal> {
    let Some(provider) = spec.provider.spec() else {
        return Err(
            SpecError::new("spec.provider", format!("name the cloud to scan: set {PROVIDER_FIELDS}")).into()
        );
    };
    let path = format!("spec.provider.{}", provider.name());
    if let Some((field, endpoint)) = provider.endpoint()
        && !allowed.allows_endpoint(endpoint)
    {
        return Err(Refusal {
            reason: reason::ENDPOINT_NOT_ALLOWED,
            message: format!(
                "{path}.{field}: {endpoint} is not on the operator's list, and credentials are sent to \
                 whatever it names: ask its administrator to start it with --allow-endpoint={endpoint} (chart value \
                 allowedEndpoints)"
            ),
        });
    }
    if let Some(role) =
        provider.identities().into_iter().find(|role| !allowed.allows_role(namespace, role.as_deref()))
    {
        let role = role.as_deref().unwrap_or(OWN);
        let what =
            if role == OWN { "the operator's own credentials".to_owned() } else { format!("the role {role}") };
        return Err(Refusal {
            reason: reason::ROLE_NOT_ALLOWED,
            message: format!(
                "{path}: CloudScans of the namespace {namespace} may not use {what}: ask the operator's administrator \
                 to start it with --allow-role={namespace}={role} (chart value allowedRoles), or name credentials of your own in \
                 credentialsSecretRef"
            ),
        });
    }
    let types = types(provider.name());
    Ok(Valid {
        interval: spec.interval()?,
        suspended: spec.suspend,
        types: chosen_types(spec, &types)?,
        loss: spec.loss_limits(),
        rules: spec.rule_settings()?,
        provider,
    })
}

/// The known names that are most similar to an unknown one.
fn nearest(name: &str, known: &BTreeSet<&'static str>) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = known.iter().copied().collect();
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    names.truncate(3);
    names
}

/// Whether a name, or a pattern that ends in `*`, names a type.
fn selects(selector: &str, name: &str) -> bool {
    selector.strip_suffix('*').map_or(selector == name, |prefix| name.starts_with(prefix))
}

fn chosen_types(spec: &CloudScanSpec, types: &[TypeInfo]) -> Result<Vec<&'static str>, SpecError> {
    let known: BTreeSet<&'static str> = types.iter().map(|t| t.name).collect();
    let lists = [
        ("spec.resourceTypes.include", &spec.resource_types.include),
        ("spec.resourceTypes.exclude", &spec.resource_types.exclude),
        ("spec.tagPolicy.exemptTypes", &spec.tag_policy.exempt_types),
    ];
    for (path, list) in lists {
        let is_unknown = |name: &str| !known.iter().any(|known| selects(name, known));
        if let Some((i, name)) = list.iter().enumerate().find(|(_, name)| is_unknown(name)) {
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
    let desired = |name: &&'static str| {
        let named = |list: &[String]| list.iter().any(|selector| selects(selector, name));
        (selection.include.is_empty() || named(&selection.include)) && !named(&selection.exclude)
    };
    let chosen: Vec<&'static str> = known.into_iter().filter(desired).collect();
    if chosen.is_empty() {
        return Err(SpecError::new("spec.resourceTypes", "exclude leaves none of the included types to scan"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{Provider, aws::Aws};
    use serde_json::json;

    fn checked(spec: serde_json::Value, allowed: &Allowed) -> Result<Valid, Refusal> {
        let spec: CloudScanSpec = serde_json::from_value(spec).unwrap();
        validate(&spec, "team-a", |_| Aws::default().types(), allowed)
    }

    fn refused(spec: serde_json::Value, allowed: &Allowed) -> Refusal {
        checked(spec, allowed).unwrap_err()
    }

    fn these(endpoints: &[&str], roles: &[&str]) -> Allowed {
        Allowed::These {
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
            roles: roles.iter().map(|grant| grant.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_operator_s_credentials_are_for_those_whom_the_administrator_names() {
        let role = |id: &str| format!("arn:aws:iam::{id}:role/elava");
        let account = |id: &str| json!({"id": id, "roleARN": role(id)});
        let (a, b) = ("111122223333", "444455556666");
        let own = json!({"provider": {"aws": {}}});
        let of = |ids: &[&str]| {
            let accounts: Vec<_> = ids.iter().map(|id| account(id)).collect();
            json!({"provider": {"aws": {"accounts": accounts}}})
        };
        let all = json!({"provider": {"aws": {"organization": {"roleName": "elava"}}}});
        let listed = json!({"provider": {"aws": {"organization": {"roleName": "elava", "listRoleARN": role(b)}}}});
        let secret =
            json!({"provider": {"aws": {"credentialsSecretRef": {"name": "keys"}, "accounts": [account(a)]}}});
        let one = format!("team-a={}", role(a));
        let any = "team-a=arn:aws:iam::*:role/elava";
        for (spec, roles, is_allowed) in [
            (&own, vec![], false),
            (&own, vec!["team-a=own"], true),
            (&own, vec!["*=own"], true),
            (&own, vec!["team-b=own"], false),
            (&own, vec!["team-a=*"], true),
            (&of(&[a]), vec!["team-a=own"], false),
            (&of(&[a]), vec![one.as_str()], true),
            (&of(&[a, b]), vec![one.as_str()], false),
            (&of(&[a, b]), vec![any], true),
            (&of(&[a]), vec!["team-a=arn:aws:iam::111122223333:role/el*"], true),
            (&of(&[a]), vec!["team-a=arn:aws:iam::111122223333:role/elav"], false),
            (&of(&[a]), vec!["team-a=arn:aws:iam::*:role/other"], false),
            (&all, vec![any], false),
            (&all, vec![any, "team-a=own"], true),
            (&listed, vec![any], true),
            (&listed, vec![one.as_str(), "team-a=own"], false),
            (&secret, vec![], true),
        ] {
            let checked = checked(spec.clone(), &these(&[], &roles));
            assert_eq!(checked.is_ok(), is_allowed, "{spec} with {roles:?}");
        }
        let refusal = refused(own, &these(&[], &[]));
        assert_eq!(refusal.reason, "RoleNotAllowed");
        assert!(refusal.message.contains("--allow-role=team-a=own"), "{refusal}");
        for bad in ["own", "=own", "team-a=", "team-a=elava", "team-a"] {
            assert!(bad.parse::<RoleGrant>().is_err(), "{bad}");
        }
        // A remembered subscription names each account.
        let allowed = these(&[], &[any]);
        assert!(allowed.allows_role("team-a", Some(&role(b))));
        assert!(
            allowed.allows_role("team-a", Some("arn:aws-cn:iam::444455556666:role/elava")),
            "of an organization in China"
        );
        assert!(
            !allowed.allows_role("team-a", Some("arn:aws:iam::x:role/elava"))
                && !allowed.allows_role("team-b", Some(&role(b)))
        );
    }

    #[test]
    fn what_cel_cannot_see_is_refused_with_the_path_and_what_to_do() {
        let any = Allowed::Anything;
        let typo =
            refused(json!({"provider": {"aws": {}}, "resourceTypes": {"include": ["AWS::EC2::Volumes"]}}), &any);
        assert!(typo.message.starts_with("spec.resourceTypes.include[0]: AWS::EC2::Volumes is not"), "{typo}");
        assert!(typo.message.contains("the nearest are AWS::EC2::Volume,"), "{typo}");

        let unknown =
            refused(json!({"provider": {"aws": {}}, "resourceTypes": {"exclude": ["AWS::Nothing::*"]}}), &any);
        assert!(unknown.message.starts_with("spec.resourceTypes.exclude[0]: AWS::Nothing::* is not"), "{unknown}");

        let policy = json!({"required": [{"key": "team", "pattern": "a("}]});
        let pattern = refused(json!({"provider": {"aws": {}}, "tagPolicy": policy}), &any);
        assert!(pattern.message.starts_with("spec.tagPolicy.required[0].pattern: 'a('"), "{pattern}");

        // A pattern of 1.9 KB once compiled to 1.2 GiB.
        let large = |pattern: &str| {
            let required: Vec<_> =
                (0..50).map(|i| json!({"key": format!("t{i}"), "pattern": format!("{pattern}|{i}")})).collect();
            refused(json!({"provider": {"aws": {}}, "tagPolicy": {"required": required}}), &any)
        };
        assert!(large(r"\w{205}").message.contains("is too large"), "each alone");
        assert!(large(r"\w{1,60}").message.contains("the patterns of this CloudScan"), "all together");

        let types = json!({"include": ["AWS::EC2::Volume"], "exclude": ["AWS::EC2::Volume"]});
        let none = refused(json!({"provider": {"aws": {}}, "resourceTypes": types}), &any);
        assert!(none.message.contains("leaves none"), "{none}");
    }

    #[test]
    fn types_are_selected_by_name_and_by_pattern() {
        let chosen = |types: serde_json::Value| {
            checked(json!({"provider": {"aws": {}}, "resourceTypes": types}), &Allowed::Anything).unwrap().types
        };
        let all = chosen(json!({}));
        assert_eq!(chosen(json!({"include": ["AWS::*"]})), all);
        let balancing = ["AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::ElasticLoadBalancingV2::TargetGroup"];
        assert_eq!(chosen(json!({"include": ["AWS::ElasticLoadBalancingV2::*"]})), balancing);
        let some =
            json!({"include": ["AWS::ElasticLoadBalancingV2::*", "AWS::S3::Bucket"], "exclude": [balancing[0]]});
        assert_eq!(chosen(some), [balancing[1], "AWS::S3::Bucket"]);
        let without = chosen(json!({"exclude": ["AWS::EC2::*"]}));
        assert!(!without.is_empty() && without.iter().all(|name| !name.starts_with("AWS::EC2::")), "{without:?}");
    }

    #[test]
    fn an_endpoint_must_be_on_the_list() {
        let spec = json!({"provider": {"aws": {"endpointURL": "http://127.0.0.1:5000/"}}});
        let refusal = refused(spec.clone(), &these(&[], &["*=own"]));
        assert_eq!(refusal.reason, "EndpointNotAllowed");
        assert!(refusal.message.contains("--allow-endpoint"), "{refusal}");
        assert!(checked(spec, &these(&["http://127.0.0.1:5000"], &["*=own"])).is_ok());
    }
}
