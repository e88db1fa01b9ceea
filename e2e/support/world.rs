//! All components together: the start of a test of the whole system.

use std::ops::Deref;

use elava::api::ResourceFinding;
use kube::ResourceExt;

use super::aws::{Emulator, Hands};
use super::cluster::{Cluster, chart, serve_from_loopback};
use super::desk::Desk;
use super::free_port;
use super::kubectl::Kubectl;
use super::operator::Operator;
use super::proxy::Proxy;

pub const IRELAND: &str = "eu-west-1";
pub const VIRGINIA: &str = "us-east-1";

pub struct World {
    // In drop order: clients before servers.
    pub operator: Operator,
    pub proxy: Proxy,
    pub aws: Emulator,
    pub desk: Desk,
    pub cluster: Cluster,
    pub dir: tempfile::TempDir,
}

impl Deref for World {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl World {
    /// Starts a cluster with the chart installed, and the operator running as its ServiceAccount.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// Starts the operator with more environment variables.
    pub async fn start_with(env: Vec<(&'static str, String)>) -> Self {
        Self::start_as(env, &[], &[]).await
    }

    /// Starts an operator that watches only these namespaces.
    pub async fn start_in(namespaces: &[&str]) -> Self {
        let watched = namespaces.join(",");
        let env = vec![("ELAVA_WATCH_NAMESPACE", watched.clone())];
        let setting = format!("watchNamespaces={{{watched}}}");
        Self::start_as(env, namespaces, &[&setting]).await
    }

    /// Starts with the aggregated API.
    pub async fn start_with_query_api() -> Self {
        Self::start_as(Vec::new(), &[], &["queryAPI.enabled=true"]).await
    }

    /// Installs the chart with these settings, in a cluster with these namespaces.
    async fn start_as(mut env: Vec<(&'static str, String)>, namespaces: &[&str], settings: &[&str]) -> Self {
        let dir =
            tempfile::Builder::new().prefix("elava-").tempdir().expect("there is a folder for temporary files");
        let (cluster, aws) = tokio::join!(Cluster::start(dir.path()), Emulator::start(dir.path()));
        let proxy = Proxy::start(&aws.url);
        let chart = chart().display().to_string();
        for namespace in namespaces {
            cluster.run(&["create", "namespace", namespace]);
        }
        let mut install = vec!["install", "elava", &chart, "--namespace", "elava", "--create-namespace"];
        install.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        cluster.helm(&install);
        if settings.contains(&"queryAPI.enabled=true") {
            let port = free_port();
            serve_from_loopback(&cluster, port);
            env.push(("ELAVA_QUERY_API_LISTEN", format!("127.0.0.1:{port}")));
        }
        let desk = Desk {
            kubectl: Kubectl::clone(&cluster),
            client: cluster.client().await,
            endpoint: proxy.url.clone(),
        };
        env.push(("ELAVA_ALLOW_ENDPOINT", proxy.url.clone()));
        let operator = Operator::start(dir.path(), &cluster, env).await;
        Self { operator, proxy, aws, desk, cluster, dir }
    }

    pub async fn hands(&self, account: &str, region: &str) -> Hands {
        self.aws.hands(account, region).await
    }

    /// The ids of the live resources of a type in an account, from the store.
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

pub fn name_of(finding: &ResourceFinding) -> String {
    finding.name_any()
}
