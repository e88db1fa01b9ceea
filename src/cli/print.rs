//! Answers for people and for pipes.

use std::io::Write;

use serde::Serialize;
use tabwriter::TabWriter;

use super::Output;
use crate::inventory::{Change, ChangeKind, EndCause, FieldChange};

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

/// What there is to say of a change beside its kind.
pub fn remark(change: &Change) -> String {
    if let Some(end) = &change.end {
        return match &end.cause {
            EndCause::Listed(state) => format!("listed as {state}, last seen before that {}", end.last_seen),
            EndCause::Absent => format!("between {} and {}", end.last_seen, end.first_missed),
            EndCause::Replaced => "replaced by another under the same id".to_owned(),
            EndCause::Moved(to) => format!("moved: it is {to} now"),
        };
    }
    if let Some(from) = &change.moved_from {
        return format!("moved: it was {from} before");
    }
    match (change.change, change.baseline, change.replaced, change.retracted) {
        (ChangeKind::Appeared, true, ..) => "was there before the first look".to_owned(),
        (ChangeKind::Appeared, _, true, _) => "replaces another under the same id".to_owned(),
        (ChangeKind::Appeared, _, _, true) => "seen again: it had not disappeared".to_owned(),
        _ => change.fields.iter().map(field).collect::<Vec<_>>().join(", "),
    }
}

pub fn field(change: &FieldChange) -> String {
    let value = |v: &Option<serde_json::Value>| match v {
        None => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    format!("{}: {} -> {}", change.path, value(&change.before), value(&change.after))
}
