//! `Untagged`: no tag besides those that AWS itself sets.

use super::{Finding, FindingKind, Input, Severity};
use crate::inventory::is_untagged;

pub(super) fn rule(input: &Input) -> Option<Finding> {
    let tags = input.resource.tags.known()?;
    if !input.resource.is_live() || !is_untagged(tags) || input.is_exempt_from_tag_rules() {
        return None;
    }
    let since = input.since(is_untagged);
    if input.now.since(since.0) < input.settings.grace_period {
        return None;
    }
    let message = format!("{} has no tags: nobody can tell whose it is. Tag it, or delete it", input.called());
    let evidence = vec![format!("untagged since {} at revision {}", since.0, since.1)];
    Some(input.finding(FindingKind::Untagged, Severity::Medium, since, message, evidence))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{at, ended, milestones, run, tags, volume};
    use super::*;
    use crate::inventory::{RuleSettings, Tags};

    #[test]
    fn since_is_when_the_last_tag_went() {
        let settings = RuleSettings::default();
        let none = tags(&[]);
        let past = milestones(&[none.clone(), tags(&[("Owner", "a")]), tags(&[("aws:x", "y")]), none.clone()]);
        let finding = run(rule, &volume(none), &past, &settings, 1000).unwrap();
        assert_eq!(finding.since, at(300), "a tag that AWS sets is nobody's");
    }

    #[test]
    fn it_does_not_fire_on_what_is_tagged_unknown_untaggable_gone_exempt_or_in_grace() {
        let settings =
            RuleSettings { exempt_types: vec!["AWS::EC2::Volume".to_owned()], ..RuleSettings::default() };
        let none = || volume(tags(&[]));
        assert_eq!(run(rule, &none(), &[], &settings, 1000), None);
        let settings = RuleSettings { grace_period: Duration::from_hours(1), ..RuleSettings::default() };
        assert_eq!(run(rule, &none(), &milestones(&[tags(&[])]), &settings, 3699), None);
        assert!(run(rule, &none(), &milestones(&[tags(&[])]), &settings, 3700).is_some());
        let settings = RuleSettings::default();
        for resource in [
            volume(tags(&[("Owner", "a")])),
            volume(Tags::Unknown),
            volume(Tags::Untaggable),
            ended(none(), 900, 5),
        ] {
            assert_eq!(run(rule, &resource, &[], &settings, 1000), None, "{resource:?}");
        }
    }
}
