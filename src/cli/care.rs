//! Looking after a store's file, or asking the operator that holds it to.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::ask::SourceArgs;
use super::{FAILED, Output, OutputArgs, print};
use crate::server::query::{self, CheckAnswer, Nothing, StatsAnswer};

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read everything in the store, and say what is not as it must be
    Check(CareArgs),
    /// Say what takes the room of the store's file
    Stats(CareArgs),
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
    }
}

async fn check(args: CareArgs) -> anyhow::Result<ExitCode> {
    let ask = |store: &_, _: &Nothing| query::check(store);
    let answer: CheckAnswer = args.source.ask("/v1/store/check", &Nothing {}, ask).await?;
    let report = &answer.report;
    let code = if report.flaws.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
    if args.output.output != Output::Table {
        print::structured(&answer, args.output.output)?;
        return Ok(code);
    }
    let checked: Vec<String> = report.checked.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
    if report.flaws.is_empty() {
        println!(
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
    eprintln!(
        "the store is damaged at {} places: go on with a copy of its file from before, or scan again into a new one",
        report.flaws.len()
    );
    Ok(code)
}

async fn stats(args: CareArgs) -> anyhow::Result<()> {
    let ask = |store: &_, _: &Nothing| query::stats(store);
    let answer: StatsAnswer = args.source.ask("/v1/store/stats", &Nothing {}, ask).await?;
    if args.output.output != Output::Table {
        return print::structured(&answer, args.output.output);
    }
    let stats = &answer.stats;
    println!(
        "revision {}: {} resources that live in {} scopes, {} lives that ended, {} tag sets",
        stats.revision, stats.live, stats.scopes, stats.ended, stats.tag_sets
    );
    println!(
        "{} bytes, {:.0} for each resource; {} entries of the log, {:.1} bytes each",
        stats.file_bytes, stats.bytes_per_resource, stats.entries, stats.bytes_per_entry
    );
    let header = ["TABLE", "ROWS", "BYTES", "OVERHEAD"].map(str::to_owned).to_vec();
    let rows = stats.tables.iter().map(|t| {
        vec![t.table.clone(), t.rows.to_string(), t.stored_bytes.to_string(), t.overhead_bytes.to_string()]
    });
    print::columns(std::iter::once(header).chain(rows));
    Ok(())
}
