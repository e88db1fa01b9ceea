//! The state at a revision, its indexes, and the states that the file holds.
//!
//! - [`fold`]: the state at a revision, a fold of the log.
//! - [`heads`]: its live resources, in columns.
//! - [`id_index`]: its index by id.
//! - [`tag_index`]: its index by tag.
//! - [`locator`]: an index of ids over all scopes of a type, to detect moves.
//! - [`kept`]: which revisions can be read.
//! - [`ledger`]: runs of sweeps, and the status of a scope at a moment.
//! - [`checkpoint`]: stored states at some revisions, so that the whole log need not be folded.
//! - [`load`]: loading a state from the file.
//! - [`lease`]: limits how long a reader may hold the file.
//! - [`shared`]: the published state.

pub(in crate::store) mod checkpoint;
pub(in crate::store) mod fold;
pub(in crate::store) mod heads;
pub(in crate::store) mod id_index;
pub(in crate::store) mod kept;
pub(in crate::store) mod lease;
pub(in crate::store) mod ledger;
pub(in crate::store) mod load;
pub(in crate::store) mod locator;
pub(in crate::store) mod shared;
pub(in crate::store) mod tag_index;

pub(in crate::store) use fold::{Beginnings, ScopeState, State, TagNumbers};
