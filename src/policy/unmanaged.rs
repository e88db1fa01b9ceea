//! `Unmanaged` and `DriftedOut`: a resource never had a mark of infrastructure as code, or lost it.
//!
//! Disabled unless configured (`spec.management`): resources that existed before the first scan are not reported as
//! `Unmanaged`.

use super::{FindingKind, Input, Severity, Verdict};
use crate::inventory::{Parent, Role, TagMatch, TagSet};

fn is_managed(input: &Input, tags: &TagSet, listed: &[TagMatch]) -> bool {
    let by_provider = |key: &str| input.provider.is_some_and(|facts| (facts.is_managed_tag)(key));
    listed.iter().any(|mark| mark.matches(tags)) || tags.keys().any(by_provider)
}

/// Whether its parent has a mark: the root volume of an instance of an Auto Scaling group has none itself.
fn has_managed_parent(input: &Input, listed: &[TagMatch]) -> bool {
    match input.world.parent(input.resource) {
        Some(Parent::Unseen | Parent::Known { role: Role::ManagesMembers, .. }) => true,
        Some(Parent::Known { key, role: Role::Contains }) => {
            let parent = input.world.resource(&key);
            parent.and_then(|parent| parent.tags.known()).is_some_and(|tags| is_managed(input, tags, listed))
        }
        None => false,
    }
}

/// It appeared, and never had a mark.
pub(super) fn rule(input: &Input) -> Verdict {
    let Some((listed, tags)) = managed_tags_to_check(input) else { return Verdict::No };
    let resource = input.resource;
    if resource.baseline
        || is_managed(input, tags, listed)
        || has_managed_parent(input, listed)
        || input.was(|set| is_managed(input, set, listed))
    {
        return Verdict::No;
    }
    let message = format!(
        "{} appeared without a tag that infrastructure as code, a controller or a service of {} leaves",
        input.called(),
        input.provider_title()
    );
    let evidence = vec![format!("appeared {} without a mark, and has none since", resource.first_seen)];
    let advice = "Find out who made it. If code or a controller did, add its tag to management.marks; else bring it under code. That it \
                  has no mark does not mean that nothing uses it";
    let since = (resource.first_seen, input.milestones().first().map_or(resource.changed, |m| m.revision));
    Verdict::holds(input.finding(FindingKind::Unmanaged, Severity::Low, since, message, advice, evidence))
}

/// It had a mark, and has none any more.
pub(super) fn drifted_out(input: &Input) -> Verdict {
    let Some((listed, tags)) = managed_tags_to_check(input) else { return Verdict::No };
    if is_managed(input, tags, listed)
        || has_managed_parent(input, listed)
        || !input.was(|set| is_managed(input, set, listed))
    {
        return Verdict::No;
    }
    let since = input.since(|set| !is_managed(input, set, listed));
    let message = format!(
        "{} has lost the tag that marked it as managed by code; it was first seen without it {}",
        input.called(),
        since.0
    );
    let evidence = vec![format!("without a mark since {} at revision {}", since.0, since.1)];
    let advice = "Look in the state of the code whether it is still managed there: then restore the tag (were default tags renamed?). If \
                  not, import it, or decide with its owner. A lost tag does not mean that nothing uses it";
    Verdict::holds(input.finding(FindingKind::DriftedOut, Severity::Medium, since, message, advice, evidence))
}

fn managed_tags_to_check<'a>(input: &Input<'a>) -> Option<(&'a [TagMatch], &'a TagSet)> {
    let listed = input.settings.managed_by.as_deref()?;
    let tags = input.resource.tags.known()?;
    (input.resource.is_live() && !input.is_exempt_from_tag_rules()).then_some((listed, tags))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use serde_json::json;

    use super::super::testing::{Bed, at, of_type, tags, volume};
    use super::*;
    use crate::inventory::{Resource, RuleSettings, Tags};

    fn management_settings() -> RuleSettings {
        RuleSettings { managed_by: Some(vec![TagMatch::key("terraform")]), ..RuleSettings::default() }
    }

    fn found(
        kind: FindingKind,
        baseline: bool,
        sets: &[Tags],
        settings: RuleSettings,
    ) -> Vec<super::super::Finding> {
        let resource = Resource { baseline, ..volume(sets.last().unwrap().clone()) };
        Bed::of(resource).with_milestones(sets).with_settings(settings).findings(kind, 1000)
    }

    #[test]
    fn what_appears_without_a_mark_is_unmanaged_if_the_spec_enables_it() {
        let (bare, mark) = (tags(&[("x", "y")]), tags(&[("terraform", "")]));
        let cloudformation = tags(&[("aws:cloudformation:stack-id", "arn")]);
        let kind = FindingKind::Unmanaged;
        assert_eq!(found(kind, false, from_ref(&bare), management_settings()).len(), 1);
        assert!(found(kind, false, from_ref(&bare), RuleSettings::default()).is_empty(), "nobody asked");
        assert!(
            found(kind, true, from_ref(&bare), management_settings()).is_empty(),
            "it existed before the first scan"
        );
        assert!(found(kind, false, &[mark], management_settings()).is_empty());
        assert!(found(kind, false, from_ref(&cloudformation), management_settings()).is_empty());
        assert!(found(kind, false, &[Tags::Unknown], management_settings()).is_empty());
        for service in [
            "aws:dlm:lifecycle-policy-id",
            "aws:ec2:fleet-id",
            "aws:ec2spot:fleet-request-id",
            "aws:backup:source-resource",
        ] {
            assert!(found(kind, false, &[tags(&[(service, "x")])], management_settings()).is_empty(), "{service}");
        }
        assert_eq!(
            found(kind, false, &[tags(&[("aws:createdBy", "IAMUser")])], management_settings()).len(),
            1,
            "anybody's"
        );
        let disk = Resource { baseline: false, ..volume(bare.clone()) };
        let root = json!({"Attachments": [{"InstanceId": "i-1", "DeleteOnTermination": true}]});
        let of = |instance: Tags| {
            let bed = Bed::of(disk.clone()).with_versions(from_ref(&root)).with_settings(management_settings());
            bed.and(of_type("AWS::EC2::Instance", "i-1", instance), json!({})).findings(kind, 1000)
        };
        let of_group = of(tags(&[("aws:autoscaling:groupName", "web")]));
        assert!(of_group.is_empty(), "the root volume of a group's instance: {of_group:?}");
        assert!(of(bare.clone()).iter().any(|finding| finding.resource.id == disk.key.id));
        assert!(found(kind, false, &[cloudformation, bare], management_settings()).is_empty(), "it drifted out");
    }

    #[test]
    fn what_loses_its_mark_drifted_out_also_where_it_was_there_before() {
        let (bare, mark) = (tags(&[("x", "y")]), tags(&[("terraform", "a")]));
        let kind = FindingKind::DriftedOut;
        let lost = found(kind, true, &[mark.clone(), bare.clone(), tags(&[])], management_settings());
        assert_eq!((lost.len(), lost[0].since), (1, at(200)));
        assert!(found(kind, true, from_ref(&bare), management_settings()).is_empty());
        assert!(found(kind, true, &[bare, mark], management_settings()).is_empty());
    }
}
