//! Errors of the store, with messages that state what to do.

use std::path::PathBuf;

use crate::inventory::{Moment, RetainedMoment, Revision, Scope, Timestamp};

/// Why the store refuses or fails an operation. The message states what to do. [`StoreError::reason`] names each
/// for conditions, events and metric labels.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error(
        "the store {path} is in use by another process, which answers queries at {socket} if it is an operator"
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// The socket on which the operator that has it open answers queries.
        socket: PathBuf,
    },
    /// There is no file at this path, and it was not to be created.
    #[error("there is no store at {0}")]
    Missing(PathBuf),
    /// There is a file at this path, and none is overwritten.
    #[error(
        "there is something at {0} already, and nothing is overwritten: name another file, or move that one away"
    )]
    Exists(PathBuf),
    /// A file other than an open store can't be read or written: the target of a restore, or a file that is
    /// compacted.
    #[error("cannot {} {path}", op.verb())]
    File {
        /// What was tried.
        op: FileOp,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The stream of a backup, a restore or an export failed.
    #[error("the stream could not be read or written to its end")]
    Stream(#[source] std::io::Error),
    /// What was to be restored is not a whole and intact backup, for this reason.
    #[error("this is no backup of a store: {0}")]
    NotABackup(&'static str),
    /// The file has another schema version than this program. It was left unchanged.
    #[error(
        "the store {path} has schema {found}, this binary knows {known}: it was left untouched; {}",
        if found > known {
            "a newer Elava wrote it: go on with that version or a later one"
        } else {
            "it is from before the first release: scan again into a new file"
        }
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// The file was written by something else, or is too damaged to be opened. It was left unchanged.
    #[error("{path} is not an Elava store, or it is damaged; it was left untouched")]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What redb reports, or what the file lacks.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file, its folder or a thread for it can't be opened or created.
    #[error("the store cannot open {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// redb failed to read or write the file, in most cases because of the disk.
    #[error("the store could not be read or written")]
    Database(#[source] Box<redb::Error>),
    /// The transaction of the request failed, for this reason. Every caller whose request was in it gets the same
    /// error. After a disk error it is open whether it was committed; the file shows it once it is open again.
    #[error(transparent)]
    NotWritten(std::sync::Arc<StoreError>),
    /// A record has a wrong checksum, or contradicts another.
    #[error("the store holds a damaged record in table `{table}`: restore it from a backup")]
    Damaged {
        /// The name of the table.
        table: &'static str,
    },
    /// A sweep began before the last committed sweep of its scope ended. Nothing of it was recorded.
    #[error(
        "a sweep of {scope} that began at {started} overlaps the last committed one, which ended at {last_ended}: \
         only one may be in flight"
    )]
    Overlapping {
        /// The scope of both sweeps.
        scope: Box<Scope>,
        /// When the refused sweep began.
        started: Timestamp,
        /// When the last committed sweep ended.
        last_ended: Timestamp,
    },
    /// The requested revision was not recorded yet.
    #[error("revision {requested} is in the future: the newest is {newest}")]
    Future {
        /// The revision that was requested.
        requested: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The requested time is before the first revision.
    #[error(
        "{requested} lies before the first scan: the earliest kept moment is {earliest} (revision {revision})"
    )]
    TooEarly {
        /// The time that was requested.
        requested: Timestamp,
        /// The earliest time that can be queried.
        earliest: Timestamp,
        /// The revision of that time.
        revision: Revision,
    },
    /// Retention dropped the requested moment, or a restore skipped it.
    #[error("{} {requested} is not kept any more: the nearest kept moments are {}", kind(.requested), nearest(.before.as_ref(), .after.as_ref()))]
    NotKept {
        /// The moment that was requested.
        requested: Moment,
        /// The last kept moment before it; `None` if there is none.
        before: Option<RetainedMoment>,
        /// The first kept moment after it; `None` if there is none.
        after: Option<RetainedMoment>,
    },
    /// Single changes were requested from where retention has dropped some of them.
    #[error(
        "single changes after revision {requested} are not kept any more: each is from {floor} on; before that ask for \
         the difference between two kept moments"
    )]
    Compacted {
        /// The revision after which single changes were requested.
        requested: Revision,
        /// The first moment after which every single change is kept.
        floor: RetainedMoment,
    },
    /// An id or a document of a sweep is longer than the maximum. Nothing of that sweep or page was recorded.
    #[error("{what} is {actual} bytes long, over the bound of {bound}")]
    TooLarge {
        /// Which part of which scope.
        what: String,
        /// Its length in bytes.
        actual: usize,
        /// The maximum length in bytes.
        bound: usize,
    },
    /// The volume has too little space for the write, which was not tried. Reads still work.
    #[error(
        "the volume of {path} has {free} bytes free, and recording needs {needed}: nothing is recorded until there \
         is room; make the volume larger, or delete what else is on it"
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// The free bytes on its volume.
        free: u64,
        /// The free bytes that are required before anything is written.
        needed: u64,
    },
    /// A snapshot was open for too long, or its file was released or closed: it no longer reads the file.
    #[error("this reader was open for more than {} s and was closed: ask again", lifetime.as_secs())]
    ReaderExpired {
        /// How long a reader may be open.
        lifetime: std::time::Duration,
    },
    /// After a disk error the path has another store, or an older state of this one. Nothing is written to it.
    #[error(
        "{path} is not the store that was open: it ends at revision {found}, and revision {known} was recorded; \
         nothing is written to it: restore it from a backup"
    )]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// The newest revision that was recorded in the right file.
        known: Revision,
        /// The newest revision of the file at the path.
        found: Revision,
    },
    /// After a disk error the file could not be opened again yet, which is tried every few seconds; or the store's
    /// writer has ended.
    #[error(
        "the disk failed, and the store could not be opened again yet: nothing is recorded or read until it can; see the log for the reason"
    )]
    Poisoned,
    /// The program panicked while it used the store; the file is intact.
    #[error(
        "the program failed while it read or wrote the store, which is as it was: see the lines before in the log"
    )]
    Panicked,
}

/// The operation that was tried on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// The file, or its length, was read.
    Read,
    /// The file was created, written or given its name.
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
