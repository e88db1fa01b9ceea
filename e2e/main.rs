//! The whole system on real components: see `support`.

#![allow(clippy::unwrap_used)] // a failed unwrap fails the test

mod support;

mod acting;
mod bounds;
mod canary;
mod commands;
mod crash;
mod findings;
mod gitops;
mod golden;
mod installation;
mod kinds;
mod monitoring;
mod organization;
mod orphans;
mod pods;
mod query_api;
mod scale;
mod sharing;
mod tenancy;
mod tenants;
mod truth;
mod upgrades;
mod webhook;
