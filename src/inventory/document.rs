//! Reading a described object along a path.

use serde_json::Value;

/// All strings at a path that passes through lists; a provider may write a list as one string with commas.
pub fn texts(value: &Value, path: &str) -> Vec<String> {
    match (value, path.split_once('.')) {
        (Value::Array(items), _) => items.iter().flat_map(|item| texts(item, path)).collect(),
        (Value::String(text), None) if path.is_empty() => {
            text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
        (Value::Object(fields), Some((step, rest))) => fields.get(step).map_or_else(Vec::new, |v| texts(v, rest)),
        (Value::Object(fields), None) if !path.is_empty() => {
            fields.get(path).map_or_else(Vec::new, |v| texts(v, ""))
        }
        _ => Vec::new(),
    }
}
