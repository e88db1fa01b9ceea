//! Components against their real counterparts: manifests against the API server, attributes against botocore, the
//! command line against the emulator, the modules against their planned dependencies.

#![allow(clippy::unwrap_used)] // a failed unwrap fails the test

#[path = "../e2e/support/mod.rs"]
mod support;

mod attributes;
mod calls;
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
