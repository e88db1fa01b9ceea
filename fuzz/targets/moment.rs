//! A moment as a user writes it.
#![no_main]

use elava::inventory::{Moment, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Moment::read(text, Timestamp::from_millis(1_795_000_000_000));
});
