//! The difference between two documents, field by field.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One changed field. The path is written like a JSON path: `State.Name`, `BlockDeviceMappings[0].Ebs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where the field is in the document; empty if the documents differ as a whole.
    pub path: String,
    /// The value before; `None` if the field was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The value after; `None` if the field was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |v: &Option<Value>| match v {
            None => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        write!(f, "{}: {} -> {}", self.path, value(&self.before), value(&self.after))
    }
}

/// All fields in which two documents differ, in the order of their names. Lists are compared by position. An
/// object or a list that only one of the documents has is one change.
pub fn field_changes(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut out = Vec::new();
    walk("", Some(before), Some(after), &mut out);
    out
}

fn walk(path: &str, before: Option<&Value>, after: Option<&Value>, out: &mut Vec<FieldChange>) {
    match (before, after) {
        (Some(Value::Object(b)), Some(Value::Object(a))) => {
            let names: std::collections::BTreeSet<&String> = b.keys().chain(a.keys()).collect();
            for name in names {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(&inner, b.get(name), a.get(name), out);
            }
        }
        (Some(Value::Array(b)), Some(Value::Array(a))) => {
            for i in 0..b.len().max(a.len()) {
                walk(&format!("{path}[{i}]"), b.get(i), a.get(i), out);
            }
        }
        (b, a) if b == a => {}
        (b, a) => out.push(FieldChange { path: path.to_owned(), before: b.cloned(), after: a.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_named_by_its_path() {
        let before = json!({"State": {"Name": "running"}, "Groups": [{"Id": "a"}], "Gone": 1, "Same": true});
        let after = json!({"State": {"Name": "stopped"}, "Groups": [{"Id": "a"}, {"Id": "b"}], "Same": true});
        let paths: Vec<String> = field_changes(&before, &after).into_iter().map(|c| c.path).collect();
        assert_eq!(paths, ["Gone", "Groups[1]", "State.Name"]);
        assert!(field_changes(&before, &before).is_empty());
    }
}
