//! Metrics in the OpenMetrics format. No label contains an object's name, an id or the text of an error.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::inventory::{AccountId, Filter, Moment, ResourceType, ScopeStatus, Snapshot, Subscriber};
use crate::policy::MonthlyCost;
use crate::policy::lifecycle::{self, FINDINGS, Record};
use crate::store::{Store, StoreError, StoreSnapshot};

/// Values of other parts, read at every scrape.
pub struct Others {
    /// Accounts that are scanned, whether their credentials work or not.
    pub accounts: Box<dyn Fn() -> Vec<AccountId> + Send + Sync>,
    pub register: Box<dyn Fn(&mut Registry) + Send + Sync>,
}

pub fn render(store: &Store, others: &Others) -> Result<String, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let mut registry = Registry::with_prefix("elava");
    let version = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    version.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("build_info", "1; which version runs", version);
    let revision = i64::try_from(snapshot.revision().0).unwrap_or(i64::MAX);
    single(&mut registry, "store_revision", "The newest revision of the store", revision);
    let waiting = "Deltas that wait for the disk";
    single(&mut registry, "store_waiting", waiting, store.waiting());
    let full = "1 while the volume has no room: nothing is recorded, reads go on";
    single(&mut registry, "store_full", full, i64::from(store.is_full()));
    let (file, free) = store.room();
    for (name, help, bytes) in [
        ("store_size", "Bytes of the store's file", file),
        ("store_free", "Bytes that are free on the store's volume", free),
    ] {
        if let Some(bytes) = bytes {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            registry.register_with_unit(name, help, Unit::Bytes, gauge);
        }
    }
    if let Some(bytes) = resident_bytes() {
        let gauge = Gauge::<i64>::default();
        gauge.set(bytes);
        let help = "Bytes of memory that the operator takes";
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, gauge);
    }
    store.meters().register(&mut registry);
    (others.register)(&mut registry);

    let (mut by_kind, mut by_account, mut by_owner) = (Sums::new(), Sums::new(), Sums::new());
    for subscriber in store.subscribers_with_notes()? {
        for (_, Record { finding, .. }) in open_records(store, &subscriber)? {
            let owner = finding.owner.as_ref().map_or("(nobody)", |owner| owner.name.as_str());
            let account = finding.resource.account.as_str();
            for (sums, name) in
                [(&mut by_kind, finding.kind.as_str()), (&mut by_account, account), (&mut by_owner, owner)]
            {
                let sum = sums.entry(name.to_owned()).or_default();
                sum.0 += 1;
                sum.1 += finding.monthly_cost.map_or(0.0, MonthlyCost::amount);
            }
        }
    }
    let counts = by_kind.iter().map(|(kind, (count, _))| (kind.clone(), *count)).collect();
    family(&mut registry, "findings_open", "Open findings, those over the cap too", "kind", counts);
    for (name, label, sums) in [
        ("findings_monthly_cost", "kind", by_kind),
        ("findings_monthly_cost_by_account", "account", most_expensive(by_account)),
        ("findings_monthly_cost_by_owner", "owner", most_expensive(by_owner)),
    ] {
        let cost = Family::<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>::default();
        for (value, (_, sum)) in sums {
            cost.get_or_create(&vec![(label, value)]).set(sum);
        }
        let help = "What the open findings cost a month by list prices, as far as prices are known";
        registry.register(name, help, cost);
    }

    let mut by_type: BTreeMap<ResourceType, i64> = BTreeMap::new();
    let mut suspects = 0;
    snapshot.each(&Filter::default(), |line| {
        *by_type.entry(line.scope.resource_type.clone()).or_default() += 1;
        suspects += i64::from(line.is_suspect);
    });
    let by_type = by_type.into_iter().map(|(resource_type, count)| (resource_type.to_string(), count)).collect();
    single(&mut registry, "suspects", "Resources that a sweep missed and nothing has confirmed as gone", suspects);
    family(&mut registry, "resources", "Resources that are there now", "type", by_type);

    scopes(&mut registry, &snapshot, (others.accounts)());

    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    Ok(text)
}

/// Registers one value without labels.
pub fn single(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// The state of the scopes of an account.
#[derive(Default)]
struct ScopeCounts {
    by_status: BTreeMap<&'static str, i64>,
    /// The end of the last complete sweep of any of them.
    last: i64,
}

impl ScopeCounts {
    fn not_current(&self) -> i64 {
        self.by_status.iter().filter(|(status, _)| **status != "Current").map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: &ScopeCounts) {
        for (status, count) in &other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        self.last = self.last.max(other.last);
    }
}

fn scopes(registry: &mut Registry, snapshot: &StoreSnapshot, accounts: Vec<AccountId>) {
    single(registry, "accounts", "Accounts that are scanned", i64::try_from(accounts.len()).unwrap_or(i64::MAX));
    // An account that could not be accessed yet has no scopes, and was never scanned.
    let mut by_account: BTreeMap<String, ScopeCounts> =
        accounts.into_iter().map(|account| (account.to_string(), ScopeCounts::default())).collect();
    for view in snapshot.scopes() {
        let status = match view.status {
            ScopeStatus::Current => "Current",
            ScopeStatus::Stale => "Stale",
            ScopeStatus::NeverScanned => "NeverScanned",
            ScopeStatus::NotWatched => continue,
        };
        let scope_counts = by_account.entry(view.scope.account.to_string()).or_default();
        *scope_counts.by_status.entry(status).or_default() += 1;
        let last = view.watermark.map_or(0, |watermark| watermark.to.as_millis() / 1000);
        scope_counts.last = scope_counts.last.max(last);
    }
    let mut all = ScopeCounts::default();
    for scope_counts in by_account.values() {
        all.add(scope_counts);
    }
    let by_status = all.by_status.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect();
    family(registry, "scopes", "Scopes that are watched, by what is known of them", "status", by_status);

    let shares = Family::<[(&'static str, String); 2], Gauge>::default();
    let last = Family::<[(&'static str, String); 1], Gauge>::default();
    for (account, scope_counts) in least_current(by_account) {
        for (status, count) in &scope_counts.by_status {
            shares.get_or_create(&[("account", account.clone()), ("status", (*status).to_owned())]).set(*count);
        }
        last.get_or_create(&[("account", account)]).set(scope_counts.last);
    }
    registry.register("account_scopes", "The same by account", shares);
    let help = "When a scope of the account was last listed whole; 0 where none was";
    registry.register_with_unit("account_last_complete_sweep_timestamp", help, Unit::Seconds, last);
}

/// The accounts with the most scopes that are not current; the rest is one entry, as old as its newest.
fn least_current(by_account: BTreeMap<String, ScopeCounts>) -> Vec<(String, ScopeCounts)> {
    let mut accounts: Vec<(String, ScopeCounts)> = by_account.into_iter().collect();
    accounts.sort_by_key(|(_, scope_counts)| (-scope_counts.not_current(), scope_counts.last));
    let rest = accounts.split_off(accounts.len().min(LABEL_VALUES_MAX));
    if !rest.is_empty() {
        let mut others = ScopeCounts::default();
        for (_, scope_counts) in &rest {
            others.add(scope_counts);
        }
        accounts.push(("(others)".to_owned(), others));
    }
    accounts
}

/// None if the system does not report it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Number and cost, by name.
type Sums = BTreeMap<String, (i64, f64)>;

/// Maximum number of values of a label that users can create without limit, such as by tags.
const LABEL_VALUES_MAX: usize = 50;

/// The most expensive; the rest is one entry.
fn most_expensive(sums: Sums) -> Sums {
    let mut sums: Vec<(String, (i64, f64))> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    let others = sums.split_off(sums.len().min(LABEL_VALUES_MAX));
    let mut named: Sums = sums.into_iter().collect();
    for (_, (count, cost)) in others {
        let sum = named.entry("(others)".to_owned()).or_default();
        *sum = (sum.0 + count, sum.1 + cost);
    }
    named
}

fn open_records(store: &Store, subscriber: &Subscriber) -> Result<Vec<(String, Record)>, StoreError> {
    Ok(lifecycle::records(store.notes(subscriber, FINDINGS)?).filter(|(_, record)| record.is_open()).collect())
}

fn family(registry: &mut Registry, name: &str, help: &str, label: &'static str, values: BTreeMap<String, i64>) {
    let family = Family::<Vec<(&'static str, String)>, Gauge>::default();
    for (value, count) in values {
        family.get_or_create(&vec![(label, value)]).set(count);
    }
    registry.register(name, help, family);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_accounts_those_are_named_of_which_least_is_known() {
        let scope_counts =
            |stale: i64, last: i64| ScopeCounts { by_status: [("Current", 5), ("Stale", stale)].into(), last };
        let accounts =
            (0..80).map(|n| (format!("{n:012}"), scope_counts(i64::from(n == 77), 1_000 - n))).collect();
        let named = least_current(accounts);
        assert_eq!(named.len(), LABEL_VALUES_MAX + 1);
        assert_eq!(named[0].0, format!("{:012}", 77));
        assert_eq!(named[1].0, format!("{:012}", 79), "then by age");
        let (name, others) = named.last().unwrap();
        assert_eq!((name.as_str(), others.by_status["Current"]), ("(others)", 5 * 30));
        let sum: i64 = named.iter().map(|(_, scope_counts)| scope_counts.not_current()).sum();
        assert_eq!(sum, 1, "none is lost");
    }

    #[test]
    fn no_label_has_more_values_than_it_may_and_none_of_the_cost_is_lost() {
        let sums: Sums = (0..200).map(|n| (format!("team-{n}"), (1, f64::from(n)))).collect();
        let named = most_expensive(sums);
        assert_eq!(named.len(), LABEL_VALUES_MAX + 1);
        let sum = |numbers: std::ops::Range<i32>| -> f64 { numbers.map(f64::from).sum() };
        let is = |found: f64, desired: f64| (found - desired).abs() < 0.01;
        let (count, cost) = named["(others)"];
        assert!(count == 150 && is(cost, sum(0..150)));
        assert!(is(named.values().map(|(_, cost)| cost).sum(), sum(0..200)));
        assert!(named.contains_key("team-199") && !named.contains_key("team-149"));
    }
}
