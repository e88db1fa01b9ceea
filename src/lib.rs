//! Elava: a Kubernetes operator that watches cloud accounts and remembers what it saw.
//!
//! # The house
//!
//! | module | holds |
//! |---|---|
//! | [`inventory`] | the vocabulary as types: keys, scopes, sweeps, tags, revisions; pure |
//! | [`store`] | the multi-version store on redb; knows no Kubernetes and no cloud |
//! | [`cloud`] | the `Provider` trait, and AWS behind it |
//! | [`policy`] | the rules: from what is known to what people must act on; pure |
//! | [`api`] | the custom resources, and the API server's verdict on a manifest |
//! | [`scanner`] | one task per account: list, confirm, commit |
//! | [`controller`] | CloudScans to tasks; the store to findings, events and status |
//! | [`server`] | health, metrics, and the questions over the socket |
//! | [`cli`] | the commands; wires the rest |
//!
//! `inventory` depends on nothing of ours; `store`, `cloud`, `policy` and `api` on `inventory` only, never
//! on each other; `scanner` on `store` and `cloud`; `controller` on all of these; `server` on `store`,
//! `policy` and `api`. `tests/house.rs` holds this.
//!
//! # The flow
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
//! # What always holds
//!
//! - Only a `Complete` sweep concludes anything from absence, and only when the absence is confirmed.
//! - Commit before publish: every commit is durable, and what is published follows from the store under
//!   deterministic names, so that doing it again changes nothing.
//! - What could not be looked at is unknown: it opens no finding and resolves none.
//! - Nothing is written to a cloud.
//! - One bad CloudScan, account, region, page or resource never stops the others.

#[cfg(feature = "serve")]
pub mod api;
#[cfg(feature = "operator")]
pub mod cli;
#[cfg(feature = "operator")]
pub mod cloud;
#[cfg(feature = "operator")]
pub mod controller;
pub mod inventory;
#[cfg(feature = "serve")]
pub mod policy;
#[cfg(feature = "operator")]
pub mod scanner;
#[cfg(feature = "serve")]
pub mod server;
pub mod store;
