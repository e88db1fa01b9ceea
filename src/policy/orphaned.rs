//! `Orphaned`: it costs money or is in the way, and no scanned resource uses it.
//!
//! Each case is about one type: which documents qualify, and which types must not reference the resource. "Nothing
//! references it" is concluded only if each of those types was swept completely, twice, after the resource last
//! changed.

use super::{Finding, FindingKind, Input, Verdict};
use crate::inventory::{
    Billing, Claim, OrphanCase, Resource, ResourceType, Revision, Scope, SinceSource, TagSet, Timestamp, Usage,
    short_type, texts,
};

pub(super) fn rule(input: &Input) -> Verdict {
    let world = input.world;
    let Some(facts) = world.graph.facts(input.resource) else { return Verdict::No };
    let Some(candidate) = facts.candidate.as_deref() else {
        // The parts that could not be read might make it a candidate.
        let has_case = world.facts.of_type(&input.resource.key).is_some_and(|facts| facts.orphan.is_some());
        let may_be = facts.unread && input.resource.is_live() && has_case;
        return if may_be { Verdict::Unknown } else { Verdict::No };
    };
    let (resource, case) = (input.resource, candidate.case);
    if !resource.is_live() || world.uses.is_used(&resource.key) || input.is_replaced() || is_kept(resource, case) {
        return Verdict::No;
    }
    let origin = candidate.origin.as_ref();
    if origin.is_some_and(|origin| world.lives(origin)) {
        return Verdict::No;
    }
    // Absence counts only if the scope was swept completely, and twice since the resource last changed.
    let changed = world.reads.time_of(resource.changed).max(resource.first_seen);
    let sibling = |resource_type: &&str| Scope {
        resource_type: ResourceType::new(*resource_type),
        ..Scope::clone(&resource.scope)
    };
    let swept_at = |scope: &Scope| {
        world.swept_twice(scope, changed, input.settings.interval) && !world.uses.opaque.contains(scope)
    };
    if !case.referring_types.iter().map(sibling).all(|scope| swept_at(&scope)) {
        return Verdict::Unknown;
    }
    let (since, revision, since_is_estimate) = match case.since_source {
        SinceSource::ReportedByCloud => since_reported(input, case),
        SinceSource::LastReference => {
            let ended = origin.and_then(|origin| world.ended(origin)).or(world.uses.unused_since(&resource.key));
            let since = ended.map(|ended| ended.max(resource.first_seen));
            (since.unwrap_or(input.now), resource.changed, since.is_none())
        }
    };
    if case.is_stopped && input.now.since(since) < input.settings.stopped_for {
        return Verdict::No;
    }
    let usages = match case.billing {
        Billing::Itself => world.usages(resource),
        Billing::Parts(parts) => world.usages_of_parts(resource, parts),
    };
    let since_when = match (since_is_estimate, resource.baseline && since == resource.first_seen) {
        (true, _) => "noticed".to_owned(),
        (false, true) => "since before it was first seen".to_owned(),
        (false, false) => format!("since {since}"),
    };
    let mut evidence = vec![format!("{}: {since_when}", case.reported)];
    if !case.referring_types.is_empty() {
        let names: Vec<&str> = case.referring_types.iter().map(|name| short_type(name)).collect();
        evidence.push(format!("swept completely, twice since {changed}: {}", names.join(", ")));
    }
    let document = world.reads.attributes(resource);
    let shown: Vec<String> = case
        .shows
        .iter()
        .filter_map(|field| Some(format!("{field} {}", texts(&document, field).into_iter().next()?)))
        .collect();
    if !shown.is_empty() {
        evidence.push(shown.join(", "));
    }
    let mut advice = case.advice;
    if let (Some(claim), Some(tags)) = (&case.claim, resource.tags.known())
        && let Some(claimant) = claimant(claim, tags)
    {
        advice = claim.advice;
        evidence.push(format!("it was made for {claimant}"));
    }
    let cost = world.cost(&usages, resource, &mut evidence);
    let message = format!("{} {}: {}", input.called(), case.verdict, case.reported);
    Verdict::holds(Finding {
        monthly_cost: cost,
        since_is_estimate,
        ..input.finding(FindingKind::Orphaned, case.severity, (since, revision), message, advice, evidence)
    })
}

/// The Kubernetes object that a volume was created for.
fn claimant(claim: &Claim, tags: &TagSet) -> Option<String> {
    let value = |key: &str| tags.get(key).map(str::to_owned);
    let name = value("kubernetes.io/created-for/pvc/name");
    if let (Some(namespace), Some(name)) = (value("kubernetes.io/created-for/pvc/namespace"), name) {
        return Some(format!("the PersistentVolumeClaim {namespace}/{name}"));
    }
    let is_of_driver = |key: &str| claim.driver_tags.iter().any(|prefix| key.starts_with(prefix));
    let of_kubernetes = |key: &str| key.starts_with("kubernetes.io/") || is_of_driver(key);
    tags.keys().any(of_kubernetes).then(|| "a Kubernetes cluster".to_owned())
}

/// Whether its tags show that a tool keeps it on purpose.
fn is_kept(resource: &Resource, case: &OrphanCase) -> bool {
    let is_kept = |tags: &TagSet| tags.keys().any(|key| case.kept_by.iter().any(|kept| key.starts_with(kept)));
    resource.tags.known().is_some_and(is_kept)
}

fn since_reported(input: &Input, case: &OrphanCase) -> (Timestamp, Revision, bool) {
    let mut since = (input.resource.first_seen, input.resource.changed);
    let mut oldest = None;
    input.world.reads.versions(input.resource, &mut |version| {
        let is_open = (case.is_open)(&version.attributes);
        if is_open {
            since = (version.time, version.revision);
        }
        oldest = Some(is_open);
        is_open
    });
    // It was so in the oldest retained version, and therefore since it was first seen.
    if oldest == Some(true) {
        since.0 = input.resource.first_seen.min(since.0);
    }
    (since.0, since.1, false)
}

impl super::EvaluationContext<'_> {
    /// What a resource is billed for.
    fn usages(&self, resource: &Resource) -> Vec<Usage> {
        let facts = self.graph.facts(resource);
        facts.and_then(|facts| facts.usage.as_deref()).cloned().into_iter().collect()
    }

    /// What the parts of a resource are billed for.
    fn usages_of_parts(
        &self,
        whole: &Resource,
        parts: fn(&serde_json::Value) -> Vec<(&'static str, String)>,
    ) -> Vec<Usage> {
        let parts = parts(&self.reads.attributes(whole)).into_iter();
        let keys = parts.map(|(resource_type, id)| whole.key.sibling(resource_type, &id));
        keys.filter_map(|key| self.resource(&key)).flat_map(|part| self.usages(part)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::testing::{Bed, at, ended, facts, of_type, tags};
    use super::*;
    use crate::inventory::RuleSettings;

    const INSTANCE: &str = "AWS::EC2::Instance";
    const VOLUME: &str = "AWS::EC2::Volume";
    const IMAGE: &str = "AWS::EC2::Image";
    const INTERFACE: &str = "AWS::EC2::NetworkInterface";
    const GROUP: &str = "AWS::EC2::SecurityGroup";
    const TEMPLATE: &str = "AWS::EC2::LaunchTemplate";
    const SCALING: &str = "AWS::AutoScaling::AutoScalingGroup";
    const TARGETS: &str = "AWS::ElasticLoadBalancingV2::TargetGroup";

    fn bed(resource_type: &str, id: &str, document: Value) -> Bed {
        let owned = of_type(resource_type, id, tags(&[("owner", "a")]));
        Bed::of(of_type("AWS::EC2::VPC", "vpc-1", tags(&[("owner", "a")]))).and(owned, document)
    }

    fn found(bed: &Bed) -> Vec<Finding> {
        bed.findings(FindingKind::Orphaned, 10_000)
    }

    /// Each with its document when nothing uses it, and with a resource that uses it.
    fn cases() -> Vec<(&'static str, &'static str, Value, Option<(&'static str, Value)>)> {
        vec![
            (
                VOLUME,
                "vol-1",
                json!({"State": "available", "Attachments": [], "VolumeType": "gp3", "Size": 20}),
                Some((INSTANCE, json!({"BlockDeviceMappings": [{"Ebs": {"VolumeId": "vol-1"}}]}))),
            ),
            (
                "AWS::EC2::EIP",
                "eipalloc-1",
                json!({"PublicIp": "203.0.113.1"}),
                Some(("AWS::EC2::NatGateway", json!({"NatGatewayAddresses": [{"AllocationId": "eipalloc-1"}]}))),
            ),
            (
                "AWS::EC2::Snapshot",
                "snap-1",
                json!({"VolumeId": "vol-9"}),
                Some((IMAGE, json!({"Public": true, "BlockDeviceMappings": [{"Ebs": {"SnapshotId": "snap-1"}}]}))),
            ),
            ("AWS::EC2::Snapshot", "snap-1", json!({"VolumeId": "vol-9"}), Some((VOLUME, json!({})))),
            (IMAGE, "ami-1", json!({"Public": false}), Some((INSTANCE, json!({"ImageId": "ami-1"})))),
            (
                IMAGE,
                "ami-1",
                json!({}),
                Some((TEMPLATE, json!({"Versions": [{"LaunchTemplateData": {"ImageId": "ami-1"}}]}))),
            ),
            (
                "AWS::ElasticLoadBalancingV2::LoadBalancer",
                "arn:lb",
                json!({"Type": "application", "Listeners": [{"DefaultActions": [{"Type": "forward"}]}]}),
                Some((TARGETS, json!({"LoadBalancerArns": ["arn:lb"], "HasTargets": true}))),
            ),
            (
                TARGETS,
                "arn:tg",
                json!({"LoadBalancerArns": []}),
                Some(("AWS::AutoScaling::AutoScalingGroup", json!({"TargetGroupARNs": ["arn:tg"]}))),
            ),
            (
                "AWS::EC2::NatGateway",
                "nat-1",
                json!({"State": "available"}),
                Some((
                    "AWS::EC2::RouteTable",
                    json!({"Routes": [{"GatewayId": "local"}, {"NatGatewayId": "nat-1"}]}),
                )),
            ),
            (
                INTERFACE,
                "eni-1",
                json!({"Status": "available", "RequesterManaged": false}),
                Some((INSTANCE, json!({"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1"}]}))),
            ),
            (
                GROUP,
                "sg-1",
                json!({"GroupName": "web", "IpPermissions": [{"UserIdGroupPairs": [{"GroupId": "sg-1"}]}]}),
                Some((
                    GROUP,
                    json!({"GroupName": "default", "IpPermissions": [{"UserIdGroupPairs": [{"GroupId": "sg-1"}]}]}),
                )),
            ),
            ("AWS::Logs::LogGroup", "/app", json!({"logGroupName": "/app"}), None),
            (
                INSTANCE,
                "i-1",
                json!({"State": {"Name": "stopped"}, "BlockDeviceMappings": [{"Ebs": {"VolumeId": "vol-1"}}]}),
                None,
            ),
        ]
    }

    #[test]
    fn what_nothing_names_is_orphaned_and_what_something_names_is_not() {
        let settings = RuleSettings { stopped_for: Duration::ZERO, ..RuleSettings::default() };
        for (kind, id, document, user) in cases() {
            let alone = bed(kind, id, document.clone()).with_settings(settings.clone());
            assert_eq!(found(&alone).len(), 1, "{kind} alone");
            let Some((other, user)) = user else { continue };
            let other_id = if other == VOLUME { "vol-9" } else { "other" };
            let used = alone.and(of_type(other, other_id, tags(&[("owner", "a")])), user);
            let about: Vec<Finding> = found(&used).into_iter().filter(|f| &*f.resource.id == id).collect();
            assert!(about.is_empty(), "{kind} used by {other}: {about:?}");
        }
    }

    #[test]
    fn a_copy_that_a_tool_keeps_and_an_address_of_a_service_are_none() {
        let snapshot = |key: &str| {
            let owned = of_type("AWS::EC2::Snapshot", "snap-1", tags(&[("owner", "a"), (key, "x")]));
            let other = of_type("AWS::EC2::VPC", "vpc-1", tags(&[("owner", "a")]));
            found(&Bed::of(other).and(owned, json!({"VolumeId": "vol-9"}))).len()
        };
        assert_eq!(["velero.io/backup", "CSIVolumeSnapshotName", "team"].map(snapshot), [0, 0, 1]);
        let allocated = json!({"PublicIp": "203.0.113.1", "ServiceManaged": "nlb"});
        assert!(found(&bed("AWS::EC2::EIP", "eipalloc-1", allocated)).is_empty());
        let delivery = json!({"logGroupName": "/app", "logGroupClass": "DELIVERY"});
        assert!(found(&bed("AWS::Logs::LogGroup", "/app", delivery)).is_empty());
    }

    #[test]
    fn an_image_of_an_override_is_used_and_a_blue_green_pair_is_left_open() {
        let group = json!({"MixedInstancesPolicy": {"LaunchTemplate": {"Overrides": [{"ImageId": "ami-1"}]}}});
        let used = bed(IMAGE, "ami-1", json!({})).and(of_type(SCALING, "asg", tags(&[("owner", "a")])), group);
        assert!(found(&used).is_empty());
        let service = |by: &str| json!({"deploymentController": {"type": by}});
        for (by, count) in [("CODE_DEPLOY", 0), ("ECS", 1)] {
            let deployed = bed(TARGETS, "arn:tg", json!({"LoadBalancerArns": []}))
                .and(of_type("AWS::ECS::Service", "arn:service", tags(&[("owner", "a")])), service(by));
            assert_eq!(found(&deployed).len(), count, "{by}");
        }
    }

    #[test]
    fn a_volume_of_kubernetes_is_not_to_be_deleted_in_aws_and_each_names_its_claim() {
        let volume = |pairs: &[(&str, &str)]| {
            let owned = of_type(VOLUME, "vol-1", tags(pairs));
            let other = of_type("AWS::EC2::VPC", "vpc-1", tags(&[("owner", "a")]));
            let open = json!({"State": "available", "SnapshotId": "snap-7"});
            found(&Bed::of(other).and(owned, open)).remove(0)
        };
        let claimed = volume(&[
            ("owner", "a"),
            ("kubernetes.io/created-for/pvc/namespace", "shop"),
            ("kubernetes.io/created-for/pvc/name", "data-0"),
        ]);
        assert!(claimed.advice.starts_with("Do not delete it in AWS"), "{}", claimed.advice);
        assert!(claimed.evidence.iter().any(|line| line.ends_with("PersistentVolumeClaim shop/data-0")));
        let plain = volume(&[("owner", "a")]);
        assert!(plain.advice.starts_with("Ask its owner"), "{}", plain.advice);
        assert!(plain.evidence.contains(&"SnapshotId snap-7".to_owned()), "{:?}", plain.evidence);
    }

    fn orphan_cases() -> Vec<&'static OrphanCase> {
        let (facts, any) = (facts(), of_type(VOLUME, "vol-1", tags(&[])).key);
        let cases: Vec<_> =
            facts.provider(&any).unwrap().types.values().filter_map(|facts| facts.orphan).collect();
        assert!(cases.len() > 8, "{}", cases.len());
        cases
    }

    #[test]
    fn every_case_has_a_row_in_the_table() {
        for case in orphan_cases() {
            assert!(cases().iter().any(|(kind, ..)| *kind == case.resource_type), "{}", case.resource_type);
            assert!(!case.advice.is_empty() && !case.reported.is_empty());
            assert!(
                case.advice.len().max(case.claim.as_ref().map_or(0, |claim| claim.advice.len())) <= 256,
                "{}: what is longer is cut off",
                case.resource_type
            );
        }
    }

    /// A rule that concludes from absence.
    #[test]
    fn where_one_of_the_types_could_not_be_listed_nothing_opens_and_nothing_resolves() {
        for (kind, id, document, _) in cases() {
            let case = orphan_cases().into_iter().find(|case| case.resource_type == kind).unwrap();
            for read in case.referring_types.iter().filter(|read| **read != kind) {
                let denied = bed(kind, id, document.clone()).without_scan_of(read);
                assert!(found(&denied).is_empty(), "{kind} without {read}");
                let undecided = denied.evaluate(10_000).undecided;
                assert!(undecided.iter().any(|(_, key)| &*key.id == id), "{kind} without {read}: {undecided:?}");
            }
        }
    }

    #[test]
    fn it_takes_two_complete_sweeps_after_the_last_change() {
        let (kind, id, document, _) = cases().remove(0);
        // Changed at 100 s, sweeps every 300 s: those at 400 and 700 are the first that both began after it.
        let swept = |until| found(&bed(kind, id, document.clone()).swept_until(until)).len();
        assert_eq!((swept(399), swept(699), swept(700)), (0, 0, 1));
    }

    #[test]
    fn a_template_that_names_its_image_by_a_parameter_or_can_not_be_read_leaves_images_open() {
        for data in [json!({}), json!({"Versions": [{"LaunchTemplateData": {"ImageId": "resolve:ssm:golden"}}]})] {
            let opaque = bed(IMAGE, "ami-1", json!({})).and(of_type(TEMPLATE, "lt-1", tags(&[])), data);
            assert!(found(&opaque).is_empty());
            assert_eq!(opaque.evaluate(10_000).undecided.len(), 1);
        }
    }

    /// One denied additional call must not make everything that depends on it appear unused.
    #[test]
    fn where_a_further_call_was_denied_nothing_is_concluded_from_what_it_would_have_returned() {
        let balancer = "AWS::ElasticLoadBalancingV2::LoadBalancer";
        let forwards = json!({"Type": "network", "Listeners": [{"DefaultActions": [{"Type": "forward"}]}]});
        let rows = [
            ("DescribeListeners", bed(balancer, "lb", json!({"Type": "network"}))),
            (
                "DescribeTargetHealth",
                bed(balancer, "lb", forwards)
                    .and(of_type(TARGETS, "tg", tags(&[])), json!({"LoadBalancerArns": ["lb"]})),
            ),
            (
                "DescribeLaunchTemplateVersions",
                bed(IMAGE, "ami", json!({}))
                    .and(of_type(TEMPLATE, "lt", tags(&[])), json!({"LaunchTemplateId": "lt"})),
            ),
            (
                "DescribeServices",
                bed(TARGETS, "tg", json!({"LoadBalancerArns": [], "HasTargets": true}))
                    .and(of_type("AWS::ECS::Service", "svc", tags(&[])), json!({})),
            ),
            ("its own description", bed(GROUP, "sg", json!({}))),
        ];
        for (denied, bed) in rows {
            let about: Vec<Finding> =
                found(&bed).into_iter().filter(|f| ["lb", "ami", "tg", "sg"].contains(&&*f.resource.id)).collect();
            let undecided = bed.evaluate(10_000).undecided;
            assert!(about.is_empty() && !undecided.is_empty(), "{denied}: {about:?} {undecided:?}");
        }
    }

    #[test]
    fn an_image_that_a_group_pins_by_the_number_of_a_version_is_not_called_unused() {
        let template = json!({"Versions": [{"VersionNumber": 7, "LaunchTemplateData": {"ImageId": "ami-7"}}]});
        let with = |group: Value| {
            bed(IMAGE, "ami-1", json!({}))
                .and(of_type(TEMPLATE, "lt-1", tags(&[])), template.clone())
                .and(of_type(SCALING, "web", tags(&[])), group)
        };
        let about = |bed: &Bed| found(bed).iter().filter(|f| &*f.resource.id == "ami-1").count();
        let pinned = |version: &str| json!({"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": version}});
        assert_eq!(about(&with(pinned("$Latest"))), 1);
        assert_eq!(about(&with(pinned("7"))), 1, "that version was read");
        let mixed = json!({"MixedInstancesPolicy": {"LaunchTemplate": {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-1", "Version": "2"}}}});
        for group in [pinned("3"), mixed, json!({"LaunchConfigurationName": "old"})] {
            assert_eq!(about(&with(group.clone())), 0, "{group}");
        }
    }

    #[test]
    fn what_another_account_shares_is_its_own_to_act_on() {
        let of =
            |owner: &str| bed("AWS::EC2::SecurityGroup", "sg-1", json!({"GroupName": "web", "OwnerId": owner}));
        assert!(found(&of("999988887777")).is_empty());
        assert_eq!(found(&of("111122223333")).len(), 1);
    }

    #[test]
    fn what_is_none() {
        let redirecting = json!({"Listeners": [{"DefaultActions": [{"Type": "redirect"}]}]});
        for (kind, document) in [
            (VOLUME, json!({"State": "in-use", "Attachments": [{"InstanceId": "i-1"}]})),
            ("AWS::EC2::EIP", json!({"AssociationId": "eipassoc-1"})),
            ("AWS::EC2::Snapshot", json!({"VolumeId": "vol-ffffffff"})),
            (IMAGE, json!({"Public": true})),
            ("AWS::ElasticLoadBalancingV2::LoadBalancer", redirecting),
            ("AWS::EC2::NatGateway", json!({"State": "pending"})),
            (INTERFACE, json!({"Status": "in-use"})),
            (INTERFACE, json!({"Status": "available", "RequesterManaged": true})),
            (GROUP, json!({"GroupName": "default"})),
            ("AWS::Logs::LogGroup", json!({"retentionInDays": 14})),
            (INSTANCE, json!({"State": {"Name": "running"}, "BlockDeviceMappings": [{"Ebs": {"VolumeId": "v"}}]})),
            (INSTANCE, json!({"State": {"Name": "stopped"}})),
        ] {
            assert!(found(&bed(kind, "x", document.clone())).is_empty(), "{kind} {document}");
        }
        let kept = of_type("AWS::EC2::Snapshot", "snap-1", tags(&[("aws:backup:source-resource", "x")]));
        assert!(found(&Bed::of(kept).with_versions(&[json!({"VolumeId": "vol-9"})])).is_empty());
    }

    #[test]
    fn since_when_follows_from_its_own_versions_or_from_the_end_of_the_last_that_used_it() {
        let used =
            json!({"State": "in-use", "Attachments": [{"InstanceId": "i-1"}], "VolumeType": "gp3", "Size": 9});
        let free = json!({"State": "available", "Attachments": [], "VolumeType": "gp3", "Size": 9});
        let bigger = json!({"State": "available", "Attachments": [], "VolumeType": "gp3", "Size": 20});
        let volume = bed(VOLUME, "vol-1", json!({})).with_versions(&[used, free.clone(), bigger]);
        let finding = &found(&volume)[0];
        assert_eq!((finding.since, finding.since_is_estimate), (at(200), false));
        assert_eq!(finding.monthly_cost, Some(super::super::MonthlyCost(2_000_000)), "20 GB at 0.1");
        let always = &found(&bed(VOLUME, "vol-1", free))[0];
        assert_eq!(always.since, at(100), "for as long as we know it");
        assert!(always.evidence[0].ends_with("since before it was first seen"), "{:?}", always.evidence);

        let image = bed(IMAGE, "ami-1", json!({}));
        let noticed = &found(&image)[0];
        assert_eq!((noticed.since, noticed.since_is_estimate, noticed.monthly_cost), (at(10_000), true, None));
        let instance = ended(of_type(INSTANCE, "i-1", tags(&[])), 2_000, 5);
        let after = &found(&image.and(instance, json!({"ImageId": "ami-1"})))[0];
        assert_eq!((after.since, after.since_is_estimate), (at(1_700), false), "first missed");
    }

    #[test]
    fn an_instance_is_stopped_for_long_and_costs_what_its_volumes_cost() {
        let stopped =
            json!({"State": {"Name": "stopped"}, "BlockDeviceMappings": [{"Ebs": {"VolumeId": "vol-1"}}]});
        let with = |days: u64, volume_type: &str| {
            let stopped_for = Duration::from_hours(24 * days);
            let volume = json!({"State": "in-use", "VolumeType": volume_type, "Size": 10});
            bed(INSTANCE, "i-1", stopped.clone())
                .and(of_type(VOLUME, "vol-1", tags(&[("owner", "a")])), volume)
                .with_settings(RuleSettings { stopped_for, ..RuleSettings::default() })
        };
        assert!(found(&with(7, "gp3")).is_empty());
        assert_eq!(found(&with(0, "gp3"))[0].monthly_cost, Some(super::super::MonthlyCost(1_000_000)));
        assert_eq!(found(&with(0, "io2"))[0].monthly_cost, None, "unknown, not zero");
    }
}
