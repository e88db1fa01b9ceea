//! Backups: every row at one moment as a stream, and a new file from it.
//!
//! ```text
//! "elava-backup 1\n"  zstd stream of: [length: u32 LE] [record]
//! Head, then Table and its Rows in their order for each table, then End with a hash over all of it
//! ```
//!
//! It is a stream and not a copy of the file, because redb's file changes while it is read. It is consistent,
//! because it is read through one snapshot. It needs no space on the volume, and a file restored from it is
//! compact.

use std::io::{BufReader, Read, Write};
use std::path::Path;

use redb::{Database, ReadTransaction, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::inventory::Revision;
use crate::store::error::FileOp;
use crate::store::file::open::PAGE_CACHE_MAX_BYTES;
use crate::store::file::open::new_store_id;
use crate::store::file::open::store_id;
use crate::store::file::tables::{META, SCHEMA, encode};
use crate::store::state::kept::{Gap, gaps};
use crate::store::state::load::load;
use crate::store::state::shared::Published;
use crate::store::{PrivateFile, Store, StoreError};

const MAGIC: &[u8] = b"elava-backup 1\n";
/// A higher level takes longer than the disk.
const ZSTD_LEVEL: i32 = 3;
/// No row is larger: a page of the log with one document, a part of a checkpoint.
const RECORD_MAX_BYTES: usize = 256 << 20;
/// Maximum bytes that one transaction of a restore writes.
const RESTORE_TRANSACTION_MAX_BYTES: usize = 32 << 20;
/// So that cursors and watches from before a restore never read other content under an old number.
const REVISIONS_SKIPPED: u64 = 1 << 32;

#[derive(Debug, Serialize, Deserialize)]
enum Record<'a> {
    Head { schema: u32, revision: Revision, store_id: [u8; 16] },
    Table(&'a str),
    Row(&'a [u8], &'a [u8]),
    End { rows: u64, hash: [u8; 32] },
}

/// The content of a backup, or of what was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// The newest revision in it.
    pub revision: Revision,
    /// The number of rows of all tables.
    pub rows: u64,
}

struct Out<'a> {
    stream: zstd::Encoder<'static, &'a mut dyn Write>,
    hash: blake3::Hasher,
    rows: u64,
}

impl Out<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        let mut bytes = postcard::to_extend(record, vec![0; 4]).expect("bytes can be written to memory");
        let length = u32::try_from(bytes.len() - 4).expect("rows are shorter than 4 GB").to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        self.hash.update(&bytes);
        self.stream.write_all(&bytes).map_err(StoreError::Stream)
    }

    fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &mut self,
        txn: &ReadTransaction,
        definition: redb::TableDefinition<'_, K, V>,
    ) -> Result<(), StoreError> {
        use redb::TableHandle;
        self.record(&Record::Table(definition.name()))?;
        for row in txn.open_table(definition)?.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            self.record(&Record::Row(K::as_bytes(&key).as_ref(), V::as_bytes(&value).as_ref()))?;
            self.rows += 1;
        }
        Ok(())
    }
}

impl Store {
    /// Writes everything that is durable now to a stream. Other commits can run meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stream`] if the stream can't be written; [`StoreError::Poisoned`] while the file waits to be
    /// opened again; [`StoreError::Database`] or [`StoreError::Damaged`] if it can't be read.
    pub fn backup(&self, out: &mut dyn Write) -> Result<BackupReport, StoreError> {
        // With the minute of "still there" that is only in memory, if it can be written.
        drop(self.flush());
        let Published { state, txn } = self.inner.shared.published()?;
        out.write_all(MAGIC).map_err(StoreError::Stream)?;
        let mut stream = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(StoreError::Stream)?;
        stream.include_checksum(true).map_err(StoreError::Stream)?;
        let mut out = Out { stream, hash: blake3::Hasher::new(), rows: 0 };
        let head = Record::Head { schema: SCHEMA, revision: state.revision, store_id: store_id(&txn)? };
        out.record(&head)?;
        each_table!(table => out.table(&txn, table)?);
        let (rows, hash) = (out.rows, *out.hash.finalize().as_bytes());
        out.record(&Record::End { rows, hash })?;
        out.stream.finish().and_then(Write::flush).map_err(StoreError::Stream)?;
        Ok(BackupReport { revision: state.revision, rows })
    }

    /// Creates the store at `to` from a backup. Nothing is overwritten, and the file does not exist before it is
    /// complete.
    ///
    /// The restored store continues 2^32 revisions later and has its own id.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] if there is a file at `to`, [`StoreError::NotABackup`] if the stream is no whole and
    /// intact backup, [`StoreError::Schema`] if it is of another schema version, [`StoreError::Stream`] if it
    /// can't be read, [`StoreError::File`] or [`StoreError::Database`] if the new file can't be written,
    /// [`StoreError::Damaged`] if what it contains can't be opened.
    pub fn restore(from: &mut dyn Read, to: &Path) -> Result<BackupReport, StoreError> {
        if to.exists() {
            return Err(StoreError::Exists(to.to_owned()));
        }
        let io = |source| StoreError::File { op: FileOp::Write, path: to.to_owned(), source };
        let unfinished = PrivateFile::begin(to).map_err(io)?;
        let report = restore_into(from, unfinished.unfinished())?;
        unfinished.finish().map_err(io)?;
        Ok(report)
    }

    /// Returns the unused space of the file to the volume. No process may have it open. Returns its length before
    /// and after.
    ///
    /// # Errors
    ///
    /// As [`Store::open_existing`]; [`StoreError::File`] if the length of the file can't be read.
    pub fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
        let length = || std::fs::metadata(path).map(|file| file.len());
        let io = |source| StoreError::File { op: FileOp::Read, path: path.to_owned(), source };
        // Opening it finds schema, lock and damage as always.
        drop(Self::open_existing(path, crate::store::system_clock())?);
        let before = length().map_err(io)?;
        let mut db = Database::builder().set_cache_size(PAGE_CACHE_MAX_BYTES).open(path)?;
        while db.compact()? {}
        drop(db);
        Ok((before, length().map_err(io)?))
    }
}

struct In<'a> {
    stream: zstd::Decoder<'static, BufReader<&'a mut dyn Read>>,
    hash: blake3::Hasher,
    bytes: Vec<u8>,
}

impl In<'_> {
    fn next(&mut self) -> Result<Record<'_>, StoreError> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).map_err(cut_off)?;
        let length = u32::from_le_bytes(header) as usize;
        if length > RECORD_MAX_BYTES {
            return Err(StoreError::NotABackup("a record has no sensible length"));
        }
        self.bytes.resize(length, 0);
        self.stream.read_exact(&mut self.bytes).map_err(cut_off)?;
        let record =
            postcard::from_bytes(&self.bytes).map_err(|_| StoreError::NotABackup("a record makes no sense"))?;
        if !matches!(record, Record::End { .. }) {
            self.hash.update(&header);
            self.hash.update(&self.bytes);
        }
        Ok(record)
    }
}

fn cut_off(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => StoreError::NotABackup("it ends too early: the backup was cut off"),
        _ => StoreError::Stream(error),
    }
}

fn restore_into(from: &mut dyn Read, path: &Path) -> Result<BackupReport, StoreError> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).map_err(cut_off)?;
    if magic != MAGIC {
        return Err(StoreError::NotABackup("it does not begin as one"));
    }
    let stream = zstd::Decoder::new(from).map_err(StoreError::Stream)?;
    let mut input = In { stream, hash: blake3::Hasher::new(), bytes: Vec::new() };
    match input.next()? {
        Record::Head { schema: SCHEMA, .. } => {}
        Record::Head { schema, .. } => {
            return Err(StoreError::Schema { path: path.to_owned(), found: schema, known: SCHEMA });
        }
        _ => return Err(StoreError::NotABackup("it has no head")),
    }
    let db = Database::builder().set_cache_size(PAGE_CACHE_MAX_BYTES).create(path)?;
    crate::store::file::open::make_tables(&db)?;
    let rows = rows(&mut input, &db)?;
    // A file that can't be opened is no store.
    let (state, _) = load(&db)?;
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("id", new_store_id().as_slice())?;
        let mut known = gaps(&meta)?;
        let last = state.revision.0;
        known.push(Gap { last, time: state.time, next: last + REVISIONS_SKIPPED });
        meta.insert("gaps", encode(&known).as_slice())?;
    }
    txn.commit()?;
    Ok(BackupReport { revision: state.revision, rows })
}

fn rows(input: &mut In<'_>, db: &Database) -> Result<u64, StoreError> {
    let mut txn = db.begin_write()?;
    let (mut written, mut rows) = (0, 0);
    let mut table = String::new();
    loop {
        match input.next()? {
            Record::Table(name) => name.clone_into(&mut table),
            Record::Row(key, value) => {
                put(&txn, &table, key, value)?;
                rows += 1;
                written += key.len() + value.len();
            }
            Record::End { rows: expected, hash } => {
                if expected != rows || hash != *input.hash.finalize().as_bytes() {
                    return Err(StoreError::NotABackup("its checksum does not fit: it is damaged"));
                }
                // The stream has its own checksum after the last record.
                if input.stream.read(&mut [0]).map_err(cut_off)? != 0 {
                    return Err(StoreError::NotABackup("it goes on after its end"));
                }
                txn.commit()?;
                return Ok(rows);
            }
            Record::Head { .. } => return Err(StoreError::NotABackup("it has two heads")),
        }
        if written >= RESTORE_TRANSACTION_MAX_BYTES {
            txn.commit()?;
            txn = db.begin_write()?;
            written = 0;
        }
    }
}

fn put(txn: &WriteTransaction, name: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    fn insert<K: redb::Key + 'static, V: redb::Value + 'static>(
        txn: &WriteTransaction,
        definition: redb::TableDefinition<'_, K, V>,
        (name, key, value): (&str, &[u8], &[u8]),
    ) -> Result<bool, StoreError> {
        use redb::TableHandle;
        if definition.name() != name {
            return Ok(false);
        }
        // redb panics on bytes that are no key of the table.
        let insert = std::panic::AssertUnwindSafe(|| -> Result<(), StoreError> {
            txn.open_table(definition)?.insert(K::from_bytes(key), V::from_bytes(value))?;
            Ok(())
        });
        std::panic::catch_unwind(insert).unwrap_or(Err(StoreError::NotABackup("a row makes no sense")))?;
        Ok(true)
    }
    let row = (name, key, value);
    let mut is_known = false;
    each_table!(table => is_known |= insert(txn, table, row)?);
    if is_known { Ok(()) } else { Err(StoreError::NotABackup("it holds a table that is not known")) }
}
