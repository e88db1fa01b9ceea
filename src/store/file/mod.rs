//! The layout of the file.
//!
//! - [`log`]: the entries of all revisions, in pages.
//! - [`documents`]: the encoding of described objects in the log.
//! - [`lives`]: the immutable part of each life, and the tombstones.
//! - [`tables`]: the other tables and records.
//! - [`open`]: opening the file: its schema, its tables and its id.
//! - [`private`]: files that only their owner can read.

pub(in crate::store) mod documents;
pub(in crate::store) mod lives;
pub(in crate::store) mod log;
pub(in crate::store) mod open;
pub(in crate::store) mod private;
pub(in crate::store) mod tables;
