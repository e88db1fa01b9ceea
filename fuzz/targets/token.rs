//! A continue token that a client hands back, or makes up.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| elava::server::aggregated::fuzzed::token(token));
