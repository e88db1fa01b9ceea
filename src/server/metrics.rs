//! Metrics in the OpenMetrics format. No label holds an object's name, an id or an error's text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::inventory::{Filter, Moment, ResourceType, ScopeStatus, Snapshot, Viewer};
use crate::policy::MonthlyCost;
use crate::policy::lifecycle::{self, FINDINGS, Record};
use crate::store::{Store, StoreError};

/// What somebody else counts.
#[derive(Debug, Default)]
pub struct Readings {
    /// Name, help, value.
    pub gauges: Vec<(&'static str, &'static str, i64)>,
    /// Calls to clouds: service, operation, outcome, how many since the start.
    pub calls: Vec<(&'static str, &'static str, &'static str, u64)>,
}

/// Asked at every scrape.
pub type Gauges = Arc<dyn Fn() -> Readings + Send + Sync>;

pub fn render(store: &Store, gauges: &Gauges) -> Result<String, StoreError> {
    let snapshot = store.snapshot(Moment::Now)?;
    let mut registry = Registry::with_prefix("elava");
    let single = |registry: &mut Registry, name: &str, help: &str, value: i64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let revision = i64::try_from(snapshot.revision().0).unwrap_or(i64::MAX);
    single(&mut registry, "store_revision", "The newest revision of the store", revision);
    let waiting = "Deltas that wait for the disk";
    single(&mut registry, "store_waiting", waiting, store.waiting());
    let full = "1 while the volume has no room: nothing is recorded, reads go on";
    single(&mut registry, "store_full", full, i64::from(store.is_full()));
    let readings = gauges();
    for (name, help, value) in readings.gauges {
        single(&mut registry, name, help, value);
    }
    let calls = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
    for (service, operation, outcome, count) in readings.calls {
        let labels = vec![("service", service), ("operation", operation), ("outcome", outcome)];
        calls.get_or_create(&labels).inc_by(count);
    }
    registry.register("cloud_calls", "Calls to clouds, each retry one, since the operator started", calls);

    let (mut by_kind, mut by_account, mut by_owner) = (Sums::new(), Sums::new(), Sums::new());
    for viewer in store.note_viewers()? {
        for (_, Record { finding, .. }) in open_records(store, &viewer)? {
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
        ("findings_monthly_cost_by_account", "account", dearest(by_account)),
        ("findings_monthly_cost_by_owner", "owner", dearest(by_owner)),
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
    single(&mut registry, "suspects", "Resources that a look missed and nothing has confirmed as gone", suspects);
    family(&mut registry, "resources", "Resources that are there now", "type", by_type);

    let mut by_status: BTreeMap<String, i64> = BTreeMap::new();
    for view in snapshot.scopes() {
        let status = match view.status {
            ScopeStatus::Current => "Current",
            ScopeStatus::Stale => "Stale",
            ScopeStatus::NeverLooked => "NeverLooked",
            ScopeStatus::NotWatched => continue,
        };
        *by_status.entry(status.to_owned()).or_default() += 1;
    }
    family(&mut registry, "scopes", "Scopes that are watched, by what is known of them", "status", by_status);

    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    Ok(text)
}

/// By name, how many and what they cost.
type Sums = BTreeMap<String, (i64, f64)>;

/// Values of a label that tags may make as many of as they like.
const MAX_VALUES: usize = 50;

/// The dearest; the rest are one.
fn dearest(sums: Sums) -> Sums {
    let mut sums: Vec<(String, (i64, f64))> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    let others = sums.split_off(sums.len().min(MAX_VALUES));
    let mut named: Sums = sums.into_iter().collect();
    for (_, (count, cost)) in others {
        let sum = named.entry("(others)".to_owned()).or_default();
        *sum = (sum.0 + count, sum.1 + cost);
    }
    named
}

fn open_records(store: &Store, viewer: &Viewer) -> Result<Vec<(String, Record)>, StoreError> {
    Ok(lifecycle::records(store.notes(viewer, FINDINGS)?).filter(|(_, record)| record.is_open()).collect())
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
    fn no_label_has_more_values_than_it_may_and_none_of_the_cost_is_lost() {
        let sums: Sums = (0..200).map(|n| (format!("team-{n}"), (1, f64::from(n)))).collect();
        let named = dearest(sums);
        assert_eq!(named.len(), MAX_VALUES + 1);
        let sum = |numbers: std::ops::Range<i32>| -> f64 { numbers.map(f64::from).sum() };
        let is = |found: f64, wanted: f64| (found - wanted).abs() < 0.01;
        let (count, cost) = named["(others)"];
        assert!(count == 150 && is(cost, sum(0..150)));
        assert!(is(named.values().map(|(_, cost)| cost).sum(), sum(0..200)));
        assert!(named.contains_key("team-199") && !named.contains_key("team-149"));
    }
}
