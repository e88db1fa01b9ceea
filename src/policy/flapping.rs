//! `Flapping`: the same cause begins repeatedly. One finding replaces endless pairs of opened and resolved.

use std::time::Duration;

use super::Finding;
use crate::inventory::{FindingKind, Severity, Timestamp};

/// The number of beginnings within [`FLAPPING_WINDOW`] that count as flapping. It has settled once the last
/// beginning is older than the window.
const FLAPPING_MIN_BEGINNINGS: usize = 3;
pub(super) const FLAPPING_WINDOW: Duration = Duration::from_hours(24);
/// The maximum number of beginnings that are remembered.
pub(super) const BEGINNINGS_KEPT_MAX: usize = 8;

/// The first of the beginnings that count as flapping at `now`; `begun` is sorted by time. A cause that has
/// settled must begin as often again.
pub(super) fn since(begun: &[Timestamp], now: Timestamp) -> Option<Timestamp> {
    let is_quiet = |pair: &[Timestamp]| pair[1].since(pair[0]) >= FLAPPING_WINDOW;
    let last = begun.last()?;
    if now.since(*last) >= FLAPPING_WINDOW {
        return None;
    }
    let unsettled = begun.windows(2).rposition(is_quiet).map_or(0, |quiet| quiet + 1);
    let is_flap = |some: &&[Timestamp]| some[FLAPPING_MIN_BEGINNINGS - 1].since(some[0]) < FLAPPING_WINDOW;
    begun[unsettled..].windows(FLAPPING_MIN_BEGINNINGS).find(is_flap).map(|some| some[0])
}

/// The finding that replaces one whose cause begins repeatedly; `holds` is whether the cause holds now.
pub(super) fn finding(of: &Finding, begun: &[Timestamp], holds: bool, since: Timestamp) -> Finding {
    let times: Vec<String> = begun.iter().filter(|t| **t >= since).map(ToString::to_string).collect();
    Finding {
        kind: FindingKind::Flapping,
        severity: Severity::Medium,
        since,
        message: format!(
            "{} of {} comes and goes: it began {} times since {since}; now it {}",
            of.kind,
            of.resource.id,
            times.len(),
            if holds { "holds" } else { "does not hold" }
        ),
        advice: "Find what undoes the change: two tools that disagree, or a job that runs again and again"
            .to_owned(),
        evidence: vec![format!("{} began {}", of.kind, times.join(", ")), format!("last: {}", of.message)],
        monthly_cost: None,
        ..of.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_beginnings_in_a_day_flap_until_a_day_is_quiet() {
        let hours = |list: &[i64]| -> Vec<Timestamp> {
            list.iter().map(|h| Timestamp::from_millis(h * 3_600_000)).collect()
        };
        let at =
            |begun: &[i64], now: i64| since(&hours(begun), hours(&[now])[0]).map(|t| t.as_millis() / 3_600_000);
        assert_eq!(at(&[1, 2], 3), None);
        assert_eq!(at(&[1, 2, 3], 3), Some(1));
        assert_eq!(at(&[1, 2, 3], 26), Some(1));
        assert_eq!(at(&[1, 2, 3], 27), None);
        assert_eq!(at(&[1, 20, 40, 60], 61), None, "never three in a day");
        assert_eq!(at(&[1, 40, 41, 42], 43), Some(40));
        assert_eq!(at(&[1, 2, 3, 40], 41), None, "it had settled");
    }
}
