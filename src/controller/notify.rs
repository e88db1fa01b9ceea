//! A CloudScan's webhook: CloudEvents over HTTP, signed, in order, at least once.
//!
//! What is to be told is queued in the store no later than the records that it follows from, and leaves the queue when the receiver has taken it. So a receiver that is away, or an operator that is
//! killed, loses nothing; an event that is told twice has the same id both times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use super::{Context, ReconcileError, build, lock, timely};
use crate::api::{CloudScan, ResourceFinding, Webhook};
use crate::inventory::{Revision, Timestamp, Viewer};
use crate::policy::lifecycle::{Record, Transition};
use crate::store::{Store, StoreError};

/// The prefix of the notes that wait to be delivered, in their order.
const OUTBOX: &str = "outbox/";
/// More than this do not wait: the newest are given up, and the log says so. A finding is 2 KB.
const MAX_WAITING: usize = 50_000;
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// The key of the Secret that signs.
const SIGNING_KEY: &str = "signing-key";

/// It follows no redirect: who is allowed is who is named.
type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// CloudEvents 1.0, structured mode: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloudEvent {
    pub specversion: String,
    /// The same for the same transition, however often it is told.
    pub id: String,
    /// The path of the CloudScan in the Kubernetes API.
    pub source: String,
    /// `dev.elava.finding.` and the transition in lower case.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the ResourceFinding.
    pub subject: String,
    pub time: Timestamp,
    pub datacontenttype: String,
    /// The ResourceFinding as it is from then on.
    pub data: serde_json::Value,
}

/// What tells of one transition.
pub(super) fn message(
    scan: &CloudScan,
    name: &str,
    what: Transition,
    record: &Record,
    object: Option<&ResourceFinding>,
    now: Timestamp,
) -> CloudEvent {
    let source = format!(
        "/apis/elava.dev/v1alpha1/namespaces/{}/cloudscans/{}",
        scan.namespace().unwrap_or_default(),
        scan.name_any()
    );
    let note = record.acknowledged.as_ref().map_or("", |known| known.note.as_str());
    // Nothing of when it is told: a crash between telling and noting must not make it another event.
    let finding = &record.finding;
    let since = (!finding.is_noticed).then_some(finding.since);
    let told = format!(
        "{source}\0{name}\0{}\0{}\0{}\0{since:?}\0{note}",
        what.as_str(),
        record.reopened,
        finding.revision
    );
    let mut data = object.map(|object| serde_json::to_value(object).unwrap_or_default()).unwrap_or_default();
    if let Some(metadata) = data.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
        metadata.remove("managedFields");
    }
    CloudEvent {
        specversion: "1.0".to_owned(),
        id: blake3::hash(told.as_bytes()).to_hex()[..32].to_owned(),
        source,
        kind: format!("dev.elava.finding.{}", what.as_str().to_ascii_lowercase()),
        subject: name.to_owned(),
        time: now,
        datacontenttype: "application/json".to_owned(),
        data,
    }
}

/// The notes that put events into the queue, in the order of their revisions.
pub(super) fn queued(
    events: impl Iterator<Item = CloudEvent>,
    revision: Revision,
) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    // Rounds without a new revision may resolve things too: time tells them apart.
    let at = jiff::Timestamp::now().as_nanosecond();
    events.enumerate().map(move |(i, event)| {
        let bytes = serde_json::to_vec(&event).expect("an event is JSON");
        (format!("{OUTBOX}{:020}-{at:030}-{i:06}", revision.0), Some(bytes))
    })
}

/// How the last try went.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    pub waiting: usize,
    pub error: Option<String>,
}

/// Delivers one CloudScan's events until it is dropped.
struct Notifier {
    webhook: Webhook,
    key: Option<Vec<u8>>,
    state: Arc<Mutex<Delivery>>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Everybody's.
pub(super) struct Notifiers {
    running: Mutex<BTreeMap<Viewer, Notifier>>,
    http: OnceLock<Http>,
    /// Told when a delivery begins to fail or works again.
    changed: mpsc::UnboundedSender<Viewer>,
    allowed: Vec<String>,
}

impl Notifiers {
    pub fn new(allowed: Vec<String>, changed: mpsc::UnboundedSender<Viewer>) -> Self {
        Self { running: Mutex::default(), http: OnceLock::new(), changed, allowed }
    }

    /// Made when somebody is to be told: without root certificates that is a webhook's trouble alone.
    fn http(&self) -> Result<Http, String> {
        if let Some(http) = self.http.get() {
            return Ok(http.clone());
        }
        let connector = HttpsConnectorBuilder::new().with_native_roots();
        let connector = connector.map_err(|error| format!("the operator finds no root certificates: {error}"))?;
        let connector = connector.https_or_http().enable_http1().build();
        Ok(self.http.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)).clone())
    }

    fn is_allowed(&self, url: &str) -> bool {
        // A receiver would take a step back from what is allowed.
        let path = url.split('?').next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
        if path.split(['/', '\\']).any(|segment| segment == "." || segment == "..") || path.contains("%2f") {
            return false;
        }
        let begins = |allowed: &String| {
            let rest = url.strip_prefix(allowed.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        };
        self.allowed.iter().any(begins)
    }

    pub fn retain(&self, keep: impl Fn(&Viewer) -> bool) {
        lock(&self.running).retain(|viewer, _| keep(viewer));
    }
}

/// Sees to it that what waits is delivered. None where nobody is to be told.
pub(super) async fn deliver(scan: &CloudScan, context: &Context) -> Result<Option<Delivery>, ReconcileError> {
    let viewer = build::viewer(scan);
    let notifiers = &context.notifiers;
    let Some(webhook) = scan.spec.findings.webhook.clone() else {
        if lock(&notifiers.running).remove(&viewer).is_some() {
            // Nobody is to be told any more.
            let store = context.store.clone();
            let done = tokio::task::spawn_blocking(move || clear(&store, &viewer)).await;
            done.map_err(|_| ReconcileError::Store(StoreError::Poisoned))??;
        }
        return Ok(None);
    };
    let (key, http) = match prepared(scan, &webhook, context).await? {
        Ok(prepared) => prepared,
        Err(why) => {
            lock(&notifiers.running).remove(&viewer);
            // What waits is bounded also while nobody takes it.
            let store = context.store.clone();
            let waits = tokio::task::spawn_blocking(move || waiting(&store, &viewer)).await;
            let waits = waits.map_err(|_| ReconcileError::Store(StoreError::Poisoned))??;
            return Ok(Some(Delivery { waiting: waits.len(), error: Some(why) }));
        }
    };
    let mut running = lock(&notifiers.running);
    let is_same = |n: &Notifier| n.webhook == webhook && n.key == key && !n.task.is_finished();
    if !running.get(&viewer).is_some_and(is_same) {
        let (state, wake) = (Arc::new(Mutex::new(Delivery::default())), Arc::new(Notify::new()));
        let sender = Sender {
            store: context.store.clone(),
            viewer: viewer.clone(),
            http,
            url: webhook.url.clone(),
            key: key.clone().map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)),
            state: state.clone(),
            wake: wake.clone(),
            changed: notifiers.changed.clone(),
        };
        let task = tokio::spawn(sender.run());
        running.insert(viewer.clone(), Notifier { webhook, key, state, wake, task });
    }
    let notifier = &running[&viewer];
    notifier.wake.notify_one();
    Ok(Some(lock(&notifier.state).clone()))
}

/// What it takes to tell somebody. The inner error is for whoever wrote the CloudScan.
async fn prepared(
    scan: &CloudScan,
    webhook: &Webhook,
    context: &Context,
) -> Result<Result<(Option<Vec<u8>>, Http), String>, ReconcileError> {
    if !context.notifiers.is_allowed(&webhook.url) {
        return Ok(Err(format!(
            "spec.findings.webhook.url: {url} is not on the operator's list: ask its administrator to start it with \
             --allow-webhook={url} (chart value allowedWebhooks)",
            url = webhook.url
        )));
    }
    let key = signing_key(scan, webhook, context).await?;
    Ok(key.and_then(|key| Ok((key, context.notifiers.http()?))))
}

/// Events of all CloudScans that wait for their receivers.
pub fn all_waiting(store: &Store) -> Result<usize, StoreError> {
    let of = |viewer| store.count_notes(&viewer, OUTBOX);
    store.note_viewers()?.into_iter().map(of).sum()
}

fn clear(store: &Store, viewer: &Viewer) -> Result<(), StoreError> {
    let notes: Vec<_> = store.notes(viewer, OUTBOX)?.into_keys().map(|name| (name, None)).collect();
    store.write_notes(viewer, &notes)
}

/// The inner error is for whoever wrote the CloudScan.
async fn signing_key(
    scan: &CloudScan,
    webhook: &Webhook,
    context: &Context,
) -> Result<Result<Option<Vec<u8>>, String>, ReconcileError> {
    let Some(reference) = &webhook.secret_ref else { return Ok(Ok(None)) };
    let namespace = scan.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let name = &reference.name;
    let secret = match timely(secrets.get_opt(name)).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Ok(Err(format!("there is no Secret {namespace}/{name}, which is to sign the webhook")));
        }
        Err(ReconcileError::Api(kube::Error::Api(status))) if status.code == 403 => {
            return Ok(Err(super::dereference::not_allowed(&namespace, name, context)));
        }
        Err(error) => return Err(error),
    };
    let bytes = secret.data.as_ref().and_then(|data| data.get(SIGNING_KEY)).map(|bytes| bytes.0.clone());
    Ok(match bytes.map(key_of) {
        Some(Some(key)) if key.is_empty() => Err(format!(
            "the key {SIGNING_KEY} of the Secret {namespace}/{name} is empty: nothing can be signed with it"
        )),
        Some(Some(key)) => Ok(Some(key)),
        Some(None) => {
            Err(format!("the key {SIGNING_KEY} of the Secret {namespace}/{name} is no base64 after whsec_"))
        }
        None => Err(format!("the Secret {namespace}/{name} has no key {SIGNING_KEY}")),
    })
}

/// As Standard Webhooks writes keys: `whsec_` and base64; anything else is taken as it is.
fn key_of(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let trimmed = bytes.trim_ascii();
    match trimmed.strip_prefix(b"whsec_") {
        Some(encoded) => BASE64.decode(encoded).ok(),
        None => Some(trimmed.to_vec()),
    }
}

/// `v1,` and the HMAC of id, time and body: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
fn signature(key: &hmac::Key, id: &str, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64.encode(context.sign()))
}

struct Sender {
    store: Store,
    viewer: Viewer,
    http: Http,
    url: String,
    key: Option<hmac::Key>,
    state: Arc<Mutex<Delivery>>,
    wake: Arc<Notify>,
    changed: mpsc::UnboundedSender<Viewer>,
}

impl Sender {
    async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            if let Err(error) = self.deliver_all().await {
                self.say(Some(error));
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            } else {
                backoff = FIRST_BACKOFF;
                self.wake.notified().await;
            }
        }
    }

    fn say(&self, error: Option<String>) {
        let mut state = lock(&self.state);
        let is_news = state.error.is_some() != error.is_some();
        if is_news {
            if let Some(error) = &error {
                tracing::warn!(cloudscan = %self.viewer, "a webhook can't be told: {error}");
            } else {
                tracing::info!(cloudscan = %self.viewer, "the webhook takes what it is told again");
            }
        }
        state.error = error;
        drop(state);
        if is_news {
            let _ = self.changed.send(self.viewer.clone());
        }
    }

    /// In order: the first that is refused stops the rest.
    async fn deliver_all(&self) -> Result<(), String> {
        let (store, viewer) = (self.store.clone(), self.viewer.clone());
        let waiting = tokio::task::spawn_blocking(move || waiting(&store, &viewer)).await;
        let waiting = waiting.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let mut left = waiting.len();
        lock(&self.state).waiting = left;
        for (name, body) in waiting {
            self.post(body).await?;
            let (store, viewer) = (self.store.clone(), self.viewer.clone());
            let taken = tokio::task::spawn_blocking(move || store.write_notes(&viewer, &[(name, None)])).await;
            taken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            left -= 1;
            lock(&self.state).waiting = left;
        }
        self.say(None);
        Ok(())
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let id = serde_json::from_slice::<CloudEvent>(&body).map(|event| event.id).unwrap_or_default();
        let seconds = jiff::Timestamp::now().as_second();
        // Nothing that is said of it names the URL: it may hold a token.
        let mut request = hyper::Request::post(&self.url)
            .header("content-type", "application/cloudevents+json; charset=utf-8")
            .header("user-agent", concat!("elava/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &id)
            .header("webhook-timestamp", seconds);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &id, seconds, &body));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(DEADLINE, self.answer(request)).await;
        answer.unwrap_or_else(|_| Err(format!("the receiver did not answer within {} s", DEADLINE.as_secs())))
    }

    async fn answer(&self, request: hyper::Request<Full<Bytes>>) -> Result<(), String> {
        let answer = self.http.request(request).await.map_err(|error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let last = causes.last().map(ToString::to_string);
            format!("the receiver can't be reached: {}", last.unwrap_or_else(|| error.to_string()))
        })?;
        // What else it says is not shown: whoever names a receiver would read inner services by it.
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
    }
}

/// What waits, in order. More than may wait is dropped.
fn waiting(store: &Store, viewer: &Viewer) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let mut waiting: Vec<(String, Vec<u8>)> = store.notes(viewer, OUTBOX)?.into_iter().collect();
    if waiting.len() > MAX_WAITING {
        let dropped: Vec<_> = waiting.split_off(MAX_WAITING).into_iter().map(|(name, _)| (name, None)).collect();
        tracing::error!(cloudscan = %viewer, dropped = dropped.len(), "more waits for a webhook than is kept");
        store.write_notes(viewer, &dropped)?;
    }
    Ok(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn a_request_is_signed_as_standard_webhooks_says() {
        let key = key_of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".to_vec()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(key_of(b"plain\n".to_vec()), Some(b"plain".to_vec()));
        assert_eq!(key_of(b"whsec_%".to_vec()), None);
    }

    #[test]
    fn only_what_is_listed_is_told() {
        let (sender, _receiver) = mpsc::unbounded_channel();
        let notifiers = Notifiers::new(vec!["https://hooks.example.com/elava".to_owned()], sender);
        for (url, expected) in [
            ("https://hooks.example.com/elava", true),
            ("https://hooks.example.com/elava/team-a", true),
            ("https://hooks.example.com/elava?x=1", true),
            ("https://hooks.example.com/elavas", false),
            ("https://hooks.example.com", false),
            ("http://hooks.example.com/elava", false),
            ("https://hooks.example.com.evil.net/elava", false),
            ("https://hooks.example.com/elava/../admin", false),
            ("https://hooks.example.com/elava/%2E%2e/admin", false),
            ("https://hooks.example.com/elava/..%2fadmin", false),
            ("https://hooks.example.com/elava/v1.2/..team", true),
        ] {
            assert_eq!(notifiers.is_allowed(url), expected, "{url}");
        }
    }
}
