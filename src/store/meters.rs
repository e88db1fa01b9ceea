//! Metrics of the store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Doubling from 1 ms to 8 s: a sync takes one millisecond on a good disk, a hundred on a bad one.
const COMMIT_BUCKETS: u16 = 14;

/// The metrics of one open store: how long its commits take, and what retention freed.
#[derive(Debug)]
pub struct Meters {
    pub(super) commit_seconds: Histogram,
    pub(super) retention_freed: Counter,
    /// Seconds since 1970.
    pub(super) retention_last: Gauge,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, COMMIT_BUCKETS)),
            retention_freed: Counter::default(),
            retention_last: Gauge::default(),
        }
    }
}

impl Meters {
    /// Adds the metrics to a registry. Their names begin with `store_`.
    pub fn register(&self, registry: &mut Registry) {
        let commit = "How long a durable commit took, its sync included";
        registry.register_with_unit("store_commit_duration", commit, Unit::Seconds, self.commit_seconds.clone());
        let freed = "Bytes by which retention made the log smaller, since the operator started";
        registry.register_with_unit("store_retention_freed", freed, Unit::Bytes, self.retention_freed.clone());
        let last = "When retention last came to its end; 0 where it has not since the operator started";
        let name = "store_retention_last_success_timestamp";
        registry.register_with_unit(name, last, Unit::Seconds, self.retention_last.clone());
    }
}
