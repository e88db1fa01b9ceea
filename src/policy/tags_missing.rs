//! `TagsMissing`: tags that the policy requires are missing or empty.

use super::{FindingKind, Input, Severity, Verdict};
use crate::inventory::{RequiredTag, TagSet, is_untagged};

pub(super) fn rule(input: &Input) -> Verdict {
    let Some(tags) = input.resource.tags.known() else { return Verdict::No };
    // A resource with no tags at all is reported as `Untagged`.
    if !input.resource.is_live() || is_untagged(tags) || input.is_exempt_from_tag_rules() {
        return Verdict::No;
    }
    let required = input.settings.required_tags.iter();
    let missing: Vec<&RequiredTag> = required.filter(|required| values(required, tags).next().is_none()).collect();
    if missing.is_empty() {
        return Verdict::No;
    }
    let since = input.since(|set| missing.iter().any(|required| values(required, set).next().is_none()));
    let names: Vec<&str> = missing.iter().map(|required| required.key.as_str()).collect();
    let message = format!("{} lacks required tags: {}", input.called(), names.join(", "));
    let evidence = vec![format!("missing since {} at revision {}", since.0, since.1)];
    let advice = "Add the tags";
    Verdict::holds(input.finding(FindingKind::TagsMissing, Severity::Low, since, message, advice, evidence))
}

/// The non-empty values under a required tag's key and its aliases.
pub(super) fn values<'a>(required: &'a RequiredTag, tags: &'a TagSet) -> impl Iterator<Item = (&'a str, &'a str)> {
    let keys = std::iter::once(&required.key).chain(&required.aliases);
    keys.filter_map(|key| Some((key.as_str(), tags.get(key)?))).filter(|(_, value)| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, at, requiring, tags, volume};
    use super::*;
    use crate::inventory::Tags;

    #[test]
    fn it_names_the_keys_that_are_missing_or_empty() {
        let cases: &[(&[(&str, &str)], Option<&str>)] = &[
            (&[("Owner", "a"), ("CostCenter", "1234")], None),
            (&[("team", "a"), ("CostCenter", "1234")], None),
            (&[("team", "a"), ("CostCenter", "x")], None), // that is TagInvalid
            (&[("CostCenter", "1234")], Some("lacks required tags: Owner")),
            (&[("Owner", ""), ("CostCenter", "1234")], Some("lacks required tags: Owner")),
            (&[("x", "y")], Some("Owner, CostCenter")),
            (&[], None),
        ];
        for (set, expected) in cases {
            let found =
                Bed::of(volume(tags(set))).with_settings(requiring()).findings(FindingKind::TagsMissing, 1000);
            assert_eq!(found.len(), usize::from(expected.is_some()), "{set:?}: {found:?}");
            if let (Some(finding), Some(part)) = (found.first(), expected) {
                assert!(finding.message.contains(part), "{}", finding.message);
            }
        }
    }

    #[test]
    fn since_is_when_the_required_tag_went_and_unknown_tags_are_no_finding() {
        let with = tags(&[("Owner", "a"), ("CostCenter", "1234")]);
        let without = tags(&[("CostCenter", "1234")]);
        let other = tags(&[("CostCenter", "1234"), ("x", "y")]);
        let bed =
            Bed::of(volume(other.clone())).with_milestones(&[with, without, other]).with_settings(requiring());
        assert_eq!(bed.findings(FindingKind::TagsMissing, 1000)[0].since, at(200));
        let unknown = Bed::of(volume(Tags::Unknown)).with_settings(requiring());
        assert!(unknown.findings(FindingKind::TagsMissing, 1000).is_empty());
    }
}
