//! Metrics of reconciling, and of the existing CloudScans.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use kube::runtime::reflector::Store as Reflected;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::ReconcileError;
use crate::api::{CloudScan, condition};

/// Doubling from 5 ms to 20 s.
const RECONCILE_BUCKETS: u16 = 13;

/// Clones share their counts.
#[derive(Clone, Debug)]
pub struct Meters {
    outcomes: Family<[(&'static str, &'static str); 2], Counter>,
    seconds: Histogram,
    /// Set once the controller runs.
    scans: Arc<OnceLock<Reflected<CloudScan>>>,
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            outcomes: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.005, 2.0, RECONCILE_BUCKETS)),
            scans: Arc::default(),
        };
        for controller in ["cloudscan", "exemption", "subscription"] {
            drop(meters.outcomes.get_or_create(&[("controller", controller), ("outcome", "ok")]));
        }
        meters
    }
}

impl Meters {
    /// Reconciles, and counts the outcome and the duration.
    pub(super) async fn measure<T>(
        &self,
        controller: &'static str,
        reconcile: impl Future<Output = Result<T, ReconcileError>>,
    ) -> Result<T, ReconcileError> {
        let began = Instant::now();
        let done = reconcile.await;
        let outcome = done.as_ref().err().map_or("ok", ReconcileError::reason);
        self.outcomes.get_or_create(&[("controller", controller), ("outcome", outcome)]).inc();
        self.seconds.observe(began.elapsed().as_secs_f64());
        done
    }

    /// Sets the CloudScans that are counted at every scrape.
    pub(super) fn count(&self, scans: Reflected<CloudScan>) {
        self.scans.get_or_init(|| scans);
    }

    pub fn register(&self, registry: &mut Registry) {
        let outcomes = "Reconciles by what they are of and how they ended, since the operator started";
        registry.register("reconciles", outcomes, self.outcomes.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "How long a reconcile took",
            Unit::Seconds,
            self.seconds.clone(),
        );
        let scans = self.scans.get().map(Reflected::state).unwrap_or_default();
        register_scans(registry, scans.iter().map(Arc::as_ref));
    }
}

fn register_scans<'a>(registry: &mut Registry, scans: impl Iterator<Item = &'a CloudScan>) {
    let by_suspended = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    // Both exist from the first scrape on, so that zero is reported as 0 and not as absent.
    for suspended in ["false", "true"] {
        drop(by_suspended.get_or_create(&[("suspended", suspended)]));
    }
    let by_condition = Family::<[(&'static str, &'static str); 2], Gauge>::default();
    for scan in scans {
        by_suspended.get_or_create(&[("suspended", if scan.spec.suspend { "true" } else { "false" })]).inc();
        for condition in scan.status.iter().flat_map(|status| &status.conditions) {
            // A client that may write a status may write any type or value: unknown ones do not become labels.
            let type_ = condition::OF_CLOUDSCAN.into_iter().find(|type_| *type_ == condition.type_);
            let value = [condition::TRUE, condition::FALSE, condition::UNKNOWN]
                .into_iter()
                .find(|value| *value == condition.status);
            if let (Some(type_), Some(value)) = (type_, value) {
                by_condition.get_or_create(&[("condition", type_), ("status", value)]).inc();
            }
        }
    }
    registry.register("cloudscans", "CloudScans that there are", by_suspended);
    registry.register("cloudscan_conditions", "CloudScans by the status of each condition", by_condition);
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use serde_json::json;

    use super::*;

    fn scan(suspend: bool, conditions: &[(&str, &str)]) -> CloudScan {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status)| {
                json!({"type": type_, "status": status, "reason": "Any", "message": "",
                    "lastTransitionTime": "2026-11-20T10:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": "one"},
            "spec": {"provider": {"aws": {"accounts": []}}, "suspend": suspend},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn cloudscans_are_counted_by_their_conditions_and_foreign_words_are_no_labels() {
        let scans = [
            scan(false, &[("Ready", "True"), ("Stalled", "False")]),
            scan(true, &[("Ready", "True"), ("Stalled", "False"), ("Payday", "True")]),
            scan(false, &[("Ready", "False"), ("Stalled", "True"), ("ClockSkew", "Perhaps")]),
            scan(false, &[]),
        ];
        let mut registry = Registry::default();
        register_scans(&mut registry, scans.iter());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        let desired = [
            r#"cloudscan_conditions{condition="Ready",status="False"} 1"#,
            r#"cloudscan_conditions{condition="Ready",status="True"} 2"#,
            r#"cloudscan_conditions{condition="Stalled",status="False"} 2"#,
            r#"cloudscan_conditions{condition="Stalled",status="True"} 1"#,
            r#"cloudscans{suspended="false"} 3"#,
            r#"cloudscans{suspended="true"} 1"#,
        ];
        assert_eq!(lines, desired);
    }
}
