//! Limits on what one namespace may use of the operator: all namespaces share its memory, its volume and its calls. If
//! several CloudScans of a namespace compete, older ones have priority, so that a restart changes nothing.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::validate::Refusal;
use crate::api::{CloudScan, reason};

/// The limits apply to each namespace separately.
#[derive(Clone, Debug)]
pub struct NamespaceLimits {
    /// The shortest time between two listings of a type that a CloudScan may request.
    pub min_interval: Duration,
    pub cloud_scans: usize,
    /// Accounts that its CloudScans name.
    pub accounts: usize,
    /// Resources that its CloudScans record; a resource that two of them record counts twice.
    pub resources: usize,
    /// ResourceFindings that exist as open objects.
    pub open_findings: usize,
    /// Events that wait for the receivers of its webhooks.
    pub waiting_events: usize,
}

/// CloudScans of the same namespace that have priority over this one.
fn older(scan: &CloudScan, all: Vec<Arc<CloudScan>>) -> Vec<Arc<CloudScan>> {
    let age = |scan: &CloudScan| {
        let since = scan.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (since.is_none(), since, scan.name_any())
    };
    let own = age(scan);
    all.into_iter().filter(|other| other.namespace() == scan.namespace() && age(other) < own).collect()
}

fn count(recorded: Option<i64>) -> usize {
    recorded.and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
}

/// Resources recorded for the current spec: an edited spec is measured by what its next listing shows.
fn resources(scan: &CloudScan) -> usize {
    let status = scan.status.as_ref();
    let status = status.filter(|status| status.observed_generation == scan.metadata.generation);
    count(status.and_then(|status| status.resources))
}

/// Accounts of an organization are not counted, only their resources: the tenant can't choose their number.
fn accounts(scan: &CloudScan) -> usize {
    scan.spec.provider.spec().map_or(0, |provider| provider.named_accounts())
}

impl NamespaceLimits {
    /// The interval in force for a requested one.
    pub fn interval(&self, desired: Duration) -> Duration {
        desired.max(self.min_interval)
    }

    /// Whether a CloudScan fits beside the older ones of its namespace.
    pub fn check(&self, scan: &CloudScan, all: Vec<Arc<CloudScan>>) -> Result<(), Refusal> {
        let namespace = scan.namespace().unwrap_or_default();
        let older = older(scan, all);
        if older.len() >= self.cloud_scans {
            return Err(Refusal {
                reason: reason::TOO_MANY_CLOUD_SCANS,
                message: format!(
                    "the namespace {namespace} has {} older CloudScans, and {} are allowed: delete one, name more accounts in \
                     one, or ask the operator's administrator to start it with a higher --namespace-cloudscans (chart value \
                     namespaceLimits.cloudScans)",
                    older.len(),
                    self.cloud_scans
                ),
            });
        }
        let named: usize = older.iter().map(|other| accounts(other)).sum::<usize>() + accounts(scan);
        if named > self.accounts {
            return Err(Refusal {
                reason: reason::TOO_MANY_ACCOUNTS,
                message: format!(
                    "with the older CloudScans of the namespace {namespace} it names {named} accounts, and {} are allowed: name \
                     fewer, or ask the operator's administrator to start it with a higher --namespace-accounts (chart value \
                     namespaceLimits.accounts)",
                    self.accounts
                ),
            });
        }
        let of_others: usize = older.iter().map(|other| resources(other)).sum();
        let own = resources(scan);
        if of_others + own > self.resources {
            return Err(Refusal {
                reason: reason::TOO_MANY_RESOURCES,
                message: format!(
                    "it shows {own} resources, the older CloudScans of the namespace {namespace} show {of_others}, and {} are \
                     allowed: name fewer accounts, regions or types, or ask the operator's administrator to start it with a \
                     higher --namespace-resources (chart value namespaceLimits.resources)",
                    self.resources
                ),
            });
        }
        Ok(())
    }

    /// How many findings a CloudScan may have open beside the older ones of its namespace.
    pub fn open_findings(&self, scan: &CloudScan, all: Vec<Arc<CloudScan>>) -> usize {
        let findings = |scan: &CloudScan| Some(scan.status.as_ref()?.findings.as_ref()?.open);
        let open: usize = older(scan, all).iter().map(|older| count(findings(older))).sum();
        self.open_findings.saturating_sub(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: NamespaceLimits = NamespaceLimits {
        min_interval: Duration::from_mins(1),
        cloud_scans: 2,
        accounts: 3,
        resources: 100,
        open_findings: 10,
        waiting_events: 10,
    };

    /// Created on this day of November, with these numbers of resources and findings.
    fn scan(namespace: &str, name: &str, day: u8, resources: i64, open: i64) -> Arc<CloudScan> {
        let object = json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "spec": {"provider": {}},
            "metadata": {
                "namespace": namespace, "name": name, "generation": 1,
                "creationTimestamp": format!("2026-11-{day:02}T00:00:00Z"),
            },
            "status": {
                "observedGeneration": 1, "resources": resources, "findings": {"open": open, "suppressed": 0},
            },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn refused(scan: &CloudScan, all: &[Arc<CloudScan>]) -> Option<&'static str> {
        LIMITS.check(scan, all.to_vec()).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn the_older_ones_of_a_namespace_come_first_whatever_order_they_are_taken_up_in() {
        let first = scan("team-a", "z", 1, 60, 7);
        let second = scan("team-a", "a", 2, 40, 7);
        let third = scan("team-a", "b", 2, 0, 0);
        let other = scan("team-b", "a", 1, 100, 10);
        let mut all = vec![third.clone(), other.clone(), second.clone(), first.clone()];
        for _ in 0..2 {
            assert_eq!(refused(&first, &all), None);
            assert_eq!(refused(&second, &all), None, "up to the limit");
            assert_eq!(refused(&third, &all), Some("TooManyCloudScans"));
            assert_eq!(refused(&other, &all), None, "another namespace has its own");
            assert_eq!(LIMITS.open_findings(&first, all.clone()), 10);
            assert_eq!(LIMITS.open_findings(&second, all.clone()), 3);
            assert_eq!(LIMITS.open_findings(&third, all.clone()), 0);
            all.reverse();
        }
    }

    #[test]
    fn accounts_are_counted_over_the_older_ones() {
        let naming = |name: &str, day: u8, count: usize| {
            let mut scan = (*scan("team-a", name, day, 0, 0)).clone();
            let account = |n: usize| json!({"id": format!("{n:012}")});
            let accounts: Vec<_> = (0..count).map(account).collect();
            scan.spec.provider = serde_json::from_value(json!({"aws": {"accounts": accounts}})).unwrap();
            Arc::new(scan)
        };
        let (first, second) = (naming("a", 1, 2), naming("b", 2, 2));
        let all = [first.clone(), second.clone()];
        assert_eq!(refused(&first, &all), None);
        assert_eq!(refused(&second, &all), Some("TooManyAccounts"));
        // A CloudScan that names no account scans the one that its credentials belong to.
        assert_eq!(refused(&naming("b", 2, 0), &all), None);
    }

    #[test]
    fn what_shows_too_much_is_refused_until_it_is_edited() {
        let first = scan("team-a", "a", 1, 60, 0);
        let mut second = (*scan("team-a", "b", 2, 41, 0)).clone();
        let all = vec![first.clone(), Arc::new(second.clone())];
        assert_eq!(refused(&second, &all), Some("TooManyResources"));
        assert_eq!(refused(&first, &all), None, "the younger one is the one too many");
        second.metadata.generation = Some(2);
        assert_eq!(refused(&second, &all), None, "it may name less now: its next listing shows");
        let alone = scan("team-a", "a", 1, 101, 0);
        assert_eq!(refused(&alone, &[]), Some("TooManyResources"));
    }
}
