//! Answers for people and for pipes.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use tabwriter::TabWriter;

use super::Output;

pub fn structured(answer: &impl Serialize, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Yaml => serde_yaml::to_string(answer)?,
        _ => serde_json::to_string_pretty(answer)? + "\n",
    };
    write(&text);
    Ok(())
}

/// Aligned as kubectl does it.
pub fn columns(rows: impl IntoIterator<Item = Vec<String>>) {
    align(rows.into_iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()));
}

/// What comes from a cloud breaks no table, and is no order to a terminal.
fn escaped(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn align(rows: impl IntoIterator<Item = Vec<String>>) {
    let mut writer = TabWriter::new(Vec::new()).padding(3).ansi(true);
    for row in rows {
        writeln!(writer, "{}", row.join("\t").trim_end()).expect("writing to memory does not fail");
    }
    let bytes = writer.into_inner().expect("flushing to memory does not fail");
    write(&String::from_utf8_lossy(&bytes));
}

/// A pipe that is closed early (`| head`) is no error worth a panic.
pub fn write(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListOutput {
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
    /// Only the keys
    Name,
    /// Every column, separated by commas as RFC 4180 has it
    Csv,
}

/// A list for people: the rows of a table.
pub struct Table {
    /// Names, and whether only wide tables show them.
    pub columns: Vec<(&'static str, bool)>,
    pub rows: Vec<Vec<String>>,
    /// What each row is about.
    pub keys: Vec<String>,
}

/// Prints a list; returns whether it was a table for people, who want to know more of it.
pub fn list(answer: &impl Serialize, table: Table, output: ListOutput) -> anyhow::Result<bool> {
    let Table { columns: header, rows, keys } = table;
    match output {
        ListOutput::Json => structured(answer, Output::Json)?,
        ListOutput::Yaml => structured(answer, Output::Yaml)?,
        ListOutput::Name => {
            for key in keys {
                write(&format!("{}\n", escaped(&key)));
            }
        }
        ListOutput::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(header.iter().map(|(name, _)| *name))?;
            for row in rows {
                writer.write_record(row)?;
            }
            write(&String::from_utf8_lossy(&writer.into_inner()?));
        }
        ListOutput::Table | ListOutput::Wide => {
            let is_shown = |column: usize| !header[column].1 || output == ListOutput::Wide;
            let is_coloured = is_coloured();
            let shown = |row: Vec<String>| -> Vec<String> {
                let cells =
                    row.iter().map(|cell| escaped(cell)).enumerate().filter(|(column, _)| is_shown(*column));
                let cell = |(column, cell)| match header[column] {
                    ("CHANGE", _) if is_coloured => coloured(cell),
                    _ => cell,
                };
                cells.map(cell).collect()
            };
            let names = header.iter().map(|(name, _)| (*name).to_owned()).collect();
            align(std::iter::once(names).chain(rows).map(shown));
        }
    }
    Ok(matches!(output, ListOutput::Table | ListOutput::Wide))
}

/// On a terminal, and unless `NO_COLOR` is set (<https://no-color.org>).
fn is_coloured() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_refused && std::io::stdout().is_terminal()
}

fn coloured(word: String) -> String {
    let colour = match word.as_str() {
        "Appeared" => 32,
        "Changed" => 33,
        "Disappeared" => 31,
        _ => return word,
    };
    format!("\x1b[{colour}m{word}\x1b[0m")
}
