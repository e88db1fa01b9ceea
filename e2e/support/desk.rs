//! Operations of a user or a test on CloudScans and findings through an API server, wherever it runs.

use std::collections::BTreeMap;

use elava::api::{CloudScan, FindingState, RECONCILE_REQUESTED_AT, ResourceFinding};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::eventually;
use super::kubectl::Kubectl;
use super::world::{IRELAND, VIRGINIA};

pub struct Desk {
    pub kubectl: Kubectl,
    pub client: kube::Client,
    /// The cloud's endpoint for the operator.
    pub endpoint: String,
}

impl Desk {
    /// The spec of a CloudScan of accounts by role, in Ireland and Virginia, that is scanned on request (the interval
    /// is long: a test decides when a scan is due).
    pub fn scan_spec(&self, accounts: &[&str]) -> serde_json::Value {
        let account = |id: &&str| json!({"id": id, "roleARN": format!("arn:aws:iam::{id}:role/elava")});
        json!({
            "interval": "1h",
            "provider": {"aws": {
                "endpointURL": self.endpoint,
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
        self.kubectl.apply(&list.to_string()).expect("the manifest is good");
    }

    pub async fn scan(&self, namespace: &str, name: &str) -> CloudScan {
        let api: Api<CloudScan> = Api::namespaced(self.client.clone(), namespace);
        api.get(name).await.expect("the CloudScan is there")
    }

    /// Requests a scan now.
    pub async fn request_scan(&self, namespace: &str, name: &str) -> String {
        let api: Api<CloudScan> = Api::namespaced(self.client.clone(), namespace);
        let request = format!("{:?}", std::time::SystemTime::now());
        let patch = json!({"metadata": {"annotations": {RECONCILE_REQUESTED_AT: request}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("it is annotated");
        request
    }

    /// Requests a scan now, and waits until it is done and reported.
    pub async fn scan_now(&self, namespace: &str, name: &str) {
        let request = self.request_scan(namespace, name).await;
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

    /// The number of patches of CloudScan statuses that the API server has served.
    pub fn status_patches(&self) -> u64 {
        let metrics = self.kubectl.run(&["get", "--raw=/metrics"]);
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

    /// Waits until a condition has this status. Returns its reason and message.
    pub async fn wait_for_condition(
        &self,
        namespace: &str,
        name: &str,
        type_: &str,
        status: &str,
    ) -> (String, String) {
        let scan_now = || async {
            match self.condition(namespace, name, type_).await {
                Some((is, reason, message)) if is == status => Ok((reason, message)),
                other => Err(format!("{other:?}")),
            }
        };
        eventually(&format!("{namespace}/{name} is {type_}={status}"), scan_now).await
    }

    pub async fn findings(&self, namespace: &str) -> Vec<ResourceFinding> {
        let api: Api<ResourceFinding> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.expect("findings can be listed").items
    }

    /// `kind id` of the findings in one state, sorted.
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

    /// Waits until exactly these findings are open.
    pub async fn wait_for_open(&self, namespace: &str, desired: &[String]) {
        let mut desired = desired.to_vec();
        desired.sort();
        let scan_now = || async {
            let open = self.open_findings(namespace).await;
            if open == desired { Ok(()) } else { Err(format!("open are {open:?}")) }
        };
        eventually(&format!("open are exactly {desired:?}"), scan_now).await;
    }

    pub async fn events(&self, namespace: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.expect("events can be listed").items
    }

    /// Waits for events of findings: an event is written after its finding.
    pub async fn wait_for_finding_events(
        &self,
        namespace: &str,
        what: &str,
        is_published: impl Fn(&BTreeMap<String, usize>) -> bool,
    ) {
        let reported = || async {
            let events = self.finding_events(namespace).await;
            if is_published(&events) { Ok(()) } else { Err(format!("{events:?}")) }
        };
        eventually(what, reported).await;
    }

    /// The number of events about findings, by reason.
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
}

/// The types that most tests scan; tests/types.rs scans all types.
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

/// Types of which every account has resources by default, without tags.
pub const BUILT_IN: [&str; 6] = [
    "AWS::EC2::InternetGateway",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet",
    "AWS::EC2::VPC",
];
