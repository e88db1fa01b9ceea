//! The description of the group: discovery in both formats, and the OpenAPI document that `kubectl explain` reads.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::objects::{CloudResourceStatus, ResourceChangeStatus, ResourceHistoryStatus};
use super::{GROUP, VERSION};

/// The kinds of objects that the group serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiKind {
    CloudResource,
    ResourceChange,
    ResourceHistory,
}

/// How clients name a kind of object.
#[derive(Debug)]
pub(super) struct Kind {
    pub api: ApiKind,
    pub name: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static str,
    pub verbs: &'static [&'static str],
}

pub(super) const RESOURCES: Kind = Kind {
    api: ApiKind::CloudResource,
    name: "CloudResource",
    plural: "cloudresources",
    singular: "cloudresource",
    short: "cres",
    verbs: &["get", "list", "watch"],
};
pub(super) const CHANGES: Kind = Kind {
    api: ApiKind::ResourceChange,
    name: "ResourceChange",
    plural: "resourcechanges",
    singular: "resourcechange",
    short: "rch",
    verbs: &["list", "watch"],
};
pub(super) const HISTORIES: Kind = Kind {
    api: ApiKind::ResourceHistory,
    name: "ResourceHistory",
    plural: "resourcehistories",
    singular: "resourcehistory",
    short: "rh",
    verbs: &["get", "list"],
};
const KINDS: [&Kind; 3] = [&RESOURCES, &CHANGES, &HISTORIES];

pub(super) fn kind(plural: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.plural == plural)
}

pub(super) fn group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": GROUP,
        "versions": [version], "preferredVersion": version,
    })
}

pub(super) fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})
}

pub(super) fn resources() -> Value {
    let resource = |kind: &Kind| {
        json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": true, "kind": kind.name,
            "verbs": kind.verbs, "shortNames": [kind.short], "categories": ["elava-inventory"],
        })
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": KINDS.map(resource),
    })
}

/// Everything in one answer, the format that kube-apiserver requests first.
pub(super) fn aggregated() -> Value {
    let resource = |kind: &Kind| {
        json!({
            "resource": kind.plural, "singularResource": kind.singular, "scope": "Namespaced",
            "responseKind": {"group": GROUP, "version": VERSION, "kind": kind.name},
            "verbs": kind.verbs, "shortNames": [kind.short], "categories": ["elava-inventory"],
        })
    };
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{
            "metadata": {"name": GROUP, "creationTimestamp": null},
            "versions": [{"version": VERSION, "freshness": "Current", "resources": KINDS.map(resource)}],
        }],
    })
}

/// The location of the document. The URL contains its hash: clients fetch it again when that changes.
pub(super) fn openapi_index() -> Value {
    let hash = blake3::hash(openapi().to_string().as_bytes()).to_hex();
    let path = format!("apis/{GROUP}/{VERSION}");
    json!({"paths": {&path: {"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", &hash[..32])}}})
}

pub(super) fn openapi() -> Value {
    let mut schemas = serde_json::Map::new();
    let mut paths = serde_json::Map::new();
    for (kind, text, status) in [
        (
            &RESOURCES,
            "CloudResource is one resource of a cloud that is visible to a CloudScan of this namespace, as of the last sweeps. Query the past with a field selector: kubectl get cloudresources --field-selector \
             'asOf=2026-11-24T08:30:00Z', or asOf=41 for a revision, asOf=2h for two hours ago. Other fields to \
             select by are id, key, provider, account, region, type, owner, state, tag (which it has), tag.KEY (the \
             value), untagged and metadata.name.",
            schema::<CloudResourceStatus>(),
        ),
        (
            &CHANGES,
            "ResourceChange is one thing that happened to one resource while it was visible to a CloudScan of this namespace. Name the time by field selectors: kubectl get resourcechanges --field-selector \
             'from=2026-11-24T08:00:00Z,to=2026-11-24T09:00:00Z'; without from the last 24 hours. Other fields to \
             select by are change, id, key, resource (the name of the CloudResource), provider, account, region and \
             type.",
            schema::<ResourceChangeStatus>(),
        ),
        (
            &HISTORIES,
            "ResourceHistory is all that happened to one resource, also to one that is gone, while it was visible to CloudScans of this namespace. It has the name of its CloudResource: kubectl get resourcehistory NAME; or \
             name the resource by a field selector, id= or key=.",
            schema::<ResourceHistoryStatus>(),
        ),
    ] {
        let own = format!("dev.elava.inventory.{VERSION}.{}", kind.name);
        let gvk = json!({"group": GROUP, "version": VERSION, "kind": kind.name});
        let object = json!({
            "type": "object",
            "description": text,
            "x-kubernetes-group-version-kind": [gvk],
            "properties": {
                "apiVersion": {"type": "string", "description": "apiVersion is inventory.elava.dev/v1alpha1."},
                "kind": {"type": "string", "description": format!("kind is {}.", kind.name)},
                "metadata": {"type": "object", "description": "metadata is standard object metadata; resourceVersion is a revision of the store."},
                "status": status,
            },
        });
        schemas.insert(own.clone(), object);
        let list = json!({
            "type": "object",
            "description": format!("{}List is a list of {}.", kind.name, kind.plural),
            "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": format!("{}List", kind.name)}],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{own}")}},
            },
        });
        schemas.insert(format!("{own}List"), list);
        let operation = |what: &str, schema: String| {
            let content =
                json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
            json!({
                "operationId": format!("{what}Inventory{}{}", VERSION, kind.name),
                "x-kubernetes-action": what,
                "x-kubernetes-group-version-kind": gvk,
                "responses": {"200": {"description": "OK", "content": content}},
            })
        };
        let base = format!("/apis/{GROUP}/{VERSION}");
        let list = operation("list", format!("{own}List"));
        paths.insert(format!("{base}/{}", kind.plural), json!({"get": list}));
        paths.insert(format!("{base}/namespaces/{{namespace}}/{}", kind.plural), json!({"get": list}));
        if kind.verbs.contains(&"get") {
            let get = operation("get", own);
            let path = format!("{base}/namespaces/{{namespace}}/{}/{{name}}", kind.plural);
            paths.insert(path, json!({"get": get}));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Elava inventory", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The schema of a status, with all subschemas inlined.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("title");
        fields.remove("components");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field has a description that begins with its name; `kubectl explain` shows nothing else.
    fn check(path: &str, schema: &Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let description = field["description"].as_str().unwrap_or_default();
            let begins =
                [format!("{name} is "), format!("{name} are "), format!("{name} names "), format!("{name} says ")];
            assert!(begins.iter().any(|b| description.starts_with(b)), "{path}.{name}: '{description}'");
            check(&format!("{path}.{name}"), field);
            check(&format!("{path}.{name}[]"), &field["items"]);
        }
    }

    #[test]
    fn every_field_is_explained() {
        let openapi = openapi();
        for kind in KINDS {
            let schema = &openapi["components"]["schemas"][format!("dev.elava.inventory.{VERSION}.{}", kind.name)];
            check(kind.name, &schema["properties"]["status"]);
            assert!(schema["properties"]["status"]["properties"].as_object().unwrap().len() >= 3);
            assert!(!schema.to_string().contains("$ref"), "{schema}");
        }
    }
}
