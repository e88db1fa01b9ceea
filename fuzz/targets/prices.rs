//! A price list from any user.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = elava::policy::Prices::parse(text);
});
