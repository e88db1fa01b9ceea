//! The reconcilers against an API server that records each call: the tests compare the whole list, so that a missing, an
//! extra or a repeated call fails them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::cloud::aws::Aws;
use crate::cloud::{AccountTarget, CloudError, Provider, Providers, Session, TypeInfo};
use crate::inventory::{FindingKind, ProviderFacts, Timestamp};
use crate::store::tests::{observation, sweep};

const SUBSCRIBER: &str = "team-a/one";

/// Records each call, and answers as a script says, else as the API server does when nothing is in the way: an applied
/// or created object as it was sent.
#[derive(Clone, Default)]
struct ApiServer {
    calls: Arc<Mutex<Vec<String>>>,
    /// The beginning of a call, and the status of its answer.
    refused: Arc<Mutex<Vec<(&'static str, u16)>>>,
}

impl ApiServer {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: hyper::Request<Body>) -> hyper::Response<Body> {
        let (parts, body) = request.into_parts();
        let call = format!("{} {}", parts.method, parts.uri.path());
        let sent = body.collect().await.unwrap().to_bytes();
        lock(&self.calls).push(call.clone());
        let refused = lock(&self.refused).iter().find(|(start, _)| call.starts_with(start)).map(|(_, code)| *code);
        let code = refused.unwrap_or(200);
        let answer = if refused.is_some() {
            let reason = if code == 404 { "NotFound" } else { "Refused" };
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no",
                "reason": reason, "code": code,
            })
        } else {
            let mut object: Value = serde_json::from_slice(&sent).unwrap_or(Value::Null);
            if parts.uri.path().ends_with("/status") {
                object["spec"] = json!({"provider": {"aws": {}}});
            }
            object
        };
        hyper::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap()
    }

    /// The calls since the last time.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.calls))
    }

    fn refuse(&self, refused: &[(&'static str, u16)]) {
        *lock(&self.refused) = refused.to_vec();
    }
}

fn scan(provider: &Value) -> CloudScan {
    serde_json::from_value(json!({
        "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "spec": {"provider": provider},
        "metadata": {
            "namespace": "team-a", "name": "one", "uid": "u", "generation": 1, "resourceVersion": "1",
        },
    }))
    .unwrap()
}

/// Nobody gets in while a test runs: what is in the store was scanned before.
struct Closed(Aws);

#[async_trait]
impl Provider for Closed {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn types(&self) -> Vec<TypeInfo> {
        self.0.types()
    }

    fn facts(&self) -> ProviderFacts {
        self.0.facts()
    }

    fn default_endpoint(&self) -> String {
        String::new()
    }

    async fn connect(&self, _: &AccountTarget) -> Result<Arc<dyn Session>, CloudError> {
        std::future::pending().await
    }
}

struct Bed {
    server: ApiServer,
    context: Arc<Context>,
    findings: Arc<standing::Standing>,
    _dir: tempfile::TempDir,
}

impl Bed {
    /// A store in which the CloudScan sees one untagged volume.
    fn new(scan: &CloudScan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = "2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap();
        let store = Store::open(&dir.path().join("elava.redb"), Arc::new(move || now)).unwrap();
        let mut swept = sweep(now.minus(Duration::from_mins(1)));
        swept.observations.push(observation("vol-1", &[], 8));
        store.commit(&swept, Some(&Subscriber::new(SUBSCRIBER))).unwrap();

        let server = ApiServer::default();
        let fleet_facts = Facts::of([Aws::default().facts()]);
        let (fleet, _finished) = Fleet::new(Providers::of([Arc::new(Closed(Aws::default())) as _]), store.clone());
        let (scans, mut scan_writer) = reflector::store();
        scan_writer.apply_watcher_event(&Event::Apply(scan.clone()));
        let (exemptions, mut exemption_writer) = reflector::store();
        exemption_writer.apply_watcher_event(&Event::Init);
        exemption_writer.apply_watcher_event(&Event::InitDone);
        let findings = Arc::new(standing::Standing::default());
        findings.see(&Event::Init);
        findings.see(&Event::InitDone);
        let (requesting, _) = mpsc::unbounded_channel();
        let existing = BTreeSet::from([Subscriber::new(SUBSCRIBER)]);
        let (_, existing) = watch::channel(Some(existing));
        let limits = NamespaceLimits {
            min_interval: Duration::from_mins(1),
            cloud_scans: 10,
            accounts: 10,
            resources: 100,
            open_findings: 100,
            waiting_events: 100,
        };
        let context = Context {
            client: server.client(),
            store,
            fleet,
            scans,
            subscriptions: subscribe::Subscriptions::new(requesting.clone()),
            requests: requests::Requests::default(),
            statuses: publish::WrittenStatuses::default(),
            findings: findings.clone(),
            exemptions,
            evaluators: Mutex::default(),
            facts: fleet_facts,
            prices: Arc::new(Prices::shipped()),
            notifiers: notify::Notifiers::new(Vec::new(), requesting),
            pace: pace::Pace::new(),
            meters: Meters::default(),
            allowed: Allowed::Anything,
            limits,
            identity: Identity {
                service_account: "elava:elava".to_owned(),
                credentials_role: "elava-credentials".to_owned(),
                instance: "elava-0".to_owned(),
            },
            existing,
            namespaces: Vec::new(),
            subscribing: Failures::default(),
            publishing: Failures::default(),
        };
        Self { server, context: Arc::new(context), findings, _dir: dir }
    }

    async fn subscribe(&self, scan: &CloudScan) -> Result<Action, ReconcileError> {
        subscribe::reconcile(Arc::new(scan.clone()), self.context.clone()).await
    }

    async fn publish(&self, scan: &CloudScan) -> Result<Action, ReconcileError> {
        publish::reconcile(Arc::new(scan.clone()), self.context.clone()).await
    }

    /// The watch delivers the one finding that was written.
    fn deliver(&self, uid: &str) {
        let records =
            self.context.store.notes(&Subscriber::new(SUBSCRIBER), crate::policy::lifecycle::FINDINGS).unwrap();
        let records: Vec<_> = crate::policy::lifecycle::records(records).collect();
        let [(name, record)] = records.as_slice() else { panic!("{} records", records.len()) };
        assert_eq!(record.finding.kind, FindingKind::Untagged);
        let mut finding = build::finding(&scan(&json!({"aws": {}})), name, record, "USD");
        finding.metadata.uid = Some(uid.to_owned());
        self.findings.see(&Event::Apply(finding));
    }
}

fn paths(calls: &[String]) -> Vec<&str> {
    calls.iter().map(|call| call.rsplit_once("untagged-").map_or(call.as_str(), |(path, _)| path)).collect()
}

const FINDING: &str = "PATCH /apis/elava.dev/v1alpha1/namespaces/team-a/resourcefindings/";
const EVENT: &str = "POST /apis/events.k8s.io/v1/namespaces/team-a/events";
const STATUS: &str = "PATCH /apis/elava.dev/v1alpha1/namespaces/team-a/cloudscans/one/status";

/// Objects are written first, then what happened to them is reported, then the status follows; and a repetition writes
/// nothing.
#[tokio::test]
async fn a_finding_is_written_once_then_reported_then_counted() {
    let scan = scan(&json!({"aws": {"accounts": [{"id": "111122223333"}]}}));
    let bed = Bed::new(&scan);
    bed.server.refuse(&[("GET /api/v1/namespaces/team-a", 404)]);
    bed.subscribe(&scan).await.unwrap();
    assert_eq!(bed.server.calls(), ["GET /api/v1/namespaces/team-a"], "the namespace, and nothing else");

    bed.publish(&scan).await.unwrap();
    let calls = bed.server.calls();
    let calls = paths(&calls);
    assert_eq!(calls, [FINDING, EVENT, STATUS]);

    bed.deliver("f");
    bed.publish(&scan).await.unwrap();
    assert_eq!(bed.server.calls(), Vec::<String>::new(), "all of it is there");
}

/// What the API server refuses is written the next time; the status is written all the same.
#[tokio::test]
async fn a_finding_that_is_refused_is_written_again_and_holds_nothing_up() {
    let scan = scan(&json!({"aws": {"accounts": [{"id": "111122223333"}]}}));
    let bed = Bed::new(&scan);
    bed.server.refuse(&[("GET /api/v1/namespaces/team-a", 404), (FINDING, 403)]);
    bed.subscribe(&scan).await.unwrap();
    bed.server.calls();
    let error = bed.publish(&scan).await.unwrap_err();
    assert_eq!(error.reason(), "ApiFailed");
    let calls = bed.server.calls();
    let calls = paths(&calls);
    assert_eq!(calls, [FINDING, STATUS], "no event about what is not there");

    bed.server.refuse(&[]);
    bed.publish(&scan).await.unwrap();
    let calls = bed.server.calls();
    assert_eq!(paths(&calls), [FINDING, EVENT, STATUS], "what was refused, and the event that waited for it");
}

/// A Secret that can't be read concerns the credentials: what was scanned with them is published.
#[tokio::test]
async fn findings_do_not_wait_for_a_secret_that_can_not_be_read() {
    let with_secret =
        scan(&json!({"aws": {"accounts": [{"id": "111122223333"}], "credentialsSecretRef": {"name": "keys"}}}));
    let bed = Bed::new(&with_secret);
    let namespace = ("GET /api/v1/namespaces/team-a", 404);
    // The Secret does not exist at first: the spec is processed, and nothing is scanned for it.
    bed.server.refuse(&[namespace]);
    bed.subscribe(&with_secret).await.unwrap();
    bed.server.refuse(&[("GET /api/v1/namespaces/team-a/secrets", 500), namespace]);
    assert!(bed.subscribe(&with_secret).await.is_err(), "it is tried again");
    bed.server.calls();
    bed.publish(&with_secret).await.unwrap();
    let calls = bed.server.calls();
    let calls = paths(&calls);
    let (status, others) = calls.split_last().unwrap();
    assert_eq!((*status, &others[..2]), (STATUS, &[FINDING, EVENT][..]), "{calls:?}");
    // What the conditions state about the credentials.
    assert!(others[2..].iter().all(|call| *call == EVENT), "{calls:?}");
}
