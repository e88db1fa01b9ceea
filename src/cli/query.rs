//! Queries of the source that [`SourceArgs`] names: the answers are the same for all sources.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::AsyncBufReadExt;

use super::print::{ListOutput, Table, note, out};
use super::source::{SourceArgs, get_from_socket};
use super::{Output, OutputArgs, clouds, print};
use crate::inventory::{Change, ChangeKind, Presence, ResourceKey, Revision, ScopeView, Tags};
use crate::server::findings::{
    self, Branch, FindingView, FindingsQuery, FindingsResponse, OwnersQuery, OwnersResponse, TreeQuery,
    TreeResponse,
};
use crate::server::query::{
    self, DiffQuery, DiffResponse, HistoryQuery, HistoryResponse, ResourceView, ResourcesQuery, ResourcesResponse,
};

#[derive(Debug, Args)]
struct ListArgs {
    /// Output format; json and yaml are documented in docs/json.md
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListOutput,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only this account
    #[arg(long)]
    account: Option<String>,
    /// Only this region; global for what AWS lists account-wide
    #[arg(long)]
    region: Option<String>,
    /// Only this resource type, such as AWS::EC2::Volume
    #[arg(long = "type", value_name = "TYPE")]
    resource_type: Option<String>,
    /// Only resources with this tag; may be repeated
    #[arg(long = "tag", value_name = "KEY[=VALUE]")]
    tags: Vec<String>,
    /// Only resources without tags, apart from those that AWS sets
    #[arg(long)]
    untagged: bool,
    /// Also resources that have ended
    #[arg(long)]
    ended: bool,
    /// Also the whole described object, as `aws ... describe-...` prints it (json and yaml)
    #[arg(long)]
    attributes: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// A resource key or a bare id; without one, all resources that the filters select
    key: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Output format; json and yaml are documented in docs/json.md. tree shows what one resource uses, and what uses it
    #[arg(short, long, value_enum, default_value = "table")]
    output: ResourceOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ResourceOutput {
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Only the keys
    Name,
    /// Every column, separated by commas
    Csv,
    Tree,
}

#[derive(Debug, Args)]
pub struct AtArgs {
    /// The moment: a revision (41), a time (2026-11-24T08:30:00Z), or how long ago (2h, 3 days ago, yesterday)
    moment: String,
    /// Also use later sweeps: a resource between two sweeps that show the same life was present, and one that the next
    /// sweep missed is unknown. Without it: what was known at that moment
    #[arg(long)]
    hindsight: bool,
    #[command(flatten)]
    what: GetArgs,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// A resource key, or a bare id if it is unique
    key: String,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: ListArgs,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The start: a revision (41), a time (2026-11-24T08:30:00Z), or how long ago (2h, 3 days ago, yesterday)
    from: String,
    /// The end, written in the same ways
    #[arg(default_value = "now")]
    to: String,
    /// Every step between the two, including resources that came and went; without it the net difference
    #[arg(long)]
    steps: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: ListArgs,
}

impl GetArgs {
    async fn run_query(self, at: Option<String>, hindsight: bool) -> anyhow::Result<()> {
        let output = match self.output {
            ResourceOutput::Table => ListOutput::Table,
            ResourceOutput::Wide => ListOutput::Wide,
            ResourceOutput::Json => ListOutput::Json,
            ResourceOutput::Yaml => ListOutput::Yaml,
            ResourceOutput::Name => ListOutput::Name,
            ResourceOutput::Csv => ListOutput::Csv,
            ResourceOutput::Tree => {
                let key = self.key.context("a tree is of one resource: name it by its key or id")?;
                return show_tree(&self.source, TreeQuery { key, at }, Output::Table).await;
            }
        };
        let question = ResourcesQuery { at, hindsight, ..self.filter.question(self.key) };
        resources(&self.source, &question, output).await
    }
}

impl FilterArgs {
    fn question(&self, key: Option<String>) -> ResourcesQuery {
        ResourcesQuery {
            key,
            account: self.account.clone(),
            region: self.region.clone(),
            resource_type: self.resource_type.clone(),
            tags: (!self.tags.is_empty()).then(|| serde_json::to_string(&self.tags).expect("strings are JSON")),
            untagged: self.untagged,
            ended: self.ended,
            attributes: self.attributes,
            ..ResourcesQuery::default()
        }
    }
}

pub async fn get(args: GetArgs) -> anyhow::Result<()> {
    args.run_query(None, false).await
}

pub async fn at(args: AtArgs) -> anyhow::Result<()> {
    args.what.run_query(Some(args.moment), args.hindsight).await
}

#[derive(Debug, Args)]
pub struct TreeArgs {
    /// A resource key, or a bare id if it is unique
    key: String,
    /// The moment: a revision (41), a time (2026-11-24T08:30:00Z), or how long ago (2h, yesterday); without it, now
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn tree(args: TreeArgs) -> anyhow::Result<()> {
    show_tree(&args.source, TreeQuery { key: args.key, at: args.at }, args.output.output).await
}

async fn show_tree(source: &SourceArgs, question: TreeQuery, output: Output) -> anyhow::Result<()> {
    let answer: TreeResponse = match source.cluster().await? {
        Some(cluster) => cluster.tree(&question).await?,
        None => {
            source.run_query("/v1/tree", &question, |store, q| findings::tree(store, &clouds::facts(), q)).await?
        }
    };
    if output != Output::Table {
        return print::structured(&answer, output);
    }
    print_branch(&answer.root, "", "");
    Ok(())
}

fn print_branch(branch: &Branch, before: &str, below: &str) {
    let key = &branch.resource;
    let kind = key.resource_type.short();
    let name = branch.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let state = match branch.state.as_str() {
        "Present" => String::new(),
        "Gone" => ", gone".to_owned(),
        _ => ", not seen".to_owned(),
    };
    let relation = if branch.relation.is_empty() { String::new() } else { format!("{} ", branch.relation) };
    out!("{before}{relation}{kind} {}{name}{state}", key.id);
    for (i, inner) in branch.branches.iter().enumerate() {
        let is_last = i + 1 == branch.branches.len();
        let (corner, line) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        print_branch(inner, &format!("{below}{corner}"), &format!("{below}{line}"));
    }
}

#[derive(Debug, Args)]
pub struct FindingsArgs {
    /// Only findings of this CloudScan
    #[arg(long, value_name = "NAMESPACE/NAME")]
    cloudscan: Option<String>,
    /// Only this kind, such as Orphaned
    #[arg(long)]
    kind: Option<String>,
    /// Only this account
    #[arg(long)]
    account: Option<String>,
    /// Only findings that this owner should act on
    #[arg(long)]
    owner: Option<String>,
    /// Also findings that are resolved, exempted, or too young to be reported
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: ListArgs,
}

pub async fn findings(args: FindingsArgs) -> anyhow::Result<()> {
    let FindingsArgs { cloudscan, kind, account, owner, all, source, output } = args;
    let question = FindingsQuery { cloudscan, kind, account, owner, all };
    let answer: FindingsResponse = match source.cluster().await? {
        Some(cluster) => cluster.findings(&question).await?,
        None => source.run_query("/v1/findings", &question, findings::findings).await?,
    };
    let money = |f: &FindingView, amount: Option<f64>| {
        let currency = f.currency.as_deref().unwrap_or_default();
        amount.map_or("-".to_owned(), |amount| format!("{amount:.2} {currency}").trim_end().to_owned())
    };
    let row = |f: &FindingView| {
        vec![
            f.kind.to_string(),
            f.severity.as_str().to_owned(),
            f.resolution.clone().map_or(f.state.clone(), |why| format!("{} ({why})", f.state)),
            f.resource.to_string(),
            f.owner.as_ref().map_or("-", |owner| owner.name.as_str()).to_owned(),
            f.since.to_string(),
            money(f, f.monthly_cost),
            money(f, f.cost_so_far),
            f.message.clone(),
            f.cloudscan.clone(),
            f.advice.clone(),
        ]
    };
    let table = Table {
        columns: columns_of(
            &["KIND", "SEVERITY", "STATE", "RESOURCE", "OWNER", "SINCE", "COST/MONTH", "SO FAR", "MESSAGE"],
            &["CLOUDSCAN", "ADVICE"],
        ),
        rows: answer.findings.iter().map(row).collect(),
        keys: answer.findings.iter().map(|f| f.resource.to_string()).collect(),
    };
    if print::list(&answer, table, output.output)? {
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for finding in &answer.findings {
            if let Some(cost) = finding.monthly_cost {
                let (known, sum) = sums.entry(finding.currency.as_deref().unwrap_or_default()).or_default();
                (*known, *sum) = (*known + 1, *sum + cost);
            }
        }
        let sum_text = |(currency, (known, sum)): (&&str, &(usize, f64))| {
            let sum = format!("{sum:.2} {currency}");
            format!("; {} a month by list prices, of the {known} whose price is known", sum.trim_end())
        };
        note!("{} findings{}", answer.findings.len(), sums.iter().map(sum_text).collect::<String>());
    }
    Ok(())
}

fn columns_of(narrow: &[&'static str], wide: &[&'static str]) -> Vec<(&'static str, bool)> {
    let narrow = narrow.iter().map(|name| (*name, false));
    narrow.chain(wide.iter().map(|name| (*name, true))).collect()
}

#[derive(Debug, Args)]
pub struct OwnersArgs {
    /// By the settings of this CloudScan, and only what it can see; without one, by the default tags
    #[arg(long, value_name = "NAMESPACE/NAME")]
    cloudscan: Option<String>,
    /// The moment: a revision (41), a time (2026-11-24T08:30:00Z), or how long ago (2h, yesterday); without it, now
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn owners(args: OwnersArgs) -> anyhow::Result<()> {
    let question = OwnersQuery { cloudscan: args.cloudscan, at: args.at };
    let answer: OwnersResponse = match args.source.cluster().await? {
        Some(cluster) => cluster.owners(&question).await?,
        None => {
            args.source
                .run_query("/v1/owners", &question, |store, q| findings::owners(store, &clouds::facts(), q))
                .await?
        }
    };
    if args.output.output != Output::Table {
        return print::structured(&answer, args.output.output);
    }
    let header = ["ACCOUNT", "OWNER", "RESOURCES", "SHARE"].map(str::to_owned).to_vec();
    let mut rows = vec![header];
    for (account, coverage) in &answer.accounts {
        let share = |count: usize| {
            #[allow(clippy::cast_precision_loss)] // A share for people.
            let share = count as f64 * 100.0 / coverage.resources.max(1) as f64;
            format!("{share:.0} %")
        };
        let owners = coverage.by_owner.iter().map(|(owner, count)| (owner.as_str(), *count));
        let rest = [("(nobody)", coverage.unowned), ("(tags unknown)", coverage.unknown)];
        for (owner, count) in owners.chain(rest.into_iter().filter(|(_, count)| *count > 0)) {
            rows.push(vec![account.clone(), owner.to_owned(), count.to_string(), share(count)]);
        }
    }
    print::columns(rows);
    let all: usize = answer.accounts.values().map(|coverage| coverage.resources).sum();
    let owned: usize = answer.accounts.values().map(|coverage| coverage.by_owner.values().sum::<usize>()).sum();
    note!("{owned} of {all} resources have an owner at revision {}, {}", answer.revision, answer.time);
    Ok(())
}

async fn query_resources(source: &SourceArgs, question: &ResourcesQuery) -> anyhow::Result<ResourcesResponse> {
    match source.cluster().await? {
        Some(cluster) => cluster.resources(question).await,
        None => {
            source
                .run_query("/v1/resources", question, |store, q| query::resources(store, &clouds::facts(), q))
                .await
        }
    }
}

async fn resources(source: &SourceArgs, question: &ResourcesQuery, output: ListOutput) -> anyhow::Result<()> {
    let answer = query_resources(source, question).await?;
    let row = |view: &ResourceView| {
        let first_seen =
            if view.baseline { format!("before {}", view.first_seen) } else { view.first_seen.to_string() };
        let tags = match &view.tags {
            Tags::Known(set) => {
                set.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
            }
            Tags::Unknown => "(unknown)".to_owned(),
            Tags::Untaggable => "(none possible)".to_owned(),
        };
        vec![
            view.resource.resource_type.to_string(),
            view.resource.id.to_string(),
            view.tags.name().unwrap_or("-").to_owned(),
            view.resource.account.to_string(),
            view.resource.region.to_string(),
            first_seen,
            state(view),
            view.changed.to_string(),
            tags,
        ]
    };
    let table = Table {
        columns: columns_of(
            &["TYPE", "ID", "NAME", "ACCOUNT", "REGION", "FIRST SEEN", "STATE"],
            &["CHANGED", "TAGS"],
        ),
        rows: answer.resources.iter().map(row).collect(),
        keys: answer.resources.iter().map(|view| view.resource.to_string()).collect(),
    };
    if print::list(&answer, table, output)? {
        note!("{} resources at revision {}, {}", answer.resources.len(), answer.revision, answer.time);
        report_unknown(&answer.unknown);
    }
    Ok(())
}

fn state(view: &ResourceView) -> String {
    let untagged = matches!(&view.tags, Tags::Known(set) if crate::inventory::is_untagged(set));
    match (&view.end, &view.suspect, view.presence) {
        (Some(end), ..) => format!("gone since {}", end.first_missed),
        (None, Some(suspect), _) if suspect.held => "missing, held".to_owned(),
        (None, Some(_), _) => "missing, not confirmed".to_owned(),
        (None, None, Presence::Unknown) => "unknown: not scanned lately".to_owned(),
        (None, None, _) if untagged => "present, untagged".to_owned(),
        (None, None, _) if view.tags == Tags::Unknown => "present, tags unknown".to_owned(),
        (None, None, _) => "present".to_owned(),
    }
}

/// Missing knowledge must not pass for absence.
fn report_unknown(unknown: &[ScopeView]) {
    if !unknown.is_empty() {
        let scopes: Vec<String> = unknown.iter().take(5).map(|view| view.scope.to_string()).collect();
        let more = if unknown.len() > scopes.len() { ", ..." } else { "" };
        note!("{} scopes were not current then: {}{more}", unknown.len(), scopes.join(", "));
    }
}

pub async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let question = HistoryQuery { key: args.key };
    let answer: HistoryResponse = match args.source.cluster().await? {
        Some(cluster) => cluster.history(&question).await?,
        None => args.source.run_query("/v1/history", &question, query::history).await?,
    };
    let row = |c: &Change| vec![c.revision.to_string(), c.time.to_string(), format!("{:?}", c.change), c.remark()];
    let table = Table {
        columns: columns_of(&["REVISION", "TIME", "CHANGE", "WHAT"], &[]),
        rows: answer.changes.iter().map(row).collect(),
        keys: answer.changes.iter().map(|change| change.revision.to_string()).collect(),
    };
    let is_table = matches!(args.output.output, ListOutput::Table | ListOutput::Wide);
    if is_table {
        out!("{}", answer.resource);
    }
    print::list(&answer, table, args.output.output)?;
    Ok(())
}

pub async fn diff(args: DiffArgs) -> anyhow::Result<()> {
    let DiffArgs { from, to, steps, source, output } = args;
    let question = DiffQuery { from, to, steps };
    let answer = query_diff(&source, &question).await?;
    print_changes(&answer, steps, output.output)
}

async fn query_diff(source: &SourceArgs, question: &DiffQuery) -> anyhow::Result<DiffResponse> {
    match source.cluster().await? {
        Some(cluster) => cluster.diff(question).await,
        None => source.run_query("/v1/diff", question, query::diff).await,
    }
}

/// A net difference is the sum of steps; only a step has its moment.
fn print_changes(answer: &DiffResponse, are_steps: bool, output: ListOutput) -> anyhow::Result<()> {
    let row = |c: &Change| {
        let moment = are_steps.then(|| c.time.to_string());
        let rest = [format!("{:?}", c.change), c.resource.to_string(), c.remark(), c.revision.to_string()];
        moment.into_iter().chain(rest).collect()
    };
    let time: &[&'static str] = if are_steps { &["TIME"] } else { &[] };
    let table = Table {
        columns: columns_of(&[time, &["CHANGE", "RESOURCE", "WHAT"]].concat(), &["REVISION"]),
        rows: answer.diff.changes.iter().map(row).collect(),
        keys: answer.diff.changes.iter().map(|change| change.resource.to_string()).collect(),
    };
    if print::list(answer, table, output)? {
        let (from, to) = (answer.diff.from, answer.diff.to);
        note!("{} changes between revision {from} and {to}", answer.diff.changes.len());
        report_unknown(&answer.diff.unknown);
    }
    Ok(())
}

#[derive(Debug, Args)]
pub struct SinceArgs {
    /// The start: a revision (41), a time (2026-11-24T08:30:00Z), or how long ago (2h, 3 days ago, yesterday)
    #[arg(long, value_name = "MOMENT", default_value = "24h")]
    since: String,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: ListArgs,
}

/// Every step since a moment, of the requested kinds.
async fn changes_since(args: SinceArgs, is_requested: impl Fn(&Change) -> bool) -> anyhow::Result<()> {
    let question = DiffQuery { from: args.since, to: "now".to_owned(), steps: true };
    let mut answer = query_diff(&args.source, &question).await?;
    answer.diff.changes.retain(is_requested);
    print_changes(&answer, true, args.output.output)
}

pub async fn changes(args: SinceArgs) -> anyhow::Result<()> {
    changes_since(args, |_| true).await
}

pub async fn disappeared(args: SinceArgs) -> anyhow::Result<()> {
    changes_since(args, |change| change.change == ChangeKind::Disappeared).await
}

#[derive(Debug, Args)]
pub struct UntaggedArgs {
    /// Only those that became untagged since a moment: a revision, a time, or how long ago (2h, yesterday)
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: ListArgs,
}

pub async fn untagged(args: UntaggedArgs) -> anyhow::Result<()> {
    let question = ResourcesQuery { untagged: true, ..ResourcesQuery::default() };
    let Some(since) = args.since else {
        return resources(&args.source, &question, args.output.output).await;
    };
    // For resources without tags now, the steps by which they became untagged.
    let answer = query_resources(&args.source, &question).await?;
    let bare: BTreeSet<ResourceKey> = answer.resources.into_iter().map(|view| view.resource).collect();
    let question = DiffQuery { from: since, to: "now".to_owned(), steps: true };
    let mut answer = query_diff(&args.source, &question).await?;
    let is_of_tags = |change: &Change| {
        let is_new = change.change == ChangeKind::Appeared && !change.baseline;
        is_new || change.fields.iter().any(|field| field.path.starts_with("Tags."))
    };
    let steps = answer.diff.changes.into_iter().filter(|c| bare.contains(&c.resource) && is_of_tags(c));
    // The last step of each: since then it has none.
    let last: BTreeMap<ResourceKey, Change> = steps.map(|change| (change.resource.clone(), change)).collect();
    answer.diff.changes = last.into_values().collect();
    answer.diff.changes.sort_by_key(|change| change.revision);
    print_changes(&answer, true, args.output.output)
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Continue after this revision; without it, from now on
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
    /// Output format, with one line for each change
    #[arg(short, long, value_enum, default_value = "table")]
    output: WatchOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WatchOutput {
    Table,
    Json,
}

/// Runs until it is interrupted, or the operator ends it: then it prints where to continue.
pub async fn watch(args: WatchArgs) -> anyhow::Result<()> {
    let output = args.output;
    let mut report = |change: &Change| -> anyhow::Result<()> {
        match output {
            WatchOutput::Json => print::write(&format!("{}\n", print::json(&serde_json::to_string(change)?))),
            WatchOutput::Table => out!(
                "{}  {:<11}  {}  {}",
                change.time,
                format!("{:?}", change.change),
                change.resource,
                change.remark().replace(char::is_control, " ")
            ),
        }
        Ok(())
    };
    let mut after = args.after.map(Revision);
    if let Some(cluster) = args.source.cluster().await? {
        // Watches end after some time, as every watch in Kubernetes does.
        loop {
            after = Some(cluster.watch(after, &mut report).await?);
        }
    }
    let socket = args.source.operator()?;
    let question = after.map_or(String::new(), |after| format!("?after={after}"));
    let answer = get_from_socket(&socket, &format!("/v1/watch{question}")).await?;
    let stream = http_body_util::BodyStream::new(answer.into_body());
    let data = futures::TryStreamExt::try_filter_map(stream, async |frame| Ok(frame.into_data().ok()));
    let data = futures::TryStreamExt::map_err(data, std::io::Error::other);
    let reader = futures::TryStreamExt::into_async_read(Box::pin(data));
    let mut lines = reader.lines();
    while let Some(line) = futures::StreamExt::next(&mut lines).await {
        match serde_json::from_str::<query::WatchLine>(&line.context("the operator ended its answer")?)? {
            query::WatchLine::Change(change) => report(&change)?,
            query::WatchLine::Error(error) => anyhow::bail!("{error}"),
        }
    }
    Ok(())
}
