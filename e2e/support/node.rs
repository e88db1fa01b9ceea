//! A real node with real pods (`e2e/node/cluster.sh`), and the chart installed on it as a user installs it.

use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::aws::Emulator;
use super::cluster::chart;
use super::desk::Desk;
use super::kubectl::Kubectl;
use super::operator::binary;
use super::process::{Process, tail};
use super::proxy::Proxy;
use super::{DEADLINE, eventually, tools};

/// The address at which pods reach this machine.
const HOST: [u8; 4] = [10, 87, 0, 1];
/// The user of the image.
const USER: u32 = 65532;
pub const NAMESPACE: &str = "elava";
pub const POD: &str = "elava-0";
/// The claims that the chart creates.
pub const STORE_CLAIM: &str = "store-elava-0";
pub const BACKUPS_CLAIM: &str = "elava-backups";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/node/cluster.sh")
}

/// The reason why this machine can't run a node; None if it can.
pub fn lacks() -> Option<String> {
    if std::env::var("ELAVA_NODE").is_ok_and(|node| node == "0") {
        return Some("ELAVA_NODE=0 says so".to_owned());
    }
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        return Some("namespaces and cgroups take root".to_owned());
    }
    if !tools().join("node").exists() {
        return Some("its parts are not built: e2e/tools/install.sh says why".to_owned());
    }
    let probe = Path::new("/sys/fs/cgroup/memory/elava-probe");
    let made = std::fs::create_dir(probe);
    let _ = std::fs::remove_dir(probe);
    made.err().map(|error| format!("cgroups of version 1 can't be made in /sys/fs/cgroup: {error}"))
}

pub struct Node {
    state: PathBuf,
    kubectl: Kubectl,
    // In drop order.
    process: Process,
    /// The node's names and addresses are global to the machine: only one node can run at a time.
    _lock: File,
}

impl Deref for Node {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Node {
    pub async fn start(dir: &Path) -> Self {
        let lock = File::create("/tmp/elava-node.lock").expect("/tmp is writable");
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("it waits");
        let lock = lock.expect("a file can be locked");
        let state = dir.join("node");
        // Pods run as another user, and need access to their volumes below this folder.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).expect("the test's folder is ours");
        let env = environment(&state);
        let process = Process::start(dir, "node", &script(), ["up"], &env);
        let kubectl = Kubectl::new(dir, &state.join("pki/admin.kubeconfig"));
        let mut node = Self { state, kubectl, process, _lock: lock };
        let started = Instant::now();
        while !node.state.join("up").exists() {
            let running = node.process.ended().is_none();
            let log = std::fs::read_to_string(node.state.join("logs/init.log")).unwrap_or_default();
            assert!(running && started.elapsed() < DEADLINE, "the node is not up: {log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        node
    }

    fn script(&self, args: &[&str]) -> Output {
        let env = environment(&self.state);
        Command::new(script()).args(args).envs(env).output().expect("the script runs")
    }

    /// Runs a command in the node's namespaces, which must succeed.
    pub fn exec(&self, args: &[&str]) -> String {
        let output = self.script(&[&["exec"], args].concat());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {out}{err}", args.join(" "));
        out.into_owned()
    }

    /// Sends SIGKILL to etcd, apiserver, kcm, scheduler, kubelet, containerd, proxy or dns.
    pub fn kill(&self, component: &str) {
        self.script(&["kill", component]);
    }

    pub fn restart(&self, component: &str) {
        let output = self.script(&["start", component]);
        assert!(output.status.success(), "{component}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub async fn until_the_api_server_answers(&self) {
        let ready = || async {
            let output = self.kubectl(&["get", "--raw=/readyz"]);
            output
                .status
                .success()
                .then_some(())
                .ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        eventually("the API server answers", ready).await;
    }

    /// Waits until the controllers, the scheduler and the kubelet are connected again. After an outage each retries
    /// within 30 to 60 s (client-go's reflectors), and once more if the API server was still starting: this is not the
    /// operator's time.
    pub async fn until_pods_start(&self) {
        let labels = json!({"app": "canary"});
        let canary = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "canary", "namespace": "default"},
            "spec": {
                "serviceName": "canary", "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                        {"name": "pause", "image": "localhost/pause:1", "imagePullPolicy": "Never"},
                    ]},
                },
            },
        });
        self.apply(&canary.to_string()).expect("the canary is good");
        let ready = || async {
            let path = "-o=jsonpath={.status.readyReplicas}";
            let output = self.kubectl(&["get", "statefulset/canary", "-n", "default", path]);
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if out == "1" { Ok(()) } else { Err(format!("{out}{err}")) }
        };
        eventually("a pod is made, scheduled and started", ready).await;
        self.run(&["delete", "statefulset/canary", "-n", "default"]);
    }

    /// Imports the image into containerd, where the kubelet finds it.
    pub fn load(&self, image: &Path) {
        let output = self.script(&["ctr", "images", "import", "--local", &image.display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates a volume of the class `local` for that claim, in a folder of this machine. The claim is named, because
    /// it could be bound to any free volume.
    pub fn volume(&self, name: &str, claim: &str) -> PathBuf {
        let path = self.state.join("volumes").join(name);
        std::fs::create_dir_all(&path).expect("the test's folder is writable");
        let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
                "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
            },
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local",
                    "local": {"path": path},
                    "claimRef": {"namespace": NAMESPACE, "name": claim},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]},
                    ]}]}},
                },
            },
        ]});
        self.apply(&manifest.to_string()).expect("the volume is good");
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.state.join("logs");
            for component in ["init", "apiserver", "kcm", "scheduler", "kubelet", "containerd"] {
                eprintln!("{}", tail(component, &logs.join(format!("{component}.log"))));
            }
            if let Some(kept) = std::env::var_os("ELAVA_KEEP_LOGS") {
                let _ = Command::new("cp").arg("-r").arg(logs).arg(kept).status();
            }
        }
        self.script(&["down"]);
    }
}

fn environment(state: &Path) -> [(&'static str, String); 2] {
    [("ELAVA_TOOLS", tools().display().to_string()), ("STATE", state.display().to_string())]
}

/// The image of the binary that cargo built, created once for all tests of a run.
pub fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let path = binary().with_file_name("elava-image.tar");
        build_image(&path, &[]);
        path
    })
}

/// Builds the image of that binary, and returns the output of the script.
pub fn build_image(path: &Path, more: &[&str]) -> String {
    let debs = tools().join("image-packages");
    std::fs::create_dir_all(&debs).expect("the cache is writable");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("image/build.py"))
        .arg(binary())
        .args(["--name", "localhost/elava:test", "--offered", "--compression", "1", "--output"])
        .arg(path)
        .arg("--debs")
        .arg(debs)
        .args(more)
        .output()
        .expect("python3 runs");
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "image/build.py: {reported}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The chart on a node, with a cloud that its pod can reach.
pub struct Installation {
    // In drop order.
    pub proxy: Proxy,
    pub aws: Emulator,
    pub desk: Desk,
    pub node: Node,
    pub dir: tempfile::TempDir,
    pub values: PathBuf,
}

impl Deref for Installation {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Installation {
    /// A node with the image, and a namespace that admits only restricted pods; nothing is installed yet.
    pub async fn prepare() -> Self {
        let dir =
            tempfile::Builder::new().prefix("elava-").tempdir().expect("there is a folder for temporary files");
        let (node, aws) = tokio::join!(Node::start(dir.path()), Emulator::start(dir.path()));
        node.load(image());
        let proxy = Proxy::start_at(HOST, &aws.url);
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        node.apply(&namespace.to_string()).expect("the namespace is good");
        let values = dir.path().join("values.yaml");
        let settings = json!({
            "image": {"repository": "localhost/elava", "tag": "test", "pullPolicy": "Never"},
            "persistence": {"storageClassName": "local"},
            "allowedEndpoints": [proxy.url],
            "allowedRoles": [{"namespaces": ["*"], "roles": ["*"]}],
            "queryAPI": {"enabled": true},
            "minInterval": "1s",
            "extraEnv": [
                // The pod's own credentials, which may assume the roles.
                {"name": "AWS_ACCESS_KEY_ID", "value": "operator"},
                {"name": "AWS_SECRET_ACCESS_KEY", "value": "operator"},
                {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
            ],
        });
        // YAML is a superset of JSON.
        std::fs::write(&values, settings.to_string()).expect("the test's folder is writable");
        let desk =
            Desk { kubectl: Kubectl::clone(&node), client: node.client().await, endpoint: proxy.url.clone() };
        Self { proxy, aws, desk, node, dir, values }
    }

    /// Runs `helm install`, `upgrade` or the like, with the values of the test and more arguments.
    pub fn helm(&self, verb: &str, chart: &Path, more: &[&str]) -> Result<String, String> {
        let (chart, values) = (chart.display().to_string(), self.values.display().to_string());
        let args = [verb, "elava", &chart, "--namespace", NAMESPACE, "--values", &values];
        self.node.try_helm(&[&args[..], more].concat())
    }

    pub fn install(&self, more: &[&str]) {
        let waiting = ["--wait", "--timeout", "120s"];
        self.helm("install", &chart(), &[&waiting[..], more].concat()).unwrap_or_else(|error| {
            let pods = self.node.run(&["describe", "pods", "-n", NAMESPACE]);
            panic!("{error}\n{pods}")
        });
    }

    pub fn uid(&self) -> Option<String> {
        let output = self.node.kubectl(&["get", "pod", POD, "-n", NAMESPACE, "-o=jsonpath={.metadata.uid}"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The number of restarts of its container.
    pub fn restarts(&self) -> u64 {
        let path = "-o=jsonpath={.status.containerStatuses[0].restartCount}";
        let output = self.node.kubectl(&["get", "pod", POD, "-n", NAMESPACE, path]);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
    }

    pub async fn until_ready(&self) {
        let ready = || async {
            let output = self.node.kubectl(&["get", "pod", POD, "-n", NAMESPACE, "-o=json"]);
            let pod: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let is_going = !pod["metadata"]["deletionTimestamp"].is_null();
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if is_ready && !is_going { Ok(()) } else { Err(pod["status"].to_string()) }
        };
        eventually("the pod is ready", ready).await;
    }

    pub fn log(&self) -> String {
        self.node.run(&["logs", POD, "-n", NAMESPACE])
    }

    /// Runs the command line in the pod.
    pub fn exec(&self, args: &[&str]) -> Output {
        let exec = ["exec", "-n", NAMESPACE, POD, "-c", "elava", "--", "elava"];
        self.node.kubectl(&[&exec[..], args].concat())
    }

    /// Peak and current resident memory of the operator, in KiB.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = self.node.exec(&["sh", "-c", "cat /proc/$(pgrep -x elava)/status"]);
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        (field("VmHWM:").unwrap_or(0), field("VmRSS:").unwrap_or(0))
    }

    /// Queries the operator with `kubectl exec`.
    pub fn query(&self, args: &[&str]) -> Result<Value, String> {
        let output = self.exec(&[args, &["-o", "json"]].concat());
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// Sets the replicas, and waits until the pod is ready or gone.
    pub async fn scale(&self, replicas: usize) {
        self.node.run(&["scale", "statefulset/elava", "-n", NAMESPACE, &format!("--replicas={replicas}")]);
        if replicas > 0 {
            return self.until_ready().await;
        }
        let gone = || async { self.uid().map_or(Ok(()), Err) };
        eventually("the pod is gone", gone).await;
    }
}

/// Writes a file that the image's user owns.
pub fn put(path: &Path, data: &[u8]) {
    std::fs::write(path, data).expect("the volume is writable");
    std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("root may give files away");
}
