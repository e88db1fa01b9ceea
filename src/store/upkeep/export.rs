//! The history as columns, for tools that read tables: DuckDB, Spark, Athena.
//!
//! Three tables: every kept change, every resource with its current state, every run of sweeps. Nested values
//! (tags, attributes, changed fields) are JSON in a text column. docs/export.md documents them for users.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use redb::ReadableTable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::inventory::{
    Change, End, EndCause, Moment, Resource, ResourceKey, Revision, Scope, Snapshot, Timestamp,
};
use crate::store::file::tables::{RUN, Run, decode};
use crate::store::read::history;
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::{Store, StoreError};

/// Rows of a Parquet row group, which are held in memory until it is written.
const ROW_GROUP_ROWS: usize = 20_000;

/// A table that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportTable {
    /// Every kept step, oldest first.
    Changes,
    /// The last life of each id, with its current state.
    Resources,
    /// The ledger: runs of sweeps with the same outcome.
    Sweeps,
}

impl ExportTable {
    /// All tables.
    pub const ALL: [Self; 3] = [Self::Changes, Self::Resources, Self::Sweeps];

    /// The name of the table, as in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Resources => "resources",
            Self::Sweeps => "sweeps",
        }
    }

    fn columns(self) -> &'static [(&'static str, Kind)] {
        use Kind::{Flag, Json, Number, Text, Time};
        match self {
            Self::Changes => &[
                ("revision", Number),
                ("time", Time),
                ("change", Text),
                ("key", Text),
                ("account", Text),
                ("region", Text),
                ("type", Text),
                ("id", Text),
                ("baseline", Flag),
                ("replaced", Flag),
                ("moved", Flag),
                ("moved_from", Text),
                ("retracted", Flag),
                ("end_cause", Text),
                ("end_state", Text),
                ("last_seen", Time),
                ("first_missed", Time),
                ("fields", Json),
            ],
            Self::Resources => &[
                ("key", Text),
                ("account", Text),
                ("region", Text),
                ("type", Text),
                ("id", Text),
                ("name", Text),
                ("presence", Text),
                ("first_seen", Time),
                ("baseline", Flag),
                ("birth", Time),
                ("changed", Number),
                ("retracted", Flag),
                ("suspect", Flag),
                ("ended", Time),
                ("end_cause", Text),
                ("end_state", Text),
                ("last_seen", Time),
                ("first_missed", Time),
                ("tags", Json),
                ("attributes", Json),
            ],
            Self::Sweeps => &[
                ("account", Text),
                ("region", Text),
                ("type", Text),
                ("endpoint", Text),
                ("first_started", Time),
                ("first_ended", Time),
                ("last_started", Time),
                ("last_ended", Time),
                ("sweeps", Number),
                ("longest_gap_seconds", Number),
                ("cadence_seconds", Number),
                ("outcome", Text),
                ("reason", Text),
            ],
        }
    }
}

/// The format in which a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// Apache Parquet, compressed with zstd.
    Parquet,
    /// One JSON object per line.
    Jsonl,
}

impl ExportFormat {
    /// The file extension of the format.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
    Number,
    /// Milliseconds since the Unix epoch in Parquet, RFC 3339 in JSON.
    Time,
    Flag,
}

/// A value of a row; `None` is NULL.
#[derive(Clone, Debug)]
enum Cell {
    Text(Option<String>),
    Json(Option<Value>),
    Number(Option<i64>),
    Time(Option<Timestamp>),
    Flag(bool),
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(Some(text.into()))
    }

    fn number(number: u64) -> Self {
        Self::Number(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Json(_) => Kind::Json,
            Self::Number(_) => Kind::Number,
            Self::Time(_) => Kind::Time,
            Self::Flag(_) => Kind::Flag,
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Json(value) => value.unwrap_or(Value::Null),
            Self::Number(number) => number.into(),
            Self::Time(time) => time.map(|time| time.to_string()).into(),
            Self::Flag(flag) => flag.into(),
        }
    }
}

impl Store {
    /// Writes one table. Returns the number of its rows.
    ///
    /// Other commits can run meanwhile, and are not in it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stream`] if `out` can't be written; [`StoreError::Poisoned`] while the file waits to be
    /// opened again; [`StoreError::Database`] or [`StoreError::Damaged`] if it can't be read.
    pub fn export(
        &self,
        table: ExportTable,
        format: ExportFormat,
        out: &mut (dyn Write + Send),
    ) -> Result<u64, StoreError> {
        let snapshot = self.snapshot_unlimited(Moment::Now)?;
        let mut sink = Sink::new(table, format, out)?;
        match table {
            ExportTable::Changes => {
                let nothing = self.snapshot_unlimited(Moment::Revision(Revision::ZERO))?;
                history::each(&nothing, &snapshot, None, |change| sink.row(change_row(&change)))?;
            }
            ExportTable::Resources => {
                snapshot.each_resource_ever(|resource| sink.row(resource_row(&snapshot, &resource)?))?;
            }
            ExportTable::Sweeps => {
                for row in snapshot.txn()?.open_table(RUN)?.iter()? {
                    let (key, bytes) = row?;
                    let scope = snapshot.state.scopes.get(&key.value().0);
                    let scope = scope.ok_or(StoreError::Damaged { table: "run" })?;
                    sink.row(run_row(&scope.scope, &decode("run", bytes.value())?))?;
                }
            }
        }
        sink.finish()
    }
}

fn key_cells(key: &ResourceKey) -> [Cell; 5] {
    [
        Cell::text(key.to_string()),
        Cell::text(key.account.as_str()),
        Cell::text(key.region.as_str()),
        Cell::text(key.resource_type.as_str()),
        Cell::text(&*key.id),
    ]
}

/// Cause, listed state, last seen, first missed.
fn end_cells(end: Option<&End>) -> [Cell; 4] {
    let cause = end.map(|end| match end.cause {
        EndCause::Listed(_) => "Listed".to_owned(),
        EndCause::Absent => "Absent".to_owned(),
        EndCause::Replaced => "Replaced".to_owned(),
        EndCause::Moved(_) => "Moved".to_owned(),
    });
    let state = end.and_then(|end| match &end.cause {
        EndCause::Listed(state) => Some(state.clone()),
        _ => None,
    });
    [
        Cell::Text(cause),
        Cell::Text(state),
        Cell::Time(end.map(|end| end.last_seen)),
        Cell::Time(end.map(|end| end.first_missed)),
    ]
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("it is written as JSON everywhere")
}

fn change_row(change: &Change) -> Vec<Cell> {
    let mut row = vec![
        Cell::number(change.revision.0),
        Cell::Time(Some(change.time)),
        Cell::text(format!("{:?}", change.change)),
    ];
    row.extend(key_cells(&change.resource));
    row.extend([
        Cell::Flag(change.baseline),
        Cell::Flag(change.replaced),
        Cell::Flag(change.moved),
        Cell::Text(change.moved_from.as_ref().map(ToString::to_string)),
        Cell::Flag(change.retracted),
    ]);
    row.extend(end_cells(change.end.as_ref()));
    row.push(Cell::Json(Some(json(&change.fields))));
    row
}

fn resource_row(snapshot: &StoreSnapshot, resource: &Resource) -> Result<Vec<Cell>, StoreError> {
    let mut row = key_cells(&resource.key).to_vec();
    row.extend([
        Cell::Text(resource.tags.name().map(str::to_owned)),
        Cell::text(format!("{:?}", resource.presence)),
        Cell::Time(Some(resource.first_seen)),
        Cell::Flag(resource.baseline),
        Cell::Time(resource.birth),
        Cell::number(resource.changed.0),
        Cell::Flag(resource.retracted),
        Cell::Flag(resource.suspect.is_some()),
        Cell::Time(resource.end.as_ref().map(|end| end.concluded)),
    ]);
    row.extend(end_cells(resource.end.as_ref()));
    row.extend([Cell::Json(resource.tags.known().map(json)), Cell::Json(Some(snapshot.attributes(resource)?))]);
    Ok(row)
}

fn run_row(scope: &Scope, run: &Run) -> Vec<Cell> {
    vec![
        Cell::text(scope.account.as_str()),
        Cell::text(scope.region.as_str()),
        Cell::text(scope.resource_type.as_str()),
        Cell::Text((!scope.endpoint.is_empty()).then(|| scope.endpoint.to_string())),
        Cell::Time(Some(run.first_started)),
        Cell::Time(Some(run.first_ended)),
        Cell::Time(Some(run.last_started)),
        Cell::Time(Some(run.last_ended)),
        Cell::number(run.sweeps),
        Cell::number(run.longest_gap_millis / 1000),
        Cell::Number(run.cadence_seconds.and_then(|s| i64::try_from(s).ok())),
        Cell::text(run.outcome.as_str()),
        Cell::Text(run.outcome.reason().map(|reason| reason.as_str().to_owned())),
    ]
}

/// Where rows are written.
enum Target<'a> {
    Parquet(SerializedFileWriter<&'a mut (dyn Write + Send)>),
    Jsonl(&'a mut (dyn Write + Send)),
}

struct Sink<'a> {
    columns: &'static [(&'static str, Kind)],
    target: Target<'a>,
    /// Rows of the row group that is not written yet.
    waiting: Vec<Vec<Cell>>,
    rows: u64,
}

fn failed(error: ParquetError) -> StoreError {
    StoreError::Stream(std::io::Error::other(error))
}

impl<'a> Sink<'a> {
    fn new(table: ExportTable, format: ExportFormat, out: &'a mut (dyn Write + Send)) -> Result<Self, StoreError> {
        let columns = table.columns();
        let target = match format {
            ExportFormat::Jsonl => Target::Jsonl(out),
            ExportFormat::Parquet => {
                let column = |(name, kind): &(&str, Kind)| match kind {
                    Kind::Text => format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
                    Kind::Json => format!("OPTIONAL BYTE_ARRAY {name} (JSON);"),
                    Kind::Number => format!("OPTIONAL INT64 {name};"),
                    Kind::Time => format!("OPTIONAL INT64 {name} (TIMESTAMP(MILLIS,true));"),
                    Kind::Flag => format!("REQUIRED BOOLEAN {name};"),
                };
                let columns: String = columns.iter().map(column).collect();
                let schema = parse_message_type(&format!("message {} {{ {columns} }}", table.name()));
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                let schema = Arc::new(schema.map_err(failed)?);
                Target::Parquet(SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?)
            }
        };
        Ok(Self { columns, target, waiting: Vec::new(), rows: 0 })
    }

    fn row(&mut self, row: Vec<Cell>) -> Result<(), StoreError> {
        assert!(row.iter().map(Cell::kind).eq(self.columns.iter().map(|(_, kind)| *kind)), "a row is as declared");
        self.rows += 1;
        match &mut self.target {
            Target::Jsonl(out) => {
                let names = self.columns.iter().map(|(name, _)| (*name).to_owned());
                let object: Map<String, Value> = names.zip(row.into_iter().map(Cell::json)).collect();
                writeln!(out, "{}", Value::Object(object)).map_err(StoreError::Stream)
            }
            Target::Parquet(_) => {
                self.waiting.push(row);
                if self.waiting.len() == ROW_GROUP_ROWS { self.group() } else { Ok(()) }
            }
        }
    }

    fn group(&mut self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.waiting);
        let Target::Parquet(writer) = &mut self.target else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        let mut write = || -> Result<(), ParquetError> {
            let mut group = writer.next_row_group()?;
            let mut number = 0;
            while let Some(mut column) = group.next_column()? {
                let cells = rows.iter().map(|row| row[number].clone());
                match self.columns[number].1 {
                    Kind::Flag => {
                        let flags: Vec<bool> = cells.map(|cell| matches!(cell, Cell::Flag(true))).collect();
                        column.typed::<BoolType>().write_batch(&flags, None, None)?;
                    }
                    Kind::Number | Kind::Time => {
                        let numbers = cells.map(|cell| match cell {
                            Cell::Number(number) => number,
                            Cell::Time(time) => time.map(Timestamp::as_millis),
                            _ => None,
                        });
                        let (levels, numbers) = optional(numbers);
                        column.typed::<Int64Type>().write_batch(&numbers, Some(&levels), None)?;
                    }
                    Kind::Text | Kind::Json => {
                        let texts = cells.map(|cell| match cell {
                            Cell::Text(text) => text.map(|text| ByteArray::from(text.into_bytes())),
                            Cell::Json(json) => json.map(|json| ByteArray::from(json.to_string().into_bytes())),
                            _ => None,
                        });
                        let (levels, texts) = optional(texts);
                        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None)?;
                    }
                }
                column.close()?;
                number += 1;
            }
            group.close()?;
            Ok(())
        };
        write().map_err(failed)
    }

    fn finish(mut self) -> Result<u64, StoreError> {
        self.group()?;
        match self.target {
            Target::Jsonl(out) => out.flush().map_err(StoreError::Stream)?,
            Target::Parquet(writer) => drop(writer.close().map_err(failed)?),
        }
        Ok(self.rows)
    }
}

/// Definition levels, and the values that are not NULL.
fn optional<T>(cells: impl Iterator<Item = Option<T>>) -> (Vec<i16>, Vec<T>) {
    let mut levels = Vec::new();
    let mut values = Vec::new();
    for cell in cells {
        levels.push(i16::from(cell.is_some()));
        values.extend(cell);
    }
    (levels, values)
}
