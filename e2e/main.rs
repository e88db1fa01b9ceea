//! The whole system on real parts: see `support`.

#![allow(clippy::unwrap_used)] // a test that unwraps fails where it should

mod support;

mod crash;
mod findings;
mod installation;
mod organization;
mod sharing;
mod truth;
