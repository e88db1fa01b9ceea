//! A regular expression from any user, and a value from a cloud, separated by NUL.
#![no_main]

use elava::inventory::{EXPRESSION_MAX_BYTES, Expression};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (expression, value) = text.split_once('\0').unwrap_or((text, "team-a"));
    if let Ok(expression) = Expression::whole(expression) {
        assert!(expression.bytes() <= EXPRESSION_MAX_BYTES);
        let _ = expression.is_match(value);
    }
});
