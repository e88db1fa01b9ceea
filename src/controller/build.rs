//! Builds the desired state as values: subscriptions for the scanner, objects for the API server. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta, OwnerReference};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use super::validate::Valid;
use crate::api::{
    CloudScan, FindingOwner, FindingState, FindingStatus, GROUP, RELEASE_HELD, ResourceFinding, Since, condition,
};
use crate::inventory::{
    Credentials, FindingKind, Members, ResourceKey, Revision, Severity, Subscriber, Timestamp,
};
use crate::policy::lifecycle::{Record, Resolution, State, Suppressed, Transition};
use crate::scanner::Subscription;

/// The field manager of what the operator applies, and the name that its events carry.
pub const MANAGER: &str = "elava";
/// Kubernetes' limit on an event's note.
const NOTE_MAX_CHARS: usize = 1024;
/// Maximum size of a finding's JSON without managed fields: etcd holds thousands of them.
const FINDING_MAX_BYTES: usize = 2048;
/// Limits of the fields of `FindingStatus`, in characters.
const MESSAGE_MAX_CHARS: usize = 512;
const NAME_MAX_CHARS: usize = 256;
const EVIDENCE_MAX_CHARS: usize = 256;
const ADVICE_MAX_CHARS: usize = 256;
/// The kind of the single object that stands for all findings over the cap.
const MORE: &str = "MoreFindings";
/// Placeholder where one resource would be named.
const MANY: &str = "*";

/// A CloudScan is identified by namespace and name: one that is applied again continues with the same lives.
pub fn subscriber(scan: &CloudScan) -> Subscriber {
    subscriber_of(scan)
}

/// The same for a reference to one.
pub fn subscriber_of_reference(scan: &ObjectRef<CloudScan>) -> Subscriber {
    Subscriber::new(format!("{}/{}", scan.namespace.as_deref().unwrap_or_default(), scan.name))
}

/// The same for an object of which perhaps only the metadata is readable.
pub fn subscriber_of(scan: &impl ResourceExt) -> Subscriber {
    Subscriber::new(format!("{}/{}", scan.namespace().unwrap_or_default(), scan.name_any()))
}

/// `members` are the accounts of the organization, if the spec names one.
pub fn subscriptions(
    scan: &CloudScan,
    valid: &Valid,
    credentials: &Credentials,
    default_endpoint: &str,
    members: Option<&Members>,
) -> Vec<Subscription> {
    let targets = valid.provider.targets(credentials, default_endpoint, members);
    let subscribe = |target| Subscription {
        subscriber: subscriber(scan),
        tenant: "".into(),
        target,
        types: valid.types.clone(),
        interval: valid.interval,
        suspended: valid.suspended,
        loss: valid.loss,
        confirmations: scan.spec.disappearance.confirmations.into(),
        released: scan.annotations().get(RELEASE_HELD).map(|named| released(named)).unwrap_or_default(),
        requested_at: None,
        generation: scan.metadata.generation.unwrap_or_default(),
    };
    targets.into_iter().map(subscribe).collect()
}

fn released(named: &str) -> Vec<String> {
    named.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// Hex digits of a hash in a name. A user who can create a resource, and so choose its id, must not be able to find an
/// id whose finding has the name of another finding: with 32 bits that took minutes.
const NAME_HASH_DIGITS: usize = 16;

/// `<kind>-<slug of id>-<16 hex>`: the same cause always has the same name.
pub fn finding_name(scan_name: &str, kind: FindingKind, key: &ResourceKey) -> String {
    let hash = blake3::hash(format!("{scan_name}\0{kind}\0{key}").as_bytes()).to_hex();
    format!("{}-{}-{}", kind.as_str().to_ascii_lowercase(), key.slug(), &hash[..NAME_HASH_DIGITS])
}

pub fn finding(scan: &CloudScan, name: &str, record: &Record, currency: &str) -> ResourceFinding {
    let Record { finding, state, .. } = record;
    let key = &finding.resource;
    let labels = BTreeMap::from([
        label("kind", finding.kind.as_str()),
        label("severity", finding.severity.as_str()),
        label("account", key.account.as_str()),
        label("region", key.region.as_str()),
        // A label value can't contain a colon.
        label("type", &key.resource_type.as_str().replace("::", ".")),
    ]);
    let acknowledgement = record.acknowledged.as_ref().map(|known| shortened(&known.note, NAME_MAX_CHARS));
    let (state, resolution, resolved_at) = match state {
        State::Pending | State::Open if acknowledgement.is_some() => (FindingState::Acknowledged, None, None),
        State::Pending | State::Open => (FindingState::Open, None, None),
        State::Exempted => (FindingState::Exempted, None, None),
        State::Resolved { at, reason } => (FindingState::Resolved, Some(reason.as_str().to_owned()), Some(*at)),
    };
    let owner = |owner: &crate::policy::Owner| FindingOwner {
        name: shortened(&owner.name, NAME_MAX_CHARS),
        source: owner.source.as_str().to_owned(),
    };
    object(
        scan,
        name,
        labels,
        FindingStatus {
            kind: finding.kind.as_str().to_owned(),
            severity: finding.severity.as_str().to_owned(),
            state,
            resolution,
            resolved_at,
            reopened: (record.reopened > 0).then(|| record.reopened.into()),
            acknowledgement,
            exemption: finding.exempted_by.clone().filter(|_| state == FindingState::Exempted),
            message: shortened(&finding.message, MESSAGE_MAX_CHARS),
            advice: shortened(&finding.advice, ADVICE_MAX_CHARS),
            owner: finding.owner.as_ref().map(owner),
            monthly_cost: finding.monthly_cost.map(|cost| cost.to_string()),
            currency: finding.monthly_cost.map(|_| currency.to_owned()),
            resource: key.to_string(),
            resource_name: finding.name.as_deref().map(|name| shortened(name, NAME_MAX_CHARS)),
            provider: key.provider.to_string(),
            account: key.account.to_string(),
            region: key.region.to_string(),
            resource_type: key.resource_type.to_string(),
            id: key.id.to_string(),
            first_seen: finding.first_seen,
            since: Since { revision: revision(finding.revision.0), time: finding.since },
            evidence: finding.evidence.iter().map(|e| shortened(e, EVIDENCE_MAX_CHARS)).collect(),
        },
    )
}

fn label(name: &str, value: &str) -> (String, String) {
    (format!("{GROUP}/{name}"), value.to_owned())
}

fn object(
    scan: &CloudScan,
    name: &str,
    labels: BTreeMap<String, String>,
    status: FindingStatus,
) -> ResourceFinding {
    let mut object = ResourceFinding::new(name, crate::api::ResourceFindingFields {});
    object.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: scan.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner(scan)]),
        ..ObjectMeta::default()
    };
    object.status = Some(status);
    fit(object)
}

/// The single object that stands for all findings over the cap.
pub fn more_findings(
    scan: &CloudScan,
    suppressed: &Suppressed,
    cap: usize,
    at: Revision,
    now: Timestamp,
) -> ResourceFinding {
    let provider = scan.spec.provider.spec().map_or("", |provider| provider.name());
    let scan_name = scan.name_any();
    let hash = blake3::hash(format!("{scan_name}\0{MORE}").as_bytes()).to_hex();
    let severity = suppressed.worst.unwrap_or(Severity::Low).as_str();
    let kinds: Vec<String> = suppressed.by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let cloudscan = format!("{}/{scan_name}", scan.namespace().unwrap_or_default());
    let labels = BTreeMap::from([label("kind", MORE), label("severity", severity)]);
    object(
        scan,
        &format!("morefindings-{}", &hash[..NAME_HASH_DIGITS]),
        labels,
        FindingStatus {
            kind: MORE.to_owned(),
            severity: severity.to_owned(),
            state: FindingState::Open,
            resolution: None,
            resolved_at: None,
            reopened: None,
            acknowledgement: None,
            exemption: None,
            message: format!(
                "{} more findings are open than the {cap} that findings.maxOpen lets through: {}",
                suppressed.count,
                kinds.join(", ")
            ),
            advice: shortened(
                &format!("List them with elava findings --cloudscan {cloudscan}; raise maxOpen or exclude kinds"),
                ADVICE_MAX_CHARS,
            ),
            owner: None,
            monthly_cost: None,
            currency: None,
            resource: format!("{provider}/{MANY}/{MANY}/{MANY}/{MANY}"),
            resource_name: None,
            provider: provider.to_owned(),
            account: MANY.to_owned(),
            region: MANY.to_owned(),
            resource_type: MANY.to_owned(),
            id: MANY.to_owned(),
            first_seen: now,
            since: Since { revision: revision(at.0), time: now },
            evidence: Vec::new(),
        },
    )
}

/// Keeps the times of the existing object.
pub fn since_then(mut object: ResourceFinding, standing: &ResourceFinding) -> ResourceFinding {
    if let (Some(status), Some(before)) = (object.status.as_mut(), &standing.status) {
        status.first_seen = before.first_seen;
        status.since = before.since.clone();
    }
    object
}

/// Cuts the object to its maximum size. Long ids and names are rare. Evidence is removed first: the store has it.
fn fit(mut object: ResourceFinding) -> ResourceFinding {
    let is_too_long =
        |object: &ResourceFinding| serde_json::to_vec(object).map_or(0, |bytes| bytes.len()) > FINDING_MAX_BYTES;
    while is_too_long(&object) {
        let Some(status) = object.status.as_mut() else { break };
        let characters = status.message.chars().count();
        if status.evidence.pop().is_some() {
            continue;
        }
        match &status.resource_name {
            _ if characters > 128 => status.message = shortened(&status.message, characters / 2),
            Some(name) if name.chars().count() > 32 => status.resource_name = Some(shortened(name, 32)),
            _ => break,
        }
    }
    object
}

fn owner(scan: &CloudScan) -> OwnerReference {
    // Not `blockOwnerDeletion`: that would need the right to set finalizers on CloudScans.
    OwnerReference {
        block_owner_deletion: None,
        controller: Some(true),
        ..scan.controller_owner_ref(&()).unwrap_or_default()
    }
}

pub fn revision(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Cut to `most` characters, ending in `…` if something was cut.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Whether the existing object equals the desired one in all that the operator writes.
pub fn is_up_to_date(standing: &ResourceFinding, desired: &ResourceFinding) -> bool {
    let labels = |object: &ResourceFinding| {
        let mut labels = object.labels().clone();
        labels.retain(|key, _| desired.labels().contains_key(key));
        labels
    };
    standing.status == desired.status
        && labels(standing) == *desired.labels()
        && desired.owner_references().iter().all(|o| standing.owner_references().iter().any(|s| s.uid == o.uid))
}

/// The event of a transition. Its name follows from its content, so publishing it again adds nothing.
pub fn finding_event(
    scan: &CloudScan,
    object: &ResourceFinding,
    record: &Record,
    what: Transition,
    reported_at: Timestamp,
    instance: &str,
) -> Event {
    let kind = record.finding.kind.as_str();
    let message = &record.finding.message;
    let (reason, note) = match (what, &record.state) {
        (Transition::Opened | Transition::Reopened, _) => (kind.to_owned(), message.clone()),
        (Transition::Resolved, State::Resolved { reason, .. }) => {
            // A finding that was not fixed is not called resolved.
            let how = match reason {
                Resolution::Fixed | Resolution::FalseAlarm | Resolution::ResourceGone => "resolved",
                Resolution::Expired | Resolution::NoLongerWatched | Resolution::Grouped | Resolution::Flapping => {
                    "closed, not resolved"
                }
            };
            (format!("{kind}{}", reason.as_str()), format!("{how} ({}): {message}", reason.as_str()))
        }
        (Transition::Exempted, _) => {
            let by = record.finding.exempted_by.as_deref().unwrap_or_default();
            (what.as_str().to_owned(), format!("exempted by {by}: {message}"))
        }
        (Transition::Acknowledged, _) => {
            let note = record.acknowledged.as_ref().map_or("", |known| known.note.as_str());
            (what.as_str().to_owned(), format!("acknowledged ({note}): {message}"))
        }
        _ => (what.as_str().to_owned(), message.clone()),
    };
    let needs_action = matches!(what, Transition::Opened | Transition::Reopened | Transition::ExemptionEnded);
    let warning = needs_action && record.finding.severity > Severity::Low;
    // Does not include the time of reporting: identity again after a crash, it is the same event.
    let known = record.acknowledged.as_ref().map(|known| &known.note);
    let identity = format!("{}\0{reason}\0{}\0{known:?}", object.uid().unwrap_or_default(), record.reopened);
    let (regarding, related) = (object.object_ref(&()), scan.object_ref(&()));
    event(regarding, Some(related), &identity, &reason, warning, &note, what.as_str(), reported_at, instance)
}

/// The event of a condition that changed.
pub fn condition_event(scan: &CloudScan, condition: &Condition, reported_at: Timestamp, instance: &str) -> Event {
    let identity =
        format!("{}\0{}\0{}\0{}", condition.type_, condition.status, condition.reason, condition.message);
    let warning = (condition.type_ == condition::STALLED) == (condition.status == condition::TRUE);
    let note = format!("{}={}: {}", condition.type_, condition.status, condition.message);
    event(scan.object_ref(&()), None, &identity, &condition.reason, warning, &note, "Scan", reported_at, instance)
}

/// The event of an existing object that can't be read.
pub fn unreadable_event(
    kind: &str,
    api_version: &str,
    metadata: &ObjectMeta,
    error: &str,
    reported_at: Timestamp,
    instance: &str,
) -> Event {
    let regarding = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let reported = format!("unreadable\0{:?}\0{:?}", metadata.uid, metadata.resource_version);
    let note = format!("it can't be read, and is as if it were not there: {error}");
    event(regarding, None, &reported, "Unreadable", true, &note, "Read", reported_at, instance)
}

/// One event in place of many.
pub fn summary_event(
    scan: &CloudScan,
    omitted: usize,
    revision: u64,
    reported_at: Timestamp,
    instance: &str,
) -> Event {
    let note = format!(
        "{omitted} more findings changed: kubectl get resourcefindings -n {}",
        scan.namespace().unwrap_or_default()
    );
    let identity = format!("summary\0{revision}\0{omitted}");
    event(scan.object_ref(&()), None, &identity, "MoreFindings", false, &note, "Summarised", reported_at, instance)
}

#[allow(clippy::too_many_arguments)] // an event has that many parts
fn event(
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    reported: &str,
    reason: &str,
    warning: bool,
    note: &str,
    action: &str,
    reported_at: Timestamp,
    instance: &str,
) -> Event {
    let hash = blake3::hash(reported.as_bytes()).to_hex();
    let name = regarding.name.clone().unwrap_or_default();
    let name = name.get(..name.len().min(200)).unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", &hash[..16])),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(reported_at.to_jiff())),
        reporting_controller: Some(format!("{GROUP}/operator")),
        reporting_instance: Some(instance.to_owned()),
        action: Some(action.to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        note: Some(shortened(note, NOTE_MAX_CHARS / 4)),
        related,
        regarding: Some(regarding),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::lifecycle::Resolution;
    use crate::policy::{Finding, Owner};
    use serde_json::json;

    fn scan() -> CloudScan {
        serde_json::from_value(json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan",
            "metadata": {"name": "x", "namespace": "a", "uid": "u", "labels": {"argocd.argoproj.io/instance": "a"}},
            "spec": {"provider": {"aws": {}}},
        }))
        .unwrap()
    }

    fn record(id: &str, message: &str) -> Record {
        let long = "ä".repeat(1000);
        let finding = Finding {
            kind: FindingKind::Disappeared,
            severity: Severity::High,
            resource: format!("aws/111122223333/ap-southeast-2/AWS::EC2::NetworkInterface/{id}").parse().unwrap(),
            name: Some("n".repeat(256)),
            owner: Some(Owner { name: "o".repeat(256), source: crate::inventory::OwnerSource::Tags }),
            since_is_estimate: false,
            advice: "a".repeat(256),
            monthly_cost: None,
            exempted_by: None,
            first_seen: Timestamp::from_millis(1),
            since: Timestamp::from_millis(2),
            revision: Revision(u64::MAX),
            message: message.to_owned(),
            evidence: vec![long],
        };
        Record {
            finding,
            state: State::Open,
            reopened: 0,
            acknowledged: None,
            begun: vec![Timestamp::from_millis(2)],
            holds: true,
            published: true,
        }
    }

    #[test]
    fn names_are_deterministic_valid_and_never_shared() {
        let named =
            |scan: &str, id: &str| finding_name(scan, FindingKind::Disappeared, &record(id, "").finding.resource);
        let name = |id: &str| named("x", id);
        assert_eq!(name("vol-1"), name("vol-1"));
        assert_ne!(name("Orders"), name("orders"), "ids that look alike in lower case");
        assert_ne!(named("y", "vol-1"), name("vol-1"), "another CloudScan's");
        let valid = regex::Regex::new("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$").unwrap();
        for id in ["vol-1", "path/to:role", "ünïcode", "---", "a".repeat(500).as_str()] {
            assert!(valid.is_match(&name(id)) && name(id).len() <= 253, "{}", name(id));
        }
    }

    #[test]
    fn a_finding_is_small_and_takes_nothing_of_its_scan_but_the_owner() {
        let record = record(&"i".repeat(255), &"m".repeat(5000));
        let object = finding(&scan(), "name", &record, "USD");
        assert!(serde_json::to_vec(&object).unwrap().len() <= FINDING_MAX_BYTES, "even at the bounds");
        assert!(object.labels().keys().all(|key| key.starts_with("elava.dev/")), "a GitOps tool would prune it");
        assert_eq!(object.owner_references()[0].uid, "u");
        assert_eq!(object.labels()["elava.dev/type"], "AWS.EC2.NetworkInterface");
        assert!(is_up_to_date(&object, &object));
        let mut other = object.clone();
        other.status.as_mut().unwrap().message.push('!');
        assert!(!is_up_to_date(&other, &object));
    }

    #[test]
    fn the_same_transition_is_the_same_event_and_the_next_is_another() {
        let (scan, mut record) = (scan(), record("vol-1", "gone"));
        let mut object = finding(&scan, "name", &record, "USD");
        object.metadata.uid = Some("f".to_owned());
        let name = |record: &Record, what: Transition, at: i64| {
            finding_event(&scan, &object, record, what, Timestamp::from_millis(at), "pod").metadata.name.unwrap()
        };
        let opened = name(&record, Transition::Opened, 1);
        assert_eq!(opened, name(&record, Transition::Opened, 2), "told again after a crash, later");
        record.state = State::Resolved { at: Timestamp::from_millis(3), reason: Resolution::FalseAlarm };
        assert_ne!(opened, name(&record, Transition::Resolved, 3));
        record = Record { state: State::Open, reopened: 1, ..record };
        assert_ne!(opened, name(&record, Transition::Reopened, 4), "opened a second time");
    }

    #[test]
    fn the_one_that_speaks_for_the_rest_counts_them_by_kind_and_keeps_its_since() {
        let suppressed = Suppressed {
            count: 5,
            by_kind: [(FindingKind::Untagged, 4), (FindingKind::Orphaned, 1)].into(),
            worst: Some(Severity::Medium),
        };
        let at = |millis| more_findings(&scan(), &suppressed, 2000, Revision(3), Timestamp::from_millis(millis));
        let (object, later) = (at(1), at(2));
        let status = object.status.as_ref().unwrap();
        assert!(status.message.starts_with("5 more findings are open than the 2000"), "{}", status.message);
        assert!(status.message.ends_with("4 Untagged, 1 Orphaned"), "{}", status.message);
        assert!(!is_up_to_date(&object, &later));
        assert!(is_up_to_date(&object, &since_then(later, &object)));
    }
}
