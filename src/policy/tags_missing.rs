//! `TagsMissing`: tags that the policy requires are not there, or have a value that it does not allow.

use super::{Finding, FindingKind, Input, Severity};
use crate::inventory::{RequiredTag, TagSet, is_untagged};

pub(super) fn rule(input: &Input) -> Option<Finding> {
    let tags = input.resource.tags.known()?;
    // One with no tags at all is `Untagged`, and that says it.
    if !input.resource.is_live() || is_untagged(tags) || input.is_exempt_from_tag_rules() {
        return None;
    }
    let missing: Vec<&RequiredTag> = input.settings.required_tags.iter().filter(|r| !satisfies(r, tags)).collect();
    if missing.is_empty() {
        return None;
    }
    let since = input.since(|set| missing.iter().any(|required| !satisfies(required, set)));
    if input.now.since(since.0) < input.settings.grace_period {
        return None;
    }
    let names: Vec<String> = missing.iter().map(|required| describe(required, tags)).collect();
    let message = format!("{} lacks required tags: {}", input.called(), names.join(", "));
    let evidence = vec![format!("missing since {} at revision {}", since.0, since.1)];
    Some(input.finding(FindingKind::TagsMissing, Severity::Low, since, message, evidence))
}

fn satisfies(required: &RequiredTag, tags: &TagSet) -> bool {
    std::iter::once(&required.key)
        .chain(&required.aliases)
        .filter_map(|key| tags.get(key))
        .any(|value| !value.is_empty() && required.pattern.as_ref().is_none_or(|pattern| pattern.is_match(value)))
}

/// The key, and its value where that is what is wrong. Values come from outside: bounded.
fn describe(required: &RequiredTag, tags: &TagSet) -> String {
    const MAX: usize = 40;
    match (tags.get(&required.key), &required.pattern) {
        (Some(value), Some(pattern)) if !value.is_empty() => {
            let shown: String = value.chars().take(MAX).collect();
            format!("{} ({shown:?} does not match {})", required.key, pattern.as_str())
        }
        _ => required.key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::super::testing::{at, milestones, run, tags, volume};
    use super::*;
    use crate::inventory::{RuleSettings, Tags};

    fn settings() -> RuleSettings {
        let required = |key: &str, aliases: &[&str], pattern: Option<&str>| RequiredTag {
            key: key.to_owned(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            pattern: pattern.map(|p| Regex::new(p).unwrap()),
        };
        RuleSettings {
            required_tags: vec![
                required("Owner", &["owner", "team"], None),
                required("CostCenter", &[], Some("^(?:[0-9]{4})$")),
            ],
            ..RuleSettings::default()
        }
    }

    #[test]
    fn it_names_the_keys_and_the_values_that_are_wrong() {
        let cases: &[(&[(&str, &str)], Option<&str>)] = &[
            (&[("Owner", "a"), ("CostCenter", "1234")], None),
            (&[("team", "a"), ("CostCenter", "1234")], None),
            (&[("CostCenter", "1234")], Some("lacks required tags: Owner")),
            (&[("Owner", ""), ("CostCenter", "1234")], Some("lacks required tags: Owner")),
            (&[("Owner", "a"), ("CostCenter", "12345")], Some("CostCenter (\"12345\" does not match")),
            (&[], None),
        ];
        for (set, expected) in cases {
            let found = run(rule, &volume(tags(set)), &[], &settings(), 1000).map(|f| f.message);
            match (found, expected) {
                (None, None) => {}
                (Some(message), Some(part)) => assert!(message.contains(part), "{message}"),
                (found, expected) => panic!("{set:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn since_is_when_the_required_tag_went_and_unknown_tags_are_no_finding() {
        let with = tags(&[("Owner", "a"), ("CostCenter", "1234")]);
        let without = tags(&[("CostCenter", "1234")]);
        let other = tags(&[("CostCenter", "1234"), ("x", "y")]);
        let past = milestones(&[with, without, other.clone()]);
        assert_eq!(run(rule, &volume(other), &past, &settings(), 1000).unwrap().since, at(200));
        assert_eq!(run(rule, &volume(Tags::Unknown), &[], &settings(), 1000), None);
    }
}
