//! Which scopes are due, and for whom. Pure: the caller passes the time, and who has proven that they may see what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Subscription;
use crate::cloud::TypeInfo;
use crate::inventory::{Outcome, Reason, Region, Scope, Subscriber, Timestamp};

/// The interval of a scope that stays empty doubles with each sweep, up to twelve times the cadence and at most
/// this.
const EMPTY_CADENCE_MAX: Duration = Duration::from_hours(1);
const EMPTY_CADENCE_FACTOR_MAX: u32 = 12;
/// The interval between attempts on scopes that a policy of the organization denies.
const DENIED_CADENCE: Duration = Duration::from_hours(24);

/// What an active CloudScan selects in the account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selected<'a> {
    pub subscription: &'a Subscription,
    pub scopes: &'a BTreeMap<Scope, TypeInfo>,
}

/// Whether a CloudScan has proven, with its own credentials, that it may see a scope.
pub(super) type IsProven<'a> = &'a dyn Fn(&Subscriber, &Scope) -> bool;

/// A scope to sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub scope: Scope,
    pub cadence: Duration,
    /// Use only the credentials of this CloudScan, and report to it alone unless they list the scope.
    pub only: Option<Subscriber>,
}

/// The CloudScans whose settings apply to a scope: those that have proven that they may see it, or all that select it
/// if none has yet.
pub(super) fn authoritative<'a>(
    selected: &[Selected<'a>],
    scope: &Scope,
    is_proven: IsProven<'_>,
) -> Vec<Selected<'a>> {
    let naming = selected.iter().copied().filter(|one| one.scopes.contains_key(scope));
    if selected.len() == 1 {
        return naming.collect();
    }
    let (proven, unproven): (Vec<_>, Vec<_>) =
        naming.partition(|one| is_proven(&one.subscription.subscriber, scope));
    if proven.is_empty() { unproven } else { proven }
}

/// When each scope of an account is swept.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    next_due: BTreeMap<Scope, Timestamp>,
    /// The number of consecutive complete sweeps that found a scope empty.
    empty: BTreeMap<Scope, u32>,
    /// Scopes that a policy of the organization denies: usual for a dozen regions, and changed by hand.
    denied_by_policy: BTreeSet<Scope>,
    handled_requests: BTreeMap<Subscriber, Option<String>>,
    /// CloudScans that have not proven that they may see a scope, and were not tried when another one's
    /// credentials listed it: each is tried in a round that follows at once.
    waiting: BTreeMap<Scope, BTreeSet<Subscriber>>,
}

impl Schedule {
    /// When the next scope is due; `None` if there is nothing to scan.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.waiting.is_empty() { self.next_due.values().min().copied() } else { Some(now) }
    }

    /// The CloudScans that there are. What is known of others is dropped.
    pub fn retain_subscribers(&mut self, exists: impl Fn(&Subscriber) -> bool) {
        self.handled_requests.retain(|subscriber, _| exists(subscriber));
    }

    /// `active` are the scopes that CloudScans select which are not suspended: a suspended scope is never due, would
    /// stay overdue, and start a new round whenever one ends. `desired` are those of all CloudScans.
    pub fn retain_scopes(&mut self, active: &BTreeSet<&Scope>, desired: &BTreeSet<&Scope>) {
        self.next_due.retain(|scope, _| active.contains(scope));
        self.empty.retain(|scope, _| active.contains(scope));
        self.denied_by_policy.retain(|scope| desired.contains(scope));
    }

    /// The scopes to sweep now, or every scope with `all`.
    pub fn due(
        &mut self,
        now: Timestamp,
        selected: &[Selected<'_>],
        is_proven: IsProven<'_>,
        all: bool,
    ) -> Vec<Due> {
        let mut due: BTreeMap<Scope, Due> = BTreeMap::new();
        self.retain_waiting(selected);
        for Selected { subscription, scopes } in selected {
            let subscriber = &subscription.subscriber;
            let requested = self.handled_requests.get(subscriber) != Some(&subscription.requested_at);
            for scope in scopes.keys() {
                let authoritative = authoritative(selected, scope, is_proven);
                let shortest = self.cadence(&authoritative, scope);
                // A shorter interval takes effect at once, not after the last long one.
                let next = self.next_due.entry(scope.clone()).or_insert(now);
                *next = (*next).min(now.plus(shortest));
                let is_deciding = authoritative.iter().any(|one| one.subscription.subscriber == *subscriber);
                if all || *next <= now || (requested && is_deciding) {
                    due.insert(scope.clone(), Due { scope: scope.clone(), cadence: shortest, only: None });
                } else if requested {
                    self.wait(scope, subscriber);
                }
            }
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        // In a due scope they are tried first anyway.
        waiting.retain(|scope, _| !due.contains_key(scope));
        for (scope, subscribers) in &mut waiting {
            // One per round, with its own credentials only: it uses no other CloudScan's credentials.
            let Some(subscriber) = subscribers.pop_first() else { continue };
            let cadence = self.cadence(&authoritative(selected, scope, is_proven), scope);
            due.insert(scope.clone(), Due { scope: scope.clone(), cadence, only: Some(subscriber) });
        }
        waiting.retain(|_, subscribers| !subscribers.is_empty());
        self.waiting = waiting;
        // A CloudScan that can't get in yet is scanned at once when it can, not after the interval.
        for Selected { subscription, .. } in selected {
            self.handled_requests.insert(subscription.subscriber.clone(), subscription.requested_at.clone());
        }
        due.into_values().collect()
    }

    /// The CloudScan is tried alone in the next round.
    pub fn wait(&mut self, scope: &Scope, subscriber: &Subscriber) {
        self.waiting.entry(scope.clone()).or_default().insert(subscriber.clone());
    }

    /// Whether a scope still waits for the CloudScan's own credentials.
    pub fn is_waiting(&self, subscriber: &Subscriber) -> bool {
        self.waiting.values().any(|subscribers| subscribers.contains(subscriber))
    }

    /// A CloudScan that can't be tried now is tried when the scope is due again.
    fn retain_waiting(&mut self, selected: &[Selected<'_>]) {
        self.waiting.retain(|scope, subscribers| {
            subscribers.retain(|subscriber| {
                let is_it = |one: &&Selected<'_>| one.subscription.subscriber == *subscriber;
                selected.iter().find(is_it).is_some_and(|one| one.scopes.contains_key(scope))
            });
            !subscribers.is_empty()
        });
    }

    /// The end of a sweep. `is_empty` is whether a complete one showed that there is nothing in the scope.
    pub fn swept(
        &mut self,
        scope: &Scope,
        started: Timestamp,
        outcome: Outcome,
        is_empty: bool,
        cadence: Option<Duration>,
    ) {
        if outcome.is_complete() {
            if is_empty {
                *self.empty.entry(scope.clone()).or_default() += 1;
            } else {
                self.empty.remove(scope);
            }
        }
        let is_denied = outcome == Outcome::Failed(Reason::DeniedByPolicy);
        if is_denied {
            self.denied_by_policy.insert(scope.clone());
        } else {
            self.denied_by_policy.remove(scope);
        }
        if let Some(cadence) = cadence {
            let cadence = if is_denied { cadence.max(DENIED_CADENCE) } else { cadence };
            self.next_due.insert(scope.clone(), started.plus(jittered(cadence, scope)));
        }
    }

    /// If something appears, more may appear: empty scopes in its region return to their usual cadence.
    pub fn appeared(&mut self, region: &Region, now: Timestamp) {
        let asleep: Vec<Scope> = self.empty.keys().filter(|scope| scope.region == *region).cloned().collect();
        for scope in asleep {
            if self.empty.remove(&scope).is_some_and(|empty_sweeps| empty_sweeps > 1) {
                self.next_due.insert(scope, now);
            }
        }
    }

    /// If CloudScans share a scope, the shortest interval of those that may see it applies.
    fn cadence(&self, authoritative: &[Selected<'_>], scope: &Scope) -> Duration {
        let factor = |one: &Selected<'_>| Some(one.scopes.get(scope)?.cadence.factor());
        let shortest = authoritative.iter().filter_map(|one| Some(one.subscription.interval * factor(one)?)).min();
        self.backed_off(scope, shortest.expect("a CloudScan selects the scope"))
    }

    /// The cadence, doubled with each further empty sweep; daily if a policy denies it.
    fn backed_off(&self, scope: &Scope, cadence: Duration) -> Duration {
        if self.denied_by_policy.contains(scope) {
            return cadence.max(DENIED_CADENCE);
        }
        let empty_sweeps = self.empty.get(scope).copied().unwrap_or_default();
        // The first sweep may have run before the resources that the scope is for were created.
        let factor = EMPTY_CADENCE_FACTOR_MAX.min(1 << empty_sweeps.saturating_sub(1).min(16));
        cadence.saturating_mul(factor).min(EMPTY_CADENCE_MAX).max(cadence)
    }
}

/// Adds up to a tenth, the same for a scope each time: a thousand scopes must not start at once, and the gaps in
/// the ledger stay even.
fn jittered(cadence: Duration, scope: &Scope) -> Duration {
    let hash = blake3::hash(scope.to_string().as_bytes());
    cadence + cadence.mul_f64(f64::from(hash.as_bytes()[0]) / 2560.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CadenceClass;
    use crate::inventory::{
        Access, AccountId, AccountTarget, Confirmation, Credentials, IdReuse, LossLimits, ResourceType,
    };

    const MINUTE: Duration = Duration::from_mins(1);

    fn scope(region: &str) -> Scope {
        Scope {
            provider: "p".into(),
            partition: "p".into(),
            endpoint: "".into(),
            account: AccountId::new("1"),
            region: Region::new(region),
            resource_type: ResourceType::new("A::B::C"),
        }
    }

    fn info(cadence: CadenceClass) -> TypeInfo {
        TypeInfo {
            name: "A::B::C",
            global: false,
            ids: IdReuse::Unique,
            confirmation: Confirmation::ReadById,
            shape: 1,
            cadence,
            actions: &[],
            is_emulated: true,
            tags: "",
            volatile: &[],
            secret: &[],
            verify_tag_loss: None,
        }
    }

    fn subscription(name: &str, interval: Duration) -> Subscription {
        Subscription {
            subscriber: Subscriber::new(name),
            tenant: "".into(),
            target: AccountTarget {
                provider: "p".into(),
                account: None,
                endpoint: "".into(),
                include_regions: Vec::new(),
                exclude_regions: Vec::new(),
                access: Access::new(Credentials::Ambient),
            },
            types: Vec::new(),
            interval,
            suspended: false,
            loss: LossLimits::DEFAULT,
            confirmations: 1,
            released: Vec::new(),
            requested_at: None,
            generation: 1,
        }
    }

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis(0).plus(MINUTE * u32::try_from(minutes).unwrap())
    }

    /// Sweeps what is due at each minute; returns the minutes at which the scope was swept.
    fn swept_at(
        schedule: &mut Schedule,
        minutes: std::ops::Range<u64>,
        outcome: Outcome,
        is_empty: bool,
    ) -> Vec<u64> {
        let (one, scopes) =
            (subscription("a/one", 5 * MINUTE), BTreeMap::from([(scope("r"), info(CadenceClass::Fast))]));
        let mut swept = Vec::new();
        for minute in minutes {
            let selected = [Selected { subscription: &one, scopes: &scopes }];
            for due in schedule.due(at(minute), &selected, &|_, _| true, false) {
                swept.push(minute);
                schedule.swept(&due.scope, at(minute), outcome, is_empty, Some(due.cadence));
            }
        }
        swept
    }

    #[test]
    fn a_scope_is_due_at_its_cadence_and_backs_off_while_it_is_empty_or_denied() {
        let gaps = |swept: &[u64]| swept.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        // Up to a tenth more, the same each time.
        let usual = swept_at(&mut Schedule::default(), 0..60, Outcome::Complete, false);
        assert!(gaps(&usual).iter().all(|gap| (5..=6).contains(gap)) && usual.len() >= 10, "{usual:?}");
        let failing = swept_at(&mut Schedule::default(), 0..60, Outcome::Failed(Reason::Throttled), false);
        assert_eq!(failing, usual, "a failure is tried again at the cadence");
        let empty = swept_at(&mut Schedule::default(), 0..600, Outcome::Complete, true);
        let empty = gaps(&empty);
        assert!(empty[0] <= 6 && empty[1] <= 6 && (10..=11).contains(&empty[2]), "{empty:?}");
        assert!(empty.iter().all(|gap| *gap <= 66) && *empty.last().unwrap() >= 60, "hourly at most: {empty:?}");
        let denied = swept_at(&mut Schedule::default(), 0..6000, Outcome::Failed(Reason::DeniedByPolicy), false);
        assert!(gaps(&denied).iter().all(|gap| *gap >= 24 * 60), "daily: {denied:?}");
    }

    #[test]
    fn what_appears_in_a_region_wakes_its_empty_scopes() {
        let mut schedule = Schedule::default();
        let swept = swept_at(&mut schedule, 0..300, Outcome::Complete, true);
        assert!(schedule.next(at(300)).unwrap() > at(300), "asleep after {swept:?}");
        schedule.appeared(&Region::new("elsewhere"), at(300));
        assert!(schedule.next(at(300)).unwrap() > at(300), "another region");
        schedule.appeared(&Region::new("r"), at(300));
        assert_eq!(schedule.next(at(300)), Some(at(300)));
    }

    #[test]
    fn those_who_may_see_a_scope_decide_and_a_stranger_is_tried_alone() {
        let scopes = BTreeMap::from([(scope("r"), info(CadenceClass::Fast))]);
        let (owner, mut stranger) = (subscription("a/owner", 60 * MINUTE), subscription("b/stranger", MINUTE));
        let proven = |subscriber: &Subscriber, _: &Scope| subscriber.as_str() == "a/owner";
        let mut schedule = Schedule::default();
        let mut due = |minute: u64, stranger: &Subscription, both: bool| {
            let both = both.then_some(Selected { subscription: stranger, scopes: &scopes });
            let selected: Vec<_> =
                [Selected { subscription: &owner, scopes: &scopes }].into_iter().chain(both).collect();
            let due = schedule.due(at(minute), &selected, &proven, false);
            for due in due.iter().filter(|due| due.only.is_none()) {
                schedule.swept(&due.scope, at(minute), Outcome::Complete, false, Some(due.cadence));
            }
            due.into_iter().map(|due| (due.cadence, due.only.map(|only| only.to_string()))).collect::<Vec<_>>()
        };
        assert_eq!(due(0, &stranger, false), [(60 * MINUTE, None)]);
        // It has requested nothing that was handled yet: it is tried alone, at the cadence of who decides.
        assert_eq!(due(1, &stranger, true), [(60 * MINUTE, Some("b/stranger".to_owned()))]);
        assert_eq!(due(10, &stranger, true), [], "its interval of a minute does not count");
        stranger.requested_at = Some("now".to_owned());
        assert_eq!(due(11, &stranger, true), [(60 * MINUTE, Some("b/stranger".to_owned()))]);
        assert_eq!(due(12, &stranger, true), []);
        assert_eq!(due(70, &stranger, true), [(60 * MINUTE, None)]);
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once_and_all_means_all() {
        let scopes =
            BTreeMap::from([(scope("r"), info(CadenceClass::Slow)), (scope("s"), info(CadenceClass::Fast))]);
        let mut one = subscription("a/one", 10 * MINUTE);
        let mut schedule = Schedule::default();
        let mut due = |minute: u64, one: &Subscription, all: bool| {
            let due =
                schedule.due(at(minute), &[Selected { subscription: one, scopes: &scopes }], &|_, _| true, all);
            for due in &due {
                schedule.swept(&due.scope, at(minute), Outcome::Complete, false, Some(due.cadence));
            }
            due.iter().map(|due| due.scope.region.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(due(0, &one, false), ["r", "s"]);
        assert_eq!(due(11, &one, false), ["s"], "the other changes by the day");
        assert_eq!(due(12, &one, true), ["r", "s"]);
        one.interval = MINUTE;
        assert_eq!(due(13, &one, false), Vec::<String>::new());
        assert_eq!(due(14, &one, false), ["s"], "not after the last long interval");
    }
}
