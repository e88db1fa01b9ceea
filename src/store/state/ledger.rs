//! The ledger: runs of sweeps per scope, and the status of a scope at a moment.

use std::time::Duration;

use crate::inventory::{Outcome, Reason, ScopeStatus, Sweep, Timestamp, Watermark};
use crate::store::file::tables::{OpenSweepRow, Run};

/// A run ends when a gap exceeds this many cadences: the time in between was not watched as configured.
const GAP_CADENCES: u64 = 2;
/// A scope is `Stale` when its last complete sweep lies more than this many cadences back.
const STALE_CADENCES: u64 = 3;

/// Extends `run` by the sweep, or starts a new one. Returns the run that the sweep is now part of.
pub(in crate::store) fn record(run: Option<&Run>, sweep: &Sweep) -> Run {
    record_sweep(run, (sweep.started, sweep.ended), sweep.cadence.map(|c| c.as_secs()), sweep.outcome)
}

fn record_sweep(
    run: Option<&Run>,
    (started, ended): (Timestamp, Timestamp),
    cadence_seconds: Option<u64>,
    outcome: Outcome,
) -> Run {
    if let Some(run) = run {
        let gap_millis = u64::try_from(ended.since(run.last_ended).as_millis()).unwrap_or(u64::MAX);
        let too_long = cadence_seconds.is_some_and(|c| gap_millis > GAP_CADENCES * c * 1000);
        if run.outcome == outcome && run.cadence_seconds == cadence_seconds && !too_long {
            return Run {
                last_started: started,
                last_ended: ended,
                sweeps: run.sweeps + 1,
                longest_gap_millis: run.longest_gap_millis.max(gap_millis),
                ..run.clone()
            };
        }
    }
    Run {
        first_started: started,
        first_ended: ended,
        last_started: started,
        last_ended: ended,
        sweeps: 1,
        longest_gap_millis: 0,
        cadence_seconds,
        outcome,
    }
}

/// The run of a sweep that was cut off.
pub(in crate::store) fn interrupted(run: Option<&Run>, open_sweep: OpenSweepRow) -> Run {
    let OpenSweepRow { started, ended, cadence_seconds } = open_sweep;
    record_sweep(run, (started, ended), cadence_seconds, Outcome::Partial(Reason::Interrupted))
}

/// The status of one scope at `at`, from its runs with `first_ended <= at`, newest first.
pub(in crate::store) fn status_at(
    newest_first: impl Iterator<Item = Run>,
    open: bool,
    at: Timestamp,
) -> (ScopeStatus, Option<Watermark>) {
    let mut cadence_in_force = None;
    let mut watermark = None;
    for (i, run) in newest_first.enumerate() {
        if i == 0 {
            cadence_in_force = run.cadence_seconds;
        }
        if run.outcome == Outcome::Complete {
            watermark = Some(if at >= run.last_ended {
                Watermark { from: run.last_ended, to: run.last_ended }
            } else {
                let from = at.minus(Duration::from_millis(run.longest_gap_millis)).max(run.first_ended);
                Watermark { from, to: at }
            });
            break;
        }
    }
    let status = match (watermark, cadence_in_force) {
        _ if !open => ScopeStatus::NotWatched,
        (None, _) => ScopeStatus::NeverScanned,
        (Some(w), Some(cadence)) if at.since(w.to).as_secs() > STALE_CADENCES * cadence => ScopeStatus::Stale,
        (Some(_), _) => ScopeStatus::Current,
    };
    (status, watermark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::sweep;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn swept(started: i64, outcome: Outcome) -> Sweep {
        let mut sweep = sweep(at(started));
        sweep.ended = at(started + 10);
        sweep.cadence = Some(Duration::from_mins(5));
        sweep.outcome = outcome;
        sweep
    }

    #[test]
    fn unchanged_sweeps_are_one_run_until_a_gap_or_another_outcome() {
        let one = record(None, &swept(0, Outcome::Complete));
        let two = record(Some(&one), &swept(300, Outcome::Complete));
        assert_eq!((two.sweeps, two.longest_gap_millis, two.first_ended), (2, 300_000, at(10)));
        let failed = record(Some(&two), &swept(600, Outcome::Failed(Reason::Denied)));
        assert_eq!(failed.sweeps, 1);
        let late = record(Some(&two), &swept(901, Outcome::Complete));
        assert_eq!(late.sweeps, 1, "601 s is more than twice the cadence");
    }

    #[test]
    fn inside_a_run_the_watermark_is_a_bracket_and_old_ones_go_stale() {
        let one = record(None, &swept(0, Outcome::Complete));
        let run = record(Some(&one), &swept(300, Outcome::Complete));
        let status = |t| status_at([run.clone()].into_iter(), true, at(t));
        assert_eq!(status(100), (ScopeStatus::Current, Some(Watermark { from: at(10), to: at(100) })));
        assert_eq!(status(310).1, Some(Watermark { from: at(310), to: at(310) }));
        assert_eq!(status(310 + 900).0, ScopeStatus::Current);
        assert_eq!(status(310 + 901).0, ScopeStatus::Stale);
        assert_eq!(status_at(std::iter::empty(), true, at(0)).0, ScopeStatus::NeverScanned);
        assert_eq!(status_at([run].into_iter(), false, at(310)).0, ScopeStatus::NotWatched);
    }

    #[test]
    fn a_failed_run_in_front_does_not_hide_the_last_complete_sweep() {
        let complete = record(None, &swept(0, Outcome::Complete));
        let failed = record(Some(&complete), &swept(300, Outcome::Failed(Reason::Denied)));
        let (status, watermark) = status_at([failed, complete].into_iter(), true, at(400));
        assert_eq!(status, ScopeStatus::Current);
        assert_eq!(watermark, Some(Watermark { from: at(10), to: at(10) }));
    }
}
