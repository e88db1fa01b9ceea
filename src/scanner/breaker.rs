//! The mass-loss breaker: whether so much is missing at once that the sweeps are to be doubted rather than the cloud.
//! Pure.

use std::collections::VecDeque;

use crate::inventory::{LossLimits, Timestamp};

/// What a complete sweep of a scope missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScopeLosses {
    /// Resources that no earlier sweep missed.
    pub new: usize,
    pub missed: usize,
    /// Some of it was held before.
    pub is_held: bool,
    pub live_before: usize,
    pub limits: LossLimits,
    /// Its end can't be confirmed by a read by id: a second sweep is no proof.
    pub has_no_read_by_id: bool,
    /// A user has confirmed that what is held is gone.
    pub is_released: bool,
}

/// The rest of the account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AccountLosses {
    /// Missed before and not confirmed yet, in scopes that were not swept now: scopes are not due together, so that a
    /// loss across the account shows in one after the other.
    pub elsewhere: usize,
    /// Went missing in earlier rounds without being held, as far back as the longest cadence.
    pub gone: usize,
    pub live_before: usize,
}

/// What happens to the losses of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The missing resources may be read by id, and their ends confirmed.
    Proceed,
    /// Nothing is concluded from this sweep; the next one may agree with it.
    Hold,
    /// No sweep can confirm them: a user must release them.
    AwaitRelease,
}

/// Judges all scopes of a round together.
pub(super) fn judge(scopes: &[ScopeLosses], account: AccountLosses) -> Vec<Judgement> {
    let AccountLosses { elsewhere, gone, live_before } = account;
    let limits =
        scopes.iter().map(|scope| scope.limits).reduce(LossLimits::strictest).unwrap_or(LossLimits::DEFAULT);
    let new: usize = scopes.iter().map(|scope| scope.new).sum();
    let account_held = new > 0 && limits.exceeded(new + elsewhere + gone, live_before + gone);
    let missed = scopes.iter().map(|scope| scope.missed).sum::<usize>() + elsewhere;
    let account_lost = limits.exceeded(missed, live_before);
    let of_scope = |scope: &ScopeLosses| {
        let is_new = scope.new > 0 && (account_held || scope.limits.exceeded(scope.new, scope.live_before));
        let has_no_proof = scope.has_no_read_by_id && account_lost;
        let is_unproven = has_no_proof && scope.is_held && !scope.is_released;
        match (is_new || is_unproven, has_no_proof) {
            (false, _) => Judgement::Proceed,
            (true, false) => Judgement::Hold,
            (true, true) => Judgement::AwaitRelease,
        }
    };
    scopes.iter().map(of_scope).collect()
}

/// When how many resources were newly missed and not held, oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentLosses(VecDeque<(Timestamp, usize)>);

impl RecentLosses {
    /// Each loss counts as one resource.
    pub fn of(mut at: Vec<Timestamp>) -> Self {
        at.sort_unstable();
        Self(at.into_iter().map(|at| (at, 1)).collect())
    }

    pub fn add(&mut self, at: Timestamp, missed: usize) {
        self.0.push_back((at, missed));
    }

    /// How many there were since then. Older ones are dropped.
    pub fn since(&mut self, since: Timestamp) -> usize {
        while self.0.front().is_some_and(|(at, _)| *at < since) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, missed)| missed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Judgement::{AwaitRelease, Hold, Proceed};
    use super::*;

    /// More than 20 % and at least 10.
    const LIMITS: LossLimits = LossLimits { percent: 20, minimum: 10 };

    fn scope(new: usize, live_before: usize) -> ScopeLosses {
        ScopeLosses {
            new,
            missed: new,
            is_held: false,
            live_before,
            limits: LIMITS,
            has_no_read_by_id: false,
            is_released: false,
        }
    }

    #[test]
    fn too_much_at_once_is_held_in_a_scope_and_in_the_account() {
        let account = |live_before| AccountLosses { live_before, ..AccountLosses::default() };
        for (scopes, account, expected) in [
            (vec![], account(0), vec![]),
            (vec![scope(9, 10)], account(1000), vec![Proceed]),
            (vec![scope(10, 50)], account(1000), vec![Proceed]),
            (vec![scope(11, 50)], account(1000), vec![Hold]),
            // Another scope of the round is judged by itself.
            (vec![scope(11, 50), scope(1, 50)], account(1000), vec![Hold, Proceed]),
            // A few in each of many: held in all.
            (vec![scope(6, 50), scope(6, 50)], account(50), vec![Hold, Hold]),
            // Lost by and by: what is suspected elsewhere, and what went lately, count.
            (vec![scope(2, 50)], AccountLosses { elsewhere: 9, ..account(50) }, vec![Hold]),
            (vec![scope(2, 50)], AccountLosses { gone: 9, ..account(40) }, vec![Hold]),
            (vec![scope(2, 50)], AccountLosses { gone: 9, ..account(400) }, vec![Proceed]),
            // What was missed before and is missed again is no new loss.
            (vec![ScopeLosses { new: 0, is_held: true, ..scope(40, 50) }], account(50), vec![Proceed]),
        ] {
            assert_eq!(judge(&scopes, account), expected, "{scopes:?} in {account:?}");
        }
    }

    #[test]
    fn what_no_read_can_confirm_waits_for_a_user_while_the_account_has_lost_much() {
        let account = AccountLosses { live_before: 50, ..AccountLosses::default() };
        let held = ScopeLosses { new: 0, is_held: true, has_no_read_by_id: true, ..scope(40, 50) };
        for (scope, expected) in [
            (ScopeLosses { has_no_read_by_id: true, ..scope(40, 50) }, AwaitRelease),
            (held, AwaitRelease),
            (ScopeLosses { is_released: true, ..held }, Proceed),
            // A release is of what was held then: what is lost since waits for another one.
            (ScopeLosses { is_released: true, new: 20, ..held }, AwaitRelease),
            (ScopeLosses { is_held: false, ..held }, Proceed),
            // Little was lost in the account: sweeps that agree decide.
            (ScopeLosses { missed: 5, ..held }, Proceed),
        ] {
            assert_eq!(judge(&[scope], account), [expected], "{scope:?}");
        }
    }

    #[test]
    fn losses_count_as_far_back_as_the_caller_requests() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let mut losses = RecentLosses::of(vec![at(30), at(10), at(20)]);
        losses.add(at(40), 5);
        assert_eq!(losses.since(at(15)), 7);
        assert_eq!(losses.since(at(35)), 5);
        assert_eq!(losses.since(at(0)), 5, "what is past is forgotten");
    }
}
