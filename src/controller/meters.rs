//! What reconciling measures of itself.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::ReconcileError;

/// Doubling from 5 ms to 20 s.
const RECONCILE_BUCKETS: u16 = 13;

/// Copies count together.
#[derive(Clone, Debug)]
pub struct Meters {
    outcomes: Family<[(&'static str, &'static str); 2], Counter>,
    seconds: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            outcomes: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.005, 2.0, RECONCILE_BUCKETS)),
        };
        for controller in ["cloudscan", "exemption"] {
            drop(meters.outcomes.get_or_create(&[("controller", controller), ("outcome", "ok")]));
        }
        meters
    }
}

impl Meters {
    pub(super) fn reconciled<T>(
        &self,
        controller: &'static str,
        took: Duration,
        outcome: Result<&T, &ReconcileError>,
    ) {
        let outcome = outcome.err().map_or("ok", ReconcileError::reason);
        self.outcomes.get_or_create(&[("controller", controller), ("outcome", outcome)]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub fn register(&self, registry: &mut Registry) {
        let outcomes =
            "Reconciles of CloudScans and FindingExemptions by how they ended, since the operator started";
        registry.register("reconciles", outcomes, self.outcomes.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "How long a reconcile took",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }
}
