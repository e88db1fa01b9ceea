//! The command line: parse, wire, print. Apart from `main`, the only place that uses `anyhow`.
//!
//! - [`run`]: the operator, and [`telemetry`], its log and traces. [`scan`]: one round without a cluster.
//! - [`query`]: queries. [`source`]: of a store file, the running operator, or a [`cluster`]. [`print`]: output for
//!   people.
//! - [`reference`]: the page of each custom resource's fields. [`prices`]: the price list. [`care`]: maintenance of the
//!   store's file. [`types`]: the resource types, and the permissions that scanning them needs.

mod aws;
mod care;
mod clouds;
mod cluster;
mod print;
mod query;
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

use crate::store::StoreError;
use print::note;

/// Some scopes could not be swept completely.
const INCOMPLETE: u8 = 2;
/// It could not run, or the arguments were wrong.
const FAILED: u8 = 1;

/// Watches cloud accounts, records what exists in them, and reports what people must act on. Only reads clouds.
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
    /// Scan once what a CloudScan manifest selects, and record it in a local store
    Scan(scan::ScanArgs),
    /// Print the CustomResourceDefinitions as YAML
    Crds {
        /// Write each to its own file in this folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Write a page of all fields of each, as Markdown, to this folder
        #[arg(long, value_name = "DIR")]
        reference: Option<PathBuf>,
    },
    /// List the resource types that can be scanned
    Types(types::TypesArgs),
    /// Print the least-privilege IAM policy for the accounts that are scanned
    IamPolicy(aws::policy::IamPolicyArgs),
    /// List resources, or show one, as they are now
    Get(query::GetArgs),
    /// List resources, or show one, as they were at a moment
    At(query::AtArgs),
    /// Show every change of one resource, newest first
    History(query::HistoryArgs),
    /// Show what appeared, changed or disappeared between two moments
    Diff(query::DiffArgs),
    /// Show every step since a moment
    Changes(query::SinceArgs),
    /// Show what disappeared since a moment
    Disappeared(query::SinceArgs),
    /// List resources without tags, or show which became untagged since a moment
    Untagged(query::UntaggedArgs),
    /// Show every change as it is recorded, until interrupted
    Watch(query::WatchArgs),
    /// Report what is wrong, since when, and what to do; exits with 2 if anything is wrong
    Status(status::StatusArgs),
    /// List the findings that people must act on, including those over a CloudScan's cap
    Findings(query::FindingsArgs),
    /// Show who owns how many resources of each account, now or at a moment
    Owners(query::OwnersArgs),
    /// Show what a resource uses and what uses it, now or at a moment
    Tree(query::TreeArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell that they are for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// The folder to write them to
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Manage the price list that costs are estimated from
    #[command(subcommand)]
    Prices(aws::prices::PricesCommand),
    /// Manage a store's file
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
    /// Output format; json and yaml are documented in docs/json.md
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// Parses the arguments, runs the command, and returns the exit code.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not failures. For other errors clap exits with 2, which here means "not complete".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Scan(args) => scan::scan(args).await,
        Command::Crds { dir, reference } => crds(dir, reference).map(|()| ExitCode::SUCCESS),
        Command::Types(args) => types::types(args).map(|()| ExitCode::SUCCESS),
        Command::IamPolicy(args) => aws::policy::iam_policy(args).map(|()| ExitCode::SUCCESS),
        Command::Get(args) => query::get(args).await.map(|()| ExitCode::SUCCESS),
        Command::At(args) => query::at(args).await.map(|()| ExitCode::SUCCESS),
        Command::History(args) => query::history(args).await.map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => query::diff(args).await.map(|()| ExitCode::SUCCESS),
        Command::Changes(args) => query::changes(args).await.map(|()| ExitCode::SUCCESS),
        Command::Disappeared(args) => query::disappeared(args).await.map(|()| ExitCode::SUCCESS),
        Command::Untagged(args) => query::untagged(args).await.map(|()| ExitCode::SUCCESS),
        Command::Watch(args) => query::watch(args).await.map(|()| ExitCode::SUCCESS),
        Command::Status(args) => status::status(args).await,
        Command::Findings(args) => query::findings(args).await.map(|()| ExitCode::SUCCESS),
        Command::Owners(args) => query::owners(args).await.map(|()| ExitCode::SUCCESS),
        Command::Tree(args) => query::tree(args).await.map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), program(), &mut script);
            print::write(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => man(&dir).map(|()| ExitCode::SUCCESS),
        Command::Prices(command) => aws::prices::prices(command).map(|()| ExitCode::SUCCESS),
        Command::Store(command) => care::store(command).await,
    };
    done.unwrap_or_else(|error| {
        let advice = error.downcast_ref().and_then(advice).unwrap_or_default();
        note!("elava: {error:#}{advice}");
        ExitCode::from(FAILED)
    })
}

/// What to do about an error of the store, in terms of the command line.
fn advice(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Locked { socket, .. } => {
            Some(format!(": ask the running operator (--socket {}), or stop it first", socket.display()))
        }
        StoreError::Missing(path) => {
            Some(format!(": make one with `elava scan --store {} -f cloudscan.yaml`", path.display()))
        }
        _ => None,
    }
}

/// The name under which it was called.
fn program() -> &'static str {
    if source::is_kubectl_plugin() { "kubectl-elava" } else { "elava" }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_refuses_comes_with_what_to_do() {
        let (path, socket) = (PathBuf::from("a.redb"), PathBuf::from("a.sock"));
        let missing = anyhow::Error::from(StoreError::Missing(path.clone()));
        let of = |error: &anyhow::Error| error.downcast_ref().and_then(advice).unwrap_or_default();
        assert!(of(&missing).contains("elava scan --store a.redb"), "{}", of(&missing));
        let locked = anyhow::Error::from(StoreError::Locked { path, socket }).context("cannot read it");
        assert!(of(&locked).contains("--socket a.sock"), "{}", of(&locked));
        assert_eq!(of(&StoreError::Poisoned.into()), "");
    }
}
