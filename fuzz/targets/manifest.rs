//! A manifest from any user.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = elava::api::validate::manifest(text);
});
