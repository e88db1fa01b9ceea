//! Selectors in Kubernetes' notation: field selectors, `key=value,other!=value` with `\` before a literal `,`, `=` or
//! `\`, and label selectors with `in`, `notin` and existence.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

use super::refusal::Refusal;

/// No real selector is longer.
const SELECTOR_MAX_BYTES: usize = 4_096;

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub key: String,
    pub is_equal: bool,
    pub value: String,
}

fn malformed(text: &str, why: &str) -> Refusal {
    Refusal::bad_request(format!("'{}' is no selector: {why}", text.escape_debug()))
}

fn check_length(text: &str) -> Result<(), Refusal> {
    if text.len() > SELECTOR_MAX_BYTES {
        let message = format!("a selector of {} characters: {SELECTOR_MAX_BYTES} at most", text.len());
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// Parses like apimachinery's `fields.ParseSelector`.
pub(super) fn fields(text: &str) -> Result<Vec<Term>, Refusal> {
    check_length(text)?;
    let mut terms = Vec::new();
    for term in split(text) {
        if term.is_empty() {
            continue;
        }
        let (key, is_equal, value) = operator(term)
            .ok_or_else(|| malformed(term, "write KEY=VALUE or KEY!=VALUE, with commas between several"))?;
        let value = unescaped(value).ok_or_else(|| {
            malformed(term, "in a value write \\= for =, \\, for a comma and \\\\ for a backslash")
        })?;
        terms.push(Term { key: key.to_owned(), is_equal, value });
    }
    Ok(terms)
}

/// Splits at commas without a backslash before them.
fn split(text: &str) -> Vec<&str> {
    let (mut terms, mut from, mut is_escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[from..]);
    terms
}

fn operator(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (key, rest) = term.split_at(at);
    let (is_equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else {
        (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?)
    };
    (!key.is_empty()).then_some((key, is_equal, value))
}

fn unescaped(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| ['\\', ',', '='].contains(c))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// Parses like apimachinery's `labels.Parse`.
pub(super) fn labels(text: &str) -> Result<Selector, Refusal> {
    check_length(text)?;
    let mut expressions = Vec::new();
    for term in outside_of_sets(text) {
        let term = term.trim();
        if !term.is_empty() {
            let expression = expression(term).ok_or_else(|| {
                malformed(term, "write KEY=VALUE, KEY!=VALUE, KEY in (A, B), KEY notin (A), KEY or !KEY")
            })?;
            expressions.push(expression);
        }
    }
    Ok(expressions.into_iter().collect())
}

/// Splits at commas outside of parentheses.
fn outside_of_sets(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |c| {
        match c {
            '(' => is_inside = true,
            ')' => is_inside = false,
            _ => {}
        }
        c == ',' && !is_inside
    })
}

fn expression(term: &str) -> Option<Expression> {
    let named = |key: &str| is_key(key.trim()).then(|| key.trim().to_owned());
    let valued = |value: &str| is_value(value.trim()).then(|| value.trim().to_owned());
    if let Some(key) = term.strip_prefix('!') {
        return Some(Expression::DoesNotExist(named(key)?));
    }
    if let Some((key, set)) = term.split_once('(') {
        let values: Option<BTreeSet<String>> = set.strip_suffix(')')?.split(',').map(valued).collect();
        let (key, word) = key.trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => Some(Expression::In(named(key)?, values?)),
            "notin" => Some(Expression::NotIn(named(key)?, values?)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Expression::NotEqual(named(key)?, valued(value)?));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some(Expression::Equal(named(key)?, valued(value)?));
    }
    Some(Expression::Exists(named(term)?))
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

fn is_value(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn field_selectors_are_read_as_kubernetes_reads_them() {
        let term = |key: &str, is_equal, value: &str| Term { key: key.into(), is_equal, value: value.into() };
        for (text, selection) in [
            ("", vec![]),
            ("id=vol-1", vec![term("id", true, "vol-1")]),
            ("id==vol-1,region!=us-east-1", vec![term("id", true, "vol-1"), term("region", false, "us-east-1")]),
            ("asOf=2026-11-01T00:00:00Z", vec![term("asOf", true, "2026-11-01T00:00:00Z")]),
            (r"tag.a/b=x\,y\=z\\", vec![term("tag.a/b", true, r"x,y=z\")]),
            ("owner=", vec![term("owner", true, "")]),
            (",id=a,", vec![term("id", true, "a")]),
        ] {
            assert_eq!(fields(text).unwrap(), selection, "{text}");
        }
        for bad in ["vol-1", "=x", "a=b=c", r"a=b\", r"a=\n", "a!b"] {
            assert!(fields(bad).unwrap_err().message.contains("is no selector"), "{bad}");
        }
    }

    #[test]
    fn label_selectors_are_read_as_kubernetes_reads_them() {
        let labels_of = |text: &str| -> BTreeMap<String, String> {
            let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        for (selector, on, matches) in [
            ("", "a=1", true),
            ("a=1", "a=1", true),
            ("a == 1 , b != 2", "a=1 b=3", true),
            ("a in (1, 2),b", "a=2 b=", true),
            ("a in (1,2)", "a=3", false),
            ("a notin (1)", "a=1", false),
            ("a notin (1)", "b=1", true),
            ("!a", "b=1", true),
            ("elava.dev/type=AWS.EC2.Volume", "elava.dev/type=AWS.EC2.Volume", true),
        ] {
            assert_eq!(labels(selector).unwrap().matches(&labels_of(on)), matches, "{selector} on {on}");
        }
        for bad in ["a in 1", "a among (1)", "a=1=2", "a b", "(1)", "a in (1"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic_and_what_is_escaped_comes_back(text in ".{0,60}", key in "[a-z.]{1,8}", value in ".{0,20}") {
            let (_, _) = (fields(&text), labels(&text));
            let escaped = value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            let read = fields(&format!("{key}!={escaped},x=y")).unwrap();
            prop_assert_eq!(&read[0], &Term { key, is_equal: false, value });
            prop_assert_eq!(read.len(), 2);
        }
    }
}
