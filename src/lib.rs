//! Elava.
pub mod api;
pub mod cli;
pub mod cloud;
pub mod controller;
pub mod inventory;
pub mod policy;
pub mod scanner;
pub mod server;
pub mod store;
