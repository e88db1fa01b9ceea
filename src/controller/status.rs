//! Builds the whole status in one function, from the results of the earlier steps. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::build::{revision, shortened};
use super::notify::Delivery;
use super::validate::Refusal;
use crate::api::{
    AccountStatus, CloudScan, CloudScanStatus, FindingCounts, GroupCount, KindCount, LastScan,
    MAX_ACCOUNTS_IN_STATUS, RECONCILE_REQUESTED_AT, RELEASE_HELD, condition, reason,
};
use crate::cloud::CloudError;
use crate::inventory::{
    AccountId, CLOCK_TOLERANCE, FindingKind, Part, Reason, ResourceType, Revision, Timestamp, Unread,
};
use crate::policy::{Finding, MonthlyCost};
use crate::scanner::AccountReport;

/// Maximum length of a condition's message, which people read: longer ones are cut.
const MESSAGE_MAX_CHARS: usize = 1024;
/// Problems that one message names; the rest is counted.
const PROBLEMS_SHOWN_MAX: usize = 5;

/// The results of one reconcile.
pub struct StatusInputs<'a> {
    pub scan: &'a CloudScan,
    /// The spec is invalid.
    pub refusal: Option<&'a Refusal>,
    /// The account of the credentials can't be determined.
    pub unconnected: Option<&'a CloudError>,
    /// The accounts of the organization can't be listed: the last complete list stays in use.
    pub unlisted: Option<&'a CloudError>,
    /// Number of further accounts of the organization that are suspended or closed.
    pub inactive: usize,
    /// Number of desired accounts.
    pub accounts: usize,
    /// The interval in force: the administrator may have set a minimum.
    pub interval: Duration,
    /// When the requested scan starts, if it is deferred because of the minimum interval.
    pub deferred_until: Option<Timestamp>,
    pub min_interval: Duration,
    pub reports: &'a [AccountReport],
    pub counts: Option<Counts>,
    /// The state of webhook delivery, if there is a webhook.
    pub delivery: Option<Delivery>,
    /// How far the operator's clock lags behind the newest time in the store.
    pub clock_lag: Duration,
    pub now: Timestamp,
}

/// What the store holds for the CloudScan.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub revision: Revision,
    pub by_account: BTreeMap<AccountId, usize>,
    pub suspects: usize,
    pub open: usize,
    pub suppressed: usize,
    pub acknowledged: usize,
    pub exempted: usize,
    /// The open findings, including those over the cap.
    pub by_kind: BTreeMap<FindingKind, Sum>,
    /// The same, by account and by owner.
    pub open_by_account: BTreeMap<String, Sum>,
    pub open_by_owner: BTreeMap<String, Sum>,
    pub currency: String,
    /// Number of resources of a type for which a rule could not decide.
    pub undecided: BTreeMap<(FindingKind, ResourceType), usize>,
}

/// Number of findings, and their cost as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    open: usize,
    cost: Option<MonthlyCost>,
}

impl Sum {
    pub fn add(&mut self, finding: &Finding) {
        self.plus(Self { open: 1, cost: finding.monthly_cost });
    }

    fn plus(&mut self, other: Self) {
        self.open += other.open;
        self.cost = match (self.cost, other.cost) {
            (Some(sum), Some(more)) => Some(sum.plus(more)),
            (sum, more) => sum.or(more),
        };
    }

    fn part(&self, name: &str) -> GroupCount {
        let name = shortened(name, PART_NAME_MAX_CHARS);
        GroupCount { name, open: count(self.open), monthly_cost: self.cost.map(|cost| cost.to_string()) }
    }
}

/// Maximum number of parts that a status names: a status must not grow with the cloud.
const PARTS_MAX: usize = 20;
const PART_NAME_MAX_CHARS: usize = 256;
/// Stands for the rest of them.
const OTHERS: &str = "(others)";

/// The most expensive first, then those with the most findings; the last stands for the rest.
fn parts(sums: &BTreeMap<String, Sum>) -> Vec<GroupCount> {
    let mut sums: Vec<(&String, Sum)> = sums.iter().map(|(name, sum)| (name, *sum)).collect();
    let amount = |sum: &Sum| sum.cost.map_or(0.0, MonthlyCost::amount);
    sums.sort_by(|(_, a), (_, b)| amount(b).total_cmp(&amount(a)).then(b.open.cmp(&a.open)));
    if sums.len() <= PARTS_MAX {
        return sums.iter().map(|(name, sum)| sum.part(name)).collect();
    }
    let mut others = Sum::default();
    sums[PARTS_MAX - 1..].iter().for_each(|(_, sum)| others.plus(*sum));
    let named = sums[..PARTS_MAX - 1].iter().map(|(name, sum)| sum.part(name));
    named.chain([others.part(OTHERS)]).collect()
}

impl Counts {
    fn update(&self) -> FindingCounts {
        let sum = self.by_kind.values().filter_map(|sum| sum.cost).reduce(MonthlyCost::plus);
        let kind = |(kind, sum): (&FindingKind, &Sum)| KindCount {
            kind: kind.to_string(),
            open: count(sum.open),
            monthly_cost: sum.cost.map(|cost| cost.to_string()),
        };
        FindingCounts {
            open: count(self.open),
            suppressed: count(self.suppressed),
            acknowledged: count(self.acknowledged),
            exempted: count(self.exempted),
            kinds: self.by_kind.iter().map(kind).collect(),
            accounts: parts(&self.open_by_account),
            owners: parts(&self.open_by_owner),
            monthly_cost: sum.map(|sum| sum.to_string()),
            currency: sum.map(|_| self.currency.clone()),
        }
    }
}

pub fn summarize(found: &StatusInputs) -> CloudScanStatus {
    let before = found.scan.status.clone().unwrap_or_default();
    let generation = found.scan.metadata.generation;
    let mut status = CloudScanStatus { observed_generation: generation, ..before.clone() };
    if let Some(counts) = &found.counts {
        status.revision = Some(revision(counts.revision.0));
        status.resources = Some(count(counts.by_account.values().sum()));
        status.awaiting_confirmation = Some(count(counts.suspects));
        status.findings = Some(counts.update());
    }
    if !found.reports.is_empty() {
        let reports = found.reports;
        let start = reports.iter().filter_map(|r| r.last_started).max();
        let end = reports.iter().filter_map(|r| r.last_ended).max();
        if let (Some(start_time), Some(end_time)) = (start, end) {
            status.last_scan = Some(LastScan { start_time, end_time });
        }
        status.next_scan_time = reports.iter().filter_map(|r| r.next).min();
        status.api_calls = Some(i64::try_from(reports.iter().map(|r| r.calls).sum::<u64>()).unwrap_or(i64::MAX));
        status.api_calls_per_month = calls_per_month(found);
        if reports.len() == found.accounts && taken_up(found) {
            let handled = |r: &AccountReport| r.handled_request.clone();
            status.last_handled_reconcile_at =
                reports.iter().filter_map(handled).min().or(status.last_handled_reconcile_at);
        }
        status.accounts = accounts(found);
        let unread = reports.iter().flat_map(|r| r.scopes.values()).flat_map(|sweep| &sweep.unread);
        let tags = unread.filter(|(unread, _)| unread.part == Part::Tags).map(|(_, count)| count);
        status.tags_unknown = Some(count(tags.sum()));
    }
    let conditions = [
        ready(found),
        reconciling(found),
        stalled(found),
        first_scan_complete(found, &before),
        credentials_valid(found),
        inventory_complete(found),
        readable(found, condition::ATTRIBUTES_READABLE, Part::Attributes),
        readable(found, condition::TAGS_READABLE, Part::Tags),
        clock_skew(found),
    ];
    let conditions = conditions.into_iter().chain(findings_decided(found)).chain(webhook_delivered(found));
    status.conditions = conditions.map(|update| update.into_condition(&before, generation, found.now)).collect();
    // Revisions come from all CloudScans: a status that differs only in its revision would be a needless patch.
    let of_the_older = CloudScanStatus { revision: before.revision, ..status.clone() };
    if of_the_older == before { before } else { status }
}

/// The calls so far, extrapolated to thirty days, once they span an hour.
fn calls_per_month(found: &StatusInputs) -> Option<i64> {
    const MONTH: Duration = Duration::from_hours(30 * 24);
    let rate = |report: &AccountReport| {
        let span = found.now.since(report.counted_since?);
        #[allow(clippy::cast_precision_loss)] // It is an estimate.
        (span >= Duration::from_hours(1)).then(|| report.calls as f64 * (MONTH.as_secs_f64() / span.as_secs_f64()))
    };
    let rates: Vec<f64> = found.reports.iter().filter_map(rate).collect();
    // The estimate is precise to two digits, and a status that changes for less would be a needless patch.
    let sum: f64 = rates.iter().sum();
    let digits = 10_f64.powf(sum.max(1.0).log10().floor() - 1.0).max(1.0);
    #[allow(clippy::cast_possible_truncation)] // It saturates.
    (!rates.is_empty()).then(|| ((sum / digits).round() * digits) as i64)
}

/// The conditions whose statement changed: each is one event. A condition that stays the same, and a first "not yet",
/// is none.
pub fn changed_conditions<'a>(before: Option<&CloudScanStatus>, after: &'a CloudScanStatus) -> Vec<&'a Condition> {
    const WITH_EVENT: [&str; 7] = [
        condition::STALLED,
        condition::CREDENTIALS_VALID,
        condition::INVENTORY_COMPLETE,
        condition::ATTRIBUTES_READABLE,
        condition::TAGS_READABLE,
        condition::CLOCK_SKEW,
        condition::WEBHOOK_DELIVERED,
    ];
    const BAD_WHEN_TRUE: [&str; 2] = [condition::STALLED, condition::CLOCK_SKEW];
    let was = |type_: &str| before.and_then(|s| s.conditions.iter().find(|c| c.type_ == type_));
    let good = |c: &Condition| {
        (c.status == condition::FALSE) == BAD_WHEN_TRUE.contains(&c.type_.as_str())
            || c.status == condition::UNKNOWN
    };
    after
        .conditions
        .iter()
        .filter(|c| WITH_EVENT.contains(&c.type_.as_str()))
        .filter(|c| match was(&c.type_) {
            None => !good(c),
            Some(was) => (good(was), &was.reason) != (good(c), &c.reason) && !(good(was) && good(c)),
        })
        .collect()
}

struct ConditionUpdate {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

fn update(type_: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> ConditionUpdate {
    debug_assert!(condition::OF_CLOUDSCAN.contains(&type_), "{type_} is declared");
    ConditionUpdate { type_, status, reason: reason.to_owned(), message: message.into() }
}

impl ConditionUpdate {
    fn into_condition(self, before: &CloudScanStatus, generation: Option<i64>, now: Timestamp) -> Condition {
        let was = before.conditions.iter().find(|c| c.type_ == self.type_ && c.status == self.status);
        Condition {
            type_: self.type_.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason,
            message: shortened(&self.message, MESSAGE_MAX_CHARS),
            observed_generation: generation,
            last_transition_time: was.map_or_else(|| Time(now.to_jiff()), |c| c.last_transition_time.clone()),
        }
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Whether every account had a round with this generation of the spec.
fn taken_up(found: &StatusInputs) -> bool {
    let generation = found.scan.metadata.generation.unwrap_or_default();
    found.reports.len() >= found.accounts && found.reports.iter().all(|r| r.generation >= generation)
}

fn working(found: &StatusInputs) -> usize {
    found.reports.iter().filter(|r| matches!(r.credentials, Some(Ok(_)))).count()
}

/// Each account whose credentials don't work, with the reason.
fn accounts_without_access<'a>(found: &StatusInputs<'a>) -> Vec<(String, &'a CloudError)> {
    let by_report = found.reports.iter().filter_map(|r| match (&r.account, &r.credentials) {
        (Some(account), Some(Err(error))) => Some((format!("account {account}: {error}"), error)),
        _ => None,
    });
    found.unconnected.map(|error| (error.to_string(), error)).into_iter().chain(by_report).collect()
}

/// A permanent obstacle: neither time nor a retry resolves it.
fn needs_user_action(error: &CloudError) -> bool {
    matches!(
        error.reason,
        Reason::InvalidCredentials
            | Reason::WrongAccount
            | Reason::Denied
            | Reason::DeniedByPolicy
            | Reason::RegionDisabled
    )
}

/// The accounts whose regions can't be determined, with the reason.
fn accounts_without_regions<'a>(found: &StatusInputs<'a>) -> Vec<(String, &'a CloudError)> {
    let with_error = |r: &'a AccountReport| Some((r.account.as_ref()?, r.regions_error.as_ref()?));
    found.reports.iter().filter_map(with_error).map(|(a, e)| (format!("account {a}: {e}"), e)).collect()
}

fn stalled_reason(found: &StatusInputs<'_>) -> Option<(&'static str, String)> {
    if let Some(refusal) = found.refusal {
        return Some((refusal.reason, refusal.message.clone()));
    }
    let mut stuck = accounts_without_access(found);
    stuck.extend(accounts_without_regions(found));
    let every_account = stuck.len() >= found.accounts && found.accounts > 0;
    if every_account && stuck.iter().all(|(_, error)| needs_user_action(error)) {
        let reason = stuck[0].1.reason.as_str();
        return Some((reason, list(stuck.into_iter().map(|(text, _)| text))));
    }
    None
}

fn ready(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::READY;
    if let Some((reason, message)) = stalled_reason(found) {
        return update(TYPE, condition::FALSE, reason, message);
    }
    if found.scan.spec.suspend {
        return update(
            TYPE,
            condition::TRUE,
            reason::SUSPENDED,
            "suspended: nothing is scanned, and what is known goes stale",
        );
    }
    if working(found) > 0 {
        let stored = found.reports.iter().find_map(|r| r.store_error.as_ref());
        if let Some(error) = stored {
            let message = format!("what was seen could not be recorded: {}", error.message);
            return update(TYPE, condition::FALSE, error.reason, message);
        }
        let message = match found.accounts {
            1 => "scanning the account".to_owned(),
            n => format!("scanning {} of {n} accounts", working(found)),
        };
        return update(
            TYPE,
            condition::TRUE,
            reason::SCANNING,
            message + &raised_interval_note(found) + &deferred_request_note(found),
        );
    }
    let out = accounts_without_access(found);
    match out.first() {
        Some((_, error)) => {
            let reason = error.reason.as_str();
            update(TYPE, condition::FALSE, reason, list(out.into_iter().map(|(text, _)| text)))
        }
        None => update(
            TYPE,
            condition::UNKNOWN,
            reason::PROGRESSING,
            "no account was scanned yet since the operator started",
        ),
    }
}

/// States that the interval is longer than the spec requests, if it is.
fn raised_interval_note(found: &StatusInputs) -> String {
    match found.scan.spec.interval() {
        Ok(desired) if desired < found.interval => format!(
            " every {}, the shortest interval that the operator's administrator allows (spec.interval is {})",
            humantime::format_duration(found.interval),
            found.scan.spec.interval
        ),
        _ => String::new(),
    }
}

/// States when the requested scan starts, if it is deferred.
fn deferred_request_note(found: &StatusInputs) -> String {
    found.deferred_until.map_or_else(String::new, |until| {
        format!(
            "; the scan requested with {RECONCILE_REQUESTED_AT} starts at {until}: the operator's administrator allows one \
             every {}",
            humantime::format_duration(found.min_interval)
        )
    })
}

fn reconciling(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::RECONCILING;
    if found.refusal.is_some() {
        update(TYPE, condition::FALSE, reason::REFUSED, "the spec was refused and is not in force: see Stalled")
    } else if stalled_reason(found).is_some() {
        update(
            TYPE,
            condition::FALSE,
            reason::UP_TO_DATE,
            "the spec was taken up, but no account can be scanned: see Stalled",
        )
    } else if found.scan.spec.suspend {
        update(TYPE, condition::FALSE, reason::UP_TO_DATE, "the spec was taken up, and is suspended")
    } else if taken_up(found) {
        update(TYPE, condition::FALSE, reason::UP_TO_DATE, "the spec is in force")
    } else {
        update(
            TYPE,
            condition::TRUE,
            reason::PROGRESSING,
            "the spec is being taken up: it is in force after the next scan",
        )
    }
}

fn stalled(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::STALLED;
    if let Some((reason, message)) = stalled_reason(found) {
        return update(TYPE, condition::TRUE, reason, message);
    }
    let message = match accounts_without_access(found).len() {
        0 => "scanning goes on".to_owned(),
        out => format!(
            "scanning goes on for {} of {} accounts: CredentialsValid names the {out} others",
            found.accounts.saturating_sub(out),
            found.accounts
        ),
    };
    update(TYPE, condition::FALSE, reason::NOT_STALLED, message)
}

fn first_scan_complete(found: &StatusInputs, before: &CloudScanStatus) -> ConditionUpdate {
    const TYPE: &str = condition::FIRST_SCAN_COMPLETE;
    // Once true it stays true: a restart of the operator is not another first scan.
    let was = is_first_scan_complete(Some(before));
    let swept = found.reports.iter().filter(|r| r.is_first_scan_complete()).count();
    // If no credentials work, nothing was scanned.
    if was || (working(found) > 0 && swept >= found.accounts) {
        return update(TYPE, condition::TRUE, reason::COMPLETE, "every scope was swept once");
    }
    let scopes: usize = found.reports.iter().map(|r| r.scopes.len()).sum();
    update(
        TYPE,
        condition::FALSE,
        reason::SCANNING,
        format!("{swept} of {} accounts and {scopes} scopes were swept so far", found.accounts),
    )
}

/// Whether a status reports that every scope was swept once.
pub fn is_first_scan_complete(status: Option<&CloudScanStatus>) -> bool {
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == condition::FIRST_SCAN_COMPLETE && c.status == condition::TRUE)
}

fn credentials_valid(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::CREDENTIALS_VALID;
    let out = accounts_without_access(found);
    match out.first() {
        Some((_, error)) => {
            let reason = error.reason.as_str();
            update(TYPE, condition::FALSE, reason, list(out.into_iter().map(|(text, _)| text)))
        }
        None if found.accounts > 0 && working(found) >= found.accounts => {
            update(TYPE, condition::TRUE, reason::VALID, "every account answers to its credentials")
        }
        None => update(TYPE, condition::UNKNOWN, reason::NOT_TRIED, "not every account was tried yet"),
    }
}

/// A scope that the organization's policy denies, or in a disabled region, is not a gap: it is counted separately.
fn is_excluded_from_completeness(reason: Option<Reason>) -> bool {
    matches!(reason, Some(Reason::DeniedByPolicy | Reason::RegionDisabled))
}

fn inventory_complete(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::INVENTORY_COMPLETE;
    let mut problems: Vec<(&'static str, String)> = Vec::new();
    for (text, error) in accounts_without_access(found).into_iter().chain(accounts_without_regions(found)) {
        problems.push((error.reason.as_str(), text));
    }
    if let Some(error) = found.unlisted {
        let text =
            format!("the accounts of the organization can't be listed, the last complete list stands: {error}");
        problems.push((error.reason.as_str(), text));
    }
    let mut scopes = 0;
    let mut apart = 0;
    for report in found.reports {
        let Some(account) = &report.account else { continue };
        // One line per cause, with the number of scopes that it affects.
        let mut causes: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
        for (scope, sweep) in &report.scopes {
            scopes += 1;
            let place = format!("{} in {}", scope.resource_type, scope.region);
            match sweep.outcome.reason() {
                reason if is_excluded_from_completeness(reason) => apart += 1,
                Some(reason) => {
                    let action = sweep.error.as_ref().and_then(|e| e.action.clone());
                    let what = match (reason, action, &sweep.error) {
                        (Reason::Denied, Some(action), _) => format!("{action} is denied: allow it"),
                        (_, _, Some(error)) => error.to_string(),
                        (_, _, None) => reason.as_str().to_owned(),
                    };
                    causes.entry((reason.as_str(), what)).or_default().push(place);
                }
                None if sweep.held => {
                    let what = if sweep.awaits_release {
                        format!(
                            "many resources all over the account are missing that cannot be read by id: if they are gone, annotate \
                             the CloudScan with {RELEASE_HELD}={account}"
                        )
                    } else {
                        "so many resources were missing at once that the sweep is doubted; the next one decides"
                            .to_owned()
                    };
                    causes.entry((reason::MASS_LOSS_HELD, what)).or_default().push(place);
                }
                None => {}
            }
        }
        for ((reason, what), places) in causes {
            let hidden = match places.as_slice() {
                [one] => one.clone(),
                [first, ..] => format!("{} scopes, such as {first}", places.len()),
                [] => continue,
            };
            problems.push((reason, format!("account {account}: {what} ({hidden})")));
        }
    }
    if let Some((reason, _)) = problems.first() {
        return update(TYPE, condition::FALSE, reason, list(problems.iter().map(|(_, text)| text.clone())));
    }
    let first = found.accounts > 0
        && found.reports.iter().filter(|r| r.is_first_scan_complete()).count() >= found.accounts;
    if !first {
        return update(TYPE, condition::UNKNOWN, reason::SCANNING, "not every scope was swept yet");
    }
    let mut message = format!("all of {scopes} scopes were listed whole");
    if apart > 0 {
        message = format!(
            "{} of {scopes} scopes were listed whole; {apart} lie in regions that are switched off or denied by a policy \
             of the organisation",
            scopes - apart
        );
    }
    if found.inactive > 0 {
        message = format!(
            "{message}; {} accounts of the organization are suspended or closed: what is known of them goes stale",
            found.inactive
        );
    }
    update(TYPE, condition::TRUE, reason::COMPLETE, message)
}

/// Resources that were listed but could not be read: only their existence is known.
fn readable(found: &StatusInputs, type_: &'static str, part: Part) -> ConditionUpdate {
    // Resources by account and by cause, with their types.
    let mut causes: BTreeMap<(&AccountId, &Unread), (usize, BTreeSet<&str>)> = BTreeMap::new();
    for report in found.reports {
        let Some(account) = &report.account else { continue };
        for (scope, sweep) in &report.scopes {
            for (unread, resources) in sweep.unread.iter().filter(|(unread, _)| unread.part == part) {
                let (count, types) = causes.entry((account, unread)).or_default();
                *count += resources;
                types.insert(scope.resource_type.as_str());
            }
        }
    }
    let what = match part {
        Part::Attributes => "attributes",
        Part::Tags => "tags",
    };
    if let Some(((_, unread), _)) = causes.first_key_value() {
        let reason = unread.reason.as_str();
        let text = |((account, unread), (count, types)): (&(&AccountId, &Unread), &(usize, BTreeSet<&str>))| {
            let Unread { reason, action, .. } = unread;
            let why = match reason {
                Reason::Denied => format!("{action} is denied: allow it"),
                reason => format!("{action} failed ({reason})", reason = reason.as_str()),
            };
            let types = types.iter().copied().collect::<Vec<_>>().join(", ");
            format!("account {account}: {why} (the {what} of {count} resources of {types} could not be read)")
        };
        return update(type_, condition::FALSE, reason, list(causes.iter().map(text)));
    }
    if found.reports.iter().all(|report| report.scopes.is_empty()) {
        return update(type_, condition::UNKNOWN, reason::SCANNING, "nothing was listed yet");
    }
    update(type_, condition::TRUE, reason::READABLE, format!("the {what} of all that was listed were read"))
}

fn clock_skew(found: &StatusInputs) -> ConditionUpdate {
    const TYPE: &str = condition::CLOCK_SKEW;
    if found.clock_lag > CLOCK_TOLERANCE {
        let message = format!(
            "the operator's clock is {} behind the last time in its store: set the node's clock; until then nothing is \
             dated later than that",
            humantime::format_duration(Duration::from_secs(found.clock_lag.as_secs()))
        );
        return update(TYPE, condition::TRUE, reason::BEHIND_STORE, message);
    }
    let skewed = found.reports.iter().find(|r| r.skew_millis != 0);
    match skewed {
        Some(report) => {
            let by = Duration::from_secs(report.skew_millis.unsigned_abs() / 1000);
            let (by, way) =
                (humantime::format_duration(by), if report.skew_millis > 0 { "behind" } else { "ahead of" });
            let message = format!(
                "the operator's clock is {by} {way} the cloud's: set the node's clock; until then ends are dated no more \
                 precisely than both allow"
            );
            update(TYPE, condition::TRUE, reason::DIFFERS_FROM_CLOUD, message)
        }
        None => update(
            TYPE,
            condition::FALSE,
            reason::IN_STEP,
            "the clocks of the operator, its store and the cloud agree",
        ),
    }
}

/// Only if there is a webhook.
fn webhook_delivered(found: &StatusInputs) -> Option<ConditionUpdate> {
    const TYPE: &str = condition::WEBHOOK_DELIVERED;
    let Delivery { waiting, error } = found.delivery.as_ref()?;
    Some(match error {
        Some(error) => update(
            TYPE,
            condition::FALSE,
            reason::NOT_DELIVERED,
            format!("{waiting} events wait for delivery: {error}"),
        ),
        None => update(TYPE, condition::TRUE, reason::DELIVERED, "the webhook accepted all events"),
    })
}

/// Only once there was something to decide.
fn findings_decided(found: &StatusInputs) -> Option<ConditionUpdate> {
    const TYPE: &str = condition::FINDINGS_DECIDED;
    let Counts { undecided, by_account, .. } = found.counts.as_ref()?;
    if by_account.is_empty() && working(found) == 0 {
        return None;
    }
    if undecided.is_empty() {
        return Some(update(
            TYPE,
            condition::TRUE,
            reason::DECIDED,
            "every rule could be decided for every resource",
        ));
    }
    let each = undecided.iter().map(|((kind, resource_type), n)| format!("{kind} of {n} {resource_type}"));
    let message = format!(
        "undecided: {}. A conclusion from absence takes two complete sweeps of everything that could exist, and tags that can be read; InventoryComplete names what is missing. Until then nothing of it opens or resolves",
        list(each)
    );
    Some(update(TYPE, condition::FALSE, reason::UNDECIDED, message))
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    let more = texts.len().saturating_sub(PROBLEMS_SHOWN_MAX);
    let update = texts.into_iter().take(PROBLEMS_SHOWN_MAX).collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{update}; and {more} more") } else { update }
}

fn accounts(found: &StatusInputs) -> Vec<AccountStatus> {
    let mut accounts: Vec<AccountStatus> = found
        .reports
        .iter()
        .filter_map(|report| {
            let id = report.account.as_ref()?;
            let incomplete = report
                .scopes
                .values()
                .filter(|sweep| {
                    !sweep.outcome.is_complete() && !is_excluded_from_completeness(sweep.outcome.reason())
                })
                .count();
            let error =
                report.credentials.as_ref().and_then(|c| c.as_ref().err()).or(report.regions_error.as_ref());
            Some(AccountStatus {
                id: id.to_string(),
                resources: count(found.counts.as_ref().and_then(|c| c.by_account.get(id)).copied().unwrap_or(0)),
                scopes: count(report.scopes_desired),
                incomplete_scopes: count(incomplete),
                message: error.map(|e| shortened(&e.to_string(), MESSAGE_MAX_CHARS)),
            })
        })
        .collect();
    let trouble = |a: &AccountStatus| (a.message.is_none(), -a.incomplete_scopes);
    accounts.sort_by(|a, b| trouble(a).cmp(&trouble(b)).then_with(|| a.id.cmp(&b.id)));
    accounts.truncate(MAX_ACCOUNTS_IN_STATUS);
    accounts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud::Identity;
    use crate::inventory::{Outcome, Region, Scope};
    use crate::scanner::ScopeReport;

    fn scan() -> CloudScan {
        let mut scan: CloudScan = serde_json::from_value(json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": "x", "namespace": "a"},
            "spec": {"provider": {"aws": {}}},
        }))
        .unwrap();
        scan.metadata.generation = Some(2);
        scan
    }

    fn report(account: &str, outcomes: &[Outcome]) -> AccountReport {
        let scope = |i: usize| Scope {
            provider: "aws".into(),
            partition: "aws".into(),
            endpoint: "".into(),
            account: AccountId::new(account),
            region: Region::new(format!("eu-west-{i}")),
            resource_type: ResourceType::new("AWS::EC2::Volume"),
        };
        let sweep = |outcome: &Outcome| ScopeReport {
            outcome: *outcome,
            error: outcome.reason().map(|reason| CloudError {
                action: Some("ec2:DescribeVolumes".to_owned()),
                ..CloudError::new(reason, "no")
            }),
            held: false,
            awaits_release: false,
            unread: BTreeMap::new(),
            earlier_tags: std::sync::Arc::default(),
            ended: Timestamp::from_millis(1),
        };
        AccountReport {
            account: Some(AccountId::new(account)),
            credentials: Some(Ok(Identity {
                account: AccountId::new(account),
                partition: "aws".into(),
                name: String::new(),
            })),
            scopes: outcomes.iter().enumerate().map(|(i, o)| (scope(i), sweep(o))).collect(),
            scopes_desired: outcomes.len(),
            rounds: 1,
            generation: 2,
            ..AccountReport::default()
        }
    }

    fn locked(account: &str, reason: Reason) -> AccountReport {
        AccountReport {
            credentials: Some(Err(CloudError::new(reason, "the role can't be assumed"))),
            ..report(account, &[])
        }
    }

    /// The conditions as `type=status reason`. The rules of kstatus are checked on them.
    fn update(found: &StatusInputs) -> Vec<String> {
        let status = summarize(found);
        let is = |type_: &str| status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
        assert!(!(is("Ready") && is("Stalled")), "what is ready waits for nobody");
        assert!(!(is("Reconciling") && is("Stalled")), "what waits for a person makes no progress");
        assert_eq!(status.observed_generation, found.scan.metadata.generation);
        for condition in &status.conditions {
            assert!(!condition.reason.is_empty() && !condition.message.is_empty(), "{condition:?}");
            assert_eq!(condition.observed_generation, found.scan.metadata.generation);
        }
        status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
    }

    fn found<'a>(scan: &'a CloudScan, accounts: usize, reports: &'a [AccountReport]) -> StatusInputs<'a> {
        let now = Timestamp::from_millis(5);
        StatusInputs {
            scan,
            refusal: None,
            unconnected: None,
            unlisted: None,
            inactive: 0,
            accounts,
            interval: Duration::from_mins(5),
            deferred_until: None,
            min_interval: Duration::from_mins(1),
            reports,
            counts: None,
            delivery: None,
            clock_lag: Duration::ZERO,
            now,
        }
    }

    #[test]
    fn a_status_names_the_dearest_parts_and_counts_the_rest() {
        let sum = |open, millions: u64| Sum { open, cost: Some(MonthlyCost(millions * 1_000_000)) };
        let sums: BTreeMap<String, Sum> = (0..30).map(|n| (format!("team-{n:02}"), sum(1, n))).collect();
        let update = parts(&sums);
        assert_eq!(update.len(), PARTS_MAX);
        assert_eq!((update[0].name.as_str(), update[0].monthly_cost.as_deref()), ("team-29", Some("29.00")));
        let others = update.last().unwrap();
        assert_eq!((others.name.as_str(), others.open), (OTHERS, 11));
        assert_eq!(others.monthly_cost.as_deref(), Some("55.00"));
        let few = BTreeMap::from([("b".to_owned(), Sum { open: 3, cost: None }), ("a".to_owned(), sum(1, 1))]);
        assert_eq!(parts(&few).iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_was_listed_and_could_not_be_read_is_reported_with_the_permission_and_how_much_it_hides() {
        let scan = scan();
        let mut report = report("1", &[Outcome::Complete]);
        for sweep in report.scopes.values_mut() {
            let unread = |part, reason, action: &str| Unread { part, reason, action: action.to_owned() };
            sweep.unread.insert(unread(Part::Tags, Reason::Denied, "dynamodb:ListTagsOfResource"), 3);
            sweep.unread.insert(unread(Part::Attributes, Reason::DeniedByPolicy, "kms:DescribeKey"), 2);
        }
        let reports = [report];
        let status = summarize(&found(&scan, 1, &reports));
        let of = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_).unwrap();
        let (tags, attributes) = (of("TagsReadable"), of("AttributesReadable"));
        assert_eq!((tags.status.as_str(), tags.reason.as_str()), ("False", "Denied"));
        assert_eq!(
            tags.message,
            "account 1: dynamodb:ListTagsOfResource is denied: allow it (the tags of 3 resources of AWS::EC2::Volume could \
             not be read)"
        );
        assert_eq!((attributes.status.as_str(), attributes.reason.as_str()), ("False", "DeniedByPolicy"));
        assert!(attributes.message.contains("kms:DescribeKey failed"), "{}", attributes.message);
        assert_eq!(status.tags_unknown, Some(3));
        let is_complete = |c: &&Condition| c.type_ == "InventoryComplete" && c.status == "True";
        assert!(status.conditions.iter().any(|c| is_complete(&c)), "all of it was listed");
    }

    #[test]
    fn each_situation_has_its_words() {
        use Outcome::{Complete, Failed, Partial};
        let scan = scan();
        let fresh = update(&found(&scan, 1, &[]));
        assert_eq!(fresh[..2], ["Ready=Unknown Progressing", "Reconciling=True Progressing"]);
        assert_eq!(
            fresh[3..],
            [
                "FirstScanComplete=False Scanning",
                "CredentialsValid=Unknown NotTried",
                "InventoryComplete=Unknown Scanning",
                "AttributesReadable=Unknown Scanning",
                "TagsReadable=Unknown Scanning",
                "ClockSkew=False InStep"
            ]
        );

        let good = update(&found(&scan, 1, &[report("1", &[Complete, Complete])]));
        assert_eq!(
            good,
            [
                "Ready=True Scanning",
                "Reconciling=False UpToDate",
                "Stalled=False NotStalled",
                "FirstScanComplete=True Complete",
                "CredentialsValid=True Valid",
                "InventoryComplete=True Complete",
                "AttributesReadable=True Readable",
                "TagsReadable=True Readable",
                "ClockSkew=False InStep"
            ]
        );
        let one_locked = [report("1", &[Complete]), locked("2", Reason::InvalidCredentials)];
        let mixed = update(&found(&scan, 2, &one_locked));
        assert_eq!((mixed[0].as_str(), mixed[2].as_str()), ("Ready=True Scanning", "Stalled=False NotStalled"));
        assert_eq!(
            mixed[4..6],
            ["CredentialsValid=False InvalidCredentials", "InventoryComplete=False InvalidCredentials"]
        );
        let stuck = update(&found(&scan, 1, &[locked("2", Reason::InvalidCredentials)]));
        assert_eq!(
            (stuck[0].as_str(), stuck[2].as_str()),
            ("Ready=False InvalidCredentials", "Stalled=True InvalidCredentials")
        );
        assert_eq!(stuck[3], "FirstScanComplete=False Scanning", "nobody got in");
        let away = update(&found(&scan, 1, &[locked("2", Reason::Unreachable)]));
        assert_eq!(
            (away[0].as_str(), away[2].as_str()),
            ("Ready=False Unreachable", "Stalled=False NotStalled"),
            "that passes"
        );

        let denied = [report("1", &[Complete, Failed(Reason::Denied), Failed(Reason::Denied)])];
        let status = summarize(&found(&scan, 1, &denied));
        let message = &status.conditions.iter().find(|c| c.type_ == "InventoryComplete").unwrap().message;
        assert_eq!(
            message,
            "account 1: ec2:DescribeVolumes is denied: allow it (2 scopes, such as AWS::EC2::Volume in eu-west-1)"
        );
        let partial = update(&found(&scan, 1, &[report("1", &[Partial(Reason::Throttled)])]));
        assert_eq!(partial[5], "InventoryComplete=False Throttled");
        let apart = summarize(&found(&scan, 1, &[report("1", &[Complete, Failed(Reason::DeniedByPolicy)])]));
        let complete = apart.conditions.iter().find(|c| c.type_ == "InventoryComplete").unwrap();
        assert_eq!(complete.status, "True", "a deny by the organisation is no gap");
        assert!(complete.message.starts_with("1 of 2 scopes"), "{}", complete.message);
    }

    #[test]
    fn what_rules_could_not_decide_is_a_condition() {
        let scan = scan();
        let reports = [report("1", &[Outcome::Complete])];
        let condition = |counts: Option<Counts>| {
            let status = summarize(&StatusInputs { counts, ..found(&scan, 1, &reports) });
            status.conditions.into_iter().find(|c| c.type_ == "FindingsDecided").map(|c| (c.status, c.message))
        };
        assert_eq!(condition(None), None, "nobody asked the rules");
        assert_eq!(condition(Some(Counts::default())).unwrap().0, "True");
        let nobody = [locked("1", Reason::InvalidCredentials)];
        let status = summarize(&StatusInputs { counts: Some(Counts::default()), ..found(&scan, 1, &nobody) });
        assert!(status.conditions.iter().all(|c| c.type_ != "FindingsDecided"), "there is nothing to decide on");
        let nat = ResourceType::new("AWS::EC2::NatGateway");
        let undecided = BTreeMap::from([((FindingKind::Orphaned, nat), 3)]);
        let (status, message) = condition(Some(Counts { undecided, ..Counts::default() })).unwrap();
        assert_eq!(status, "False");
        assert!(message.starts_with("undecided: Orphaned of 3 AWS::EC2::NatGateway."), "{message}");
    }

    #[test]
    fn a_change_of_the_spec_is_reconciling_until_a_round_was_made_from_it() {
        let mut scan = scan();
        let reports = [report("1", &[Outcome::Complete])];
        scan.metadata.generation = Some(3);
        assert_eq!(update(&found(&scan, 1, &reports))[1], "Reconciling=True Progressing");
        let taken_up = [AccountReport { generation: 3, ..reports[0].clone() }];
        assert_eq!(update(&found(&scan, 1, &taken_up))[1], "Reconciling=False UpToDate");
    }

    #[test]
    fn clocks_that_differ_are_a_condition_with_the_direction_and_an_event_each_way() {
        let scan = scan();
        let skew = |millis| [AccountReport { skew_millis: millis, ..report("1", &[Outcome::Complete]) }];
        let clock = |found: &StatusInputs| {
            let status = summarize(found);
            let condition = status.conditions.iter().find(|c| c.type_ == "ClockSkew").unwrap().clone();
            (condition.reason, condition.message, status)
        };
        let (reason, message, behind) = clock(&found(&scan, 1, &skew(3_600_000)));
        assert_eq!(reason, "DiffersFromCloud");
        assert!(message.contains("is 1h behind the cloud's"), "{message}");
        assert!(clock(&found(&scan, 1, &skew(-600_000))).1.contains("is 10m ahead of the cloud's"));
        let in_step = skew(0);
        let lagging = StatusInputs { clock_lag: Duration::from_mins(6), ..found(&scan, 1, &in_step) };
        assert_eq!(clock(&lagging).0, "BehindStore");
        let good = clock(&found(&scan, 1, &in_step)).2;
        for (before, after, events) in [(None, &good, 0), (Some(&good), &behind, 1), (Some(&behind), &good, 1)] {
            let update: Vec<_> =
                changed_conditions(before, after).into_iter().filter(|c| c.type_ == "ClockSkew").collect();
            assert_eq!(update.len(), events);
        }
    }

    #[test]
    fn a_transition_is_dated_once_and_reported_once() {
        let mut scan = scan();
        let good = [report("1", &[Outcome::Complete])];
        let first = summarize(&found(&scan, 1, &good));
        assert!(changed_conditions(None, &first).is_empty(), "that all is well is no event");
        scan.status = Some(first.clone());
        let later = summarize(&StatusInputs { now: Timestamp::from_millis(9), ..found(&scan, 1, &good) });
        assert_eq!(later, first, "nothing changes while nothing happens");
        let at = |revision| Some(Counts { revision: Revision(revision), ..Counts::default() });
        scan.status = Some(summarize(&StatusInputs { counts: at(7), ..found(&scan, 1, &good) }));
        let of_others = summarize(&StatusInputs { counts: at(8), ..found(&scan, 1, &good) });
        assert_eq!(Some(of_others), scan.status, "what others' looks recorded is nothing to say");
        let more = [report("1", &[Outcome::Complete]), report("2", &[Outcome::Complete])];
        let changed = summarize(&StatusInputs { counts: at(9), ..found(&scan, 2, &more) });
        assert_eq!(changed.revision, Some(9), "what is said anew is of the revision that it was read at");
        scan.status = Some(first.clone());
        let bad = [report("1", &[Outcome::Failed(Reason::Denied)])];
        let broken = summarize(&StatusInputs { now: Timestamp::from_millis(9), ..found(&scan, 1, &bad) });
        let update: Vec<&str> =
            changed_conditions(Some(&first), &broken).iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(update, ["Denied"]);
        assert!(changed_conditions(Some(&broken), &broken).is_empty());
        let healed: Vec<&str> =
            changed_conditions(Some(&broken), &first).iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(healed, ["Complete"]);
    }

    #[test]
    fn an_hour_of_calls_is_what_a_month_is_estimated_from() {
        let scan = scan();
        let mut reports = [report("1", &[Outcome::Complete]), report("2", &[Outcome::Complete])];
        for report in &mut reports {
            (report.calls, report.counted_since) = (1_234, Some(Timestamp::from_millis(0)));
        }
        let after = |minutes: u64| {
            let now = Timestamp::from_millis(0).plus(Duration::from_mins(minutes));
            summarize(&StatusInputs { now, ..found(&scan, 2, &reports) }).api_calls_per_month
        };
        assert_eq!(after(59), None);
        // 2 x 1234 x 360
        assert_eq!(after(120), Some(890_000));
    }

    #[test]
    fn accounts_that_let_nobody_in_any_more_are_counted_apart_and_a_list_that_fails_is_reported() {
        let scan = scan();
        let good = [report("1", &[Outcome::Complete])];
        let update = |found: &StatusInputs| {
            summarize(found).conditions.into_iter().find(|c| c.type_ == "InventoryComplete").unwrap()
        };
        let complete = update(&StatusInputs { inactive: 3, ..found(&scan, 1, &good) });
        assert_eq!(complete.status, "True");
        assert!(
            complete.message.contains("3 accounts of the organization are suspended or closed"),
            "{complete:?}"
        );
        let error = CloudError::new(Reason::Denied, "no");
        let unlisted = update(&StatusInputs { unlisted: Some(&error), ..found(&scan, 1, &good) });
        assert_eq!((unlisted.status.as_str(), unlisted.reason.as_str()), ("False", "Denied"));
        assert!(unlisted.message.contains("the last complete list stands"), "{unlisted:?}");
    }

    #[test]
    fn a_status_does_not_grow_with_the_cloud() {
        let scan = scan();
        let many: Vec<AccountReport> =
            (0..200).map(|i| locked(&format!("{i:012}"), Reason::InvalidCredentials)).collect();
        let status = summarize(&found(&scan, 200, &many));
        assert_eq!(status.accounts.len(), MAX_ACCOUNTS_IN_STATUS);
        let bytes = serde_json::to_vec(&status).unwrap().len();
        assert!(bytes < 16 * 1024, "{bytes} bytes");
    }
}
