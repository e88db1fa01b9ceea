//! The query string of a query API URL: options, field selectors and label selectors.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| elava::server::aggregated::fuzzed::query(query));
