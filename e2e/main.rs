//! The whole system on real parts: see `support`.

mod support;

mod crash;
mod findings;
mod installation;
mod sharing;
mod truth;
