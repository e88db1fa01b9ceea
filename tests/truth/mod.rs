//! "It could not be listed" must never become "it is gone", nor "untagged", nor "new".
//!
//! - [`table`]: the ways in which a cloud misleads, row by row. [`random`]: random changes under random faults.

mod bed;
mod random;
mod table;
