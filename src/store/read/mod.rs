//! Queries of the present and the past, and following the log.
//!
//! - [`snapshot`]: reads at any moment.
//! - [`history`]: the log as changes for readers.
//! - [`hindsight`]: later sweeps correct what a past moment could not know.
//! - [`moment`]: which revision a moment names.
//! - [`diff`]: the differences between two moments, and between two versions of a resource.
//! - [`visibility`]: what subscribers can see, and in which revisions.
//! - [`watch`]: following the log.

pub(in crate::store) mod diff;
pub(in crate::store) mod hindsight;
pub(in crate::store) mod history;
pub(in crate::store) mod moment;
pub(in crate::store) mod snapshot;
pub(in crate::store) mod visibility;
pub(in crate::store) mod watch;
