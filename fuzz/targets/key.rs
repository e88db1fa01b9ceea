//! A resource key that is printed parses to the same key.
#![no_main]

use elava::inventory::ResourceKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<ResourceKey>() {
        assert_eq!(key.to_string().parse::<ResourceKey>().expect("it was written by us"), key);
    }
});
