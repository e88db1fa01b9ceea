//! Opening the file: its schema, its tables and its id.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::tables::{META, SCHEMA};
use crate::store::StoreError;

/// How much of the file redb may hold in memory: its default of 1 GiB is more than our pod has.
pub(in crate::store) const PAGE_CACHE_MAX_BYTES: usize = 64 << 20;

/// Free bytes on the volume; `None` if that is unknown.
pub(in crate::store) type FreeSpaceFn = Box<dyn Fn() -> Option<u64> + Send + Sync>;

pub(in crate::store) fn free_space_fn(path: &Path) -> FreeSpaceFn {
    let path = path.to_owned();
    Box::new(move || {
        let volume = rustix::fs::statvfs(&path).ok()?;
        Some(volume.f_bavail.saturating_mul(volume.f_frsize))
    })
}

/// Opens the file. Called each time it is opened or reopened.
pub(in crate::store) type Open =
    Box<dyn Fn(&redb::Builder) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// The Unix socket of the operator that holds the store at `path`.
pub fn socket_path(path: &Path) -> PathBuf {
    path.with_extension("sock")
}

/// Opens the database of a file. Each kind of failure has its own error.
pub(in crate::store) fn open_db(path: &Path, open: &Open) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(PAGE_CACHE_MAX_BYTES);
    let distinguished = |error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Locked { path: path.to_owned(), socket: socket_path(path) }
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if !matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Io { path: path.to_owned(), source }
        }
        other => StoreError::NotAStore { path: path.to_owned(), source: Box::new(other) },
    };
    catch_damage(|| open(&builder).map_err(distinguished))
}

/// Turns a panic into [`StoreError::Damaged`]: redb does not verify its pages on plain reads, and panics on some
/// invalid ones.
pub(in crate::store) fn catch_damage<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    done.unwrap_or(Err(StoreError::Damaged { table: "of the database itself" }))
}

/// Checks the schema of an existing file before it is opened for writing: redb marks a file that it opens.
pub(in crate::store) fn refuse_other_schemas(path: &Path) -> Result<(), StoreError> {
    catch_damage(|| {
        // A file that can't be read here (new, locked, not closed cleanly, no database) gets its error later.
        let Ok(db) = Database::builder().set_cache_size(1 << 20).open_read_only(path) else { return Ok(()) };
        let txn = db.begin_read()?;
        if txn.list_tables()?.next().is_none() { Ok(()) } else { refuse_other_schema(&txn, path) }
    })
}

pub(in crate::store) fn refuse_other_schema(txn: &ReadTransaction, path: &Path) -> Result<(), StoreError> {
    let found = match txn.open_table(META) {
        Ok(meta) => meta.get("schema")?.map(|v| v.value().to_vec()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match found.as_deref().map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) if u32::from_be_bytes(bytes) == SCHEMA => Ok(()),
        Some(Ok(bytes)) => {
            let found = u32::from_be_bytes(bytes);
            Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA })
        }
        _ => {
            let source = "it holds no schema version".into();
            Err(StoreError::NotAStore { path: path.to_owned(), source })
        }
    }
}

/// Creates the tables of a new file. Writes nothing to an existing one.
pub(in crate::store) fn check_schema(db: &Database, path: &Path) -> Result<(), StoreError> {
    let txn = db.begin_read()?;
    if txn.list_tables()?.next().is_none() {
        return make_tables(db);
    }
    refuse_other_schema(&txn, path)
}

pub(in crate::store) fn make_tables(db: &Database) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    // All tables exist from here on, so that readers need no special case for a new file.
    each_table!(table => txn.open_table(table)?);
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("schema", SCHEMA.to_be_bytes().as_slice())?;
        meta.insert("id", new_store_id().as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

/// Random: no two stores share an id.
pub(in crate::store) fn new_store_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        // Each `RandomState` has its own keys from the operating system.
        half.copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes());
    }
    id
}

pub(in crate::store) fn store_id(txn: &ReadTransaction) -> Result<[u8; 16], StoreError> {
    let meta = txn.open_table(META)?;
    let id = meta.get("id")?.ok_or(StoreError::Damaged { table: "meta" })?;
    id.value().try_into().map_err(|_| StoreError::Damaged { table: "meta" })
}
