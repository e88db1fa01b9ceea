//! A continue token that a client returns or invents.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| elava::server::aggregated::fuzzed::token(token));
