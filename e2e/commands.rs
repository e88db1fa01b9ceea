//! Runs every command that the docs show, in the order of the pages, on a node with the chart installed.
//!
//! Commands that change the cluster run with `--dry-run=server`, so that each command finds the objects that the others
//! name. Commands that can't run here are listed below with the reason.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::pods::can_run_node;
use crate::support::eventually;
use crate::support::node::{BACKUPS_CLAIM, Installation, NAMESPACE, STORE_CLAIM};
use crate::support::operator::binary;
use crate::support::tools;
use crate::support::world::IRELAND;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const A: &str = "111122223333";
const B: &str = "444455556666";

/// Prefixes of commands that are not run, with the reason.
const NOT_HERE: &[(&str, &str)] = &[
    ("make ", "CI runs make test, and the benchmarks are longer than CI"),
    ("SCANS=", "a benchmark"),
    ("SOAK_SECONDS=", "a benchmark"),
    ("base=", "AWS's price lists are fetched over the internet"),
    ("for service in", "the same"),
    ("curl ", "the same"),
    ("done", "the same"),
    ("elava prices import Amazon", "the same; src/cli/prices.rs imports a sample"),
    ("kubectl create configmap elava-prices", "its file is made by the one before"),
    ("kubectl top ", "no metrics-server is here"),
    ("kubectl apply -f config/gitops/", "Argo CD and Flux are not here; e2e/gitops.rs does what they do"),
    ("kubectl logs -n elava elava-0 --previous", "nothing has crashed"),
    ("kubectl logs -n elava elava-care", "of a pod that the page makes"),
    ("kubectl delete pod -n elava elava-care", "the same"),
    ("kubectl wait -n elava pod/copy", "the same"),
    ("kubectl exec -i -n elava copy", "the same"),
    ("kubectl delete pod -n elava copy", "the same"),
    ("kubectl wait -n elava pod/elava-0 --for=delete", "it waits for what was only tried"),
    ("kubectl apply --server-side -k config/default", "helm has installed the same; e2e/installation.rs does it"),
    (
        "kubectl patch pvc -n elava store-elava-0",
        "volumes of this node can't be resized; e2e/pods.rs enlarges one",
    ),
    ("kubectl create namespace elava", "it is there"),
    (
        "helm upgrade --install elava charts/elava --namespace elava --create-namespace --values charts/elava/ci/",
        "its namespaces are not here; e2e/installation.rs installs it",
    ),
    ("helm rollback", "there is one revision of the release; e2e/upgrades.rs rolls back"),
    ("helm uninstall", "e2e/upgrades.rs uninstalls"),
];

/// Verbs of shell commands in the docs that change the cluster.
const CHANGES: [&str; 10] =
    ["apply", "annotate", "create", "delete", "label", "patch", "scale", "taint", "install", "upgrade"];

/// The lines of the `sh` blocks of a page, with continued lines joined.
fn commands(page: &str) -> Vec<String> {
    let blocks = regex::Regex::new(r"(?s)```sh\n(.*?)```").unwrap();
    let comment = regex::Regex::new(r"(^|\s)#\s.*$").unwrap();
    let mut found = Vec::new();
    for block in blocks.captures_iter(page) {
        for line in block[1].replace("\\\n", " ").lines() {
            let line = comment.replace(line, "").split_whitespace().collect::<Vec<_>>().join(" ");
            if !line.is_empty() {
                found.push(line);
            }
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(Path::new(ROOT).join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages.push(Path::new(ROOT).join("README.md"));
    pages
}

/// A folder with everything that the commands need: the programs and the repository's files.
struct Desk {
    dir: PathBuf,
    kubeconfig: PathBuf,
    values: PathBuf,
    /// Names in the docs, and their replacements here.
    names: Vec<(regex::Regex, String)>,
}

impl Desk {
    fn new(pods: &Installation, names: &BTreeMap<&str, String>) -> Self {
        let dir = pods.dir.path().join("desk");
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in ["kubectl", "helm"] {
            symlink(tools().join(name), bin.join(name)).unwrap();
        }
        for name in ["elava", "kubectl-elava"] {
            symlink(binary(), bin.join(name)).unwrap();
        }
        for folder in ["charts", "config", "crds"] {
            let copied =
                Command::new("cp").arg("-r").arg(Path::new(ROOT).join(folder)).arg(&dir).status().unwrap();
            assert!(copied.success());
        }
        // The sample, with the emulator in place of AWS.
        let sample = dir.join("config/samples/cloudscan.yaml");
        let text = std::fs::read_to_string(&sample).unwrap();
        let here = format!("    aws:\n      endpointURL: {}\n", pods.endpoint);
        std::fs::write(&sample, text.replace("    aws:\n", &here)).unwrap();
        std::fs::copy(&pods.values, dir.join("values.yaml")).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        let word = |name: &str| regex::Regex::new(&format!(r"\b{}\b", regex::escape(name))).unwrap();
        // A name that contains another one is replaced first.
        let mut names: Vec<_> = names.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let names = names.into_iter().map(|(name, here)| (word(name), here.clone())).collect();
        Self { dir, kubeconfig: pods.node.kubeconfig().to_owned(), values: pods.values.clone(), names }
    }

    /// The command as it is run here.
    fn typed(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (name, here) in &self.names {
            command = name.replace_all(&command, here.as_str()).into_owned();
        }
        let words: Vec<&str> = command.split(' ').collect();
        let program = words[0];
        let verb = words.get(1).copied().unwrap_or_default();
        assert!(program != "kubectl" || !verb.starts_with('-'), "the verb comes first: {command}");
        let is_dry = command.contains("--dry-run");
        if program == "helm" && (verb == "install" || verb == "upgrade") {
            // The chart is already installed, so install commands run as upgrades.
            let upgrade = command.replacen("helm install", "helm upgrade --install", 1);
            return format!("{upgrade} --values {} --dry-run=server", self.values.display());
        }
        if program == "kubectl" && CHANGES.contains(&verb) && !is_dry {
            return format!("{command} --dry-run=server");
        }
        command
    }

    fn run(&self, command: &str) -> Result<(), String> {
        let home = self.dir.join("home");
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        // A watch runs until it is interrupted.
        let seconds = if command.contains("elava watch") { 3 } else { 60 };
        let output = Command::new("timeout")
            .arg(seconds.to_string())
            .args(["bash", "-o", "pipefail", "-c", command])
            .current_dir(&self.dir)
            .env("PATH", path)
            .env("HOME", &home)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("AWS_ACCESS_KEY_ID", "operator")
            .env("AWS_SECRET_ACCESS_KEY", "operator")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_as_documented = match output.status.code() {
            Some(0) => true,
            // The exit code for a problem or an incomplete result.
            Some(2) => command.contains("elava status") || command.contains("elava scan"),
            Some(124) => command.contains("elava watch"),
            // grep exits with 1 if the log has no such line.
            Some(1) if command.contains("| grep") => err.is_empty(),
            // The store is younger than the moment in the query.
            Some(1) => err.contains("lies before the first scan"),
            _ => false,
        };
        if is_as_documented { Ok(()) } else { Err(format!("{:?}: {out}{err}", output.status.code())) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_in_the_docs_runs() {
    if !can_run_node() {
        return;
    }
    let pods = Installation::prepare().await;
    pods.node.volume("store", STORE_CLAIM);
    pods.node.volume("backups", BACKUPS_CLAIM);
    pods.install(&["--set", "backup.enabled=true", "--set", "backup.storageClassName=local"]);
    // Another team that the pages mention.
    pods.node.run(&["create", "namespace", "team-a"]);
    let hands = pods.aws.hands(A, IRELAND).await;
    let volume = hands.volume(&[("owner", "team-data")]).await;
    hands.volume(&[]).await;
    let account = |id: &str| json!({"id": id, "roleARN": format!("arn:aws:iam::{id}:role/elava")});
    let mut spec = pods.scan_spec(&[A]);
    spec["provider"]["aws"]["accounts"] = json!([account(A), account(B)]);
    pods.apply_scan("default", "production", &spec);
    pods.wait_for_condition("default", "production", "FirstScanComplete", "True").await;
    let check = || async {
        let findings = pods.findings("default").await;
        let found = findings.first().and_then(|finding| finding.metadata.name.clone());
        found.ok_or_else(|| "nothing is told".to_owned())
    };
    let finding = eventually("there is a finding to name", check).await;
    // The names and the time on this node.
    let listed =
        pods.node.run(&["get", "cloudresources", "--field-selector", &format!("id={volume}"), "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let history = listed["items"][0]["metadata"]["name"].as_str().expect("it is listed").to_owned();
    let node = pods.node.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut names: BTreeMap<&str, String> = [
        ("NODE", node.trim().to_owned()),
        ("NAMESPACE", NAMESPACE.to_owned()),
        ("VOLUME", "store".to_owned()),
        ("volume-vol-0abc-1a2b3c4d", history),
        ("vol-1", volume.clone()),
        ("vol-0abc", volume),
    ]
    .into();
    for hour in ["2026-11-24T02:00:00Z", "2026-11-24T03:00:00Z", "2026-11-24T04:00:00Z", "2026-11-24T08:30:00Z"] {
        names.insert(hour, now.clone());
    }
    let desk = Desk::new(&pods, &names);
    std::fs::create_dir_all(desk.dir.join("home/.local/bin")).unwrap();

    let any_name = regex::Regex::new(r"\bNAME\b").unwrap();
    let (mut run, mut wrong, mut used) = (0, Vec::new(), std::collections::BTreeSet::new());
    for page in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        for command in commands(&std::fs::read_to_string(&page).unwrap()) {
            if let Some((beginning, _)) = NOT_HERE.iter().find(|(beginning, _)| command.starts_with(beginning)) {
                used.insert(*beginning);
                continue;
            }
            // A CloudScan or a finding, depending on the words before it.
            let of = if command.contains("cloudscan NAME") { "production" } else { finding.as_str() };
            let typed = desk.typed(&any_name.replace_all(&command, of));
            run += 1;
            // Each page starts without the files of the earlier pages.
            if typed.contains("store restore") {
                let _ = std::fs::remove_file(desk.dir.join("copy.redb"));
            }
            if typed.contains("--to history") {
                let _ = std::fs::remove_dir_all(desk.dir.join("history"));
            }
            if let Err(error) = desk.run(&typed) {
                wrong.push(format!("{name}: {command}\n  as {typed}\n  {}", error.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {run} commands failed:\n{}", wrong.len(), wrong.join("\n"));
    assert!(run > 60, "the pages are read: {run}");
    let unused: Vec<_> = NOT_HERE.iter().map(|(beginning, _)| beginning).filter(|b| !used.contains(**b)).collect();
    assert!(unused.is_empty(), "no page shows these any more: {unused:?}");
    println!("{run} commands of the docs ran");
}
