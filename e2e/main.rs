//! The whole system on real parts: see `support`.

mod support;

mod findings;
mod installation;
mod sharing;
mod truth;
