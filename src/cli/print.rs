//! Answers for people and for pipes.

use std::io::Write;

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
    let mut writer = TabWriter::new(Vec::new()).padding(3);
    for row in rows {
        // A tab or a line break in a tag must not break the table.
        let row: Vec<String> = row.iter().map(|cell| cell.replace(['\t', '\n'], " ")).collect();
        writeln!(writer, "{}", row.join("\t").trim_end()).expect("writing to memory does not fail");
    }
    let bytes = writer.into_inner().expect("flushing to memory does not fail");
    write(&String::from_utf8_lossy(&bytes));
}

/// A pipe that is closed early (`| head`) is no error worth a panic.
fn write(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
