//! Valid and invalid manifests: the API server's verdict, and that `elava scan -f` returns the same.

use elava::api::validate::{ManifestError, manifest};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;

const ID: &str = "111122223333";
const ROLE: &str = "arn:aws:iam::111122223333:role/elava";

fn aws(aws: Value) -> Value {
    json!({"provider": {"aws": aws}})
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = aws(json!({}));
    spec[field] = value;
    spec
}

fn account(account: Value) -> Value {
    aws(json!({"accounts": [account]}))
}

fn organization(organization: Value) -> Value {
    aws(json!({"organization": organization}))
}

fn good() -> Vec<Value> {
    vec![
        organization(json!({"roleName": "elava"})),
        organization(json!({
            "roleName": "audit/elava", "externalID": "x-1", "listRoleARN": ROLE,
            "units": ["r-ab12", "ou-ab12-cdef3456"], "excludeAccounts": [ID],
        })),
        aws(json!({})),
        account(json!({"id": ID})),
        account(json!({"id": ID, "roleARN": ROLE, "externalID": "x-1"})),
        aws(
            json!({"accounts": [{"id": ID}, {"id": "444455556666", "roleARN": "arn:aws-us-gov:iam::444455556666:role/a/b"}]}),
        ),
        aws(json!({"regions": {"include": ["eu-west-1", "us-gov-west-1"], "exclude": ["ap-southeast-2"]}})),
        aws(json!({"endpointURL": "http://127.0.0.1:5000", "credentialsSecretRef": {"name": "keys"}})),
        with("interval", json!("1h30m")),
        with("interval", json!("1500ms")),
        with("interval", json!(null)),
        aws(json!({"endpointURL": null, "regions": {"include": null}})),
        with("suspend", json!(true)),
        with("resourceTypes", json!({"include": ["AWS::EC2::Volume"], "exclude": ["AWS::S3::Bucket"]})),
        with(
            "tagPolicy",
            json!({"required": [{"key": "owner", "aliases": ["Owner"], "pattern": "team-.*"}], "gracePeriod": "1h"}),
        ),
        with("disappearance", json!({"massLoss": {"percent": 50, "minimum": 1}, "keep": "720h"})),
        with("findings", json!({"maxOpen": 10, "keepResolved": "0s"})),
    ]
}

/// An invalid spec, the path of the field, and the error of each side: the same text for a rule, different texts for
/// the schema.
struct Bad {
    spec: Value,
    path: &'static str,
    server: &'static str,
    local: &'static str,
}

fn rule(spec: Value, path: &'static str, message: &'static str) -> Bad {
    Bad { spec, path, server: message, local: message }
}

fn shape(spec: Value, path: &'static str, server: &'static str, local: &'static str) -> Bad {
    Bad { spec, path, server, local }
}

#[allow(clippy::too_many_lines)] // a table
fn bad() -> Vec<Bad> {
    let duration = "a duration is written as whole numbers with units ms, s, m or h";
    let region = "a region is written as AWS does, such as eu-west-1";
    let kind = "a resource type is written as CloudFormation does";
    vec![
        rule(json!({"provider": {}}), "spec.provider", "name the cloud to scan: set spec.provider.aws"),
        rule(with("interval", json!("5 minutes")), "spec.interval", duration),
        rule(with("interval", json!("1.5h")), "spec.interval", duration),
        rule(with("interval", json!("10ms")), "spec.interval", "an interval is at least 1s"),
        rule(
            account(json!({"id": "12345"})),
            "spec.provider.aws.accounts[0].id",
            "an account id is twelve digits",
        ),
        rule(
            account(json!({"id": ID, "roleARN": "elava"})),
            "spec.provider.aws.accounts[0].roleARN",
            "roleARN is the ARN of an IAM role, such as arn:aws:iam::111122223333:role/elava",
        ),
        rule(
            account(json!({"id": ID, "roleARN": "arn:aws:iam::444455556666:role/elava"})),
            "spec.provider.aws.accounts[0]",
            "roleARN is a role of another account than id",
        ),
        rule(
            account(json!({"id": ID, "externalID": "x-1"})),
            "spec.provider.aws.accounts[0]",
            "externalID is only used to assume a role: set roleARN too",
        ),
        rule(
            account(json!({"id": ID, "roleARN": ROLE, "externalID": "a b"})),
            "spec.provider.aws.accounts[0].externalID",
            "an external id has 2 to 1224 letters",
        ),
        rule(
            aws(json!({"accounts": [{"id": ID}, {"id": "444455556666"}]})),
            "spec.provider.aws.accounts",
            "only one account can do without a roleARN",
        ),
        rule(
            aws(json!({"accounts": [{"id": ID}], "organization": {"roleName": "elava"}})),
            "spec.provider.aws",
            "name the accounts, or the organization that they are listed from: not both",
        ),
        rule(
            organization(json!({"roleName": ROLE})),
            "spec.provider.aws.organization.roleName",
            "roleName is the name of an IAM role, such as elava; not its ARN",
        ),
        rule(
            organization(json!({"roleName": "elava", "units": ["engineering"]})),
            "spec.provider.aws.organization.units",
            "a unit is written as AWS does, such as ou-ab12-cdef3456",
        ),
        rule(
            organization(json!({"roleName": "elava", "excludeAccounts": ["1"]})),
            "spec.provider.aws.organization.excludeAccounts",
            "an account id is twelve digits",
        ),
        rule(aws(json!({"regions": {"include": ["eu-west-1a"]}})), "spec.provider.aws.regions.include", region),
        rule(aws(json!({"regions": {"exclude": ["us-*"]}})), "spec.provider.aws.regions.exclude", region),
        rule(
            aws(json!({"regions": {"include": ["eu-west-1"], "exclude": ["eu-west-1"]}})),
            "spec.provider.aws.regions",
            "a region can't be both in include and in exclude",
        ),
        rule(
            aws(json!({"endpointURL": "localhost:5000"})),
            "spec.provider.aws.endpointURL",
            "endpointURL is a URL without a path",
        ),
        rule(with("resourceTypes", json!({"include": ["ec2:instance"]})), "spec.resourceTypes.include", kind),
        rule(with("tagPolicy", json!({"exemptTypes": ["Instance"]})), "spec.tagPolicy.exemptTypes", kind),
        rule(with("tagPolicy", json!({"gracePeriod": "a while"})), "spec.tagPolicy.gracePeriod", duration),
        rule(
            with("tagPolicy", json!({"required": [{"key": "aws:createdBy"}]})),
            "spec.tagPolicy.required[0].key",
            "keys that begin with aws: can't be set by users",
        ),
        rule(with("disappearance", json!({"keep": "a week"})), "spec.disappearance.keep", duration),
        rule(with("findings", json!({"keepResolved": "-1h"})), "spec.findings.keepResolved", duration),
        shape(json!({}), "spec.provider", "Required value", "Required value"),
        shape(account(json!({})), "spec.provider.aws.accounts[0].id", "Required value", "Required value"),
        shape(
            account(json!({"id": 111_122_223_333_u64})),
            "spec.provider.aws.accounts[0].id",
            "must be of type string",
            "not of type \"string\"",
        ),
        shape(with("suspend", json!("yes")), "spec.suspend", "must be of type boolean", "not of type \"boolean\""),
        shape(with("intervall", json!("5m")), "spec.intervall", "unknown field", "unknown field"),
        shape(aws(json!({"region": "eu-west-1"})), "spec.provider.aws.region", "unknown field", "unknown field"),
        shape(
            with("findings", json!({"maxOpen": 0})),
            "spec.findings.maxOpen",
            "greater than or equal to 1",
            "less than the minimum of 1",
        ),
        shape(
            with("disappearance", json!({"massLoss": {"percent": 101}})),
            "spec.disappearance.massLoss.percent",
            "less than or equal to 100",
            "greater than the maximum of 100",
        ),
        shape(
            account(json!({"id": "1234567890123"})),
            "spec.provider.aws.accounts[0].id",
            "may not be more than 12",
            "longer than 12",
        ),
        shape(
            aws(json!({"accounts": [{"id": ID, "roleARN": ROLE}, {"id": ID, "roleARN": ROLE}]})),
            "spec.provider.aws.accounts[1]",
            "Duplicate value",
            "Duplicate value",
        ),
        shape(
            aws(json!({"regions": {"include": ["eu-west-1", "eu-west-1"]}})),
            "spec.provider.aws.regions.include[1]",
            "Duplicate value",
            "Duplicate value",
        ),
    ]
}

fn cloudscan(spec: &Value) -> String {
    json!({
        "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
        "metadata": {"name": "x", "namespace": "default"}, "spec": spec,
    })
    .to_string()
}

fn create(cluster: &Cluster, dir: &std::path::Path, text: &str) -> Result<(), String> {
    let path = dir.join("manifest.yaml");
    std::fs::write(&path, text).expect("the test's folder is writable");
    let output = cluster.kubectl(&["create", "-f", &path.display().to_string()]);
    if output.status.success() {
        cluster.run(&["delete", "cloudscan", "x"]);
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_and_scan_refuse_the_same_manifests_with_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    cluster.run(&["apply", "--server-side", "-k", crds]);
    cluster.run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    for spec in good() {
        let text = cloudscan(&spec);
        assert_eq!(create(&cluster, dir.path(), &text), Ok(()), "{spec}");
        if let Err(error) = manifest(&text) {
            panic!("{spec}: {error}");
        }
    }
    for Bad { spec, path, server, local } in bad() {
        let text = cloudscan(&spec);
        let reported = create(&cluster, dir.path(), &text).expect_err(&format!("the API server takes {spec}"));
        assert!(
            reported.contains(path) && reported.contains(server),
            "{spec}\nwanted {path}: {server}\nthe API server says {reported}"
        );
        match manifest(&text) {
            Err(ManifestError::Invalid(errors)) => {
                let same = |e: &elava::api::SpecError| e.path == path && e.message.contains(local);
                assert!(errors.iter().any(same), "{spec}\nwanted {path}: {local}\nscan says {errors:?}");
            }
            other => panic!("{spec}: scan says {other:?}"),
        }
    }
}

#[test]
fn a_file_is_read_as_kubectl_reads_it_and_must_hold_one_cloudscan() {
    let one = cloudscan(&aws(json!({})));
    let namespace = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#;
    assert!(manifest(&format!("---\n{namespace}\n---\n{one}\n---\n")).is_ok());
    for (text, word) in [
        (String::new(), "nothing"),
        (namespace.to_owned(), "v1 Namespace"),
        (format!("{one}\n---\n{one}"), "2 CloudScans"),
        ("a: [".to_owned(), "not YAML"),
    ] {
        let reported = manifest(&text).unwrap_err().to_string();
        assert!(reported.contains(word), "{reported}");
    }
}
