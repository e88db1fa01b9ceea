//! `Unmanaged` and `DriftedOut`: nothing shows that infrastructure as code made it, or that it still does.
//!
//! Off until somebody asks (`spec.management`): what was there before the first look is nobody's fault.

use super::parents::{Parent, Role};
use super::{FindingKind, Input, Severity, Verdict};
use crate::inventory::{TagMatch, TagSet};

/// What Kubernetes and its controllers leave on what they make. AWS's own services (CloudFormation, Auto Scaling, EC2 Fleet, Batch, Data
/// Lifecycle Manager, AWS Backup and the rest) leave tags whose keys begin with `aws:`, which nobody else can set.
const MARKS: [&str; 12] = [
    "eks:*",
    "kubernetes.io/*",
    "k8s.io/*",
    "karpenter.sh/*",
    "ebs.csi.aws.com/*",
    "elbv2.k8s.aws/*",
    "ingress.k8s.aws/*",
    "service.k8s.aws/*",
    "node.k8s.amazonaws.com/*",
    "cluster.k8s.amazonaws.com/*",
    "services.k8s.aws/*",
    "sigs.k8s.io/*",
];
/// Tells who made something by hand as well.
const CREATED_BY: &str = "aws:createdBy";

fn is_managed(tags: &TagSet, listed: &[TagMatch]) -> bool {
    listed.iter().any(|mark| mark.matches(tags))
        || MARKS.iter().any(|mark| TagMatch::key(mark).matches(tags))
        || tags.keys().any(|key| key.starts_with("aws:") && key != CREATED_BY)
}

/// Whether something that bears a mark holds it: the root volume of an instance of an Auto Scaling group bears none.
fn is_part_of_what_is_managed(input: &Input, listed: &[TagMatch]) -> bool {
    match input.world.parent(input.resource) {
        Some(Parent::Unseen | Parent::Known { role: Role::Replaces, .. }) => true,
        Some(Parent::Known { key, role: Role::Holds }) => {
            let parent = input.world.resource(&key);
            parent.and_then(|parent| parent.tags.known()).is_some_and(|tags| is_managed(tags, listed))
        }
        None => false,
    }
}

/// Appeared, and never bore a mark.
pub(super) fn rule(input: &Input) -> Verdict {
    let Some((listed, tags)) = asked(input) else { return Verdict::No };
    let resource = input.resource;
    if resource.baseline
        || is_managed(tags, listed)
        || is_part_of_what_is_managed(input, listed)
        || input.was(|set| is_managed(set, listed))
    {
        return Verdict::No;
    }
    let message = format!(
        "{} appeared without a tag that infrastructure as code, a controller or a service of AWS leaves",
        input.called()
    );
    let evidence = vec![format!("appeared {} without a mark, and has none since", resource.first_seen)];
    let advice = "Find out who made it. If code or a controller did, add its tag to management.marks; else bring it under code. That it \
                  has no mark does not mean that nothing uses it";
    let since = (resource.first_seen, input.milestones().first().map_or(resource.changed, |m| m.revision));
    Verdict::holds(input.finding(FindingKind::Unmanaged, Severity::Low, since, message, advice, evidence))
}

/// Bore a mark, and bears none any more.
pub(super) fn drifted_out(input: &Input) -> Verdict {
    let Some((listed, tags)) = asked(input) else { return Verdict::No };
    if is_managed(tags, listed)
        || is_part_of_what_is_managed(input, listed)
        || !input.was(|set| is_managed(set, listed))
    {
        return Verdict::No;
    }
    let since = input.since(|set| !is_managed(set, listed));
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

fn asked<'a>(input: &Input<'a>) -> Option<(&'a [TagMatch], &'a TagSet)> {
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

    fn asking() -> RuleSettings {
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
    fn what_appears_without_a_mark_is_unmanaged_once_somebody_asks() {
        let (bare, mark) = (tags(&[("x", "y")]), tags(&[("terraform", "")]));
        let cloudformation = tags(&[("aws:cloudformation:stack-id", "arn")]);
        let kind = FindingKind::Unmanaged;
        assert_eq!(found(kind, false, from_ref(&bare), asking()).len(), 1);
        assert!(found(kind, false, from_ref(&bare), RuleSettings::default()).is_empty(), "nobody asked");
        assert!(found(kind, true, from_ref(&bare), asking()).is_empty(), "it was there before the first look");
        assert!(found(kind, false, &[mark], asking()).is_empty());
        assert!(found(kind, false, from_ref(&cloudformation), asking()).is_empty());
        assert!(found(kind, false, &[Tags::Unknown], asking()).is_empty());
        for service in [
            "aws:dlm:lifecycle-policy-id",
            "aws:ec2:fleet-id",
            "aws:ec2spot:fleet-request-id",
            "aws:backup:source-resource",
        ] {
            assert!(found(kind, false, &[tags(&[(service, "x")])], asking()).is_empty(), "{service}");
        }
        assert_eq!(found(kind, false, &[tags(&[("aws:createdBy", "IAMUser")])], asking()).len(), 1, "anybody's");
        let disk = Resource { baseline: false, ..volume(bare.clone()) };
        let root = json!({"Attachments": [{"InstanceId": "i-1", "DeleteOnTermination": true}]});
        let of = |instance: Tags| {
            let bed = Bed::of(disk.clone()).with_versions(from_ref(&root)).with_settings(asking());
            bed.and(of_type("AWS::EC2::Instance", "i-1", instance), json!({})).findings(kind, 1000)
        };
        let of_group = of(tags(&[("aws:autoscaling:groupName", "web")]));
        assert!(of_group.is_empty(), "the root volume of a group's instance: {of_group:?}");
        assert!(of(bare.clone()).iter().any(|finding| finding.resource.id == disk.key.id));
        assert!(found(kind, false, &[cloudformation, bare], asking()).is_empty(), "it drifted out");
    }

    #[test]
    fn what_loses_its_mark_drifted_out_also_where_it_was_there_before() {
        let (bare, mark) = (tags(&[("x", "y")]), tags(&[("terraform", "a")]));
        let kind = FindingKind::DriftedOut;
        let lost = found(kind, true, &[mark.clone(), bare.clone(), tags(&[])], asking());
        assert_eq!((lost.len(), lost[0].since), (1, at(200)));
        assert!(found(kind, true, from_ref(&bare), asking()).is_empty());
        assert!(found(kind, true, &[bare, mark], asking()).is_empty());
    }
}
