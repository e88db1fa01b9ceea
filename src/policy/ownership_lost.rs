//! `OwnershipLost`: its tags named an owner, and now nothing does.

use super::{FindingKind, Input, Severity, Verdict, owner};
use crate::inventory::is_untagged;

pub(super) fn rule(input: &Input) -> Verdict {
    let ownership = &input.settings.ownership;
    let Some(tags) = input.resource.tags.known() else { return Verdict::No };
    let is_owned = input.owner.is_some() || owner::in_tags(tags, ownership).is_some();
    if !input.resource.is_live() || is_owned || input.is_exempt_from_tag_rules() {
        return Verdict::No;
    }
    let milestones = input.milestones();
    // The last tags that name an owner, if all later sets name none.
    let named = |i: usize| milestones[i].tags.known().and_then(|set| owner::in_tags(set, ownership));
    let Some(last) = (0..milestones.len()).rev().find(|i| named(*i).is_some()) else { return Verdict::No };
    let (Some(who), Some(lost)) = (named(last), milestones.get(last + 1)) else { return Verdict::No };
    let title = input.provider_title();
    let rest = if is_untagged(tags) { format!("; it has none but {title}'s own tags now") } else { String::new() };
    let message = format!("{} has no owner any more: it was {who}'s until {}{rest}", input.called(), lost.time);
    let evidence = vec![
        format!("owned by {who} from {} on, at revision {}", milestones[last].time, milestones[last].revision),
        format!("no tag names an owner since {} at revision {}", lost.time, lost.revision),
    ];
    let advice = "Ask the one who owned it, and tag it with its owner";
    Verdict::holds(input.finding(
        FindingKind::OwnershipLost,
        Severity::Medium,
        (lost.time, lost.revision),
        message,
        advice,
        evidence,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, at, tags, volume};
    use super::*;
    use crate::inventory::{OwnershipSettings, RuleSettings, Tags};

    #[test]
    fn the_former_owner_is_named_with_the_time_and_what_never_had_an_owner_lost_none() {
        let none = tags(&[]);
        let owned = |who: &str| tags(&[("Owner", who)]);
        let lost = |sets: &[Tags]| {
            let bed = Bed::of(volume(sets.last().unwrap().clone())).with_milestones(sets);
            bed.findings(FindingKind::OwnershipLost, 1000)
        };
        let found = lost(&[owned("a"), owned("b"), none.clone(), tags(&[("x", "y")])]);
        assert_eq!(found[0].since, at(300));
        assert!(found[0].message.contains("it was b's until"), "{}", found[0].message);
        for sets in [&[none.clone()][..], &[owned("a")], &[none.clone(), owned("a")], &[owned("a"), Tags::Unknown]]
        {
            assert!(lost(sets).is_empty(), "{sets:?}");
        }
    }

    #[test]
    fn another_source_that_names_an_owner_is_enough() {
        let ownership = OwnershipSettings {
            accounts: [("111122223333".to_owned(), "platform".to_owned())].into(),
            ..OwnershipSettings::default()
        };
        let settings = RuleSettings { ownership, ..RuleSettings::default() };
        let bed = Bed::of(volume(tags(&[]))).with_milestones(&[tags(&[("owner", "a")]), tags(&[])]);
        assert!(bed.with_settings(settings).findings(FindingKind::OwnershipLost, 1000).is_empty());
    }
}
