//! Elava.
pub mod inventory;
pub mod store;
