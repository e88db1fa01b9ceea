//! The command line: parse, wire, print. The only place, with `main`, that knows `anyhow`.
//!
//! - [`run`]: the operator, and [`telemetry`], what it tells of itself. [`scan`]: one round without a cluster.
//! - [`ask`]: questions. [`source`]: to a store file, to the running operator, or to a [`cluster`]. [`print`]: the
//!   answers for people.
//! - [`reference`]: the page of each custom resource's fields. [`prices`]: the price list. [`care`]: looking after the file. [`types`]: what can be looked at, and what it must be allowed.

mod ask;
mod care;
mod cluster;
mod prices;
mod print;
mod reference;
mod run;
mod scan;
mod source;
mod status;
mod telemetry;
mod types;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use print::note;

/// Some scopes could not be looked at whole.
const INCOMPLETE: u8 = 2;
/// It could not run; wrong arguments too.
const FAILED: u8 = 1;

/// Watches cloud accounts, remembers what it saw, and says what people must act on. Only reads clouds.
#[derive(Debug, Parser)]
#[command(name = "elava", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator in a cluster, until it is stopped
    Run(Box<run::RunArgs>),
    /// Look once at what a CloudScan manifest names, and record it in a local store
    Scan(scan::ScanArgs),
    /// Print the CustomResourceDefinitions as YAML
    Crds {
        /// Write each to a file of its own in this folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Write a page of all fields of each, as Markdown, in this folder
        #[arg(long, value_name = "DIR")]
        reference: Option<PathBuf>,
    },
    /// List the resource types that can be looked at
    Types(types::TypesArgs),
    /// Print the least-privilege IAM policy for the accounts that are looked at
    IamPolicy(types::IamPolicyArgs),
    /// List resources, or show one, as they are now
    Get(ask::GetArgs),
    /// List resources, or show one, as they were at a moment
    At(ask::AtArgs),
    /// Tell everything that happened to one resource, newest first
    History(ask::HistoryArgs),
    /// Tell what appeared, changed or disappeared between two moments
    Diff(ask::DiffArgs),
    /// Tell every step since a moment
    Changes(ask::SinceArgs),
    /// Tell what disappeared since a moment
    Disappeared(ask::SinceArgs),
    /// List what has no tags, or tell what came to have none since a moment
    Untagged(ask::UntaggedArgs),
    /// Tell every change as it is recorded, until interrupted
    Watch(ask::WatchArgs),
    /// Say what is wrong, since when, and what to do; exits with 2 where something is
    Status(status::StatusArgs),
    /// List what people must act on, also what is over a CloudScan's cap
    Findings(ask::FindingsArgs),
    /// Tell who owns how much of each account, now or at a moment
    Owners(ask::OwnersArgs),
    /// Show what a resource uses and what uses it, now or at a moment
    Tree(ask::TreeArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell that is to know them
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// The folder to write them to
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Look after the price list that costs are estimated by
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Look after a store's file
    #[command(subcommand)]
    Store(care::StoreCommand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// How to print; the shapes of json and yaml are documented in docs/json.md
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Parses the arguments, does what they say, and gives the exit code.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; clap's own code for the others is 2, which here means
            // "not complete".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Scan(args) => scan::scan(args).await,
        Command::Crds { dir, reference } => crds(dir, reference).map(|()| ExitCode::SUCCESS),
        Command::Types(args) => types::types(args).map(|()| ExitCode::SUCCESS),
        Command::IamPolicy(args) => types::iam_policy(args).map(|()| ExitCode::SUCCESS),
        Command::Get(args) => ask::get(args).await.map(|()| ExitCode::SUCCESS),
        Command::At(args) => ask::at(args).await.map(|()| ExitCode::SUCCESS),
        Command::History(args) => ask::history(args).await.map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => ask::diff(args).await.map(|()| ExitCode::SUCCESS),
        Command::Changes(args) => ask::changes(args).await.map(|()| ExitCode::SUCCESS),
        Command::Disappeared(args) => ask::disappeared(args).await.map(|()| ExitCode::SUCCESS),
        Command::Untagged(args) => ask::untagged(args).await.map(|()| ExitCode::SUCCESS),
        Command::Watch(args) => ask::watch(args).await.map(|()| ExitCode::SUCCESS),
        Command::Status(args) => status::status(args).await,
        Command::Findings(args) => ask::findings(args).await.map(|()| ExitCode::SUCCESS),
        Command::Owners(args) => ask::owners(args).await.map(|()| ExitCode::SUCCESS),
        Command::Tree(args) => ask::tree(args).await.map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), program(), &mut script);
            print::write(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => man(&dir).map(|()| ExitCode::SUCCESS),
        Command::Prices(command) => prices::prices(command).map(|()| ExitCode::SUCCESS),
        Command::Store(command) => care::store(command).await,
    };
    done.unwrap_or_else(|error| {
        note!("elava: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// As it was called.
fn program() -> &'static str {
    if source::is_plugin() { "kubectl-elava" } else { "elava" }
}

fn man(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| anyhow::anyhow!("cannot write to {}: {error}", dir.display()))
}

fn crds(dir: Option<PathBuf>, reference: Option<PathBuf>) -> anyhow::Result<()> {
    const NOTE: &str = "# Generated by `make generate` from src/api. Do not edit.\n";
    let write = |path: PathBuf, text: String| {
        std::fs::write(&path, text).map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))
    };
    for crd in crate::api::crds() {
        let yaml = serde_yaml::to_string(&crd)?;
        match &dir {
            None if reference.is_some() => {}
            None => print::write(&format!("---\n{yaml}")),
            Some(dir) => {
                let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
                write(dir.join(name), format!("{NOTE}{yaml}"))?;
            }
        }
        if let Some(dir) = &reference {
            let name = format!("{}.md", crd.spec.names.kind.to_lowercase());
            write(dir.join(name), reference::page(&crd))?;
        }
    }
    Ok(())
}
