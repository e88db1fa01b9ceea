//! `elava status`: for a person on call. What is wrong, since when, and what to do.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::{INCOMPLETE, Output, OutputArgs, print};
use crate::api::{CloudScan, CloudScanStatus, NOT_OBSERVED, condition};
use crate::inventory::Timestamp;
use crate::server::query::API_VERSION;

/// How long the operator may report no scan before it counts as silent; three intervals if that is longer.
const SILENCE_MIN: Duration = Duration::from_mins(30);
/// A conclusion from absence takes two sweeps, and those of rare types are six hours apart.
const UNDECIDED_WARNING_AGE: Duration = Duration::from_hours(24);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only the CloudScans in this namespace; may be repeated. In the operator's pod: those that it watches
    #[arg(short, long, env = "ELAVA_WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// Also query the operator itself, at the address that serves /readyz and /metrics
    #[arg(long, env = "ELAVA_OPERATOR", value_name = "URL")]
    operator: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusResponse {
    api_version: &'static str,
    cloudscans: usize,
    /// Resources that exist now, and findings that are open.
    resources: i64,
    open: i64,
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    /// `cloudscan/NAMESPACE/NAME` or `operator`.
    of: String,
    /// A reason, as in docs/runbooks.md.
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    message: String,
}

/// The conditions that report a problem, each with the status in which it does.
const PROBLEM_CONDITIONS: [(&str, &str); 9] = [
    (condition::STALLED, condition::TRUE),
    (condition::CREDENTIALS_VALID, condition::FALSE),
    (condition::INVENTORY_COMPLETE, condition::FALSE),
    (condition::ATTRIBUTES_READABLE, condition::FALSE),
    (condition::TAGS_READABLE, condition::FALSE),
    (condition::FINDINGS_DECIDED, condition::FALSE),
    (condition::CLOCK_SKEW, condition::TRUE),
    (condition::WEBHOOK_DELIVERED, condition::FALSE),
    (condition::READY, condition::FALSE),
];

fn problems(scan: &CloudScan, now: Timestamp) -> Vec<Problem> {
    let of = format!("cloudscan/{}/{}", scan.namespace().unwrap_or_default(), scan.name_any());
    let problem = |reason: &str, since, message: String| Problem {
        of: of.clone(),
        reason: reason.to_owned(),
        since,
        message,
    };
    let Some(status) = scan.status.as_ref().filter(|status| status.observed_generation != Some(NOT_OBSERVED))
    else {
        let message = "no operator has taken it up: does one run, and does it watch this namespace?";
        return vec![problem(
            "NotTakenUp",
            scan.creation_timestamp().map(|time| time.0.into()),
            message.to_owned(),
        )];
    };
    let mut problems: Vec<Problem> = Vec::new();
    for (condition, wrong) in PROBLEM_CONDITIONS {
        let is_wrong = |c: &&Condition| c.type_ == condition && c.status == wrong;
        let Some(reported) = status.conditions.iter().find(is_wrong) else { continue };
        let since = Timestamp::from(reported.last_transition_time.0);
        let may_pass = condition == condition::FINDINGS_DECIDED && now.since(since) < UNDECIDED_WARNING_AGE;
        // One cause may appear in several conditions.
        let is_reported = problems.iter().any(|p| p.reason == reported.reason && p.message == reported.message);
        if !may_pass && !is_reported {
            problems.push(problem(&reported.reason, Some(since), reported.message.clone()));
        }
    }
    problems.extend(silence(scan, status, now).map(|(last, message)| problem("Silent", Some(last), message)));
    problems
}

/// No scan has been reported for too long.
fn silence(scan: &CloudScan, status: &CloudScanStatus, now: Timestamp) -> Option<(Timestamp, String)> {
    let last = status.last_scan.as_ref()?.end_time;
    let interval = humantime::parse_duration(&scan.spec.interval).unwrap_or_default();
    let allowed = SILENCE_MIN.max(interval.saturating_mul(3));
    let is_silent = !scan.spec.suspend && now.since(last) > allowed;
    let message = || {
        let span = humantime::format_duration(Duration::from_secs(now.since(last).as_secs()));
        format!("no scan was reported for {span}: check the operator's pod and its log")
    };
    is_silent.then(|| (last, message()))
}

/// The problems that the operator itself and its metrics report.
async fn operator(url: &str) -> Vec<Problem> {
    let problem = |reason: &str, message: String| Problem {
        of: "operator".to_owned(),
        reason: reason.to_owned(),
        since: None,
        message,
    };
    let base = url.trim_end_matches('/');
    match get(&format!("{base}/readyz")).await {
        Err(error) => return vec![problem("NotReachable", format!("{base} does not answer: {error:#}"))],
        Ok((status, text)) if !status.is_success() => return vec![problem("NotReady", text)],
        Ok(_) => {}
    }
    match get(&format!("{base}/metrics")).await {
        Err(error) => vec![problem("NotReachable", format!("{base}/metrics does not answer: {error:#}"))],
        Ok((_, metrics)) => {
            let value = |name: &str| {
                let line = metrics.lines().find(|line| line.split(' ').next() == Some(name))?;
                line.rsplit(' ').next()?.parse::<f64>().ok()
            };
            let is = |name: &str| value(name).is_some_and(|value| value > 0.0);
            let full = "the store's volume has no room: nothing is recorded until it is enlarged; reads go on";
            let backup = "backups fail: see the operator's log for the reason";
            [("elava_store_full", "DiskFull", full), ("elava_backup_failures", "BackupFailed", backup)]
                .into_iter()
                .filter(|(name, ..)| is(name))
                .map(|(_, reason, message)| problem(reason, message.to_owned()))
                .collect()
        }
    }
}

async fn get(url: &str) -> anyhow::Result<(hyper::StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<hyper::body::Bytes>>();
    let querying = async {
        let answer = client.get(url.parse()?).await?;
        let status = answer.status();
        let text = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&text).into_owned()))
    };
    tokio::time::timeout(CALL_TIMEOUT, querying).await.context("no answer in time")?
}

pub async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = kube::Client::try_default()
        .await
        .context("no way to reach an API server: set KUBECONFIG, or run in a pod")?;
    let apis: Vec<Api<CloudScan>> = if args.namespace.is_empty() {
        vec![Api::all(client)]
    } else {
        args.namespace.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
    };
    let mut scans = Vec::new();
    for api in apis {
        scans.extend(api.list(&ListParams::default()).await.context("CloudScans can't be listed")?.items);
    }
    let now = Timestamp::from(jiff::Timestamp::now());
    let mut found: Vec<Problem> = Vec::new();
    if let Some(url) = &args.operator {
        found.extend(operator(url).await);
    }
    found.extend(scans.iter().flat_map(|scan| problems(scan, now)));
    let sum = |of: fn(&CloudScanStatus) -> i64| scans.iter().filter_map(|s| s.status.as_ref()).map(of).sum();
    let answer = StatusResponse {
        api_version: API_VERSION,
        cloudscans: scans.len(),
        resources: sum(|status| status.resources.unwrap_or(0)),
        open: sum(|status| status.findings.as_ref().map_or(0, |findings| findings.open)),
        problems: found,
    };
    print_answer(&answer, args.output.output)?;
    Ok(if answer.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
}

fn print_answer(answer: &StatusResponse, output: Output) -> anyhow::Result<()> {
    if output != Output::Table {
        return print::structured(answer, output);
    }
    let StatusResponse { cloudscans, resources, open, problems, .. } = answer;
    print::write(&format!("{cloudscans} CloudScans, {resources} resources, {open} open findings\n"));
    if *cloudscans == 0 {
        print::write("Nothing is scanned: apply a CloudScan (docs/cloudscan.md).\n");
    }
    if problems.is_empty() {
        print::write("Nothing is wrong.\n");
        return Ok(());
    }
    let header = ["OF", "REASON", "SINCE", "WHAT IS WRONG AND WHAT TO DO"].map(str::to_owned).to_vec();
    let row = |p: &Problem| {
        let since = p.since.map_or_else(|| "-".to_owned(), |since| since.to_string());
        vec![p.of.clone(), p.reason.clone(), since, p.message.clone()]
    };
    print::columns(std::iter::once(header).chain(problems.iter().map(row)));
    print::write("Each reason has its page: docs/runbooks.md\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-26T12:00:00Z".parse().unwrap()
    }

    fn reported(spec: &Value, status: &Value) -> Vec<String> {
        let mut spec = spec.clone();
        spec["provider"] = json!({"aws": {}});
        let scan = json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
            "metadata": {"name": "one", "namespace": "team-a", "creationTimestamp": "2026-11-26T11:00:00Z"},
            "spec": spec, "status": status,
        });
        let scan: CloudScan = serde_json::from_value(scan).unwrap();
        let line = |p: Problem| format!("{} {}", p.reason, p.since.map(|t| t.to_string()).unwrap_or_default());
        problems(&scan, now()).into_iter().map(line).collect()
    }

    fn condition(type_: &str, status: &str, reason: &str, since: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": reason, "lastTransitionTime": since})
    }

    #[test]
    fn what_is_well_is_silent_and_what_is_wrong_is_reported_once() {
        const THEN: &str = "2026-11-26T11:30:00Z";
        for untold in [Value::Null, json!({"observedGeneration": -1})] {
            assert_eq!(reported(&json!({}), &untold), ["NotTakenUp 2026-11-26T11:00:00Z"]);
        }
        let well = json!({"conditions": [
            condition("Ready", "True", "Scanning", THEN), condition("Stalled", "False", "NotStalled", THEN),
            condition("InventoryComplete", "Unknown", "Scanning", THEN),
            condition("FindingsDecided", "False", "Undecided", THEN),
        ]});
        assert!(reported(&json!({}), &well).is_empty(), "what is not known yet is not wrong");
        let stuck = json!({"conditions": [
            condition("Ready", "False", "Denied", THEN), condition("Stalled", "True", "Denied", THEN),
            condition("ClockSkew", "True", "BehindStore", THEN),
            condition("FindingsDecided", "False", "Undecided", "2026-11-25T11:30:00Z"),
        ]});
        let lines =
            ["Denied 2026-11-26T11:30:00Z", "Undecided 2026-11-25T11:30:00Z", "BehindStore 2026-11-26T11:30:00Z"];
        assert_eq!(reported(&json!({}), &stuck), lines, "one cause is told once");
    }

    #[test]
    fn an_operator_that_reports_nothing_for_long_is_silent_unless_it_is_suspended() {
        let last = |end: &str| json!({"lastScan": {"startTime": end, "endTime": end}});
        assert!(reported(&json!({}), &last("2026-11-26T11:31:00Z")).is_empty());
        assert_eq!(reported(&json!({}), &last("2026-11-26T11:29:00Z")), ["Silent 2026-11-26T11:29:00Z"]);
        assert!(reported(&json!({"interval": "1h"}), &last("2026-11-26T10:00:00Z")).is_empty());
        assert!(reported(&json!({"suspend": true}), &last("2026-11-20T10:00:00Z")).is_empty());
    }
}
