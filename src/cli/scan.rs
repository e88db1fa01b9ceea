//! `elava scan`: the same manifest, the same scanner, the same store; no cluster.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::print::{note, out};
use super::{FAILED, INCOMPLETE, Output, OutputArgs, clouds, print};
use crate::api::CloudScan;
use crate::api::validate::manifest;
use crate::cloud::{CloudError, Credentials, Providers};
use crate::controller::assess;
use crate::controller::build::{subscriber, subscriptions};
use crate::controller::validate::{Allowed, validate};
use crate::inventory::{
    AccountId, Change, ChangeKind, Filter, Moment, Part, Reason, ResourceKey, Revision, RuleSettings, Scope,
    Snapshot, Subscriber, Suspect,
};
use crate::policy::lifecycle::Record;
use crate::policy::{Evaluator, Prices};
use crate::scanner::{AccountScanner, EarlierTags, Round, ScopeReport, StoreFailure, Subscription, list_members};
use crate::server::findings::FindingView;
use crate::server::query::API_VERSION;
use crate::store::{Store, StoreError, system_clock};

/// Accounts that are scanned concurrently.
const ACCOUNTS_IN_FLIGHT: usize = 8;

#[derive(Debug, Args)]
pub struct ScanArgs {
    /// The manifest, as it would be applied to a cluster; - reads it from standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    filename: PathBuf,
    /// The store's file; it is created if it does not exist
    #[arg(long, env = "ELAVA_STORE")]
    store: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The result of a scan. Documented in docs/json.md.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanReport {
    pub api_version: &'static str,
    pub revision: Revision,
    pub complete: bool,
    pub scopes: Vec<ScopeLine>,
    pub changes: Vec<Change>,
    pub pending: Vec<PendingLine>,
    pub findings: Vec<FindingView>,
}

#[derive(Debug, Serialize)]
pub struct ScopeLine {
    pub account: String,
    /// `*` for region and type of an account that could not be accessed.
    pub region: String,
    #[serde(rename = "type")]
    pub resource_type: String,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Resources whose tags could not be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub tags_unknown: usize,
    /// Resources whose attributes could not be read, or not all of them.
    #[serde(skip_serializing_if = "is_zero")]
    pub attributes_unknown: usize,
    /// The calls that were refused or failed for single resources: `kms:DescribeKey`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread_by: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes it so.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl ScopeLine {
    fn of(scope: &Scope, report: &ScopeReport) -> Self {
        let unread = |part| report.unread.iter().filter(move |(unread, _)| unread.part == part);
        Self {
            account: scope.account.to_string(),
            region: scope.region.to_string(),
            resource_type: scope.resource_type.to_string(),
            outcome: report.outcome.as_str(),
            reason: report.outcome.reason().map(Reason::as_str),
            message: report.error.as_ref().map(ToString::to_string),
            tags_unknown: unread(Part::Tags).map(|(_, count)| count).sum(),
            attributes_unknown: unread(Part::Attributes).map(|(_, count)| count).sum(),
            unread_by: report.unread.keys().map(|unread| unread.action.clone()).collect(),
        }
    }

    fn is_readable(&self) -> bool {
        self.tags_unknown == 0 && self.attributes_unknown == 0
    }
}

#[derive(Debug, Serialize)]
pub struct PendingLine {
    pub resource: ResourceKey,
    #[serde(flatten)]
    pub suspect: Suspect,
}

/// The CloudScan in a file; `-` is standard input.
pub fn read_manifest(path: &Path) -> anyhow::Result<CloudScan> {
    let name = path.display();
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?
    };
    manifest(&text).with_context(|| format!("{name} was refused"))
}

pub async fn scan(args: ScanArgs) -> anyhow::Result<ExitCode> {
    let name = args.filename.display();
    let mut scan = read_manifest(&args.filename)?;
    scan.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let providers = clouds::providers();
    let mut valid = validate(&scan.spec, "", |provider| providers.types(provider), &Allowed::Anything)
        .with_context(|| format!("{name} was refused"))?;
    if valid.provider.secret().is_some() {
        note!(
            "elava: credentialsSecretRef is ignored without a cluster: the credentials of the environment are used"
        );
    }
    // A scan that a user runs is not suspended; and without a next scan nothing becomes stale.
    valid.suspended = false;
    valid.interval = Duration::ZERO;

    let store = Store::open(&args.store, system_clock())?;
    let provider = valid.provider.clone();
    let endpoint = providers.default_endpoint(provider.name());
    let members = match provider.units() {
        Some(units) => Some(
            list_members(&providers, &provider.lister(&Credentials::Ambient, &endpoint), units)
                .await
                .context("the accounts of the organization can't be listed")?,
        ),
        None => None,
    };
    let mut desired = subscriptions(&scan, &valid, &Credentials::Ambient, &endpoint, members.as_ref());
    if let Some(members) = &members {
        // Their credentials can't work.
        let is_inactive = |a: &AccountId| members.list.iter().any(|m| m.account == *a && !m.is_active);
        desired.retain(|s| s.target.account.as_ref().is_none_or(|account| !is_inactive(account)));
    }
    let accounts = desired.len();
    let progress = Progress::new();
    let scan_account =
        |subscription| scan_account(subscription, providers.clone(), store.clone(), progress.clone());
    let swept: Vec<(Option<String>, Result<Round, CloudError>)> =
        futures::stream::iter(desired).map(scan_account).buffered(ACCOUNTS_IN_FLIGHT).collect().await;
    progress.bar.finish_and_clear();

    let totals = Totals::of(swept);
    let locked_out = totals.locked_out == accounts;
    store.flush()?;
    if let Some(error) = totals.store_errors.first() {
        anyhow::bail!("what was seen could not be recorded: {}", error.message);
    }
    let subscriber = subscriber(&scan);
    let report = report(&store, &subscriber, &valid.rules, totals)?;
    match args.output.output {
        Output::Table => {
            let filter = Filter { subscriber: Some(subscriber), ..Filter::default() };
            table(&report, store.snapshot(Moment::Now)?.resources(&filter)?.len());
        }
        other => print::structured(&report, other)?,
    }
    for scope in report.scopes.iter().filter(|s| s.outcome != "Complete") {
        let ScopeLine { account, region, resource_type, outcome, message, .. } = scope;
        let message = message.as_deref().unwrap_or_default();
        note!("elava: {outcome}: account {account}, region {region}, {resource_type}: {message}");
    }
    for scope in report.scopes.iter().filter(|scope| !scope.is_readable()) {
        let ScopeLine { account, region, resource_type, tags_unknown, attributes_unknown, unread_by, .. } = scope;
        note!(
            "elava: Unread: account {account}, region {region}, {resource_type}: {tags_unknown} resources without their \
             tags, {attributes_unknown} without all of their attributes: allow {}",
            unread_by.join(", ")
        );
    }
    let is_whole = report.complete && report.scopes.iter().all(ScopeLine::is_readable);
    Ok(ExitCode::from(match (is_whole, locked_out) {
        (true, _) => 0,
        (false, true) => FAILED,
        (false, false) => INCOMPLETE,
    }))
}

/// The results of all accounts' rounds together.
#[derive(Default)]
struct Totals {
    scopes: Vec<ScopeLine>,
    changes: Vec<Change>,
    locked_out: usize,
    store_errors: Vec<StoreFailure>,
    earlier_tags: BTreeMap<Scope, EarlierTags>,
}

impl Totals {
    fn of(swept: Vec<(Option<String>, Result<Round, CloudError>)>) -> Self {
        let mut totals = Self::default();
        for (account, round) in swept {
            match round {
                Err(error) => {
                    totals.locked_out += 1;
                    totals.scopes.push(ScopeLine {
                        account: account.unwrap_or_else(|| "*".to_owned()),
                        region: "*".to_owned(),
                        resource_type: "*".to_owned(),
                        outcome: "Failed",
                        reason: Some(error.reason.as_str()),
                        message: Some(error.to_string()),
                        tags_unknown: 0,
                        attributes_unknown: 0,
                        unread_by: Vec::new(),
                    });
                }
                Ok(round) => {
                    totals.earlier_tags.extend(round.earlier_tags());
                    totals.scopes.extend(round.scopes.iter().map(|(scope, report)| ScopeLine::of(scope, report)));
                    totals.changes.extend(round.changes);
                    totals.store_errors.extend(round.store_errors);
                }
            }
        }
        totals.changes.sort_by(|a, b| (a.revision, &a.resource).cmp(&(b.revision, &b.resource)));
        totals
    }
}

fn report(
    store: &Store,
    subscriber: &Subscriber,
    rules: &RuleSettings,
    totals: Totals,
) -> Result<ScanReport, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let filter = Filter { subscriber: Some(subscriber.clone()), ..Filter::default() };
    let pending = snapshot
        .resources(&filter)?
        .into_iter()
        .filter_map(|r| Some(PendingLine { suspect: r.suspect?, resource: r.key }))
        .collect();
    // As in the operator, so that what is noticed today is known tomorrow.
    let name = subscriber.as_str().split_once('/').map_or("", |(_, name)| name);
    let mut evaluator = Evaluator::new(clouds::facts(), Arc::new(Prices::shipped()));
    let assessment =
        assess::assess(store, subscriber, rules, name, &BTreeMap::new(), &totals.earlier_tags, &mut evaluator)?;
    assess::write(store, subscriber, &assess::notes(&assessment, rules, |_| true))?;
    let open = assessment.lifecycle.records.into_values().filter(Record::is_open);
    let mut findings: Vec<FindingView> = open
        .map(|record| FindingView::of(String::new(), record, Some(&assessment.counts.currency), assessment.now))
        .collect();
    findings.sort_by(|a, b| (&a.resource, a.kind).cmp(&(&b.resource, b.kind)));
    Ok(ScanReport {
        api_version: API_VERSION,
        revision: snapshot.revision(),
        complete: totals.scopes.iter().all(|s| s.outcome == "Complete"),
        scopes: totals.scopes,
        changes: totals.changes,
        pending,
        findings,
    })
}

#[derive(Clone)]
struct Progress {
    bar: ProgressBar,
    total: Arc<AtomicUsize>,
}

impl Progress {
    fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{spinner} {pos}/{len} scopes listed {wide_bar} {elapsed}");
        bar.set_style(style.expect("the template is a constant"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, total: Arc::default() }
    }
}

/// Scans one account. Returns which it is, and the result of its round.
async fn scan_account(
    subscription: Subscription,
    providers: Providers,
    store: Store,
    progress: Progress,
) -> (Option<String>, Result<Round, CloudError>) {
    let named = subscription.target.account.as_ref().map(ToString::to_string);
    let provider = match providers.get(&subscription.target.provider) {
        Ok(provider) => provider.clone(),
        Err(error) => return (named, Err(error)),
    };
    let account = match provider.connect(&subscription.target).await {
        Ok(session) => session.identity().account.clone(),
        Err(error) => return (named, Err(error)),
    };
    let endpoint = subscription.target.endpoint.clone();
    let mut scanner = AccountScanner::new(provider, store, account.clone(), endpoint);
    let last_done = AtomicUsize::new(0);
    let round = scanner
        .round(std::slice::from_ref(&subscription), true, &|done, total| {
            if done == 0 {
                let total = progress.total.fetch_add(total, Ordering::Relaxed) + total;
                progress.bar.set_length(total as u64);
            } else {
                progress.bar.inc((done - last_done.swap(done, Ordering::Relaxed)) as u64);
            }
        })
        .await;
    let report = scanner.reports.get(&subscription.subscriber);
    let failed = report
        .and_then(|r| r.credentials.as_ref().and_then(|c| c.as_ref().err()).or(r.regions_error.as_ref()).cloned());
    (Some(account.to_string()), failed.map_or(Ok(round), Err))
}

/// Maximum number of rows for people; the rest is counted.
const ROWS_SHOWN_MAX: usize = 100;

fn rows(all: impl ExactSizeIterator<Item = Vec<String>>) {
    let more = all.len().saturating_sub(ROWS_SHOWN_MAX);
    print::columns(all.take(ROWS_SHOWN_MAX));
    if more > 0 {
        out!("  ... and {more} more: -o json shows all");
    }
    out!("");
}

fn table(report: &ScanReport, resources: usize) {
    let by_kind = |kind: ChangeKind| report.changes.iter().filter(move |c| c.change == kind && !c.baseline);
    let baseline: Vec<&Change> = report.changes.iter().filter(|c| c.baseline).collect();
    if !baseline.is_empty() {
        out!("FIRST SEEN: {} resources that existed before the first scan", baseline.len());
        let mut by_type: BTreeMap<&str, usize> = BTreeMap::new();
        for change in baseline {
            *by_type.entry(change.resource.resource_type.as_str()).or_default() += 1;
        }
        print::columns(by_type.into_iter().map(|(name, n)| vec![format!("  {name}"), n.to_string()]));
        out!("");
    }
    for (title, kind) in
        [("NEW", ChangeKind::Appeared), ("CHANGED", ChangeKind::Changed), ("GONE", ChangeKind::Disappeared)]
    {
        let changes: Vec<&Change> = by_kind(kind).collect();
        if !changes.is_empty() {
            out!("{title}: {}", changes.len());
            rows(changes.into_iter().map(|c| vec![format!("  {}", c.resource), c.remark()]));
        }
    }
    if !report.pending.is_empty() {
        out!("MISSING, NOT YET CONFIRMED: {}", report.pending.len());
        rows(report.pending.iter().map(|p| {
            let why = if p.suspect.held { "held: too much was missing at once" } else { "the next sweep decides" };
            vec![format!("  {}", p.resource), format!("last seen {}", p.suspect.last_seen), why.to_owned()]
        }));
    }
    if !report.findings.is_empty() {
        out!("FINDINGS: {}", report.findings.len());
        rows(
            report.findings.iter().map(|f| {
                vec![format!("  {}", f.kind), f.resource.to_string(), f.message.clone(), f.advice.clone()]
            }),
        );
    }
    let complete = report.scopes.iter().filter(|s| s.outcome == "Complete").count();
    out!(
        "{resources} resources at revision {}; {complete} of {} scopes listed whole",
        report.revision,
        report.scopes.len()
    );
    let unknown: usize = report.scopes.iter().map(|scope| scope.tags_unknown).sum();
    if unknown > 0 {
        out!("the tags of {unknown} resources could not be read: what was known of them goes on");
    }
}
