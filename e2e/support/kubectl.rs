//! kubectl and helm, as a cluster administrator runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kube::config::{KubeConfigOptions, Kubeconfig};

use super::tools;

#[derive(Clone)]
pub struct Kubectl {
    /// For written and cached files.
    dir: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn new(dir: &Path, kubeconfig: &Path) -> Self {
        Self { dir: dir.to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub async fn client(&self) -> kube::Client {
        client_of(&self.kubeconfig).await
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_as(&self.kubeconfig, args)
    }

    /// Runs kubectl with another kubeconfig than the admin's.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(tools().join("kubectl"));
        // Clusters must not share kubectl's discovery cache.
        command.arg("--cache-dir").arg(self.dir.join("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig).args(args).output().expect("kubectl runs")
    }

    /// Runs a kubectl command that must succeed, and returns its output.
    pub fn run(&self, args: &[&str]) -> String {
        reported(&format!("kubectl {}", args.join(" ")), &self.kubectl(args))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Applies manifests, and returns what the API server reports.
    pub fn apply(&self, manifest: &str) -> Result<String, String> {
        let path = self.dir.join(format!("{}.yaml", blake3::hash(manifest.as_bytes()).to_hex()));
        std::fs::write(&path, manifest).expect("the test's folder is writable");
        let output = self.kubectl(&["apply", "--server-side", "-f", &path.display().to_string()]);
        reported("kubectl apply", &output)
    }

    pub fn helm(&self, args: &[&str]) -> String {
        self.try_helm(args).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_helm(&self, args: &[&str]) -> Result<String, String> {
        let home = self.dir.join("helm");
        let output = Command::new(tools().join("helm"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home)
            .args(args)
            .output()
            .expect("helm runs");
        reported(&format!("helm {}", args.join(" ")), &output)
    }
}

/// The output of a command; its errors if it failed.
fn reported(what: &str, output: &Output) -> Result<String, String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{what}: {out}{err}")) }
}

/// A client for the user of a kubeconfig.
pub async fn client_of(kubeconfig: &Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("written at the start");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.expect("the kubeconfig is ours")).expect("the keys are ours")
}
