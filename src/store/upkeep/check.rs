//! Maintenance of the file: what uses its space, and whether it is intact.

use std::collections::BTreeMap;
use std::fmt::Display;

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableHandle};
use serde::{Deserialize, Serialize};

use crate::inventory::{Revision, Suspect};
use crate::store::file::documents;
use crate::store::file::lives::{self, KEY, Lives};
use crate::store::file::log::{self, LOG};
use crate::store::file::open::catch_damage;
use crate::store::file::tables::{
    EntryKind, NO_RID, RUN, Rid, Run, SUSPECT, ScopeNo, VISIBILITY, VisibilityRow, decode,
};
use crate::store::state::State;
use crate::store::state::checkpoint;
use crate::store::state::load::fold_until;
use crate::store::state::load::named;
use crate::store::state::shared::Published;
use crate::store::{Store, StoreError};

/// What uses the space of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStats {
    /// The newest revision.
    pub revision: Revision,
    /// Scopes that were ever recorded, watched or not.
    pub scopes: usize,
    /// Live resources, in scopes that are watched or not.
    pub live: usize,
    /// Lives that ended, including retracted ends.
    pub ended: u64,
    /// Different sets of tags that were ever recorded. Each is stored once.
    pub tag_sets: usize,
    /// Entries of the log: appearances, changes, ends, suspicions, events of scopes.
    pub entries: u64,
    /// The length of the file; zero if it can't be read.
    pub file_bytes: u64,
    /// Bytes of the file that redb holds in memory.
    pub cache_bytes: usize,
    /// Bytes of the log per entry.
    pub bytes_per_entry: f64,
    /// Bytes of the file per live resource.
    pub bytes_per_resource: f64,
    /// The largest first.
    pub tables: Vec<TableStats>,
}

/// What one table of the file uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableStats {
    /// The name of the table.
    pub table: String,
    /// Its rows. A row of the log, of lives or of a checkpoint holds many records.
    pub rows: u64,
    /// Keys and values.
    pub stored_bytes: u64,
    /// Bytes that redb needs besides them, and free bytes in its pages.
    pub overhead_bytes: u64,
}

/// What a check read, and what it found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The newest revision when the check began.
    pub revision: Revision,
    /// Rows by table.
    pub checked: BTreeMap<String, u64>,
    /// Documents in the log that were read.
    pub documents: u64,
    /// What is wrong, up to 100 of them. Empty if the file is intact.
    pub flaws: Vec<Flaw>,
}

/// A violated invariant of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flaw {
    /// The name of the table with the flaw.
    pub table: String,
    /// The row, or a part of it.
    pub at: String,
    /// What is wrong, in words.
    pub what: String,
}

/// More of them only show that the file is damaged.
const FLAWS_REPORTED_MAX: usize = 100;

impl Store {
    /// Counts what the file contains. Reads the whole log.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let Published { state, txn } = self.inner.shared.published()?;
        let mut entries = 0;
        log::revisions(&txn.open_table(LOG)?, 1..=u64::MAX, |_, row, _| {
            entries += u64::from(row.entries);
            Ok(())
        })?;
        let mut tables = tables(&txn)?;
        tables.sort_by(|a, b| (b.stored_bytes, &b.table).cmp(&(a.stored_bytes, &a.table)));
        let log_bytes = tables.iter().find(|t| t.table == LOG.name()).map_or(0, |t| t.stored_bytes);
        // An in-memory store has no file.
        let file_bytes = std::fs::metadata(self.path()).map_or(0, |file| file.len());
        Ok(StoreStats {
            revision: state.revision,
            scopes: state.scopes.len(),
            live: state.heads.len(),
            ended: state.ends,
            tag_sets: state.tag_sets.len(),
            entries,
            file_bytes,
            cache_bytes: self.inner.shared.db()?.cache_stats().used_bytes(),
            bytes_per_entry: ratio(log_bytes, entries),
            bytes_per_resource: ratio(file_bytes, state.heads.len() as u64),
            tables,
        })
    }

    /// Reads everything: every checksum, every document, and whether the tables agree with each other.
    ///
    /// It finishes despite flaws, and reports them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if a table can't be read at all.
    pub fn check(&self) -> Result<CheckReport, StoreError> {
        let Published { state, txn } = self.inner.shared.published()?;
        catch_damage(|| {
            let mut check = Check { txn: &txn, state: &state, report: CheckReport::default() };
            check.report.revision = state.revision;
            check.log()?;
            check.fold()?;
            check.lives()?;
            check.tombstones()?;
            check.ledger()?;
            check.rest()?;
            Ok(check.report)
        })
    }
}

#[allow(clippy::cast_precision_loss)] // Only shown to users.
fn ratio(bytes: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { bytes as f64 / of as f64 }
}

fn tables(txn: &ReadTransaction) -> Result<Vec<TableStats>, StoreError> {
    fn of<K: redb::Key + 'static, V: redb::Value + 'static>(
        txn: &ReadTransaction,
        definition: redb::TableDefinition<'_, K, V>,
    ) -> Result<TableStats, StoreError> {
        let table = txn.open_table(definition)?;
        let stats = table.stats()?;
        Ok(TableStats {
            table: definition.name().to_owned(),
            rows: table.len()?,
            stored_bytes: stats.stored_bytes(),
            overhead_bytes: stats.metadata_bytes() + stats.fragmented_bytes(),
        })
    }
    let mut tables = Vec::new();
    each_table!(table => tables.push(of(txn, table)?));
    Ok(tables)
}

struct Check<'a> {
    txn: &'a ReadTransaction,
    state: &'a State,
    report: CheckReport,
}

impl Check<'_> {
    fn flaw(&mut self, table: &str, at: impl Display, what: impl Display) {
        if self.report.flaws.len() < FLAWS_REPORTED_MAX {
            let (at, what) = (at.to_string(), what.to_string());
            self.report.flaws.push(Flaw { table: table.to_owned(), at, what });
        }
    }

    fn count(&mut self, table: &str) {
        *self.report.checked.entry(table.to_owned()).or_default() += 1;
    }

    /// Every page of the log, every document in it.
    fn log(&mut self) -> Result<(), StoreError> {
        let table = self.txn.open_table(LOG)?;
        for row in table.iter()? {
            let (key, page) = row?;
            let (revision, rid) = key.value();
            self.count("log");
            match log::whole_page(key.value(), page.value()) {
                Ok(steps) => {
                    for (revision, rid) in steps {
                        self.report.documents += 1;
                        let read = |revision| log::document(&table, revision, rid);
                        if let Err(error) = documents::document(revision, &self.state.dictionaries, read) {
                            let at = format!("revision {revision}, life {rid}");
                            self.flaw("log", at, format!("its document can't be read: {error}"));
                        }
                    }
                }
                Err(error) => self.flaw("log", format!("page ({revision}, {rid})"), error),
            }
        }
        Ok(())
    }

    /// The fold of the whole log equals the state in memory, and that of every checkpoint.
    fn fold(&mut self) -> Result<(), StoreError> {
        let mut folded = match named(self.txn) {
            Ok(names) => names,
            Err(error) => {
                self.flaw("scope", "names", error);
                return Ok(());
            }
        };
        let mut fold = |until: Revision| {
            // The fold asserts that a history is valid.
            let fold = std::panic::AssertUnwindSafe(|| fold_until(self.txn, &mut folded, until).map(|_| ()));
            let done = std::panic::catch_unwind(fold);
            done.unwrap_or(Err(StoreError::Damaged { table: "log" })).map(|()| checkpoint::hash(&folded))
        };
        let mut flaws = Vec::new();
        let mut headers = 0;
        for header in checkpoint::headers(self.txn)? {
            headers += 1;
            match header.and_then(|(revision, hash)| Ok((revision, hash == fold(revision)?))) {
                Ok((_, true)) => {}
                // Single steps that it knows were thinned since; what follows from it is the same.
                Ok((revision, false)) if !self.state.kept.is_kept(revision) => {}
                Ok((revision, false)) => {
                    flaws.push((revision.to_string(), "it differs from the log".to_owned()));
                }
                Err(error) => flaws.push((format!("the {headers}th"), error.to_string())),
            }
        }
        match fold(self.state.revision) {
            Ok(hash) if hash == checkpoint::hash(self.state) => {}
            Ok(_) => flaws.push(("newest".to_owned(), "the state in memory differs from the log".to_owned())),
            Err(error) => flaws.push(("newest".to_owned(), format!("the log can't be folded: {error}"))),
        }
        self.report.checked.insert("ckpt".to_owned(), headers);
        for (at, what) in flaws {
            self.flaw("ckpt", at, what);
        }
        Ok(())
    }

    /// Lives are consecutive, each in an existing scope.
    fn lives(&mut self) -> Result<(), StoreError> {
        let mut lives = Lives::open(self.txn)?;
        for rid in NO_RID + 1..self.state.next_rid {
            self.count("life");
            match lives.get(rid) {
                Ok(life) if self.state.scopes.contains_key(&life.scope) => {}
                Ok(life) => {
                    let what = format!("there is no scope {}", life.scope);
                    self.flaw("life", rid, what);
                }
                Err(error) => self.flaw("life", rid, error),
            }
        }
        Ok(())
    }

    /// Each end of the log has its tombstone, and ended ids are found by their key.
    fn tombstones(&mut self) -> Result<(), StoreError> {
        let log = self.txn.open_table(LOG)?;
        let keys = self.txn.open_table(KEY)?;
        let mut last_of: BTreeMap<(ScopeNo, std::sync::Arc<str>), (Rid, u64)> = BTreeMap::new();
        let mut flaws = Vec::new();
        let mut ended = 0;
        let walked =
            lives::tombstones_back(self.txn, self.state.revision, self.state.ends, |revision, rid, stone| {
                ended += 1;
                let is_end =
                    |step: log::Slice| step.entries.iter().any(|l| matches!(l.entry.kind, EntryKind::Ended));
                if !log::step(&log, revision, rid).is_ok_and(is_end) {
                    flaws.push(("end", format!("({revision}, {rid})"), "the log knows no such end".to_owned()));
                }
                let lives_now = self.state.rid(stone.life.scope, &stone.life.id).is_some();
                if !lives_now && stone.retracted.is_none() {
                    last_of.entry((stone.life.scope, stone.life.id)).or_insert((rid, revision));
                }
                true
            });
        if let Err(error) = walked {
            flaws.push(("end", format!("the {}th from the last", ended + 1), error.to_string()));
        }
        for ((number, id), last) in &last_of {
            let scope = &self.state.scopes[number].scope;
            let found = keys.get(lives::key_hash(scope, id))?.map(|row| row.value());
            if found != Some(*last) {
                flaws.push(("key", format!("{id} of {scope}"), "its last life is not found".to_owned()));
            }
        }
        let rows = keys.len()?;
        if rows != last_of.len() as u64 {
            let what = format!("it has {rows} rows for {} ids that have ended", last_of.len());
            flaws.push(("key", "all".to_owned(), what));
        }
        self.report.checked.insert("end".to_owned(), ended);
        self.report.checked.insert("key".to_owned(), rows);
        for (table, at, what) in flaws {
            self.flaw(table, at, what);
        }
        Ok(())
    }

    /// Runs of a scope follow each other in time.
    fn ledger(&mut self) -> Result<(), StoreError> {
        let mut before: Option<(ScopeNo, Run)> = None;
        for row in self.txn.open_table(RUN)?.iter()? {
            let (key, bytes) = row?;
            let (number, first_ended) = key.value();
            self.count("run");
            let at = format!("({number}, {first_ended})");
            let run: Run = match decode("run", bytes.value()) {
                Ok(run) => run,
                Err(error) => {
                    self.flaw("run", at, error);
                    continue;
                }
            };
            if run.first_ended.as_millis() != first_ended || run.last_ended < run.first_ended {
                self.flaw("run", &at, "its ends are not where it stands");
            }
            if !self.state.scopes.contains_key(&number) {
                self.flaw("run", &at, "there is no such scope");
            }
            if let Some((scope, earlier)) = &before
                && *scope == number
                && run.first_started < earlier.last_ended
            {
                self.flaw("run", &at, "it overlaps the one before");
            }
            before = Some((number, run));
        }
        Ok(())
    }

    fn rest(&mut self) -> Result<(), StoreError> {
        for row in self.txn.open_table(SUSPECT)?.iter()? {
            let (rid, bytes) = row?;
            self.count("suspect");
            if let Err(error) = decode::<Suspect>("suspect", bytes.value()) {
                self.flaw("suspect", rid.value(), error);
            }
            if !self.state.suspects.contains_key(&rid.value()) {
                self.flaw("suspect", rid.value(), "nothing suspects this life");
            }
        }
        for (revision, kept) in self.state.kept.rows() {
            self.count("kept");
            let time = log::time_of(&self.txn.open_table(LOG)?, revision);
            if time.ok() != Some(kept.time) {
                self.flaw("kept", revision, "the log knows no such moment");
            }
        }
        for row in self.txn.open_table(VISIBILITY)?.iter()? {
            let (key, bytes) = row?;
            self.count("cover");
            if let Err(error) = decode::<VisibilityRow>("cover", bytes.value()) {
                let (subscriber, scope, from) = key.value();
                self.flaw("cover", format!("({subscriber}, {scope}, {from})"), error);
            }
        }
        Ok(())
    }
}
