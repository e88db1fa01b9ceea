//! `Disappeared`: a resource that was seen has ended.

use super::{Finding, FindingKind, Input, Severity};
use crate::inventory::EndCause;

pub(super) fn rule(input: &Input) -> Option<Finding> {
    let end = input.resource.end.as_ref()?;
    // Who did not cover the scope then must not learn of it; and after `keep` it is history.
    if end.revision < input.covered_from || input.now.since(end.concluded) >= input.settings.keep_disappeared {
        return None;
    }
    let how = match &end.cause {
        EndCause::Listed(state) => format!("it is {state}"),
        EndCause::Absent => "a complete look did not show it, and asked by id it does not exist".to_owned(),
        // Where to is for those to know who look there.
        EndCause::Moved(_) => "its id is seen in another account or region now: it was moved".to_owned(),
        EndCause::Replaced => "another one was made under the same name".to_owned(),
    };
    let message = format!(
        "{} is gone since a moment between {} and {}: {how}",
        input.called(),
        end.last_seen,
        end.first_missed
    );
    let evidence = vec![
        format!("last seen {}", end.last_seen),
        format!("first missed {}", end.first_missed),
        format!("concluded {} at revision {}", end.concluded, end.revision),
    ];
    let is_moved = matches!(end.cause, EndCause::Moved(_));
    Some(input.finding(
        FindingKind::Disappeared,
        if is_moved { Severity::Low } else { Severity::High },
        (end.first_missed, end.revision),
        message,
        evidence,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ended, run, tags, volume};
    use super::*;
    use crate::inventory::RuleSettings;

    #[test]
    fn an_end_is_a_finding_until_it_is_history() {
        let settings = RuleSettings::default();
        let gone = ended(volume(tags(&[("Name", "data")])), 1000, 5);
        let finding = run(rule, &gone, &[], &settings, 2000).unwrap();
        assert!(finding.message.starts_with("Volume vol-1 (data) is gone since a moment between"), "{finding:?}");
        assert_eq!(run(rule, &gone, &[], &settings, 1000 + 7 * 86400), None);
        assert_eq!(run(rule, &volume(tags(&[])), &[], &settings, 2000), None);
    }

    #[test]
    fn nobody_learns_of_what_ended_before_they_covered_the_scope() {
        let gone = ended(volume(tags(&[])), 1000, 0);
        assert_eq!(run(rule, &gone, &[], &RuleSettings::default(), 2000), None);
    }
}
