//! "I could not look" must never become "it is gone", nor "untagged", nor "new".
//!
//! - [`table`]: ../shared/truth.md row by row. [`random`]: random lives under random faults.

mod bed;
mod random;
mod table;
