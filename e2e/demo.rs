//! `make demo`: the main use case end to end on real components, in a pod where the machine can run a node. Prints each
//! command that a user would type, with its output; exits non-zero when an announced result does not appear. KEEP=1
//! leaves everything running until Ctrl-C.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use support::aws::{Emulator, Hands};
use support::cluster::{Cluster, chart, serve_from_loopback};
use support::kubectl::Kubectl;
use support::node::{Installation, STORE_CLAIM, lacks};
use support::operator::{Operator, binary};
use support::proxy::Proxy;
use support::world::{IRELAND, VIRGINIA};
use support::{eventually, free_port};

const ACCOUNTS: [&str; 2] = ["111122223333", "444455556666"];
const NAME: &str = "production";

#[tokio::main]
async fn main() -> ExitCode {
    tokio::select! {
        () = demo() => ExitCode::SUCCESS,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\ndemo: stopped; every process that it started ends with it");
            ExitCode::from(130)
        }
    }
}

/// Where the operator runs.
enum Place {
    /// In a pod, as in a real installation.
    Pod(Box<Installation>),
    /// As a process next to a control plane: not every machine can run a node.
    Process(Box<Processes>),
}

struct Processes {
    // In drop order.
    operator: Operator,
    _proxy: Proxy,
    aws: Emulator,
    _cluster: Cluster,
    _dir: tempfile::TempDir,
}

struct Stage {
    place: Place,
    kubectl: Kubectl,
    started: Instant,
}

async fn demo() {
    let started = Instant::now();
    let stage = match lacks() {
        None => Stage::of_pods(started).await,
        Some(why) => {
            print_step(
                started,
                &format!("no node on this machine ({why}): the operator runs as a process instead"),
            );
            Stage::of_processes(started).await
        }
    };
    print_step(started, "filling two accounts in two regions with an estate");
    let victims = Victims::seed(stage.aws()).await;
    stage.first_scan();
    let before = stage.revision();
    victims.act(&stage, stage.aws()).await;
    stage.confirm(&victims).await;
    stage.explain(&victims, before).await;

    let (peak, now) = stage.memory_kib();
    print_step(started, &format!("done. The operator's memory: {} MiB, at most {} MiB", now / 1024, peak / 1024));
    if std::env::var_os("KEEP").is_some_and(|keep| keep == "1") {
        stage.explain_commands();
        std::future::pending::<()>().await;
    }
}

const SETTINGS: &str = "--namespace elava --create-namespace --set queryAPI.enabled=true \
    --set allowedRoles[0].namespaces[0]=default --set allowedRoles[0].roles[0]=arn:aws:iam::*:role/elava";

impl Stage {
    async fn of_pods(started: Instant) -> Self {
        print_step(started, "building the image, and starting a node of Kubernetes and an AWS emulator");
        let pods = Installation::prepare().await;
        pods.node.volume("store", STORE_CLAIM);
        print_step(started, "installing the chart: CRDs, RBAC, and the pod");
        show(&format!("helm install elava charts/elava {SETTINGS} --wait"));
        // A real pod would call AWS instead.
        let endpoint = format!("extraEnv[3].name=AWS_ENDPOINT_URL,extraEnv[3].value={}", pods.proxy.url);
        pods.install(&["--set", &endpoint]);
        show("kubectl get pods,pvc -n elava");
        println!("{}", pods.node.run(&["get", "pods,pvc", "-n", "elava"]));
        let kubectl = Kubectl::clone(&pods.node);
        Self { place: Place::Pod(Box::new(pods)), kubectl, started }
    }

    async fn of_processes(started: Instant) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("elava-demo-")
            .tempdir()
            .expect("there is a folder for temporary files");
        print_step(started, "starting etcd, kube-apiserver, kube-controller-manager and an AWS emulator");
        let (cluster, aws) = tokio::join!(Cluster::start(dir.path()), Emulator::start(dir.path()));
        print_step(started, "installing the chart: CRDs, RBAC, the StatefulSet (its pod waits for a node)");
        let chart = chart().display().to_string();
        show(&format!("helm install elava charts/elava {SETTINGS}"));
        cluster.helm(&[&["install", "elava", &chart], words(SETTINGS).as_slice()].concat());
        // The operator does not run in a pod here, so the API server reaches it on loopback.
        let query_api = free_port();
        serve_from_loopback(&cluster, query_api);
        print_step(started, "starting the operator as the chart's ServiceAccount");
        // The proxy implements the few calls that the emulator lacks.
        let proxy = Proxy::start(&aws.url);
        let environment = vec![
            ("AWS_ENDPOINT_URL", proxy.url.clone()),
            ("ELAVA_QUERY_API_LISTEN", format!("127.0.0.1:{query_api}")),
        ];
        let operator = Operator::start(dir.path(), &cluster, environment).await;
        let kubectl = Kubectl::clone(&cluster);
        let processes = Processes { operator, _proxy: proxy, aws, _cluster: cluster, _dir: dir };
        Self { place: Place::Process(Box::new(processes)), kubectl, started }
    }

    fn aws(&self) -> &Emulator {
        match &self.place {
            Place::Pod(pods) => &pods.aws,
            Place::Process(processes) => &processes.aws,
        }
    }

    /// Peak and current resident memory, in KiB.
    fn memory_kib(&self) -> (u64, u64) {
        match &self.place {
            Place::Pod(pods) => pods.memory_kib(),
            Place::Process(processes) => processes.operator.process.memory_kib(),
        }
    }

    fn explain_commands(&self) {
        println!("\nAll of it keeps running until Ctrl-C. In another shell:\n");
        println!("  export KUBECONFIG={}", self.kubectl.kubeconfig().display());
        println!("  export PATH={}:{}:$PATH", support::tools().display(), folder_of(&binary()));
        match &self.place {
            Place::Pod(_) => println!("  kubectl exec -n elava elava-0 -- elava status"),
            Place::Process(processes) => println!("  export ELAVA_STORE={}", processes.operator.store().display()),
        }
        println!("  export AWS_ENDPOINT_URL={} AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test", self.aws().url);
    }
}

fn folder_of(path: &Path) -> String {
    path.parent().map(|p| p.display().to_string()).unwrap_or_default()
}

fn print_step(started: Instant, text: &str) {
    println!("\n\x1b[1m[{:>3} s] {text}\x1b[0m", started.elapsed().as_secs());
}

fn show(command: &str) {
    println!("$ {command}");
}

impl Stage {
    fn print_step(&self, text: &str) {
        print_step(self.started, text);
    }

    /// Runs a kubectl command, prints it with its output, and returns the output.
    fn kubectl(&self, line: &str) -> String {
        show(&format!("kubectl {line}"));
        let output = self.kubectl.run(&words(line));
        println!("{output}");
        output
    }

    fn elava(&self, line: &str) -> String {
        let output = match &self.place {
            Place::Pod(pods) => {
                show(&format!("kubectl exec -n elava elava-0 -- elava {line}"));
                pods.exec(&words(line))
            }
            Place::Process(processes) => {
                show(&format!("elava {line}"));
                processes.operator.query(&words(line))
            }
        };
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{out}{err}");
        assert!(output.status.success(), "elava {line} failed");
        out.into_owned()
    }

    fn revision(&self) -> u64 {
        let question = ["get", "--type", "AWS::EC2::VPC"];
        let answer = match &self.place {
            Place::Pod(pods) => pods.query(&question).expect("the operator answers"),
            Place::Process(processes) => processes.operator.answer(&question),
        };
        answer["revision"].as_u64().expect("a revision")
    }

    fn first_scan(&self) {
        self.print_step("naming the accounts");
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/cloudscan.yaml");
        show("kubectl apply -f config/samples/cloudscan.yaml");
        println!("{}", self.kubectl.run(&["apply", "-f", &sample.display().to_string()]));
        self.kubectl(&format!("wait cloudscan/{NAME} --for=condition=FirstScanComplete --timeout=90s"));
        self.kubectl("get cloudscans,resourcefindings");
    }

    /// Requests a scan and waits until its result is published.
    async fn scan_now(&self) {
        let request = format!("{}", self.started.elapsed().as_millis());
        let line = format!("annotate cloudscan/{NAME} --overwrite elava.dev/reconcile-requested-at={request}");
        self.kubectl(&line);
        let handled = || async {
            let path = "-o=jsonpath={.status.lastHandledReconcileAt}";
            let last = self.kubectl.run(&["get", "cloudscan", NAME, path]);
            if last == request { Ok(()) } else { Err(last) }
        };
        eventually("the look that was asked for was had", handled).await;
    }

    /// Waits until a finding of this kind about an id has this state.
    async fn expect(&self, kind: &str, id: &str, state: &str) {
        let scan_now = || async {
            let selector = format!("--field-selector=status.kind={kind},status.state={state}");
            let found =
                self.kubectl.run(&["get", "resourcefindings", &selector, "-o=jsonpath={.items[*].status.id}"]);
            if found.split_whitespace().any(|i| i == id) { Ok(()) } else { Err(found) }
        };
        eventually(&format!("{kind} {id} is {state}"), scan_now).await;
        println!("  seen: {kind} {id} is {state}");
    }

    async fn confirm(&self, victims: &Victims) {
        self.print_step("asking for a look now, instead of waiting for the interval");
        self.scan_now().await;
        self.print_step(
            "and for a second: what is younger than ten minutes is believed gone only when two looks miss it",
        );
        self.scan_now().await;
        self.print_step("what is to be seen now");
        self.expect("Disappeared", &victims.instance, "Open").await;
        self.expect("Disappeared", &victims.deleted, "Open").await;
        self.expect("OwnershipLost", &victims.stripped, "Open").await;
        self.expect("TagsMissing", &victims.disowned, "Open").await;
        self.expect("TagInvalid", &victims.misnamed, "Open").await;
        self.expect("DriftedOut", &victims.coded, "Open").await;
        let created = victims.created.get().expect("it was created");
        self.expect("Untagged", created, "Open").await;
        self.expect("Unmanaged", created, "Open").await;
        self.expect("Untagged", &victims.adopted, "Resolved").await;
    }

    /// The name of the finding of this kind about an id.
    fn finding(&self, kind: &str, id: &str) -> String {
        let selector = format!("--field-selector=status.kind={kind}");
        let path = format!("-o=jsonpath={{.items[?(@.status.id==\"{id}\")].metadata.name}}");
        self.kubectl.run(&["get", "resourcefindings", &selector, &path])
    }

    /// Queries the state before and after a deletion, with kubectl alone.
    async fn query_the_past(&self, victims: &Victims, before: u64) {
        self.print_step("the past with kubectl: the volume that was deleted, before and after");
        let of_it = |moment: &str| format!("get cloudresources --field-selector {moment}id={}", victims.deleted);
        let served = || async {
            let output = self.kubectl.kubectl(&words(&of_it("")));
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        };
        eventually("the API server has found the query API", served).await;
        let then = self.kubectl(&of_it(&format!("asOf={before},")));
        let name = then.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("it was there then");
        let now = self.kubectl(&of_it(""));
        assert!(!now.contains(name), "it is gone now");
        let history = self.kubectl(&format!("get resourcehistory {name}"));
        assert!(history.contains("Disappeared") && history.contains("Appeared"), "its story is told");
        let changes = self.kubectl("get resourcechanges --field-selector from=1h,change=Disappeared");
        assert!(changes.contains(&victims.deleted) && changes.contains(&victims.instance), "both are told");
    }

    /// Prints the output that users read.
    async fn explain(&self, victims: &Victims, before: u64) {
        self.kubectl("get resourcefindings --sort-by=.status.since.time");
        let name = self.finding("Disappeared", &victims.instance);
        let reported = self.kubectl(&format!("describe resourcefinding {name}"));
        assert!(reported.contains("Events:") && reported.contains(&victims.instance), "describe shows its events");
        assert!(
            reported.lines().any(|l| l.contains("Warning") && l.contains("Disappeared")),
            "the event is there"
        );
        self.kubectl("events --types=Warning");
        self.print_step("somebody says that they know; and one is exempted, with a reason");
        let known = self.finding("OwnershipLost", &victims.stripped);
        self.kubectl(&format!("annotate resourcefinding {known} elava.dev/acknowledged=ann"));
        self.expect("OwnershipLost", &victims.stripped, "Acknowledged").await;
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/exemption.yaml");
        show("kubectl apply -f config/samples/exemption.yaml");
        println!("{}", self.kubectl.run(&["apply", "-f", &sample.display().to_string()]));
        self.expect("Untagged", "demo-0-scratch", "Exempted").await;
        self.kubectl("get findingexemptions,cloudscans -o wide");
        self.print_step("what it costs, who owns what, and what belongs together");
        let findings = self.elava("findings --kind Disappeared");
        assert!(findings.contains(victims.instance.as_str()), "the store lists it");
        let owners = self.elava(&format!("owners --cloudscan default/{NAME}"));
        assert!(owners.contains("payments") && owners.contains("(nobody)"), "who owns what");
        let tree = self.elava(&format!("get {} -o tree", victims.adopted));
        assert!(tree.contains("Volume"), "what it is");
        self.query_the_past(victims, before).await;
        self.print_step("the same from the command line, for any moment");
        let history = self.elava(&format!("history {}", victims.stripped));
        assert!(history.contains("Appeared") && history.contains("Tags."), "its story is told");
        let diff = self.elava(&format!("diff {before} now"));
        for id in [&victims.instance, &victims.deleted, &victims.stripped] {
            assert!(diff.contains(id.as_str()), "the difference names {id}");
        }
        let at = self.elava(&format!("at {before} {}", victims.deleted));
        assert!(at.contains("present"), "it was there then");
        let now = self.elava(&format!("get {}", victims.deleted));
        assert!(now.contains("gone since"), "it is gone now");
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The resources that the demo changes.
struct Victims {
    instance: String,
    deleted: String,
    stripped: String,
    disowned: String,
    adopted: String,
    misnamed: String,
    coded: String,
    created: std::cell::OnceCell<String>,
}

const TEAMS: [&str; 5] = ["payments", "search", "platform", "mobile", "data"];

impl Victims {
    async fn seed(aws: &Emulator) -> Self {
        let mut of_interest = Vec::new();
        for (i, account) in ACCOUNTS.into_iter().enumerate() {
            for (j, region) in [IRELAND, VIRGINIA].into_iter().enumerate() {
                of_interest.push(fill(&aws.hands(account, region).await, i * 2 + j).await);
            }
        }
        let Estate { instances, volumes, orphan } = of_interest.swap_remove(0);
        let coded = volumes[4].clone();
        aws.hands(ACCOUNTS[0], IRELAND).await.tag(&coded, &[("terraform", "demo")]).await;
        Self {
            instance: instances[0].clone(),
            deleted: volumes[0].clone(),
            stripped: volumes[1].clone(),
            disowned: volumes[2].clone(),
            adopted: orphan,
            misnamed: volumes[3].clone(),
            coded,
            created: std::cell::OnceCell::new(),
        }
    }

    async fn act(&self, stage: &Stage, aws: &Emulator) {
        stage.print_step("now things happen in the cloud");
        let hands = aws.hands(ACCOUNTS[0], IRELAND).await;
        show(&format!("aws ec2 terminate-instances --instance-ids {}", self.instance));
        hands.terminate(&self.instance).await;
        show(&format!("aws ec2 delete-volume --volume-id {}", self.deleted));
        hands.delete_volume(&self.deleted).await;
        show(&format!("aws ec2 delete-tags --resources {} --tags Key=owner Key=Name", self.stripped));
        hands.untag(&self.stripped, &["owner", "Name"]).await;
        show(&format!("aws ec2 delete-tags --resources {} --tags Key=owner", self.disowned));
        hands.untag(&self.disowned, &["owner"]).await;
        show(&format!("aws ec2 create-tags --resources {} --tags 'Key=owner,Value=Search Team'", self.misnamed));
        hands.tag(&self.misnamed, &[("owner", "Search Team")]).await;
        show(&format!("aws ec2 delete-tags --resources {} --tags Key=terraform", self.coded));
        hands.untag(&self.coded, &["terraform"]).await;
        show("aws ec2 create-volume --availability-zone eu-west-1a --size 10");
        let _ = self.created.set(hands.volume(&[]).await);
        show(&format!("aws ec2 create-tags --resources {} --tags Key=owner,Value=search", self.adopted));
        hands.tag(&self.adopted, &[("owner", "search")]).await;
    }
}

struct Estate {
    instances: Vec<String>,
    volumes: Vec<String>,
    orphan: String,
}

/// Creates about 50 resources: most have an owner, some do not.
async fn fill(hands: &Hands, place: usize) -> Estate {
    let mut estate = Estate { instances: Vec::new(), volumes: Vec::new(), orphan: String::new() };
    let team = |n: usize| TEAMS[n % TEAMS.len()];
    for n in 0..6 {
        let name = format!("web-{n}");
        let tags = [("owner", team(n)), ("Name", name.as_str())];
        let (instance, root) = hands.instance(&tags).await;
        hands.tag(&root, &tags).await;
        estate.instances.push(instance);
    }
    for n in 0..9 {
        let name = format!("data-{n}");
        let volume = hands.volume(&[("owner", team(n)), ("Name", &name)]).await;
        if n % 3 == 0 {
            hands.snapshot(&volume, &[("owner", team(n)), ("Name", &name)]).await;
        }
        estate.volumes.push(volume);
    }
    for n in 0..3 {
        hands.address(&[("owner", team(n))]).await;
        let bucket = format!("demo-{place}-{}-{n}", team(n));
        hands.bucket(&bucket, &[("owner", team(n))]).await;
        hands.database(&format!("orders-{place}-{n}"), &[("team", team(n))]).await;
    }
    // Without an owner.
    estate.orphan = hands.volume(&[]).await;
    hands.address(&[]).await;
    hands.bucket(&format!("demo-{place}-scratch"), &[]).await;
    hands.volume(&[("Name", "tmp")]).await;
    estate
}
