//! All parts together: what a test of the whole system starts with.

use std::collections::BTreeMap;

use elava::api::{CloudScan, FindingState, RECONCILE_REQUESTED_AT, ResourceFinding};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::aws::{Emulator, Hands};
use super::cluster::{Cluster, chart, serve_from_loopback};
use super::operator::Operator;
use super::proxy::Proxy;
use super::{eventually, free_port};

pub const IRELAND: &str = "eu-west-1";
pub const VIRGINIA: &str = "us-east-1";

pub struct World {
    // In the order in which they must go: who asks goes before who answers.
    pub operator: Operator,
    pub proxy: Proxy,
    pub aws: Emulator,
    pub client: kube::Client,
    pub cluster: Cluster,
    pub dir: tempfile::TempDir,
}

impl World {
    /// A cluster with the chart in it, and the operator running as its ServiceAccount.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// With more environment for the operator.
    pub async fn start_with(env: Vec<(&'static str, String)>) -> Self {
        Self::start_as(env, false).await
    }

    /// With the aggregated API.
    pub async fn start_with_query_api() -> Self {
        Self::start_as(Vec::new(), true).await
    }

    async fn start_as(mut env: Vec<(&'static str, String)>, has_query_api: bool) -> Self {
        let dir =
            tempfile::Builder::new().prefix("elava-").tempdir().expect("there is a folder for temporary files");
        let (cluster, aws) = tokio::join!(Cluster::start(dir.path()), Emulator::start(dir.path()));
        let proxy = Proxy::start(&aws.url).await;
        let chart = chart().display().to_string();
        let query_api = format!("queryAPI.enabled={has_query_api}");
        let namespace = ["--namespace", "elava", "--create-namespace", "--set", &query_api];
        cluster.helm(&[&["install", "elava", &chart], &namespace[..]].concat());
        if has_query_api {
            let port = free_port();
            serve_from_loopback(&cluster, port);
            env.push(("ELAVA_QUERY_API_LISTEN", format!("127.0.0.1:{port}")));
        }
        let client = cluster.client().await;
        env.push(("ELAVA_ALLOW_ENDPOINT", proxy.url.clone()));
        let operator = Operator::start(dir.path(), &cluster, env).await;
        Self { operator, proxy, aws, client, cluster, dir }
    }

    pub async fn hands(&self, account: &str, region: &str) -> Hands {
        self.aws.hands(account, region).await
    }

    /// A CloudScan over accounts by role, in Ireland and Virginia, looked at when asked to (the interval
    /// is long: a test decides when a look is due).
    pub fn scan_spec(&self, accounts: &[&str]) -> serde_json::Value {
        let account = |id: &&str| json!({"id": id, "roleARN": format!("arn:aws:iam::{id}:role/elava")});
        json!({
            "interval": "1h",
            "provider": {"aws": {
                "endpointURL": self.proxy.url,
                "accounts": accounts.iter().map(account).collect::<Vec<_>>(),
                "regions": {"include": [IRELAND, VIRGINIA]},
            }},
            "resourceTypes": {"include": COMMON},
            "tagPolicy": {"exemptTypes": BUILT_IN},
        })
    }

    pub fn apply_scan(&self, namespace: &str, name: &str, spec: &serde_json::Value) {
        let namespaced = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let scan = json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespaced, scan]});
        self.cluster.apply(&list.to_string()).expect("the manifest is good");
    }

    pub async fn scan(&self, namespace: &str, name: &str) -> CloudScan {
        let api: Api<CloudScan> = Api::namespaced(self.client.clone(), namespace);
        api.get(name).await.expect("the CloudScan is there")
    }

    /// Asks for a look now.
    pub async fn ask_for_a_look(&self, namespace: &str, name: &str) -> String {
        let api: Api<CloudScan> = Api::namespaced(self.client.clone(), namespace);
        let request = format!("{:?}", std::time::SystemTime::now());
        let patch = json!({"metadata": {"annotations": {RECONCILE_REQUESTED_AT: request}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is annotated");
        request
    }

    /// Asks for a look now, and waits until it was had and told.
    pub async fn look(&self, namespace: &str, name: &str) {
        let request = self.ask_for_a_look(namespace, name).await;
        let handled = || async {
            let status = self.scan(namespace, name).await.status.unwrap_or_default();
            if status.last_handled_reconcile_at == Some(request.clone()) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        };
        eventually("a look that was asked for was had", handled).await;
    }

    pub async fn revision_of_status(&self, namespace: &str, name: &str) -> Option<String> {
        self.scan(namespace, name).await.metadata.resource_version
    }

    /// How many patches of a CloudScan's status the API server has served.
    pub fn status_patches(&self) -> u64 {
        let metrics = self.cluster.run(&["get", "--raw=/metrics"]);
        let is_it = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && line.contains("resource=\"cloudscans\"")
                && line.contains("subresource=\"status\"")
                && (line.contains("verb=\"APPLY\"") || line.contains("verb=\"PATCH\""))
        };
        metrics.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    pub async fn condition(&self, namespace: &str, name: &str, type_: &str) -> Option<(String, String, String)> {
        let status = self.scan(namespace, name).await.status?;
        let condition = status.conditions.into_iter().find(|c| c.type_ == type_)?;
        Some((condition.status, condition.reason, condition.message))
    }

    /// Waits until a condition has this status and gives its reason and message.
    pub async fn wait_for_condition(
        &self,
        namespace: &str,
        name: &str,
        type_: &str,
        status: &str,
    ) -> (String, String) {
        let look = || async {
            match self.condition(namespace, name, type_).await {
                Some((is, reason, message)) if is == status => Ok((reason, message)),
                other => Err(format!("{other:?}")),
            }
        };
        eventually(&format!("{namespace}/{name} is {type_}={status}"), look).await
    }

    pub async fn findings(&self, namespace: &str) -> Vec<ResourceFinding> {
        let api: Api<ResourceFinding> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.expect("findings can be listed").items
    }

    /// `kind id` of those in one state, sorted.
    pub async fn findings_in(&self, namespace: &str, state: FindingState) -> Vec<String> {
        let findings = self.findings(namespace).await;
        let statuses = findings.into_iter().filter_map(|f| f.status);
        let mut names: Vec<String> =
            statuses.filter(|s| s.state == state).map(|s| format!("{} {}", s.kind, s.id)).collect();
        names.sort();
        names
    }

    pub async fn open_findings(&self, namespace: &str) -> Vec<String> {
        self.findings_in(namespace, FindingState::Open).await
    }

    /// Waits until exactly these are open.
    pub async fn wait_for_open(&self, namespace: &str, wanted: &[String]) {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let look = || async {
            let open = self.open_findings(namespace).await;
            if open == wanted { Ok(()) } else { Err(format!("open are {open:?}")) }
        };
        eventually(&format!("open are exactly {wanted:?}"), look).await;
    }

    pub async fn events(&self, namespace: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.expect("events can be listed").items
    }

    /// The event of a finding is written after the finding.
    pub async fn wait_for_finding_events(
        &self,
        namespace: &str,
        what: &str,
        is_told: impl Fn(&BTreeMap<String, usize>) -> bool,
    ) {
        let told = || async {
            let events = self.finding_events(namespace).await;
            if is_told(&events) { Ok(()) } else { Err(format!("{events:?}")) }
        };
        eventually(what, told).await;
    }

    /// How many events of each reason regard findings.
    pub async fn finding_events(&self, namespace: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self.events(namespace).await {
            let about = event.regarding.as_ref().and_then(|r| r.kind.as_deref());
            if about == Some("ResourceFinding") {
                *counts.entry(event.reason.clone().unwrap_or_default()).or_default() += 1;
            }
        }
        counts
    }

    /// The ids that the store holds of a type in an account, as alive.
    pub fn ids(&self, account: &str, resource_type: &str) -> Vec<String> {
        let answer = self.operator.answer(&["get", "--account", account, "--type", resource_type]);
        let mut ids: Vec<String> = answer["resources"]
            .as_array()
            .expect("resources is a list")
            .iter()
            .map(|r| r["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        ids.sort();
        ids
    }
}

/// What most tests look at: tests/types.rs looks at all.
pub const COMMON: [&str; 16] = [
    "AWS::EC2::EIP",
    "AWS::EC2::Image",
    "AWS::EC2::Instance",
    "AWS::EC2::InternetGateway",
    "AWS::EC2::KeyPair",
    "AWS::EC2::LaunchTemplate",
    "AWS::EC2::NatGateway",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::Snapshot",
    "AWS::EC2::Subnet",
    "AWS::EC2::VPC",
    "AWS::EC2::Volume",
    "AWS::RDS::DBInstance",
    "AWS::S3::Bucket",
];

/// What every account has by itself, without tags.
pub const BUILT_IN: [&str; 6] = [
    "AWS::EC2::InternetGateway",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet",
    "AWS::EC2::VPC",
];

pub fn name_of(finding: &ResourceFinding) -> String {
    finding.name_any()
}
