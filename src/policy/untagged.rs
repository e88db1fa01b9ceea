//! `Untagged`: no tag except those that the provider itself sets.

use super::{FindingKind, Input, Severity, Verdict};
use crate::inventory::is_untagged;

pub(super) fn rule(input: &Input) -> Verdict {
    let Some(tags) = input.resource.tags.known() else { return Verdict::No };
    if !input.resource.is_live() || !is_untagged(tags) || input.is_exempt_from_tag_rules() {
        return Verdict::No;
    }
    let since = input.since(is_untagged);
    let title = input.provider_title();
    let reserved =
        tags.iter().next().map(|(key, value)| format!("no tags but those that {title} sets ({key}={value})"));
    let none = reserved.unwrap_or_else(|| "no tags".to_owned());
    let message = match &input.owner {
        Some(owner) => format!("{} has {none}; its owner is {}, by another source", input.called(), owner.name),
        None => format!("{} has {none}, and nothing names its owner", input.called()),
    };
    let evidence = vec![format!("untagged since {} at revision {}", since.0, since.1)];
    let advice = "Find out who made it (CloudTrail has its creation) and who uses it, and tag it with its owner, in the code that makes \
                  it where there is any. That it has no tags does not mean that nothing uses it";
    Verdict::holds(input.finding(FindingKind::Untagged, Severity::Medium, since, message, advice, evidence))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Bed, at, ended, of_type, tags, volume};
    use super::*;
    use crate::inventory::{RuleSettings, Tags};

    #[test]
    fn since_is_when_the_last_tag_went() {
        let none = tags(&[]);
        let past = [none.clone(), tags(&[("x", "a")]), tags(&[("aws:x", "y")]), none.clone()];
        let bed = Bed::of(volume(none)).with_milestones(&past);
        let found = bed.findings(FindingKind::Untagged, 1000);
        assert_eq!(found[0].since, at(300), "a tag that AWS sets is nobody's");
    }

    #[test]
    fn what_a_service_makes_by_itself_is_nobody_s_to_tag() {
        for (made, count) in [("automated", 0), ("manual", 1)] {
            let snapshot = of_type("AWS::RDS::DBSnapshot", "rds:orders-2026-11-24", tags(&[]));
            let bed = Bed::of(snapshot).with_versions(&[json!({"SnapshotType": made})]);
            assert_eq!(bed.findings(FindingKind::Untagged, 1000).len(), count, "{made}");
        }
    }

    #[test]
    fn it_does_not_fire_on_what_is_tagged_unknown_untaggable_gone_exempt_or_lost_its_owner() {
        let exempt = RuleSettings { exempt_types: vec!["AWS::EC2::Volume".to_owned()], ..RuleSettings::default() };
        let none = || volume(tags(&[]));
        assert!(Bed::of(none()).with_settings(exempt).findings(FindingKind::Untagged, 1000).is_empty());
        for resource in [
            volume(tags(&[("Owner", "a")])),
            volume(Tags::Unknown),
            volume(Tags::Untaggable),
            ended(none(), 900, 5),
        ] {
            assert!(Bed::of(resource).findings(FindingKind::Untagged, 1000).is_empty());
        }
        let lost = Bed::of(none()).with_milestones(&[tags(&[("owner", "a")]), tags(&[])]);
        assert!(lost.findings(FindingKind::Untagged, 1000).is_empty(), "one cause, one finding");
        assert_eq!(lost.findings(FindingKind::OwnershipLost, 1000).len(), 1);
    }
}
