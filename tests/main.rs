//! Parts against the real thing that they meet: manifests against the API server, attributes against
//! botocore, the command line against the emulator, the house against its own plan.

#![allow(clippy::unwrap_used)] // a test that unwraps fails where it should

#[path = "../e2e/support/mod.rs"]
mod support;

mod attributes;
mod chart;
mod declarations;
mod docs;
mod export;
mod house;
mod image;
mod manifests;
mod recorded;
mod release;
mod scan;
mod site;
mod truth;
mod types;
