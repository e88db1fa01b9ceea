//! The metrics of scanning.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::inventory::Outcome;

/// Powers of two from a quarter of a second to half an hour.
const SCAN_BUCKETS: u16 = 14;

/// Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Meters {
    scan_seconds: Histogram,
    sweeps: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            scan_seconds: Histogram::new(exponential_buckets(0.25, 2.0, SCAN_BUCKETS)),
            sweeps: Family::default(),
        };
        // The rate of an event that has not happened yet is 0, not unknown.
        for outcome in ["Complete", "Partial", "Failed"] {
            drop(meters.sweeps.get_or_create(&[("outcome", outcome)]));
        }
        meters
    }
}

impl Meters {
    pub(super) fn scanned(&self, took: Duration) {
        self.scan_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn swept(&self, outcome: Outcome) {
        self.sweeps.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        let scan = "How long a round over the scopes of an account that were due took";
        registry.register_with_unit("scan_duration", scan, Unit::Seconds, self.scan_seconds.clone());
        registry.register(
            "sweeps",
            "Listings of a scope that ended, since the operator started",
            self.sweeps.clone(),
        );
    }
}
