//! The operator's own binary, running as the chart's ServiceAccount.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::cluster::Cluster;
use super::process::Process;
use super::{eventually, free_port};

/// The allowed roles of this world, in the format of --allow-role; without it every namespace may use every role.
pub const ALLOW_ROLE: &str = "ALLOW_ROLE";

pub struct Operator {
    dir: PathBuf,
    env: Vec<(&'static str, String)>,
    port: u16,
    pub process: Process,
}

/// The binary that cargo built next to this one.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let profile = own.parent().and_then(Path::parent).expect("target/<profile>/{deps,examples}");
    let binary = profile.join("elava");
    assert!(binary.exists(), "{} is not built: cargo build --bin elava", binary.display());
    binary
}

impl Operator {
    /// Starts it with this environment, in addition to the operator's own credentials.
    pub async fn start(dir: &Path, cluster: &Cluster, mut env: Vec<(&'static str, String)>) -> Self {
        let dir = dir.join("operator");
        std::fs::create_dir_all(&dir).expect("the test's folder is writable");
        let kubeconfig = cluster.kubeconfig_of("elava", "elava");
        let port = free_port();
        env.extend([
            ("KUBECONFIG", kubeconfig.display().to_string()),
            // The pod's own credentials, which may assume the roles.
            ("AWS_ACCESS_KEY_ID", "operator".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "operator".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("NO_COLOR", "1".to_owned()),
        ]);
        // Tests wait for seconds, not for minutes.
        if !env.iter().any(|(key, _)| *key == "ELAVA_MIN_INTERVAL") {
            env.push(("ELAVA_MIN_INTERVAL", "100ms".to_owned()));
        }
        let process = spawn(&dir, port, &env);
        let operator = Self { dir, env, port, process };
        operator.wait_until_ready().await;
        operator
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("elava.redb")
    }

    /// The address of /readyz and /metrics.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts it with the same store.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.dir, self.port, &self.env);
        self.wait_until_ready().await;
    }

    /// Restarts it with one environment variable changed.
    pub async fn restart_with(&mut self, key: &'static str, value: &str) {
        self.env.retain(|(name, _)| *name != key);
        self.env.push((key, value.to_owned()));
        self.restart().await;
    }

    async fn wait_until_ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        let ready = || async {
            match reqwest::get(&url).await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                other => Err(format!("{other:?}\n{}", self.process.tail())),
            }
        };
        eventually("the operator is ready", ready).await;
    }

    /// Runs a query on the command line; the running operator answers it.
    pub fn query(&self, args: &[&str]) -> Output {
        Command::new(binary()).args(args).env("ELAVA_STORE", self.store()).output().expect("elava runs")
    }

    /// The answer to a query, as JSON.
    pub fn answer(&self, args: &[&str]) -> serde_json::Value {
        let output = self.query(&[args, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "elava {}: {error}", args.join(" "));
        serde_json::from_slice(&output.stdout).expect("the answer is JSON")
    }
}

fn spawn(dir: &Path, port: u16, env: &[(&str, String)]) -> Process {
    let store = dir.join("elava.redb");
    Process::start(
        dir,
        "operator",
        &binary(),
        [
            "run".to_owned(),
            format!("--store={}", store.display()),
            format!("--listen=127.0.0.1:{port}"),
            "--service-account=elava:elava".to_owned(),
            "--credentials-role=elava-credentials".to_owned(),
            // Unless a test sets another value.
            format!(
                "--allow-role={}",
                env.iter().find(|(key, _)| *key == ALLOW_ROLE).map_or("*=*", |(_, role)| role)
            ),
            "--log-format=text".to_owned(),
            "--log=info,elava=debug,aws_config=error,kube_client=off".to_owned(),
        ],
        env,
    )
}
