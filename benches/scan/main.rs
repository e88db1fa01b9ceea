//! A scan of a million resources in a hundred accounts over HTTP: `make bench-scan`.
//!
//! A responder serves EC2's wire format from memory. Over the same pages, one after the other: a bare HTTP client (the
//! responder's own limit), the SDK alone with paging and parsing (the floor), a boto3 pager (what people script today),
//! and Elava: from the HTTP response to the durable record in its store.

#![allow(clippy::cast_precision_loss)] // Figures for people.

mod responder;

/// The operator's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region as AwsRegion, SdkConfig};
use aws_credential_types::Credentials as Keys;
use elava::cloud::aws::{Aws, access, keys};
use elava::cloud::{AccountTarget, Provider};
use elava::inventory::{AccountId, LossLimits, Region, Subscriber};
use elava::scanner::{AccountScanner, Subscription};
use elava::store::{Store, system_clock};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

pub const REGIONS: [&str; 4] = ["eu-west-1", "us-east-1", "ap-south-1", "eu-central-1"];
/// Concurrent accounts, as in the operator.
const AT_ONCE: usize = 8;

#[derive(Clone, Copy)]
struct Size {
    accounts: usize,
    /// Per account and region.
    instances: usize,
}

impl Size {
    fn resources(self) -> usize {
        self.accounts * REGIONS.len() * self.instances
    }
}

fn account(number: usize) -> String {
    format!("{:012}", 100_000_000_000 + number)
}

/// The time and memory that a process needed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Taken {
    resources: usize,
    seconds: f64,
    /// The same scan again, with nothing changed.
    again_seconds: Option<f64>,
    cpu_seconds: f64,
    peak_mb: f64,
}

impl Taken {
    fn a_minute(&self) -> f64 {
        self.resources as f64 / self.seconds * 60.0
    }
}

fn main() {
    let number = |name: &str, or: usize| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let accounts = number("ACCOUNTS", 100);
    let instances = number("RESOURCES", 1_000_000) / accounts / REGIONS.len();
    let size = Size { accounts, instances };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("there are threads");
    let url = std::env::var("RESPONDER").unwrap_or_default();
    let taken = match std::env::var("ROLE").as_deref() {
        Ok("responder") => return runtime.block_on(responder::serve(size.instances)),
        Ok("http") => runtime.block_on(bare(&url, size)),
        Ok("sdk") => runtime.block_on(sdk(&url, size)),
        Ok("elava") => runtime.block_on(elava(&url, size)),
        _ => return compare(size),
    };
    println!("{}", serde_json::to_string(&taken).expect("figures are JSON"));
}

/// A child process that runs this program in another role. Dropping it ends the child.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn role(name: &str, responder: &str) -> Role {
    let this = std::env::current_exe().expect("it runs");
    let child = Command::new(this).env("ROLE", name).env("RESPONDER", responder).stdout(Stdio::piped()).spawn();
    Role(child.expect("it starts"))
}

fn first_line(role: &mut Role) -> String {
    let mut line = String::new();
    let out = role.0.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it says something");
    line.trim().to_owned()
}

fn compare(size: Size) {
    let mut responder = role("responder", "");
    let url = first_line(&mut responder);
    println!(
        "{} instances in {} accounts and {} regions at {url}",
        size.resources(),
        size.accounts,
        REGIONS.len()
    );
    let take = |name: &str| -> Taken {
        let taken = serde_json::from_str(&first_line(&mut role(name, &url))).expect("it says what it took");
        println!("{name}: {taken:?}");
        taken
    };
    let (http, sdk, elava) = (take("http"), take("sdk"), take("elava"));
    let boto = boto3(&url, size);
    if let Ok(path) = std::env::var("TABLE") {
        std::fs::write(path, markdown(size, &http, &sdk, boto.as_ref(), &elava)).expect("the table is written");
    }
    let (rate, of_sdk) = (elava.a_minute(), elava.a_minute() / sdk.a_minute());
    println!("resources/min: {rate:.0}, of the SDK alone: {of_sdk:.2}, peak MB: {:.0}", elava.peak_mb);
}

fn markdown(size: Size, http: &Taken, sdk: &Taken, boto: Option<&Taken>, elava: &Taken) -> String {
    let again = elava.again_seconds.unwrap_or(f64::NAN);
    let row = |what: &str, taken: &Taken| {
        let each = taken.cpu_seconds / taken.resources as f64 * 1e6;
        // The process can't measure the CPU time of a scan after the first separately.
        let cpu = if each.is_nan() { "-".to_owned() } else { format!("{each:.1} us") };
        let (of_sdk, rate) = (taken.a_minute() / sdk.a_minute(), taken.a_minute());
        format!("| {what} | {of_sdk:.2} | {rate:.0} | {cpu} | {:.0} MB |\n", taken.peak_mb)
    };
    let unchanged = Taken {
        seconds: again,
        cpu_seconds: f64::NAN,
        ..Taken { resources: elava.resources, peak_mb: elava.peak_mb, ..Taken::default() }
    };
    let met = |is_met: bool| if is_met { "met" } else { "**missed**" };
    format!(
        "<!-- Written by `make bench-scan`. Do not edit. -->\n\n# What a scan takes\n\n{} instances with 8 tags each (3.6 KB of \
         XML) in {} accounts and {} regions, from a responder on the same two cores.\n\n\
         | over the same pages | of the SDK alone | resources a minute | CPU a resource | peak memory |\n|---|---:|---:|---:|---:|\n\
         {}{}{}{}{}\n\
         - at least half of the SDK's own rate: {:.2}: {}\n- 900,000 resources a minute: {:.0}: {}\n- at most 512 MB: {:.0}: {}\n\
         - an unchanged scan takes less time than the first: {:.1} s, {:.1} s: {}\n",
        size.resources(),
        size.accounts,
        REGIONS.len(),
        row("a bare HTTP client", http),
        row("the SDK alone, paging and parsing", sdk),
        boto.map(|boto| row("a boto3 pager (some accounts)", boto)).unwrap_or_default(),
        row("Elava, first scan: until it is durable", elava),
        row("Elava, nothing changed", &unchanged),
        elava.a_minute() / sdk.a_minute(),
        met(elava.a_minute() >= sdk.a_minute() / 2.0),
        elava.a_minute(),
        met(elava.a_minute() >= 900_000.0),
        elava.peak_mb,
        met(elava.peak_mb <= 512.0),
        again,
        elava.seconds,
        met(again < elava.seconds),
    )
}

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(") ").next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    // The state field is not a number and is dropped here: user and system time are the 11th and 12th of the other
    // fields.
    (fields.get(10).unwrap_or(&0.0) + fields.get(11).unwrap_or(&0.0)) / 100.0
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

fn places(size: Size) -> Vec<(String, &'static str)> {
    (0..size.accounts).flat_map(|n| REGIONS.map(|region| (account(n), region))).collect()
}

/// Runs each job as a task, so that all cores are used, with a limited number at once.
async fn each<T: Send + 'static>(jobs: impl IntoIterator<Item: Future<Output = T> + Send + 'static>) -> Vec<T> {
    let tasks = futures::stream::iter(jobs).map(tokio::spawn).buffer_unordered(AT_ONCE);
    tasks.map(|done| done.expect("no job panics")).collect().await
}

/// Reads every page, and extracts only the next token.
async fn bare(url: &str, size: Size) -> Taken {
    let client = reqwest::Client::new();
    let started = Instant::now();
    let read = |(account, region): (String, &'static str)| {
        let (client, url) = (client.clone(), url.to_owned());
        async move {
            let mut token = String::new();
            loop {
                let signed =
                    format!("AWS4-HMAC-SHA256 Credential=ELAVA{account}/20261124/{region}/ec2/aws4_request, x");
                let body =
                    format!("Action=DescribeInstances&Version=2016-11-15&MaxResults=1000&NextToken={token}");
                let answer =
                    client.post(&url).header("authorization", signed).body(body).send().await.expect("it answers");
                let body = answer.bytes().await.expect("all of it");
                // The token is at the end.
                let tail = String::from_utf8_lossy(&body[body.len().saturating_sub(200)..]).into_owned();
                match tail.split_once("<nextToken>").and_then(|(_, rest)| rest.split_once('<')) {
                    Some((next, _)) => next.clone_into(&mut token),
                    None => return,
                }
            }
        }
    };
    each(places(size).into_iter().map(read)).await;
    taken(size, started)
}

fn taken(size: Size, started: Instant) -> Taken {
    Taken {
        resources: size.resources(),
        seconds: started.elapsed().as_secs_f64(),
        again_seconds: None,
        cpu_seconds: cpu_seconds(),
        peak_mb: peak_mb(),
    }
}

async fn sdk(url: &str, size: Size) -> Taken {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let started = Instant::now();
    let seen = Arc::new(AtomicUsize::new(0));
    let read = |(account, region): (String, &'static str)| {
        let keys = Keys::new(format!("ELAVA{account}"), "secret", None, None, "bench");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(url)
            .http_client(http.clone())
            .region(AwsRegion::new(region))
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(keys))
            .build();
        let client = aws_sdk_ec2::Client::new(&config);
        let seen = seen.clone();
        async move {
            let mut pages = client.describe_instances().max_results(1000).into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.expect("a page");
                let count: usize = page.reservations().iter().map(|r| r.instances().len()).sum();
                seen.fetch_add(count, Ordering::Relaxed);
            }
        }
    };
    each(places(size).into_iter().map(read)).await;
    assert_eq!(seen.load(Ordering::Relaxed), size.resources());
    taken(size, started)
}

async fn elava(url: &str, size: Size) -> Taken {
    let dir = tempfile::tempdir().expect("there is a folder for temporary files");
    let store = Store::open(&dir.path().join("elava.redb"), system_clock()).expect("a new store");
    let provider: Arc<dyn Provider> = Arc::new(Aws::default());
    let endpoint: Arc<str> = url.into();
    let accounts: Vec<(AccountScanner, Subscription)> = (0..size.accounts)
        .map(|number| {
            let id = AccountId::new(account(number));
            let subscription = Subscription {
                subscriber: Subscriber::new("bench/bench"),
                tenant: "".into(),
                target: AccountTarget {
                    account: Some(id.clone()),
                    provider: "aws".into(),
                    access: access(keys("bench", "bench"), Some(format!("arn:aws:iam::{id}:role/elava"))),
                    endpoint: endpoint.clone(),
                    include_regions: REGIONS.map(Region::new).to_vec(),
                    exclude_regions: Vec::new(),
                },
                types: vec!["AWS::EC2::Instance"],
                interval: Duration::from_mins(5),
                suspended: false,
                loss: LossLimits::DEFAULT,
                confirmations: 2,
                released: Vec::new(),
                requested_at: None,
                generation: 1,
            };
            let scanner = AccountScanner::new(provider.clone(), store.clone(), id, endpoint.clone());
            (scanner.without_baseline_changes(), subscription)
        })
        .collect();
    let started = Instant::now();
    let accounts = round(accounts).await;
    let first = taken(size, started);
    let count =
        store.snapshot(elava::inventory::Moment::Now).expect("now").count(&elava::inventory::Filter::default());
    assert_eq!(count, size.resources(), "all of it is there");
    let before = store.revision();
    let started = Instant::now();
    round(accounts).await;
    let again = started.elapsed().as_secs_f64();
    assert_eq!(store.revision(), before, "nothing changed");
    Taken { again_seconds: Some(again), peak_mb: peak_mb(), ..first }
}

async fn round(accounts: Vec<(AccountScanner, Subscription)>) -> Vec<(AccountScanner, Subscription)> {
    let sweep_once = |(mut scanner, subscription): (AccountScanner, Subscription)| async move {
        let round = scanner.round(std::slice::from_ref(&subscription), true, &|_, _| {}).await;
        assert!(round.scopes.values().all(|scope| scope.outcome.is_complete()), "{:?}", round.scopes);
        (scanner, subscription)
    };
    each(accounts.into_iter().map(sweep_once)).await
}

/// A few accounts are enough to measure its rate.
fn boto3(url: &str, size: Size) -> Option<Taken> {
    let tools = std::env::var("ELAVA_TOOLS").ok()?;
    let accounts = size.accounts.min(4);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scan/pager.py");
    let started = Instant::now();
    let output = Command::new(Path::new(&tools).join("aws/bin/python"))
        .arg(script)
        .args([url, &accounts.to_string()])
        .args(REGIONS)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reported: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let number = |name: &str| reported[name].as_f64().unwrap_or(f64::NAN);
    let resources = Size { accounts, ..size }.resources();
    let taken = Taken {
        resources,
        seconds: number("seconds"),
        again_seconds: None,
        cpu_seconds: number("cpu_seconds"),
        peak_mb: number("peak_mb"),
    };
    println!("boto3: {taken:?} of {:.1?}", started.elapsed());
    Some(taken)
}
