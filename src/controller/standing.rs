//! The findings that exist in the API server, by CloudScan: each of a thousand CloudScans reads only its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::lock;
use crate::api::ResourceFinding;

pub(super) type Findings = BTreeMap<String, Arc<ResourceFinding>>;

/// Namespace and name of a CloudScan. A finding continues under another CloudScan of the same name.
type Owner = (String, String);

#[derive(Default)]
struct Known {
    by_owner: BTreeMap<Owner, Findings>,
    /// Collected from a list that is not complete yet.
    listing: BTreeMap<Owner, Findings>,
}

#[derive(Default)]
pub(super) struct Standing(Mutex<Known>, watch::Sender<bool>);

impl Standing {
    /// Waits for a complete list: before it, existing findings would be written again, and deleted ones taken for
    /// existing.
    pub async fn complete(&self) {
        // The sender lives as long as `self`.
        let _ = self.1.subscribe().wait_for(|is_complete| *is_complete).await;
    }

    pub fn see(&self, event: &Event<ResourceFinding>) {
        if matches!(event, Event::InitDone) {
            self.1.send_replace(true);
        }
        let mut known = lock(&self.0);
        match event {
            Event::Init => known.listing.clear(),
            Event::InitApply(finding) => put(&mut known.listing, finding),
            Event::InitDone => known.by_owner = std::mem::take(&mut known.listing),
            Event::Apply(finding) => {
                let is_known = owner(finding).is_some_and(|owner| {
                    known.by_owner.get(&owner).is_some_and(|findings| findings.contains_key(&finding.name_any()))
                });
                // A client may have given it another owner, or none.
                if !is_known {
                    take(&mut known.by_owner, finding);
                }
                put(&mut known.by_owner, finding);
            }
            Event::Delete(finding) => take(&mut known.by_owner, finding),
        }
    }

    /// The findings of the CloudScan with this uid.
    pub fn of(&self, namespace: &str, scan: &str, uid: Option<&str>) -> Findings {
        let known = lock(&self.0);
        let Some(findings) = known.by_owner.get(&(namespace.to_owned(), scan.to_owned())) else {
            return Findings::new();
        };
        let is_mine = |finding: &ResourceFinding| finding.owner_references().iter().any(|o| Some(&*o.uid) == uid);
        findings.iter().filter(|(_, f)| is_mine(f)).map(|(name, f)| (name.clone(), f.clone())).collect()
    }

    /// How many findings of a namespace match.
    pub fn count(&self, namespace: &str, is_it: impl Fn(&ResourceFinding) -> bool) -> usize {
        let known = lock(&self.0);
        let here = known.by_owner.iter().filter(|((of, _), _)| of == namespace);
        here.flat_map(|(_, findings)| findings.values()).filter(|finding| is_it(finding)).count()
    }
}

fn owner(finding: &ResourceFinding) -> Option<Owner> {
    let scan = finding.owner_references().iter().find(|owner| owner.kind == "CloudScan")?;
    Some((finding.namespace()?, scan.name.clone()))
}

fn put(all: &mut BTreeMap<Owner, Findings>, finding: &ResourceFinding) {
    if let Some(owner) = owner(finding) {
        all.entry(owner).or_default().insert(finding.name_any(), Arc::new(finding.clone()));
    }
}

fn take(all: &mut BTreeMap<Owner, Findings>, finding: &ResourceFinding) {
    let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
    all.retain(|(of, _), findings| {
        if *of == namespace {
            findings.remove(&name);
        }
        !findings.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(name: &str, scan: Option<(&str, &str)>) -> ResourceFinding {
        let owner = |(name, uid): (&str, &str)| json!([{"apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "name": name, "uid": uid}]);
        let mut finding = ResourceFinding::new(name, crate::api::ResourceFindingFields {});
        finding.metadata.namespace = Some("team-a".to_owned());
        finding.metadata.owner_references = scan.map(|scan| serde_json::from_value(owner(scan)).unwrap());
        finding
    }

    #[test]
    fn each_cloud_scan_has_its_own_and_a_new_list_replaces_all() {
        let standing = Standing::default();
        let names = |scan: &str, uid: &str| -> Vec<String> {
            standing.of("team-a", scan, Some(uid)).into_keys().collect()
        };
        standing.see(&Event::Init);
        standing.see(&Event::InitApply(finding("a", Some(("one", "1")))));
        standing.see(&Event::InitApply(finding("b", Some(("two", "2")))));
        assert!(names("one", "1").is_empty(), "half a list is none");
        standing.see(&Event::InitDone);
        standing.see(&Event::Apply(finding("c", Some(("one", "1")))));
        assert_eq!(
            (names("one", "1"), names("two", "2")),
            (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()])
        );
        // A CloudScan that was deleted and created again under its name takes over the existing findings.
        standing.see(&Event::Apply(finding("a", Some(("one", "9")))));
        assert_eq!((names("one", "1"), names("one", "9")), (vec!["c".to_owned()], vec!["a".to_owned()]));
        standing.see(&Event::Apply(finding("c", None)));
        standing.see(&Event::Delete(finding("b", Some(("two", "2")))));
        assert!(names("one", "1").is_empty() && names("two", "2").is_empty());
        assert_eq!(standing.count("team-a", |_| true), 1);
        assert_eq!(standing.count("team-b", |_| true), 0);
        standing.see(&Event::Init);
        standing.see(&Event::InitDone);
        assert_eq!(standing.count("team-a", |_| true), 0);
    }
}
