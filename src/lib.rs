//! Elava.
pub mod api;
pub mod cloud;
pub mod controller;
pub mod inventory;
pub mod policy;
pub mod scanner;
pub mod store;
