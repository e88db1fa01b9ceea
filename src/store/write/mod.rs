//! Recording: from a sweep to a durable revision.
//!
//! - [`commit`]: commits a sweep, whole or page by page.
//! - [`plan`]: computes the delta of a sweep, without I/O.
//! - [`draft`]: a delta before it is written.
//! - [`writer`]: the only thread that writes.
//! - [`retain`]: what one commit does for retention.
//! - [`waker`]: wakes the maintenance thread.

pub(in crate::store) mod commit;
pub(in crate::store) mod draft;
pub(in crate::store) mod plan;
pub(in crate::store) mod retain;
pub(in crate::store) mod waker;
pub(in crate::store) mod writer;
