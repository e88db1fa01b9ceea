//! The chart and the kustomize manifests: what they render, and which values they refuse.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::tools;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn helm(args: &[&str]) -> Output {
    Command::new(tools().join("helm")).current_dir(ROOT).args(args).output().unwrap()
}

fn rendered(settings: &[&str]) -> Result<String, String> {
    let output = helm(&[&["template", "elava", "charts/elava", "--namespace", "elava"], settings].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The objects by kind and name, without the labels that name the tool that created them.
fn objects(manifests: &str) -> BTreeMap<String, Value> {
    let documents = serde_yaml::Deserializer::from_str(manifests);
    let objects = documents.map(|one| Value::deserialize(one).unwrap()).filter(|object| !object.is_null());
    objects
        .map(|mut object| {
            if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
                labels.remove("app.kubernetes.io/managed-by");
            }
            let template = object.pointer_mut("/spec/template/metadata/labels").and_then(Value::as_object_mut);
            template.map(|labels| labels.remove("app.kubernetes.io/managed-by"));
            let name = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            (format!("{} {}", name(&object["kind"]), name(&object["metadata"]["name"])), object)
        })
        .collect()
}

#[test]
fn the_chart_with_everything_on_renders_what_was_approved() {
    let lint = helm(&["lint", "--strict", "charts/elava"]);
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let values = ["--values", "tests/golden/chart-full-values.yaml", "--set", "crds.install=false"];
    let seen = rendered(&values).unwrap();
    let path = Path::new(ROOT).join("tests/golden/chart-full.yaml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &seen).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == seen, "chart-full.yaml is not what was approved (UPDATE_GOLDEN=1 writes it): {seen}");
}

/// The values of docs/hardening.md.
#[test]
fn the_values_for_many_tenants_restrict_what_their_comments_claim() {
    let rendered = objects(&rendered(&["--values", "charts/elava/ci/multi-tenant-values.yaml"]).unwrap());
    let args = rendered["StatefulSet elava"].pointer("/spec/template/spec/containers/0/args").unwrap().to_string();
    for arg in [
        "--allow-role=team-a=arn:aws:iam::111122223333:role/elava",
        "--allow-role=team-b=arn:aws:iam::444455556666:role/elava",
        "--allow-webhook=https://hooks.example.com/elava",
        "--min-interval=5m",
        "--namespace-cloudscans=20",
        "--namespace-resources=200000",
    ] {
        assert!(args.contains(arg), "{arg} in {args}");
    }
    assert!(!args.contains("--allow-endpoint") && !args.contains("=own"), "{args}");
    let kinds: Vec<&str> = rendered.keys().map(String::as_str).collect();
    for object in ["NetworkPolicy elava", "ValidatingAdmissionPolicy elava-roles.elava"] {
        assert!(kinds.contains(&object), "{object} in {kinds:?}");
    }
    let everywhere = kinds.contains(&"ClusterRoleBinding elava");
    assert!(!everywhere, "its rights on CloudScans are those of two namespaces");
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/hardening.md")).unwrap();
    assert!(page.contains("charts/elava/ci/multi-tenant-values.yaml"));
}

#[test]
fn wrong_values_are_refused_by_their_path() {
    let wrong = [
        ("image.tga=x", "/image"),
        ("replicas=2", "replicas"),
        ("apiShare=2", "/apiShare"),
        ("retention.detail=soon", "/retention/detail"),
        ("backup.keep=0", "/backup/keep"),
        ("restore.from=../../etc/passwd", "/restore/from"),
        ("log.format=xml", "/log/format"),
        ("watchNamespaces={Team_A}", "/watchNamespaces/0"),
        ("allowedEndpoints={localhost}", "/allowedEndpoints/0"),
        ("image.digest=sha256:12", "/image/digest"),
        ("allowedRoles[0].namespaces={a}", "/allowedRoles/0"),
    ];
    for (setting, path) in wrong {
        let refused = rendered(&["--set", setting]).expect_err(setting);
        assert!(refused.contains(path), "{setting}: {refused}");
    }
}

/// Checks that the values and the schema have the same fields, except below free-form fields.
fn compare(values: &Value, schema: &Value, path: &str) {
    let Some(known) = schema["properties"].as_object() else { return };
    let has = values.as_object().unwrap_or_else(|| panic!("{path} is no object"));
    for (name, schema) in known.iter().filter(|(name, _)| *name != "global") {
        let value = has.get(name).unwrap_or_else(|| panic!("values.yaml lacks {path}.{name}"));
        compare(value, schema, &format!("{path}.{name}"));
    }
    let unknown: Vec<_> = has.keys().filter(|name| !known.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "the schema lacks {path}: {unknown:?}");
}

#[test]
fn the_schema_knows_exactly_the_values_that_there_are() {
    let read = |name: &str| std::fs::read_to_string(Path::new(ROOT).join("charts/elava").join(name)).unwrap();
    let values: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    compare(&values, &schema, "");
}

#[test]
fn kustomize_makes_the_same_objects() {
    let cases = [
        (None, vec![]),
        (Some("query-api"), vec!["--set", "queryAPI.enabled=true"]),
        (Some("backup"), vec!["--set", "backup.enabled=true"]),
        (Some("network-policy"), vec!["--set", "networkPolicy.enabled=true"]),
        (
            Some("monitoring"),
            vec![
                "--set",
                "monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true",
                "--set",
                "monitoring.dashboard.enabled=true",
            ],
        ),
    ];
    for (component, settings) in cases {
        let dir =
            tempfile::Builder::new().prefix("kustomize-").tempdir_in(Path::new(ROOT).join("config")).unwrap();
        let components: Vec<String> = component.iter().map(|c| format!("../components/{c}")).collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": ["../default"], "components": components,
        });
        std::fs::write(dir.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
        let output = Command::new(tools().join("kubectl")).arg("kustomize").arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut kustomized = objects(&String::from_utf8_lossy(&output.stdout));
        // helm creates the namespace by a flag, and keeps CRDs by an annotation; its test is a hook.
        assert!(kustomized.remove("Namespace elava").is_some());
        let settings = [&settings[..], &["--set", "crds.keep=false"]].concat();
        let mut charted = objects(&rendered(&settings).unwrap());
        assert!(charted.remove("Pod elava-test").is_some());
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&kustomized), names(&charted), "{component:?}");
        for (name, object) in &charted {
            assert_eq!(&kustomized[name], object, "{component:?}: {name}");
        }
    }
}
