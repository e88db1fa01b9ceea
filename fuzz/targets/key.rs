//! A resource key reads as it is written.
#![no_main]

use elava::inventory::ResourceKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<ResourceKey>() {
        assert_eq!(key.to_string().parse::<ResourceKey>().expect("it was written by us"), key);
    }
});
