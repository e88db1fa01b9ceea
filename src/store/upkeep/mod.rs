//! Maintenance: what keeps a file small, whole and portable.
//!
//! - [`maintenance`]: the maintenance thread.
//! - [`retention`]: which revisions are kept, and how the others are dropped.
//! - [`check`]: an integrity check, and statistics of the file.
//! - [`backup`]: a stream of all rows, and restoring a file from it.
//! - [`export`]: the history as columns.
//! - [`scrub`]: removes content that must not be kept.

pub(in crate::store) mod backup;
pub(in crate::store) mod check;
pub(in crate::store) mod export;
pub(in crate::store) mod maintenance;
pub(in crate::store) mod retention;
pub(in crate::store) mod scrub;
