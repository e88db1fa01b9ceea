//! Maintenance of a store's file, directly or by the operator that holds it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};

use super::print::{note, out};
use super::source::SourceArgs;
use super::{FAILED, Output, OutputArgs, clouds, print};
use crate::cloud::Secrets;
use crate::server::backups;
use crate::server::query::{self, CheckResponse, ExportQuery, Nothing, StatsResponse};
use crate::store::{Cleaning, ExportFormat, ExportTable, PrivateFile, Retention, Store, StoreError, system_clock};

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read everything in the store, and report what is inconsistent
    Check(CareArgs),
    /// Show what takes the space in the store's file
    Stats(CareArgs),
    /// Write everything in the store to a file or to standard output, also while an operator holds it
    Backup(BackupArgs),
    /// Create a store from a backup; nothing is overwritten
    Restore(RestoreArgs),
    /// Return unused space in the file to the volume; no process may have the store open
    Compact(FileArgs),
    /// Remove the part of the past that is no longer to be kept; no process may have the store open. An operator does
    /// this by itself
    Retain(RetainArgs),
    /// Write the history as tables that DuckDB, Spark or Athena read
    Export(ExportArgs),
    /// Migrate a store of an older schema to this binary's, and remove what was recorded before it was known to be
    /// secret; a newer store is refused and left untouched
    Migrate(FileArgs),
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    to: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup; a folder for the newest that the operator made in it; - for standard input
    from: PathBuf,
    /// If there is a store already, leave it and exit successfully: for a command that runs before each start of an
    /// operator
    #[arg(long)]
    unless_present: bool,
    /// The store to create
    #[arg(long, env = "ELAVA_STORE", default_value = "elava.redb")]
    store: PathBuf,
    /// Show each namespace the past of the namespace that had its name when the backup was made: for a backup that
    /// moves to another cluster, where no namespace is the same
    #[arg(long)]
    adopt_namespaces: bool,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// The store's file
    #[arg(long, env = "ELAVA_STORE", default_value = "elava.redb")]
    store: PathBuf,
}

/// How long the past is kept.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// How long every revision is kept
    #[arg(long, env = "ELAVA_KEEP_DETAIL", default_value = "30d", value_parser = humantime::parse_duration)]
    keep_detail: Duration,
    /// How long the last revision of each day (UTC) is kept. Milestones (resources that appeared, ended or changed
    /// their tags) and the newest version of everything are kept for ever
    #[arg(long, env = "ELAVA_KEEP_DAYS", default_value = "400d", value_parser = humantime::parse_duration)]
    keep_days: Duration,
}

impl KeepArgs {
    pub fn retention(&self) -> anyhow::Result<Retention> {
        anyhow::ensure!(
            self.keep_days >= self.keep_detail,
            "--keep-days is shorter than --keep-detail: what is kept whole is kept by the day, too"
        );
        Ok(Retention { detail: self.keep_detail, horizon: self.keep_days })
    }
}

#[derive(Debug, Args)]
pub struct RetainArgs {
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The folder for the tables changes, resources and sweeps; it is created if it does not exist
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[arg(long, value_enum, default_value = "parquet")]
    format: Format,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Parquet,
    /// One JSON object per line
    Jsonl,
}

#[derive(Debug, Args)]
pub struct CareArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub async fn store(command: StoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Check(args) => check(args).await,
        StoreCommand::Stats(args) => stats(args).await.map(|()| ExitCode::SUCCESS),
        StoreCommand::Backup(args) => backup(args).await.map(|()| ExitCode::SUCCESS),
        StoreCommand::Restore(args) => restore(&args).map(|()| ExitCode::SUCCESS),
        StoreCommand::Compact(args) => compact(&args).map(|()| ExitCode::SUCCESS),
        StoreCommand::Retain(args) => retain(&args).map(|()| ExitCode::SUCCESS),
        StoreCommand::Export(args) => export(args).await.map(|()| ExitCode::SUCCESS),
        StoreCommand::Migrate(args) => migrate(&args).map(|()| ExitCode::SUCCESS),
    }
}

/// Creates a file that did not exist before, and that exists only once it is complete.
async fn new_file(
    path: &Path,
    write: impl AsyncFnOnce(&mut (dyn Write + Send)) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if path.exists() {
        return Err(StoreError::Exists(path.to_owned()).into());
    }
    let context = || format!("cannot write {}", path.display());
    let mut file = PrivateFile::begin(path).with_context(context)?;
    let mut out = std::io::BufWriter::new(file.file());
    write(&mut out).await?;
    out.flush().with_context(context)?;
    drop(out);
    file.finish().with_context(context)
}

async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let BackupArgs { to, source } = args;
    let write = async |out: &mut (dyn Write + Send)| {
        source.stream("/v1/store/backup", &Nothing {}, out, query::backup).await
    };
    if to.as_os_str() == "-" {
        return write(&mut std::io::stdout()).await;
    }
    new_file(&to, write).await?;
    note!("{} bytes written to {}", std::fs::metadata(&to)?.len(), to.display());
    Ok(())
}

fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    if args.unless_present && args.store.exists() {
        note!("{} is there: nothing is restored", args.store.display());
        return Ok(());
    }
    let report = if args.from.as_os_str() == "-" {
        Store::restore(&mut std::io::stdin(), &args.store)?
    } else {
        let from = if args.from.is_dir() { backups::newest(&args.from)? } else { args.from.clone() };
        let context = || format!("cannot read {}", from.display());
        Store::restore(&mut File::open(&from).with_context(context)?, &args.store).with_context(context)?
    };
    if args.adopt_namespaces {
        Store::open_existing(&args.store, system_clock())?.clear_tenants()?;
    }
    note!("{} holds the backup up to revision {}, and goes on 2^32 later", args.store.display(), report.revision);
    Ok(())
}

fn compact(args: &FileArgs) -> anyhow::Result<()> {
    let (before, after) = Store::compact(&args.store)?;
    note!("{}: {before} bytes before, {after} now", args.store.display());
    Ok(())
}

fn retain(args: &RetainArgs) -> anyhow::Result<()> {
    let store = Store::open_existing(&args.file.store, system_clock())?;
    let report = store.retain(args.keep.retention()?)?;
    if args.output.output != Output::Table {
        return print::structured(&report, args.output.output);
    }
    out!(
        "{} days thinned, {} ends of days dropped; of the log {} entries, {} documents and {} bytes, {} rows of the \
         ledger, {} checkpoints",
        report.days_thinned,
        report.days_dropped,
        report.entries_dropped,
        report.documents_dropped,
        report.bytes_freed,
        report.runs_dropped,
        report.checkpoints_dropped
    );
    Ok(())
}

async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let ExportArgs { to, format, source } = args;
    let format = match format {
        Format::Parquet => ExportFormat::Parquet,
        Format::Jsonl => ExportFormat::Jsonl,
    };
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for table in ExportTable::ALL {
        let path = to.join(format!("{}.{}", table.name(), format.extension()));
        let question = ExportQuery { table, format };
        let write = async |out: &mut (dyn Write + Send)| {
            let run_query = |store: &Store, out: &mut (dyn Write + Send)| query::export(store, &question, out);
            source.stream("/v1/store/export", &question, out, run_query).await
        };
        new_file(&path, write).await?;
        note!("{}", path.display());
    }
    Ok(())
}

/// Removes from a store what this binary knows to be secret, as [`Store::scrub`] does.
pub fn scrub(path: &Path) -> Result<u64, StoreError> {
    let secrets = Secrets::of(&clouds::types());
    let cleaning = Cleaning {
        rules: secrets.name(),
        concerns: &|kind| secrets.are_of(kind.as_str()),
        clean: &|kind, document| secrets.remove(kind.as_str(), document),
    };
    Store::scrub(path, &cleaning)
}

fn migrate(args: &FileArgs) -> anyhow::Result<()> {
    let schema = Store::open_existing(&args.store, system_clock())?.schema();
    let documents = scrub(&args.store)?;
    let store = args.store.display();
    note!("{store} has schema {schema}, which is this binary's; secrets were taken out of {documents} documents");
    Ok(())
}

async fn check(args: CareArgs) -> anyhow::Result<ExitCode> {
    let run_query = |store: &_, _: &Nothing| query::check(store);
    let answer: CheckResponse = args.source.run_query("/v1/store/check", &Nothing {}, run_query).await?;
    let report = &answer.report;
    let code = if report.flaws.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
    if args.output.output != Output::Table {
        print::structured(&answer, args.output.output)?;
        return Ok(code);
    }
    let checked: Vec<String> = report.checked.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
    if report.flaws.is_empty() {
        out!(
            "sound at revision {}: {} documents; rows checked: {}",
            report.revision,
            report.documents,
            checked.join(", ")
        );
        return Ok(code);
    }
    let header = ["TABLE", "AT", "WHAT IS WRONG"].map(str::to_owned).to_vec();
    let rows = report.flaws.iter().map(|f| vec![f.table.clone(), f.at.clone(), f.what.clone()]);
    print::columns(std::iter::once(header).chain(rows));
    note!(
        "the store is damaged at {} places: go on with a copy of its file from before, or scan again into a new one",
        report.flaws.len()
    );
    Ok(code)
}

async fn stats(args: CareArgs) -> anyhow::Result<()> {
    let run_query = |store: &_, _: &Nothing| query::stats(store);
    let answer: StatsResponse = args.source.run_query("/v1/store/stats", &Nothing {}, run_query).await?;
    if args.output.output != Output::Table {
        return print::structured(&answer, args.output.output);
    }
    let stats = &answer.stats;
    out!(
        "revision {}: {} resources that live in {} scopes, {} lives that ended, {} tag sets",
        stats.revision,
        stats.live,
        stats.scopes,
        stats.ended,
        stats.tag_sets
    );
    out!(
        "{} bytes, {:.0} for each resource; {} entries of the log, {:.1} bytes each",
        stats.file_bytes,
        stats.bytes_per_resource,
        stats.entries,
        stats.bytes_per_entry
    );
    let header = ["TABLE", "ROWS", "BYTES", "OVERHEAD"].map(str::to_owned).to_vec();
    let rows = stats.tables.iter().map(|t| {
        vec![t.table.clone(), t.rows.to_string(), t.stored_bytes.to_string(), t.overhead_bytes.to_string()]
    });
    print::columns(std::iter::once(header).chain(rows));
    Ok(())
}
