//! Metrics in the OpenMetrics format. No label holds an object's name, an id or an error's text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::inventory::{Filter, Moment, ResourceType, ScopeStatus, Snapshot};
use crate::policy::MonthlyCost;
use crate::policy::lifecycle::{self, FINDINGS};
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

    let mut open: BTreeMap<String, (i64, f64)> = BTreeMap::new();
    for viewer in store.note_viewers()? {
        for (_, record) in lifecycle::records(store.notes(&viewer, FINDINGS)?) {
            if record.is_open() {
                let sum = open.entry(record.finding.kind.to_string()).or_default();
                sum.0 += 1;
                sum.1 += record.finding.monthly_cost.map_or(0.0, MonthlyCost::amount);
            }
        }
    }
    let counts = open.iter().map(|(kind, (count, _))| (kind.clone(), *count)).collect();
    family(&mut registry, "findings_open", "Open findings, those over the cap too", "kind", counts);
    let cost = Family::<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>::default();
    for (kind, (_, sum)) in open {
        cost.get_or_create(&vec![("kind", kind)]).set(sum);
    }
    let help = "What the open findings cost a month by list prices, as far as prices are known";
    registry.register("findings_monthly_cost", help, cost);

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

fn family(registry: &mut Registry, name: &str, help: &str, label: &'static str, values: BTreeMap<String, i64>) {
    let family = Family::<Vec<(&'static str, String)>, Gauge>::default();
    for (value, count) in values {
        family.get_or_create(&vec![(label, value)]).set(count);
    }
    registry.register(name, help, family);
}
