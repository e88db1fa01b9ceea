//! Questions: to a store file in-process, or to the operator that holds it through its socket.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Output, OutputArgs, print};
use crate::inventory::{Presence, ScopeView, Tags};
use crate::server::findings::{
    self, Branch, FindingView, FindingsAnswer, FindingsQuestion, OwnersAnswer, OwnersQuestion, TreeAnswer,
    TreeQuestion,
};
use crate::server::query::{
    self, DiffAnswer, DiffQuestion, HistoryAnswer, HistoryQuestion, Problem, QueryError, ResourceView,
    ResourcesAnswer, ResourcesQuestion,
};
use crate::store::{Store, StoreError, socket_beside, system_clock};

#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The store's file; where an operator holds it, the operator is asked
    #[arg(long, env = "ELAVA_STORE", default_value = "elava.redb")]
    store: PathBuf,
    /// Ask the operator at this socket
    #[arg(long, env = "ELAVA_SOCKET")]
    socket: Option<PathBuf>,
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
    /// Only what has this tag; may be repeated
    #[arg(long = "tag", value_name = "KEY[=VALUE]")]
    tags: Vec<String>,
    /// Only what has no tag besides those that AWS sets
    #[arg(long)]
    untagged: bool,
    /// What has ended, too
    #[arg(long)]
    ended: bool,
    /// With the whole described object, as `aws ... describe-...` prints it (json and yaml)
    #[arg(long)]
    attributes: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// A resource key or a bare id; without one, all that the filters let through
    key: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// How to print; the shapes of json and yaml are documented in docs/json.md. tree shows what one
    /// resource uses, and what uses it
    #[arg(short, long, value_enum, default_value = "table")]
    output: ResourceOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ResourceOutput {
    Table,
    Json,
    Yaml,
    Tree,
}

#[derive(Debug, Args)]
pub struct AtArgs {
    /// A revision (41) or a time (2026-11-24T08:30:00Z)
    moment: String,
    /// Let later looks speak too: what was between two looks that show the same life was present, and
    /// what the next one missed is unknown. Without it: what was known at that moment
    #[arg(long)]
    hindsight: bool,
    #[command(flatten)]
    what: GetArgs,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// A resource key, or a bare id where it is unique
    key: String,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A revision (41), a time (2026-11-24T08:30:00Z)
    from: String,
    /// A revision, a time, or now
    #[arg(default_value = "now")]
    to: String,
    /// Every step between the two, also of what came and went; without it the net difference
    #[arg(long)]
    steps: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

enum Source {
    File(Store),
    Socket(PathBuf),
}

impl SourceArgs {
    fn open(&self) -> anyhow::Result<Source> {
        if let Some(socket) = &self.socket {
            return Ok(Source::Socket(socket.clone()));
        }
        match Store::open_existing(&self.store, system_clock()) {
            Ok(store) => Ok(Source::File(store)),
            Err(StoreError::Locked { .. }) if socket_beside(&self.store).exists() => {
                Ok(Source::Socket(socket_beside(&self.store)))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
        in_process: impl FnOnce(&Store, &Q) -> Result<A, QueryError>,
    ) -> anyhow::Result<A> {
        match self.open()? {
            Source::File(store) => Ok(in_process(&store, question)?),
            Source::Socket(socket) => {
                let query = serde_urlencoded::to_string(question)?;
                ask_socket(&socket, &format!("{path}?{query}"))
                    .await
                    .with_context(|| format!("asking the operator at {}", socket.display()))
            }
        }
    }
}

impl SourceArgs {
    /// Writes what is answered as it comes.
    pub async fn stream<Q: Serialize>(
        &self,
        path: &str,
        question: &Q,
        out: &mut (dyn Write + Send),
        in_process: impl FnOnce(&Store, &mut (dyn Write + Send)) -> Result<(), QueryError>,
    ) -> anyhow::Result<()> {
        match self.open()? {
            Source::File(store) => Ok(in_process(&store, out)?),
            Source::Socket(socket) => {
                let query = serde_urlencoded::to_string(question)?;
                let context = || format!("asking the operator at {}", socket.display());
                let answer = get_from_socket(&socket, &format!("{path}?{query}")).await.with_context(context)?;
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    let frame = frame.context("the operator ended its answer before it was whole")?;
                    if let Some(bytes) = frame.data_ref() {
                        out.write_all(bytes)?;
                    }
                }
                Ok(())
            }
        }
    }
}

async fn ask_socket<A: DeserializeOwned>(socket: &Path, path_and_query: &str) -> anyhow::Result<A> {
    let answer = get_from_socket(socket, path_and_query).await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}

/// An answer that is no error.
async fn get_from_socket(
    socket: &Path,
    path_and_query: &str,
) -> anyhow::Result<hyper::Response<hyper::body::Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        hyper::Request::get(path_and_query).header(hyper::header::HOST, "elava").body(Empty::<&[u8]>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => anyhow::bail!("{}", problem.error),
        Err(_) => anyhow::bail!("{status}"),
    }
}

impl GetArgs {
    async fn ask(self, at: Option<String>, hindsight: bool) -> anyhow::Result<()> {
        let output = match self.output {
            ResourceOutput::Table => Output::Table,
            ResourceOutput::Json => Output::Json,
            ResourceOutput::Yaml => Output::Yaml,
            ResourceOutput::Tree => {
                let key = self.key.context("a tree is of one resource: name it by its key or id")?;
                return show_tree(&self.source, TreeQuestion { key, at }, Output::Table).await;
            }
        };
        let question = ResourcesQuestion { at, hindsight, ..self.filter.question(self.key) };
        resources(&self.source, &question, output).await
    }
}

impl FilterArgs {
    fn question(&self, key: Option<String>) -> ResourcesQuestion {
        ResourcesQuestion {
            key,
            account: self.account.clone(),
            region: self.region.clone(),
            resource_type: self.resource_type.clone(),
            tags: (!self.tags.is_empty()).then(|| serde_json::to_string(&self.tags).expect("strings are JSON")),
            untagged: self.untagged,
            ended: self.ended,
            attributes: self.attributes,
            ..ResourcesQuestion::default()
        }
    }
}

pub async fn get(args: GetArgs) -> anyhow::Result<()> {
    args.ask(None, false).await
}

pub async fn at(args: AtArgs) -> anyhow::Result<()> {
    args.what.ask(Some(args.moment), args.hindsight).await
}

#[derive(Debug, Args)]
pub struct TreeArgs {
    /// A resource key, or a bare id where it is unique
    key: String,
    /// A revision (41) or a time (2026-11-24T08:30:00Z)
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn tree(args: TreeArgs) -> anyhow::Result<()> {
    show_tree(&args.source, TreeQuestion { key: args.key, at: args.at }, args.output.output).await
}

async fn show_tree(source: &SourceArgs, question: TreeQuestion, output: Output) -> anyhow::Result<()> {
    let answer: TreeAnswer = source.ask("/v1/tree", &question, findings::tree).await?;
    if output != Output::Table {
        return print::structured(&answer, output);
    }
    print_branch(&answer.root, "", "");
    Ok(())
}

fn print_branch(branch: &Branch, before: &str, below: &str) {
    let key = &branch.resource;
    let kind = key.resource_type.as_str().rsplit("::").next().unwrap_or_default();
    let name = branch.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let state = match branch.state.as_str() {
        "Present" => String::new(),
        "Gone" => ", gone".to_owned(),
        _ => ", not seen".to_owned(),
    };
    let relation = if branch.relation.is_empty() { String::new() } else { format!("{} ", branch.relation) };
    println!("{before}{relation}{kind} {}{name}{state}", key.id);
    for (i, inner) in branch.branches.iter().enumerate() {
        let is_last = i + 1 == branch.branches.len();
        let (corner, line) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        print_branch(inner, &format!("{below}{corner}"), &format!("{below}{line}"));
    }
}

#[derive(Debug, Args)]
pub struct FindingsArgs {
    /// Only those of this CloudScan
    #[arg(long, value_name = "NAMESPACE/NAME")]
    cloudscan: Option<String>,
    /// Only this kind, such as Orphaned
    #[arg(long)]
    kind: Option<String>,
    /// Only this account
    #[arg(long)]
    account: Option<String>,
    /// Only what this owner should act on
    #[arg(long)]
    owner: Option<String>,
    /// Also what is resolved, exempted, or too young to be told
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn findings(args: FindingsArgs) -> anyhow::Result<()> {
    let FindingsArgs { cloudscan, kind, account, owner, all, source, output } = args;
    let question = FindingsQuestion { cloudscan, kind, account, owner, all };
    let answer: FindingsAnswer = source.ask("/v1/findings", &question, findings::findings).await?;
    if output.output != Output::Table {
        return print::structured(&answer, output.output);
    }
    let header = ["KIND", "SEVERITY", "STATE", "RESOURCE", "OWNER", "SINCE", "COST/MONTH", "SO FAR", "MESSAGE"];
    let money = |amount: Option<f64>| amount.map_or("-".to_owned(), |amount| format!("{amount:.2}"));
    let row = |f: &FindingView| {
        vec![
            f.kind.to_string(),
            f.severity.as_str().to_owned(),
            f.resolution.clone().map_or(f.state.clone(), |why| format!("{} ({why})", f.state)),
            f.resource.to_string(),
            f.owner.as_ref().map_or("-", |owner| owner.name.as_str()).to_owned(),
            f.since.to_string(),
            money(f.monthly_cost),
            money(f.cost_so_far),
            f.message.clone(),
        ]
    };
    print::columns(std::iter::once(header.map(str::to_owned).to_vec()).chain(answer.findings.iter().map(row)));
    let known: Vec<f64> = answer.findings.iter().filter_map(|f| f.monthly_cost).collect();
    // Of nothing a sum of floating point is -0.
    let sum = known.iter().fold(0.0, |sum, cost| sum + cost);
    eprintln!(
        "{} findings; {sum:.2} a month by list prices, of the {} whose price is known",
        answer.findings.len(),
        known.len()
    );
    Ok(())
}

#[derive(Debug, Args)]
pub struct OwnersArgs {
    /// By the measure of this CloudScan, and only what it sees; without one, by the default tags
    #[arg(long, value_name = "NAMESPACE/NAME")]
    cloudscan: Option<String>,
    /// A revision (41) or a time (2026-11-24T08:30:00Z)
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn owners(args: OwnersArgs) -> anyhow::Result<()> {
    let question = OwnersQuestion { cloudscan: args.cloudscan, at: args.at };
    let answer: OwnersAnswer = args.source.ask("/v1/owners", &question, findings::owners).await?;
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
    eprintln!("{owned} of {all} resources have an owner at revision {}, {}", answer.revision, answer.time);
    Ok(())
}

async fn resources(source: &SourceArgs, question: &ResourcesQuestion, output: Output) -> anyhow::Result<()> {
    let answer: ResourcesAnswer = source.ask("/v1/resources", question, query::resources).await?;
    if output != Output::Table {
        return print::structured(&answer, output);
    }
    let header = ["TYPE", "ID", "NAME", "ACCOUNT", "REGION", "FIRST SEEN", "STATE"].map(str::to_owned).to_vec();
    let row = |view: &ResourceView| {
        let first_seen =
            if view.baseline { format!("before {}", view.first_seen) } else { view.first_seen.to_string() };
        vec![
            view.resource.resource_type.to_string(),
            view.resource.id.to_string(),
            view.tags.name().unwrap_or("-").to_owned(),
            view.resource.account.to_string(),
            view.resource.region.to_string(),
            first_seen,
            state(view),
        ]
    };
    print::columns(std::iter::once(header).chain(answer.resources.iter().map(row)));
    eprintln!("{} resources at revision {}, {}", answer.resources.len(), answer.revision, answer.time);
    tell_unknown(&answer.unknown);
    Ok(())
}

fn state(view: &ResourceView) -> String {
    let untagged = matches!(&view.tags, Tags::Known(set) if crate::inventory::is_untagged(set));
    match (&view.end, &view.suspect, view.presence) {
        (Some(end), ..) => format!("gone since {}", end.first_missed),
        (None, Some(suspect), _) if suspect.held => "missing, held".to_owned(),
        (None, Some(_), _) => "missing, not confirmed".to_owned(),
        (None, None, Presence::Unknown) => "unknown: not looked at lately".to_owned(),
        (None, None, _) if untagged => "present, untagged".to_owned(),
        (None, None, _) if view.tags == Tags::Unknown => "present, tags unknown".to_owned(),
        (None, None, _) => "present".to_owned(),
    }
}

/// What can't be said must not pass for nothing.
fn tell_unknown(unknown: &[ScopeView]) {
    if !unknown.is_empty() {
        let scopes: Vec<String> = unknown.iter().take(5).map(|view| view.scope.to_string()).collect();
        let more = if unknown.len() > scopes.len() { ", ..." } else { "" };
        eprintln!("{} scopes were not current then: {}{more}", unknown.len(), scopes.join(", "));
    }
}

pub async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let question = HistoryQuestion { key: args.key };
    let answer: HistoryAnswer = args.source.ask("/v1/history", &question, query::history).await?;
    if args.output.output != Output::Table {
        return print::structured(&answer, args.output.output);
    }
    println!("{}", answer.resource);
    let header = ["REVISION", "TIME", "CHANGE", "WHAT"].map(str::to_owned).to_vec();
    let rows = answer
        .changes
        .iter()
        .map(|c| vec![c.revision.to_string(), c.time.to_string(), format!("{:?}", c.change), c.remark()]);
    print::columns(std::iter::once(header).chain(rows));
    Ok(())
}

pub async fn diff(args: DiffArgs) -> anyhow::Result<()> {
    let question = DiffQuestion { from: args.from, to: args.to, steps: args.steps };
    let answer: DiffAnswer = args.source.ask("/v1/diff", &question, query::diff).await?;
    if args.output.output != Output::Table {
        return print::structured(&answer, args.output.output);
    }
    // A net difference is the sum of steps; only a step has its moment.
    let row = |time: String, rest: [String; 3]| args.steps.then_some(time).into_iter().chain(rest).collect();
    let mut rows: Vec<Vec<String>> =
        vec![row("TIME".to_owned(), ["CHANGE", "RESOURCE", "WHAT"].map(str::to_owned))];
    rows.extend(
        answer
            .diff
            .changes
            .iter()
            .map(|c| row(c.time.to_string(), [format!("{:?}", c.change), c.resource.to_string(), c.remark()])),
    );
    print::columns(rows);
    eprintln!(
        "{} changes between revision {} and {}",
        answer.diff.changes.len(),
        answer.diff.from,
        answer.diff.to
    );
    tell_unknown(&answer.diff.unknown);
    Ok(())
}
