//! Errors of the store, with messages that state what to do.

use std::path::PathBuf;

use crate::inventory::{Moment, RetainedMoment, Revision, Scope, Timestamp};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store {path} is in use by another process: ask the running operator through its socket \
         (--socket {socket}), or stop it first"
    )]
    Locked { path: PathBuf, socket: PathBuf },
    #[error("there is no store at {0}: make one with `elava scan --store {0} -f cloudscan.yaml`")]
    Missing(PathBuf),
    #[error(
        "there is something at {0} already, and nothing is overwritten: name another file, or move that one away"
    )]
    Exists(PathBuf),
    #[error("cannot {} {path}", op.verb())]
    File {
        op: FileOp,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the stream could not be read or written to its end")]
    Stream(#[source] std::io::Error),
    #[error("this is no backup of a store: {0}")]
    NotABackup(&'static str),
    #[error(
        "the store {path} has schema {found}, this binary knows {known}: it was left untouched; {}",
        if found > known {
            "a newer Elava wrote it: go on with that version or a later one"
        } else {
            "it is from before the first release: scan again into a new file"
        }
    )]
    Schema { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is not an Elava store, or it is damaged; it was left untouched")]
    NotAStore {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store cannot open {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store could not be read or written")]
    Database(#[source] Box<redb::Error>),
    /// As [`StoreError::Database`], for every caller whose delta was in the same transaction.
    #[error(transparent)]
    NotWritten(std::sync::Arc<StoreError>),
    #[error("the store holds a damaged record in table `{table}`: restore it from a backup")]
    Damaged { table: &'static str },
    #[error(
        "a sweep of {scope} that began at {started} overlaps the last committed one, which ended at {last_ended}: \
         only one may be in flight"
    )]
    Overlapping { scope: Box<Scope>, started: Timestamp, last_ended: Timestamp },
    #[error("revision {requested} is in the future: the newest is {newest}")]
    Future { requested: Revision, newest: Revision },
    #[error(
        "{requested} lies before the first scan: the earliest kept moment is {earliest} (revision {revision})"
    )]
    TooEarly { requested: Timestamp, earliest: Timestamp, revision: Revision },
    #[error("{} {requested} is not kept any more: the nearest kept moments are {}", kind(.requested), nearest(.before.as_ref(), .after.as_ref()))]
    NotKept { requested: Moment, before: Option<RetainedMoment>, after: Option<RetainedMoment> },
    #[error(
        "single changes after revision {requested} are not kept any more: each is from {floor} on; before that ask for \
         the difference between two kept moments"
    )]
    Compacted { requested: Revision, floor: RetainedMoment },
    #[error("{what} is {actual} bytes long, over the bound of {bound}")]
    TooLarge { what: String, actual: usize, bound: usize },
    #[error(
        "the volume of {path} has {free} bytes free, and recording needs {needed}: nothing is recorded until there \
         is room; make the volume larger, or delete what else is on it"
    )]
    DiskFull { path: PathBuf, free: u64, needed: u64 },
    #[error("this reader was open for more than {} s and was closed: ask again", lifetime.as_secs())]
    ReaderExpired { lifetime: std::time::Duration },
    #[error(
        "{path} is not the store that was open: it ends at revision {found}, and revision {known} was recorded; \
         nothing is written to it: restore it from a backup"
    )]
    OtherFile { path: PathBuf, known: Revision, found: Revision },
    #[error(
        "the disk failed, and the store could not be opened again yet: nothing is recorded or read until it can; see the log for the reason"
    )]
    Poisoned,
    #[error(
        "the program failed while it read or wrote the store, which is as it was: see the lines before in the log"
    )]
    Panicked,
}

/// The operation that was tried on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    Read,
    Write,
}

impl FileOp {
    fn verb(self) -> &'static str {
        match self {
            FileOp::Read => "read",
            FileOp::Write => "write",
        }
    }
}

fn kind(requested: &Moment) -> &'static str {
    match requested {
        Moment::Revision(_) => "revision",
        Moment::Time(_) | Moment::Now => "the state at",
    }
}

fn nearest(before: Option<&RetainedMoment>, after: Option<&RetainedMoment>) -> String {
    let named: Vec<String> = before.into_iter().chain(after).map(ToString::to_string).collect();
    named.join(" and ")
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                StoreError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::DatabaseError,
    redb::CompactionError
);

impl StoreError {
    /// A bounded name for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            StoreError::Locked { .. } => "StoreLocked",
            StoreError::Missing(_) => "StoreMissing",
            StoreError::Schema { .. } => "StoreSchema",
            StoreError::NotAStore { .. } => "NotAStore",
            StoreError::Io { .. } | StoreError::File { .. } | StoreError::Database(_) => "StoreFailed",
            StoreError::Exists(_) => "StoreExists",
            StoreError::Stream(_) => "StreamFailed",
            StoreError::NotABackup(_) => "NotABackup",
            StoreError::NotWritten(error) => error.reason(),
            StoreError::Damaged { .. } => "StoreDamaged",
            StoreError::Overlapping { .. } => "SweepOverlaps",
            StoreError::Future { .. } | StoreError::TooEarly { .. } | StoreError::NotKept { .. } => "NotKept",
            StoreError::Compacted { .. } => "Compacted",
            StoreError::TooLarge { .. } => "TooLarge",
            StoreError::DiskFull { .. } => "DiskFull",
            StoreError::ReaderExpired { .. } => "ReaderExpired",
            StoreError::OtherFile { .. } => "StoreOther",
            StoreError::Poisoned => "StorePoisoned",
            StoreError::Panicked => "Panicked",
        }
    }
}
