//! Validates a CloudScan manifest as the API server does, without an API server.
//!
//! The generated CRD is the only source: `jsonschema` checks its structural schema, `kube-cel` its CEL rules. "The
//! same message" means the field path and the rule's message, or the path and the kind of violation for type, bound,
//! enum and unknown field.

use serde_json::Value;

use super::{CloudScan, GROUP, SpecError};

/// Why a manifest is not a valid CloudScan: all violations, like the API server.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is not YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("the manifest holds {found}: `elava scan` wants one CloudScan of {GROUP}/v1alpha1")]
    NotACloudScan { found: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<SpecError>),
}

/// Reads one manifest. Other documents in the file (a Namespace, a Secret) are ignored.
pub fn manifest(text: &str) -> Result<CloudScan, ManifestError> {
    let mut scans = Vec::new();
    let mut others = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("nothing").to_owned();
        let found = format!("{} {}", text("apiVersion"), text("kind"));
        if found == format!("{GROUP}/v1alpha1 CloudScan") {
            scans.push(value);
        } else {
            others.push(found);
        }
    }
    match scans.len() {
        1 => object(scans.remove(0)),
        0 if others.is_empty() => Err(ManifestError::NotACloudScan { found: "nothing".to_owned() }),
        0 => Err(ManifestError::NotACloudScan { found: others.join(", ") }),
        n => Err(ManifestError::NotACloudScan { found: format!("{n} CloudScans") }),
    }
}

fn object(mut value: Value) -> Result<CloudScan, ManifestError> {
    let schema = schema();
    prune_nulls(&schema, &mut value);
    let mut errors = structural_errors(&schema, &value);
    // The API server evaluates rules only for structurally valid objects.
    if errors.is_empty() {
        errors = rule_errors(&schema, &value);
    }
    if !errors.is_empty() {
        return Err(ManifestError::Invalid(errors));
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let scan: CloudScan = serde_json::from_value(value)
        .map_err(|error| ManifestError::Invalid(vec![SpecError::new("", error.to_string())]))?;
    Ok(scan)
}

/// The API server drops a null that the schema does not allow, before it applies defaults.
fn prune_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, field| !(field.is_null() && schema["properties"].get(name).is_some()));
            for (name, field) in fields {
                prune_nulls(&schema["properties"][name], field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prune_nulls(&schema["items"], item)),
        _ => {}
    }
}

fn schema() -> Value {
    let crd = super::crds().into_iter().next().expect("CloudScan is the first");
    let schema = crd.spec.versions.into_iter().next().and_then(|v| v.schema).and_then(|s| s.open_api_v3_schema);
    serde_json::to_value(schema.expect("it has a schema")).expect("a schema is JSON")
}

fn structural_errors(schema: &Value, value: &Value) -> Vec<SpecError> {
    let mut strict = schema.clone();
    forbid_unknown(&mut strict);
    // The API server itself checks these; a CRD's schema does not contain them.
    for field in ["apiVersion", "kind", "metadata"] {
        strict["properties"][field] = Value::Object(serde_json::Map::new());
    }
    strict["properties"]["status"] = Value::Object(serde_json::Map::new());
    let validator = jsonschema::draft202012::new(&strict).expect("the generated schema is one");
    let mut errors: Vec<SpecError> = validator
        .iter_errors(value)
        .flat_map(|error| {
            let at = path(error.instance_path().as_str());
            let message = error.to_string();
            match error.kind() {
                jsonschema::error::ValidationErrorKind::AdditionalProperties { unexpected } => {
                    unexpected.iter().map(|field| SpecError::new(join(&at, field), "unknown field")).collect()
                }
                jsonschema::error::ValidationErrorKind::Required { property } => {
                    vec![SpecError::new(join(&at, property.as_str().unwrap_or_default()), "Required value")]
                }
                _ => vec![SpecError::new(at, message)],
            }
        })
        .collect();
    errors.extend(duplicates(schema, value, ""));
    errors
}

/// JSON Schema has neither pruning nor `listType`.
fn forbid_unknown(schema: &mut Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(forbid_unknown);
        schema["additionalProperties"] = Value::Bool(false);
    }
    if let Some(items) = schema.get_mut("items") {
        forbid_unknown(items);
    }
}

fn duplicates(schema: &Value, value: &Value, at: &str) -> Vec<SpecError> {
    let mut errors = Vec::new();
    if let (Some(properties), Some(fields)) =
        (schema.get("properties").and_then(Value::as_object), value.as_object())
    {
        for (name, field) in fields {
            if let Some(schema) = properties.get(name) {
                errors.extend(duplicates(schema, field, &join(at, name)));
            }
        }
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let is_set = schema.get("x-kubernetes-list-type").is_some_and(|t| t == "set");
        let mut seen = std::collections::BTreeSet::new();
        for (i, item) in list.iter().enumerate() {
            let at = format!("{at}[{i}]");
            let identity = match keys {
                Some(keys) => {
                    let key = keys.iter().filter_map(Value::as_str);
                    Some(
                        key.map(|k| item.get(k).unwrap_or(&Value::Null).to_string()).collect::<Vec<_>>().join(","),
                    )
                }
                None => is_set.then(|| item.to_string()),
            };
            if identity.is_some_and(|identity| !seen.insert(identity)) {
                errors.push(SpecError::new(&at, "Duplicate value"));
            }
            errors.extend(duplicates(items, item, &at));
        }
    }
    errors
}

fn rule_errors(schema: &Value, value: &Value) -> Vec<SpecError> {
    match kube_cel::Validator::new().validate(schema, value, None) {
        Ok(()) => Vec::new(),
        Err(errors) => {
            errors.into_vec().into_iter().map(|error| SpecError::new(error.field_path, error.message)).collect()
        }
    }
}

/// Converts `/spec/provider/aws/accounts/0/id` to `spec.provider.aws.accounts[0].id`.
fn path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |at, step| match step.parse::<usize>() {
        Ok(index) => format!("{at}[{index}]"),
        Err(_) => join(&at, &step.replace("~1", "/").replace("~0", "~")),
    })
}

fn join(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}
