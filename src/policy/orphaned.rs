//! `Orphaned`: it costs, or is in the way, and serves nothing any more.
//!
//! Each case says of one type when its own document leaves the question open, and which types must not name
//! it. That nothing names it is believed only where each of those was looked at whole, twice, after the
//! resource last changed.

use std::borrow::Cow;

use serde_json::Value;

use super::relations::texts;
use super::{Finding, FindingKind, Input, Severity, Verdict};
use crate::inventory::{Resource, ResourceKey, ResourceType, Revision, Scope, Timestamp};

/// One way of serving nothing.
#[derive(Debug)]
pub(super) struct Case {
    resource_type: &'static str,
    /// Whether its own document leaves it open.
    is_open: fn(&Value) -> bool,
    /// The types that must not name it. In the same account and region.
    reads: &'static [&'static str],
    severity: Severity,
    /// What is wrong with it, in a few words.
    verdict: &'static str,
    says: &'static str,
    advice: &'static str,
    when: When,
}

/// Since when it serves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Since its own document says so: its versions tell.
    ItSaysSo,
    /// Since nothing names it: the end of the last that did, else when that was first noticed.
    Unnamed,
}

/// What there is to say of a resource that nothing names.
#[derive(Debug)]
pub(super) struct Candidate {
    case: &'static Case,
    /// The resource that it was made from.
    origin: Option<String>,
}

/// What a resource is billed for, each month.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    /// As price lists here call it: `ebs.gp3`.
    pub item: Cow<'static, str>,
    /// GB, or 1 where hours are billed.
    pub quantity: f64,
}

const INSTANCE: &str = "AWS::EC2::Instance";
const VOLUME: &str = "AWS::EC2::Volume";
const IMAGE: &str = "AWS::EC2::Image";
const INTERFACE: &str = "AWS::EC2::NetworkInterface";
const GROUP: &str = "AWS::EC2::SecurityGroup";
const TEMPLATE: &str = "AWS::EC2::LaunchTemplate";
const SCALING: &str = "AWS::AutoScaling::AutoScalingGroup";
const TARGETS: &str = "AWS::ElasticLoadBalancingV2::TargetGroup";

const CASES: &[Case] = &[
    Case {
        resource_type: VOLUME,
        is_open: |volume| is(volume, "State", "available") && texts(volume, "Attachments.InstanceId").is_empty(),
        reads: &[INSTANCE],
        severity: Severity::Medium,
        verdict: "serves nothing",
        says: "no instance uses it",
        advice: "Make a snapshot if the data may be needed, then delete it",
        when: When::ItSaysSo,
    },
    Case {
        resource_type: "AWS::EC2::EIP",
        is_open: |address| {
            ["AssociationId", "InstanceId", "NetworkInterfaceId"].iter().all(|f| texts(address, f).is_empty())
        },
        reads: &["AWS::EC2::NatGateway"],
        severity: Severity::Medium,
        verdict: "serves nothing",
        says: "the address is attached to nothing",
        advice: "Release it, or attach it",
        when: When::ItSaysSo,
    },
    Case {
        resource_type: "AWS::EC2::Snapshot",
        // A copy names no volume that ever was.
        is_open: |snapshot| texts(snapshot, "VolumeId").iter().any(|id| id != "vol-ffffffff"),
        reads: &[VOLUME, IMAGE, TEMPLATE, SCALING],
        severity: Severity::Low,
        verdict: "serves nothing",
        says: "its volume is gone, and no image is made of it",
        advice: "Delete it unless it is kept as a backup; then exempt it",
        when: When::Unnamed,
    },
    Case {
        resource_type: IMAGE,
        is_open: |image| image["Public"].as_bool() != Some(true),
        reads: &[INSTANCE, TEMPLATE, SCALING],
        severity: Severity::Low,
        verdict: "serves nothing",
        says: "no instance was started from it, and no launch template names it in a version that is in force",
        advice: "Deregister it and delete its snapshots, unless another account uses it",
        when: When::Unnamed,
    },
    Case {
        resource_type: "AWS::ElasticLoadBalancingV2::LoadBalancer",
        // One that only redirects or answers by itself needs no targets.
        is_open: |balancer| {
            balancer["Listeners"].as_array().is_some_and(|listeners| {
                listeners.is_empty()
                    || texts(balancer, "Listeners.DefaultActions.Type").contains(&"forward".to_owned())
            })
        },
        reads: &[TARGETS],
        severity: Severity::Medium,
        verdict: "serves nothing",
        says: "none of its target groups has a target",
        advice: "Delete it, or register its targets",
        when: When::Unnamed,
    },
    Case {
        resource_type: TARGETS,
        is_open: |group| texts(group, "LoadBalancerArns").is_empty(),
        reads: &[SCALING, "AWS::ECS::Service"],
        severity: Severity::Low,
        verdict: "serves nothing",
        says: "no load balancer sends to it",
        advice: "Delete it, or add it to a listener",
        when: When::ItSaysSo,
    },
    Case {
        resource_type: "AWS::EC2::NatGateway",
        is_open: |gateway| is(gateway, "State", "available"),
        reads: &["AWS::EC2::RouteTable"],
        severity: Severity::High,
        verdict: "serves nothing",
        says: "no route table routes through it",
        advice: "Delete it and release its address, or add the route that is missing",
        when: When::Unnamed,
    },
    Case {
        resource_type: INTERFACE,
        is_open: |interface| {
            is(interface, "Status", "available")
                && interface["RequesterManaged"].as_bool() != Some(true)
                && texts(interface, "Attachment.AttachmentId").is_empty()
        },
        reads: &[INSTANCE],
        severity: Severity::Low,
        verdict: "serves nothing",
        says: "the network interface is attached to nothing",
        advice: "Delete it: it keeps its security groups and its subnet from being deleted",
        when: When::ItSaysSo,
    },
    Case {
        resource_type: GROUP,
        // The default group of a VPC can't be deleted, and EMR takes its own again for its next cluster.
        is_open: |group| {
            !is(group, "GroupName", "default")
                && !texts(group, "GroupName").iter().any(|name| name.starts_with("ElasticMapReduce-"))
        },
        reads: &[
            INTERFACE,
            GROUP,
            TEMPLATE,
            SCALING,
            "AWS::Lambda::Function",
            "AWS::ECS::Service",
            "AWS::RDS::DBInstance",
        ],
        severity: Severity::Low,
        verdict: "serves nothing",
        says: "no network interface, group, template, function, service or database names it",
        advice: "CodeBuild, Glue, Batch and EMR name groups that nothing uses between their runs: ask there, then delete it",
        when: When::Unnamed,
    },
    Case {
        resource_type: "AWS::Logs::LogGroup",
        is_open: |group| group.get("retentionInDays").is_none_or(Value::is_null),
        reads: &[],
        severity: Severity::Low,
        verdict: "grows without end",
        says: "it has no retention, so it keeps every line for ever",
        advice: "Set a retention (aws logs put-retention-policy)",
        when: When::ItSaysSo,
    },
    Case {
        resource_type: INSTANCE,
        is_open: |instance| is(instance, "State.Name", "stopped") && !volumes(instance).is_empty(),
        reads: &[],
        severity: Severity::Medium,
        verdict: "serves nothing",
        says: "the instance is stopped, and its volumes are billed",
        advice: "Start it, or make an image of it and terminate it",
        when: When::ItSaysSo,
    },
];

fn is(document: &Value, path: &str, value: &str) -> bool {
    texts(document, path).first().is_some_and(|text| text == value)
}

fn volumes(instance: &Value) -> Vec<String> {
    texts(instance, "BlockDeviceMappings.Ebs.VolumeId")
}

pub(super) fn types() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.resource_type)
}

pub(super) fn candidate(resource_type: &str, document: &Value) -> Option<Candidate> {
    let case = CASES.iter().find(|case| case.resource_type == resource_type)?;
    let origin = if resource_type == "AWS::EC2::Snapshot" { texts(document, "VolumeId").pop() } else { None };
    (case.is_open)(document).then_some(Candidate { case, origin })
}

pub(super) fn usage(resource_type: &str, document: &Value) -> Option<Usage> {
    let hours = |item: String| Some(Usage { item: item.into(), quantity: 1.0 });
    match resource_type {
        VOLUME => {
            let kind = texts(document, "VolumeType").pop()?;
            Some(Usage { item: format!("ebs.{kind}").into(), quantity: document["Size"].as_f64()? })
        }
        // An address that its owner brought along costs nothing: https://aws.amazon.com/vpc/pricing/
        "AWS::EC2::EIP" => {
            let is_own = texts(document, "PublicIpv4Pool").iter().any(|pool| pool != "amazon");
            if is_own { None } else { hours("ipv4".to_owned()) }
        }
        "AWS::EC2::NatGateway" => hours("nat-gateway".to_owned()),
        "AWS::ElasticLoadBalancingV2::LoadBalancer" => {
            hours(format!("load-balancer.{}", texts(document, "Type").pop()?))
        }
        _ => None,
    }
}

pub(super) fn rule(input: &Input) -> Verdict {
    let world = input.world;
    let Some(facts) = world.graph.facts(input.resource) else { return Verdict::No };
    let Some(candidate) = facts.candidate.as_deref() else {
        // What could not be read of it might say so.
        let may_be = facts.unread
            && input.resource.is_live()
            && types().any(|t| t == input.resource.key.resource_type.as_str());
        return if may_be { Verdict::Unknown } else { Verdict::No };
    };
    let (resource, case) = (input.resource, candidate.case);
    if !resource.is_live() || world.uses.is_used(&resource.key) || input.is_replaced() {
        return Verdict::No;
    }
    let origin = candidate.origin.as_ref().map(|id| ResourceKey {
        resource_type: ResourceType::new(VOLUME),
        id: id.as_str().into(),
        ..resource.key.clone()
    });
    if origin.as_ref().is_some_and(|origin| world.lives(origin)) {
        return Verdict::No;
    }
    // What is not there is not there only where somebody looked: whole, and twice since it last changed.
    let changed = world.reads.time_of(resource.changed).max(resource.first_seen);
    let sibling = |resource_type: &&str| Scope {
        resource_type: ResourceType::new(*resource_type),
        ..Scope::clone(&resource.scope)
    };
    let looked_at = |scope: &Scope| {
        world.looked_twice(scope, changed, input.settings.interval) && !world.uses.opaque.contains(scope)
    };
    if !case.reads.iter().map(sibling).all(|scope| looked_at(&scope)) {
        return Verdict::Unknown;
    }
    let (since, revision, is_noticed) = match case.when {
        When::ItSaysSo => since_it_says_so(input, case),
        When::Unnamed => {
            let ended = origin.and_then(|origin| world.ended(&origin)).or(world.uses.unused_since(&resource.key));
            let since = ended.map(|ended| ended.max(resource.first_seen));
            (since.unwrap_or(input.now), resource.changed, since.is_none())
        }
    };
    let is_stopped = case.resource_type == INSTANCE;
    if is_stopped && input.now.since(since) < input.settings.stopped_for {
        return Verdict::No;
    }
    let usages = if is_stopped { world.usages_of_parts(resource) } else { world.usages(resource) };
    let since_when = match (is_noticed, resource.baseline && since == resource.first_seen) {
        (true, _) => "noticed".to_owned(),
        (false, true) => "since before it was first seen".to_owned(),
        (false, false) => format!("since {since}"),
    };
    let mut evidence = vec![format!("{}: {since_when}", case.says)];
    if !case.reads.is_empty() {
        let names: Vec<&str> = case.reads.iter().map(|t| t.rsplit("::").next().unwrap_or(t)).collect();
        evidence.push(format!("looked at whole, twice since {changed}: {}", names.join(", ")));
    }
    let cost = world.cost(&usages, resource, &mut evidence);
    let message = format!("{} {}: {}", input.called(), case.verdict, case.says);
    Verdict::holds(Finding {
        monthly_cost: cost,
        is_noticed,
        ..input.finding(FindingKind::Orphaned, case.severity, (since, revision), message, case.advice, evidence)
    })
}

fn since_it_says_so(input: &Input, case: &Case) -> (Timestamp, Revision, bool) {
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
    // As far back as anything is kept: it was so from its first sight on.
    if oldest == Some(true) {
        since.0 = input.resource.first_seen.min(since.0);
    }
    (since.0, since.1, false)
}

impl super::World<'_> {
    /// What a resource is billed for.
    fn usages(&self, resource: &Resource) -> Vec<Usage> {
        let facts = self.graph.facts(resource);
        facts.and_then(|facts| facts.usage.as_deref()).cloned().into_iter().collect()
    }

    /// What the volumes of an instance are billed for.
    fn usages_of_parts(&self, instance: &Resource) -> Vec<Usage> {
        let parts = volumes(&self.reads.attributes(instance));
        let key = |id: &String| ResourceKey {
            resource_type: ResourceType::new(VOLUME),
            id: id.as_str().into(),
            ..instance.key.clone()
        };
        parts.iter().filter_map(|id| self.resource(&key(id))).flat_map(|volume| self.usages(volume)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::testing::{Bed, at, ended, of_type, tags};
    use super::*;
    use crate::inventory::RuleSettings;

    fn bed(resource_type: &str, id: &str, document: Value) -> Bed {
        let owned = of_type(resource_type, id, tags(&[("owner", "a")]));
        Bed::of(of_type("AWS::EC2::VPC", "vpc-1", tags(&[("owner", "a")]))).and(owned, document)
    }

    fn found(bed: &Bed) -> Vec<Finding> {
        bed.findings(FindingKind::Orphaned, 10_000)
    }

    /// Each with what it is when nothing uses it, and with others that use it.
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
    fn every_case_has_a_row_in_the_table() {
        for case in CASES {
            assert!(cases().iter().any(|(kind, ..)| *kind == case.resource_type), "{}", case.resource_type);
            assert!(!case.advice.is_empty() && !case.says.is_empty());
        }
    }

    /// truth.md: a rule that concludes from what is not there.
    #[test]
    fn where_one_of_the_types_could_not_be_looked_at_nothing_opens_and_nothing_resolves() {
        for (kind, id, document, _) in cases() {
            let case = CASES.iter().find(|case| case.resource_type == kind).unwrap();
            for read in case.reads.iter().filter(|read| **read != kind) {
                let denied = bed(kind, id, document.clone()).unlooked(read);
                assert!(found(&denied).is_empty(), "{kind} without {read}");
                let undecided = denied.evaluate(10_000).undecided;
                assert!(undecided.iter().any(|(_, key)| &*key.id == id), "{kind} without {read}: {undecided:?}");
            }
        }
    }

    #[test]
    fn it_takes_two_whole_looks_after_the_last_change() {
        let (kind, id, document, _) = cases().remove(0);
        // Changed at 100 s; looks every 300 s: 400 and 700 are the first that both began after it.
        let looked = |until| found(&bed(kind, id, document.clone()).looked_until(until)).len();
        assert_eq!((looked(399), looked(699), looked(700)), (0, 0, 1));
    }

    #[test]
    fn a_template_that_names_its_image_by_a_parameter_or_can_not_be_read_leaves_images_open() {
        for data in [json!({}), json!({"Versions": [{"LaunchTemplateData": {"ImageId": "resolve:ssm:golden"}}]})] {
            let opaque = bed(IMAGE, "ami-1", json!({})).and(of_type(TEMPLATE, "lt-1", tags(&[])), data);
            assert!(found(&opaque).is_empty());
            assert_eq!(opaque.evaluate(10_000).undecided.len(), 1);
        }
    }

    /// One denied further call must not make everything that rests on it look unused.
    #[test]
    fn where_a_further_call_was_denied_nothing_is_said_of_what_it_would_have_told() {
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
    fn an_address_that_its_owner_brought_along_costs_nothing() {
        let usage = |pool: &str| usage("AWS::EC2::EIP", &json!({"PublicIpv4Pool": pool}));
        assert!(usage("amazon").is_some() && usage("ipv4pool-ec2-1").is_none());
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
    fn since_when_is_told_by_its_own_versions_or_by_the_end_of_the_last_that_used_it() {
        let used =
            json!({"State": "in-use", "Attachments": [{"InstanceId": "i-1"}], "VolumeType": "gp3", "Size": 9});
        let free = json!({"State": "available", "Attachments": [], "VolumeType": "gp3", "Size": 9});
        let bigger = json!({"State": "available", "Attachments": [], "VolumeType": "gp3", "Size": 20});
        let volume = bed(VOLUME, "vol-1", json!({})).with_versions(&[used, free.clone(), bigger]);
        let finding = &found(&volume)[0];
        assert_eq!((finding.since, finding.is_noticed), (at(200), false));
        assert_eq!(finding.monthly_cost, Some(super::super::MonthlyCost(2_000_000)), "20 GB at 0.1");
        let always = &found(&bed(VOLUME, "vol-1", free))[0];
        assert_eq!(always.since, at(100), "for as long as we know it");
        assert!(always.evidence[0].ends_with("since before it was first seen"), "{:?}", always.evidence);

        let image = bed(IMAGE, "ami-1", json!({}));
        let noticed = &found(&image)[0];
        assert_eq!((noticed.since, noticed.is_noticed, noticed.monthly_cost), (at(10_000), true, None));
        let instance = ended(of_type(INSTANCE, "i-1", tags(&[])), 2_000, 5);
        let after = &found(&image.and(instance, json!({"ImageId": "ami-1"})))[0];
        assert_eq!((after.since, after.is_noticed), (at(1_700), false), "first missed");
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
