//! The query of a URL to the query API: options, field and label selectors.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| elava::server::aggregated::fuzzed::query(query));
