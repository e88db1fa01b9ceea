//! Output for people and for pipes.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use tabwriter::TabWriter;

use super::Output;

pub fn structured(answer: &impl Serialize, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Yaml => yaml(answer)?,
        _ => json(&serde_json::to_string_pretty(answer)?) + "\n",
    };
    write(&text);
    Ok(())
}

/// YAML of the same document as the JSON. Characters that could control a terminal are replaced before it is written:
/// replaced afterwards, they could end a value or begin a comment.
fn yaml(answer: &impl Serialize) -> anyhow::Result<String> {
    let mut document = serde_json::to_value(answer)?;
    escape_texts(&mut document);
    Ok(serde_yaml::to_string(&document)?)
}

fn escape_texts(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_terminal_control) => *text = escaped_lines(text),
        Value::Array(items) => items.iter_mut().for_each(escape_texts),
        Value::Object(fields) => {
            let entries = std::mem::take(fields).into_iter().map(|(key, mut value)| {
                escape_texts(&mut value);
                (escaped(&key), value)
            });
            *fields = entries.collect();
        }
        _ => {}
    }
}

/// JSON with the same meaning that can't control a terminal: control characters occur only in strings, where JSON can
/// escape them.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_terminal_control(c) {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to memory does not fail");
        } else {
            out.push(c);
        }
    }
    out
}

/// Aligned as in kubectl.
pub fn columns(rows: impl IntoIterator<Item = Vec<String>>) {
    align(rows.into_iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()));
}

/// Control characters, and characters that make a terminal show text in another order than it is stored in
/// (<https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters>).
fn is_terminal_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces such characters: data from a cloud must neither break a table nor control a terminal.
pub fn escaped(text: &str) -> String {
    text.chars().map(|c| if is_terminal_control(c) { ' ' } else { c }).collect()
}

/// The same for several lines.
pub fn escaped_lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_terminal_control(c) { ' ' } else { c }).collect()
}

/// A line for people, as `println!` writes it.
macro_rules! out {
    ($($arg:tt)*) => {
        $crate::cli::print::write(&format!("{}\n", $crate::cli::print::escaped_lines(&format!($($arg)*))))
    };
}

/// A line beside the answer, as `eprintln!` writes it.
macro_rules! note {
    ($($arg:tt)*) => {
        $crate::cli::print::write_beside(&format!("{}\n", $crate::cli::print::escaped_lines(&format!($($arg)*))))
    };
}

pub(in crate::cli) use {note, out};

/// An apostrophe makes a spreadsheet treat a cell as text that it would take for a formula
/// (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn csv_safe(cell: String) -> String {
    let cell = escaped(&cell);
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell }
}

fn align(rows: impl IntoIterator<Item = Vec<String>>) {
    let mut writer = TabWriter::new(Vec::new()).padding(3).ansi(true);
    for row in rows {
        writeln!(writer, "{}", row.join("\t").trim_end()).expect("writing to memory does not fail");
    }
    let bytes = writer.into_inner().expect("flushing to memory does not fail");
    write(&String::from_utf8_lossy(&bytes));
}

/// A pipe that is closed early (`| head`) is no reason to panic.
pub fn write(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub fn write_beside(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
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
    /// Every column, separated by commas as in RFC 4180
    Csv,
}

/// A list for people: the rows of a table.
pub struct Table {
    /// Names, and whether only wide tables show them.
    pub columns: Vec<(&'static str, bool)>,
    pub rows: Vec<Vec<String>>,
    /// The key of the resource of each row.
    pub keys: Vec<String>,
}

/// Prints a list. Returns whether it was a table for people, who need more information.
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
                writer.write_record(row.into_iter().map(csv_safe))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Erases the line, moves left, shows what follows from right to left.
    const HOSTILE: &str = "a\u{1b}[2K\r\u{9b}1Gb\u{202e}c\nd";

    #[test]
    fn no_output_is_an_order_to_a_terminal() {
        assert_eq!(escaped(HOSTILE), "a [2K  1Gb c d");
        assert_eq!(escaped_lines(HOSTILE), "a [2K  1Gb c\nd");
        let answer = serde_json::json!({"name": HOSTILE, "plain": "\u{fc}"});
        let text = json(&serde_json::to_string_pretty(&answer).unwrap());
        assert!(!text.chars().any(|c| c != '\n' && is_terminal_control(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), answer, "it says the same");
    }

    /// What a user of a cloud can write into a tag neither ends a value of YAML, nor begins a comment, nor moves a line.
    #[test]
    fn hostile_text_is_a_value_of_yaml_and_nothing_else() {
        let answer = serde_json::json!({
            "owner": "payments\u{202e}#x", "k:\u{202e}Injected": "v", "dash": "-\u{202e}x", "\u{202e}first": "v",
            "cause": {"Listed": "deleted"},
        });
        let text = yaml(&answer).unwrap();
        assert!(!text.chars().any(|c| c != '\n' && is_terminal_control(c)), "{text:?}");
        let read: Value = serde_yaml::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "owner": "payments #x", "k: Injected": "v", "dash": "- x", " first": "v", "cause": {"Listed": "deleted"},
        });
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn no_cell_is_a_formula() {
        for (cell, expected) in [
            ("=HYPERLINK(\"http://x\")", "'=HYPERLINK(\"http://x\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\tx", " x"),
            ("a\u{1b}[31m\u{202e}b\r\n@x", "a [31m b  @x"),
            ("vol-1", "vol-1"),
            ("", ""),
        ] {
            assert_eq!(csv_safe(cell.to_owned()), expected);
        }
    }
}
