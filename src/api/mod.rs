//! The custom resources: `CloudScan`, `ResourceFinding` and `FindingExemption`, their schemas and their meaning.
//!
//! - [`cloudscan`], [`exemption`], [`finding`]: the types from which the CRDs are generated.
//! - [`providers`]: `spec.provider`; [`provider`]: what the controller needs to know of it; [`aws`]: its part for AWS.
//! - [`condition`], [`reason`]: what a status reports.
//! - [`namespace`]: the identity of a namespace.
//! - [`settings`]: converts a spec into the plain settings that the rules and the scanner use.
//! - [`validate`]: validates a manifest as the API server does, without an API server.

mod aws;
mod cloudscan;
mod conditions;
mod exemption;
mod fields;
mod finding;
mod namespace;
mod provider;
mod providers;
mod settings;
pub mod validate;

pub use cloudscan::*;
pub use conditions::{condition, reason};
pub use exemption::*;
pub use fields::SecretRef;
pub use finding::*;
pub use namespace::namespace_uid;
pub use provider::ProviderSpec;
pub use providers::{PROVIDER_FIELDS, Provider, is_granted, is_identity};
pub use settings::SpecError;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

use crate::inventory::FindingKind;

pub const GROUP: &str = "elava.dev";
/// The observed generation in a status before the operator has seen the object.
pub const NOT_OBSERVED: i64 = -1;
/// Any new value requests a scan now.
pub const RECONCILE_REQUESTED_AT: &str = "elava.dev/reconcile-requested-at";
/// On a CloudScan: accounts, or scopes as `account/region/type`, separated by commas. What the mass-loss breaker
/// holds there is confirmed as gone.
pub const RELEASE_HELD: &str = "elava.dev/release-held";
/// On a ResourceFinding: a user has acknowledged it. The value states who, or what is being done.
pub const ACKNOWLEDGED: &str = "elava.dev/acknowledged";
/// The CEL rule for lists of finding kinds.
fn kinds_rule() -> String {
    let kinds: Vec<String> = FindingKind::ALL.iter().map(|kind| format!("'{kind}'")).collect();
    format!("self.all(k, k in [{}])", kinds.join(", "))
}

fn kinds_message() -> String {
    format!("the kinds of findings are {}", FindingKind::list())
}

/// All CRDs, as they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut finding = ResourceFinding::crd();
    for version in &mut finding.spec.versions {
        version.subresources = None;
    }
    let (scan, exemption) = (with_default_status(CloudScan::crd()), with_default_status(FindingExemption::crd()));
    [scan, finding, exemption].into_iter().map(without_nullable).collect()
}

/// Until the operator has seen an object, its status shows that. kstatus treats an object without a status as
/// ready, so a client that waits for it would not wait.
fn with_default_status(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        let status = properties.and_then(|properties| properties.get_mut("status")).expect("it has a status");
        status.default = Some(JSON(serde_json::json!({"observedGeneration": NOT_OBSERVED})));
    }
    crd
}

/// schemars marks every `Option` as `nullable`. Without that the API server drops an explicit null, so it is the
/// same as an absent field everywhere.
fn without_nullable(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                if fields.get("nullable").is_some_and(serde_json::Value::is_boolean) {
                    fields.remove("nullable");
                }
                fields.values_mut().for_each(strip);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(&crd).expect("a CRD is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("it is still a CRD")
}
