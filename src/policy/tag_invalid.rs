//! `TagInvalid`: a required tag is present, but its pattern does not allow the value.

use super::tags_missing::values;
use super::{FindingKind, Input, Severity, Verdict};
use crate::inventory::{RequiredTag, TagSet};

/// Values are external input.
const VALUE_SHOWN_MAX_CHARS: usize = 40;

pub(super) fn rule(input: &Input) -> Verdict {
    let Some(tags) = input.resource.tags.known() else { return Verdict::No };
    if !input.resource.is_live() || input.is_exempt_from_tag_rules() {
        return Verdict::No;
    }
    let wrong: Vec<(&RequiredTag, &str, &str)> =
        input.settings.required_tags.iter().filter_map(|required| invalid(required, tags)).collect();
    if wrong.is_empty() {
        return Verdict::No;
    }
    let since = input.since(|set| wrong.iter().any(|(required, ..)| invalid(required, set).is_some()));
    let violations: Vec<String> = wrong
        .iter()
        .map(|(required, key, value)| {
            let shown: String = value.chars().take(VALUE_SHOWN_MAX_CHARS).collect();
            let pattern = required.pattern.as_ref().map_or("", |pattern| pattern.as_str());
            format!("{key} is {shown:?}, which does not match {pattern}")
        })
        .collect();
    let message =
        format!("{} has tags with values that are not allowed: {}", input.called(), violations.join("; "));
    let evidence = vec![format!("not allowed since {} at revision {}", since.0, since.1)];
    let advice = "Correct the values";
    Verdict::holds(input.finding(FindingKind::TagInvalid, Severity::Low, since, message, advice, evidence))
}

/// The first value of a required tag, if none of its values is allowed.
fn invalid<'a>(required: &'a RequiredTag, tags: &'a TagSet) -> Option<(&'a RequiredTag, &'a str, &'a str)> {
    let pattern = required.pattern.as_ref()?;
    let is_allowed = values(required, tags).any(|(_, value)| pattern.is_match(value));
    let (key, value) = values(required, tags).next().filter(|_| !is_allowed)?;
    Some((required, key, value))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, at, requiring, tags, volume};
    use super::*;

    #[test]
    fn it_names_key_value_and_pattern_and_leaves_missing_ones_to_their_own_kind() {
        let cases: &[(&[(&str, &str)], Option<&str>)] = &[
            (&[("Owner", "a"), ("CostCenter", "12345")], Some("CostCenter is \"12345\", which does not match")),
            (&[("Owner", "a"), ("CostCenter", "1234")], None),
            (&[("Owner", "a"), ("CostCenter", "")], None),
            (&[("Owner", "a")], None),
            (&[], None),
        ];
        for (set, expected) in cases {
            let found =
                Bed::of(volume(tags(set))).with_settings(requiring()).findings(FindingKind::TagInvalid, 1000);
            assert_eq!(found.len(), usize::from(expected.is_some()), "{set:?}: {found:?}");
            if let (Some(finding), Some(part)) = (found.first(), expected) {
                assert!(finding.message.contains(part), "{}", finding.message);
            }
        }
    }

    #[test]
    fn since_is_when_the_value_became_wrong_under_the_policy_of_today() {
        let set = |value: &str| tags(&[("Owner", "a"), ("CostCenter", value)]);
        let past = [set("1234"), set("x"), set("y")];
        let bed = Bed::of(volume(set("y"))).with_milestones(&past).with_settings(requiring());
        assert_eq!(bed.findings(FindingKind::TagInvalid, 1000)[0].since, at(200));
    }
}
