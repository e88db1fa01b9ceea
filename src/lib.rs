//! Elava: a Kubernetes operator that scans cloud accounts and records what exists in them.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`inventory`] | the domain types: keys, scopes, sweeps, tags, revisions; pure |
//! | [`store`] | the multi-version store on redb; `store::write::plan` decides what appeared, changed or disappeared |
//! | [`cloud`] | the `Provider` trait and its AWS implementation |
//! | [`policy`] | the rules: from the recorded state to findings (what disappeared is only reported here); pure |
//! | [`api`] | the custom resources, and validation of a manifest as the API server does it |
//! | [`scanner`] | one task per account: lists, confirms absences by reads, holds mass losses; commits to the store |
//! | [`controller`] | from CloudScans to tasks; from the store to findings, events and status |
//! | [`server`] | health, metrics, and queries over the socket |
//! | [`cli`] | the commands; wires up the rest |
//!
//! `inventory` depends on no other module; `store`, `cloud`, `policy` and `api` depend on `inventory` only, never
//! on each other; `scanner` on `store` and `cloud`; `controller` on all of these; `server` on `store`, `policy`
//! and `api`. `tests/house.rs` enforces this.
//!
//! # Data flow
//!
//! ```text
//! CloudScan --watch--> controller --subscriptions--> one scanner task per account
//!     scanner: for each due scope   list pages          --> Sweep
//!                                   confirm the missing --> Sweep, confirmed
//!                                   Store::commit       --> Delta at a revision
//! store --snapshot--> policy --> findings --> ResourceFinding, Event, status
//! store --snapshot at any moment--> server::query --> the CLI, in-process or by the socket
//! ```
//!
//! # Invariants
//!
//! - Only a `Complete` sweep concludes anything from absence, and only when the absence is confirmed.
//! - Commit before publish: every commit is durable, and what is published follows from the store under
//!   deterministic names, so publishing is idempotent.
//! - What could not be scanned is unknown: it opens no finding and resolves none.
//! - Nothing is written to a cloud.
//! - A faulty CloudScan, account, region, page or resource never stops the others.

#[cfg(feature = "serve")]
pub mod api;
#[cfg(feature = "operator")]
pub mod cli;
#[cfg(feature = "operator")]
#[warn(missing_docs)]
pub mod cloud;
#[cfg(feature = "operator")]
pub mod controller;
#[warn(missing_docs)]
pub mod inventory;
#[cfg(feature = "serve")]
#[warn(missing_docs)]
pub mod policy;
#[cfg(feature = "operator")]
pub mod scanner;
#[cfg(feature = "serve")]
pub mod server;
#[warn(missing_docs)]
pub mod store;
