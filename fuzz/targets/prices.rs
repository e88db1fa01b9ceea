//! A price list from anybody.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = elava::policy::Prices::parse(text);
});
