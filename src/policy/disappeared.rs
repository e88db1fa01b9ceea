//! `Disappeared`: a recorded resource has ended.
//!
//! Related ends are reported together: the ended parts of an ended resource are part of its finding. The ends of
//! resources that are replaced all the time (by an Auto Scaling group, a fleet, a lifecycle policy) are not reported
//! while the group, fleet or policy lives.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evaluation, EvaluationContext, Finding, FindingKind, Input, Severity, Verdict};
use crate::inventory::{EndCause, Parent, Resource, ResourceKey, Role};

/// From this number of ended parts on, parts of a live resource are reported together.
const GROUP_MIN_MEMBERS: usize = 5;
/// The maximum number of parts that a finding lists by id.
const MEMBERS_NAMED_MAX: usize = 5;
/// The longest chain of parents: a volume of an instance of a group of a stack.
const PARENT_CHAIN_MAX: usize = 4;

pub(super) fn rule(input: &Input) -> Verdict {
    let Some(end) = &input.resource.end else { return Verdict::No };
    // A CloudScan that could not see the scope then must not learn of it; after `keep` it is history.
    if end.revision < input.visible_from || input.now.since(end.concluded) >= input.settings.keep_disappeared {
        return Verdict::No;
    }
    let (key, tags) = (&input.resource.key, &input.resource.tags);
    if input.settings.ignored_ends.iter().any(|ignored| ignored.matches(key, tags)) {
        return Verdict::No;
    }
    let facts = input.world.facts.of_type(key);
    let how = match &end.cause {
        EndCause::Listed(state) => format!("{} lists it as {state}", input.provider_title()),
        EndCause::Absent if facts.is_some_and(|facts| !facts.has_read_by_id) => {
            "complete sweeps did not list it; its API cannot confirm by id whether it exists".to_owned()
        }
        EndCause::Absent => {
            "a complete sweep did not list it, and a read by id found that it does not exist".to_owned()
        }
        // Only CloudScans that can see the new location may know it.
        EndCause::Moved(_) => "its id is seen in another account or region now: it was moved".to_owned(),
        EndCause::Replaced => "another one was made under the same name".to_owned(),
    };
    let message =
        format!("{} disappeared between {} and {}: {how}", input.called(), end.last_seen, end.first_missed);
    let evidence = vec![
        format!("last seen {}", end.last_seen),
        format!("first missed {}", end.first_missed),
        format!("concluded {} at revision {}", end.concluded, end.revision),
    ];
    let is_moved = matches!(end.cause, EndCause::Moved(_));
    let advice = match &end.cause {
        EndCause::Moved(_) => "Nothing is to be restored. Ask whether the move was meant",
        EndCause::Replaced => "Ask whether it was meant to be made anew: what the earlier one held may be gone",
        EndCause::Absent | EndCause::Listed(_) => facts
            .map_or("If it was not intended, create it again from code or a backup", |facts| {
                facts.recovery_advice
            }),
    };
    Verdict::holds(input.finding(
        FindingKind::Disappeared,
        if is_moved { Severity::Low } else { Severity::High },
        (end.first_missed, end.revision),
        message,
        advice,
        evidence,
    ))
}

/// How the end of one resource is reported.
#[derive(Clone, Debug, PartialEq)]
enum Reporting {
    Alone,
    /// It is not reported.
    Suppressed,
    /// It is unknown whether it is to be reported.
    Unknown,
    With(ResourceKey),
    /// With others, if there are many.
    WithMany(ResourceKey),
}

enum ParentState {
    Lives,
    Ended,
    /// It does not exist, and a sweep would have listed it.
    Absent,
    Unknown,
}

fn parent_state(world: &EvaluationContext, key: &ResourceKey, part: &Resource) -> ParentState {
    match world.resource(key) {
        Some(parent) if parent.is_live() => ParentState::Lives,
        Some(_) => ParentState::Ended,
        None if world.is_swept(key, part) => ParentState::Absent,
        None => ParentState::Unknown,
    }
}

fn reporting(world: &EvaluationContext, resource: &Resource, chain: usize) -> Reporting {
    let (key, role) = match world.parent(resource) {
        None => return Reporting::Alone,
        Some(_) if chain == 0 => return Reporting::Alone,
        Some(Parent::Unseen) => return Reporting::Suppressed,
        Some(Parent::Known { key, role }) => (key, role),
    };
    let holds_many = world.facts.of_type(&key).is_some_and(|facts| facts.has_many_parts);
    match (parent_state(world, &key, resource), role) {
        (ParentState::Lives, Role::ManagesMembers) => Reporting::Suppressed,
        (ParentState::Unknown, Role::ManagesMembers) => Reporting::Unknown,
        (ParentState::Ended, _) => match world.resource(&key).map(|parent| reporting(world, parent, chain - 1)) {
            None | Some(Reporting::Alone | Reporting::WithMany(_)) => Reporting::With(key),
            Some(reporting) => reporting,
        },
        (ParentState::Lives | ParentState::Absent | ParentState::Unknown, Role::Contains) if holds_many => {
            Reporting::WithMany(key)
        }
        (ParentState::Absent, Role::ManagesMembers) | (_, Role::Contains) => Reporting::Alone,
    }
}

/// Groups related findings, and drops those that are not reported.
pub(super) fn together(world: &EvaluationContext, findings: Vec<(&Resource, Finding)>, out: &mut Evaluation) {
    let mut parts: BTreeMap<ResourceKey, Vec<(&Resource, Finding)>> = BTreeMap::new();
    let mut many: BTreeMap<ResourceKey, Vec<(&Resource, Finding)>> = BTreeMap::new();
    let mut alone: BTreeMap<ResourceKey, Finding> = BTreeMap::new();
    for (resource, finding) in findings {
        match reporting(world, resource, PARENT_CHAIN_MAX) {
            Reporting::Alone => drop(alone.insert(resource.key.clone(), finding)),
            Reporting::Suppressed => drop(out.grouped.insert(resource.key.clone())),
            Reporting::Unknown => drop(out.undecided.insert((FindingKind::Disappeared, resource.key.clone()))),
            Reporting::With(key) => parts.entry(key).or_default().push((resource, finding)),
            Reporting::WithMany(key) => many.entry(key).or_default().push((resource, finding)),
        }
    }
    for (key, members) in many {
        if members.len() >= GROUP_MIN_MEMBERS {
            parts.entry(key).or_default().extend(members);
        } else {
            alone.extend(members.into_iter().map(|(resource, finding)| (resource.key.clone(), finding)));
        }
    }
    for (key, members) in parts {
        out.grouped.extend(members.iter().map(|(resource, _)| resource.key.clone()));
        let whole = whole(world, &key, alone.remove(&key), &members);
        out.findings.push(whole);
    }
    out.findings.extend(alone.into_values());
}

/// One finding for a resource and its parts.
fn whole(
    world: &EvaluationContext,
    key: &ResourceKey,
    own: Option<Finding>,
    members: &[(&Resource, Finding)],
) -> Finding {
    let mut by_type: BTreeMap<&str, usize> = BTreeMap::new();
    for (resource, _) in members {
        *by_type.entry(resource.key.resource_type.short()).or_default() += 1;
    }
    let counts: Vec<String> = by_type.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (counts, total) = (counts.join(", "), members.len());
    let named: Vec<&str> = members.iter().take(MEMBERS_NAMED_MAX).map(|(resource, _)| &*resource.key.id).collect();
    let more = total.saturating_sub(MEMBERS_NAMED_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let listed = format!("gone with it: {}{rest}", named.join(", "));
    if let Some(mut own) = own {
        let is_one = if total == 1 { "resource" } else { "resources" };
        own.message = format!("{}; and with it {total} {is_one}: {counts}", own.message);
        own.evidence.push(listed);
        return own;
    }
    let first =
        members.iter().map(|(_, finding)| finding).min_by_key(|finding| (finding.since, &finding.resource));
    let first = first.expect("a group has members");
    let accounts: BTreeSet<&str> = members.iter().map(|(r, _)| r.key.account.as_str()).collect();
    debug_assert!(accounts.len() == 1, "parts lie where the whole does");
    let parent = world.resource(key);
    let what = format!("{} {}", key.resource_type.short(), name_in(world, key));
    Finding {
        resource: key.clone(),
        name: parent.and_then(|parent| parent.tags.name().map(str::to_owned)),
        message: format!("{total} resources of {what} are gone since {}: {counts}", first.since),
        evidence: vec![format!("first missed {} at revision {}", first.since, first.revision), listed],
        ..first.clone()
    }
}

/// What a person would call it.
fn name_in<'a>(world: &EvaluationContext, key: &'a ResourceKey) -> &'a str {
    let short_name = world.facts.of_type(key).and_then(|facts| facts.short_name);
    short_name.map_or(&*key.id, |short_name| short_name(&key.id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Bed, at, ended, of_type, tags, volume};
    use super::*;
    use crate::inventory::{RuleSettings, Selector, TagMatch, Tags};

    const STACK: &str = "AWS::CloudFormation::Stack";
    const SCALING: &str = "AWS::AutoScaling::AutoScalingGroup";

    fn found(bed: &Bed, now: i64) -> Vec<Finding> {
        bed.findings(FindingKind::Disappeared, now)
    }

    #[test]
    fn an_end_is_a_finding_until_it_is_history() {
        let gone = Bed::of(ended(volume(tags(&[("Name", "data")])), 1000, 5));
        let finding = &found(&gone, 2000)[0];
        assert!(finding.message.starts_with("Volume vol-1 (data) disappeared between"), "{finding:?}");
        assert_eq!(finding.since, at(700), "first missed");
        assert!(found(&gone, 1000 + 7 * 86400).is_empty());
        assert!(found(&Bed::of(volume(tags(&[]))), 2000).is_empty());
    }

    #[test]
    fn nobody_learns_of_what_ended_before_they_saw_the_scope() {
        assert!(found(&Bed::of(ended(volume(tags(&[])), 1000, 0)), 2000).is_empty());
    }

    #[test]
    fn what_is_ignored_by_type_and_tags_is_no_news() {
        let ignored = Selector {
            types: vec!["AWS::EC2::Volume".to_owned()],
            tags: vec![TagMatch::key("ephemeral")],
            ..Selector::default()
        };
        let settings = RuleSettings { ignored_ends: vec![ignored], ..RuleSettings::default() };
        for (tag, count) in [("ephemeral", 0), ("owner", 1)] {
            let bed = Bed::of(ended(volume(tags(&[(tag, "x")])), 1000, 5)).with_settings(settings.clone());
            assert_eq!(found(&bed, 2000).len(), count, "{tag}");
        }
    }

    /// An ended instance of an Auto Scaling group, with its volume; and the group.
    fn scaled(group: Option<Resource>) -> Bed {
        let member = tags(&[("aws:autoscaling:groupName", "web")]);
        let attached = json!({"Attachments": [{"InstanceId": "i-1", "DeleteOnTermination": true}]});
        let mut bed = Bed::of(ended(of_type("AWS::EC2::Instance", "i-1", member), 1000, 5))
            .and(ended(volume(Tags::Unknown), 1000, 6), attached);
        if let Some(group) = group {
            bed = bed.and(group, json!({}));
        }
        bed
    }

    #[test]
    fn members_of_a_group_that_replaces_its_own_are_no_news_while_it_lives() {
        let group = || of_type(SCALING, "web", tags(&[]));
        assert!(found(&scaled(Some(group())), 2000).is_empty(), "neither the instance nor its volume");
        let gone = found(&scaled(Some(ended(group(), 1000, 7))), 2000);
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert!(gone[0].message.ends_with("and with it 2 resources: 1 Instance, 1 Volume"), "{}", gone[0].message);
        let unseen = scaled(None).without_scan_of(SCALING);
        assert!(found(&unseen, 2000).is_empty(), "who can't see the group can't tell");
        assert_eq!(unseen.evaluate(2000).undecided.len(), 2);
        let without = found(&scaled(None), 2000);
        assert_eq!(without.len(), 1, "there is no such group: the instance is news, its volume goes with it");
        assert!(without[0].message.ends_with("and with it 1 resource: 1 Volume"), "{}", without[0].message);
    }

    #[test]
    fn a_stack_that_goes_is_one_finding_and_one_that_stands_needs_many() {
        let arn = "arn:aws:cloudformation:eu-west-1:111122223333:stack/shop/1";
        let part = |n: usize| {
            let id = format!("vol-{n}");
            let tags = tags(&[("aws:cloudformation:stack-id", arn)]);
            ended(of_type("AWS::EC2::Volume", &id, tags), 1000, 5)
        };
        let parts = |count: usize, stack: Option<Resource>| {
            let mut bed = Bed::of(part(1));
            for n in 2..=count {
                bed = bed.and(part(n), json!({}));
            }
            if let Some(stack) = stack {
                bed = bed.and(stack, json!({}));
            }
            found(&bed, 2000)
        };
        let stack = || of_type(STACK, arn, tags(&[]));
        let gone = parts(2, Some(ended(stack(), 1000, 7)));
        assert_eq!((gone.len(), &*gone[0].resource.id), (1, arn));
        assert_eq!(parts(2, Some(stack())).len(), 2, "few parts of one that stands are told one by one");
        for stack in [Some(stack()), None] {
            let many = parts(6, stack);
            assert_eq!((many.len(), &*many[0].resource.id), (1, arn));
            assert!(
                many[0].message.starts_with("6 resources of Stack shop are gone since"),
                "{}",
                many[0].message
            );
            assert!(many[0].evidence[1].ends_with("and 1 more"), "{:?}", many[0].evidence);
        }
    }

    #[test]
    fn what_a_lifecycle_policy_removes_is_no_news() {
        let snapshot =
            of_type("AWS::EC2::Snapshot", "snap-1", tags(&[("aws:dlm:lifecycle-policy-id", "policy-1")]));
        assert!(found(&Bed::of(ended(snapshot, 1000, 5)), 2000).is_empty());
    }
}
