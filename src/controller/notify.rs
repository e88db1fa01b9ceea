//! A CloudScan's webhook: CloudEvents over HTTP, signed, in order, at least once.
//!
//! Events are queued in the store no later than the records that they follow from, and leave the queue once the
//! receiver has accepted them. So no event is lost while the receiver is unavailable, or when the operator is killed.
//! An event that is delivered twice has the same id both times.

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
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use super::{Context, ReconcileError, build, dereference, lock, post};
use crate::api::{CloudScan, ResourceFinding, Webhook};
use crate::inventory::{Revision, Subscriber, Timestamp};
use crate::policy::lifecycle::{Record, Transition};
use crate::store::{Store, StoreError};

/// The prefix of the notes that wait for delivery, in their order.
const OUTBOX: &str = "outbox/";
/// Events that are read from the store at once: a finding has 2 KB.
const BATCH_MAX_EVENTS: usize = 100;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// The Secret's key that holds the signing key.
const SIGNING_KEY: &str = "signing-key";
/// The Secret's key that holds the receiver's URL, if the URL is confidential.
const ADDRESS: &str = "address";

/// Follows no redirects: only the receiver that is named is allowed.
type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// CloudEvents 1.0, structured mode: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloudEvent {
    pub specversion: String,
    /// The same for the same transition, however often it is delivered.
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
    /// The ResourceFinding after the transition.
    pub data: serde_json::Value,
}

/// The event of one transition.
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
    // Does not include the time of reporting: a crash between delivering and recording must not make it another event.
    let finding = &record.finding;
    let since = (!finding.since_is_estimate).then_some(finding.since);
    let identity = format!(
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
        id: blake3::hash(identity.as_bytes()).to_hex()[..32].to_owned(),
        source,
        kind: format!("dev.elava.finding.{}", what.as_str().to_ascii_lowercase()),
        subject: name.to_owned(),
        time: now,
        datacontenttype: "application/json".to_owned(),
        data,
    }
}

/// The events that fit beside the waiting events of the namespace: the newest are dropped, and the log records it.
pub(super) async fn within_limit(
    scan: &CloudScan,
    mut events: Vec<CloudEvent>,
    context: &Context,
) -> Result<Vec<CloudEvent>, ReconcileError> {
    if events.is_empty() {
        return Ok(events);
    }
    let neighbours = context.scans.state().into_iter().filter(|other| other.namespace() == scan.namespace());
    let subscribers: Vec<_> = neighbours.map(|other| build::subscriber(&other)).collect();
    let waiting = context.store.run_blocking(move |store| waiting(store, subscribers)).await?;
    let room = context.limits.waiting_events.saturating_sub(waiting);
    if events.len() > room {
        let dropped = events.len() - room;
        tracing::error!(cloudscan = %build::subscriber(scan), dropped, "more waits for webhooks of its namespace than is kept");
        events.truncate(room);
    }
    Ok(events)
}

/// The notes that queue events, in the order of their revisions.
pub(super) fn queued(
    events: impl IntoIterator<Item = CloudEvent>,
    revision: Revision,
) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    // Rounds without a new revision may resolve findings too: the time distinguishes them.
    let at = jiff::Timestamp::now().as_nanosecond();
    events.into_iter().enumerate().map(move |(i, event)| {
        let bytes = serde_json::to_vec(&event).expect("an event is JSON");
        (format!("{OUTBOX}{:020}-{at:030}-{i:06}", revision.0), Some(bytes))
    })
}

/// The result of the last attempt.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    pub waiting: usize,
    pub error: Option<String>,
}

/// Delivers one CloudScan's events until it is dropped.
struct Notifier {
    receiver: Receiver,
    state: Arc<Mutex<Delivery>>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where to deliver.
#[derive(Clone, PartialEq, Eq)]
struct Receiver {
    url: String,
    key: Option<Vec<u8>>,
}

/// The notifiers of all CloudScans.
pub(super) struct Notifiers {
    running: Mutex<BTreeMap<Subscriber, Notifier>>,
    http: OnceLock<Http>,
    /// Notified when delivery begins to fail or works again.
    changed: mpsc::UnboundedSender<Subscriber>,
    allowed: Vec<String>,
}

impl Notifiers {
    pub fn new(allowed: Vec<String>, changed: mpsc::UnboundedSender<Subscriber>) -> Self {
        Self { running: Mutex::default(), http: OnceLock::new(), changed, allowed }
    }

    /// Created on first use: missing root certificates then affect webhooks only.
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
        // A receiver would resolve these segments to a URL outside of the allowed one.
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

    pub fn retain(&self, keep: impl Fn(&Subscriber) -> bool) {
        lock(&self.running).retain(|subscriber, _| keep(subscriber));
    }
}

/// Keeps the task that delivers a CloudScan's events running and wakes it. Returns what it reported last; `None` without a
/// webhook: then nothing waits any more, whatever there was before.
pub(super) async fn ensure_delivery(
    scan: &CloudScan,
    context: &Context,
) -> Result<Option<Delivery>, ReconcileError> {
    let subscriber = build::subscriber(scan);
    let notifiers = &context.notifiers;
    let Some(webhook) = scan.spec.findings.webhook.clone() else {
        lock(&notifiers.running).remove(&subscriber);
        context.store.run_blocking(move |store| store.drop_notes(&subscriber, OUTBOX)).await?;
        return Ok(None);
    };
    let (receiver, http) = match prepared(scan, &webhook, context).await? {
        Ok(prepared) => prepared,
        Err(why) => {
            lock(&notifiers.running).remove(&subscriber);
            let waiting = context.store.run_blocking(move |store| store.count_notes(&subscriber, OUTBOX)).await?;
            return Ok(Some(Delivery { waiting, error: Some(why) }));
        }
    };
    let mut running = lock(&notifiers.running);
    let is_same = |n: &Notifier| n.receiver == receiver && !n.task.is_finished();
    if !running.get(&subscriber).is_some_and(is_same) {
        let (state, wake) = (Arc::new(Mutex::new(Delivery::default())), Arc::new(Notify::new()));
        let sender = Sender {
            store: context.store.clone(),
            subscriber: subscriber.clone(),
            http,
            url: receiver.url.clone(),
            key: receiver.key.as_ref().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)),
            state: state.clone(),
            wake: wake.clone(),
            changed: notifiers.changed.clone(),
        };
        let task = tokio::spawn(sender.run());
        running.insert(subscriber.clone(), Notifier { receiver, state, wake, task });
    }
    let notifier = &running[&subscriber];
    notifier.wake.notify_one();
    Ok(Some(lock(&notifier.state).clone()))
}

/// What delivery needs. The inner error is for the author of the CloudScan.
async fn prepared(
    scan: &CloudScan,
    webhook: &Webhook,
    context: &Context,
) -> Result<Result<(Receiver, Http), String>, ReconcileError> {
    let receiver = match &webhook.secret_ref {
        None => receiver(webhook, None),
        Some(reference) => {
            let missing = "spec.findings.webhook.secretRef names it".to_owned();
            let secret = dereference::secret(scan, &reference.name, missing, context).await?;
            secret.and_then(|secret| receiver(webhook, Some(&secret)))
        }
    };
    Ok(receiver.and_then(|receiver| {
        if !context.notifiers.is_allowed(&receiver.url) {
            return Err(not_allowed(webhook, &receiver));
        }
        Ok((receiver, context.notifiers.http()?))
    }))
}

/// A URL from a Secret is not repeated.
fn not_allowed(webhook: &Webhook, receiver: &Receiver) -> String {
    match &webhook.url {
        Some(url) if *url == receiver.url => format!(
            "spec.findings.webhook.url: {url} is not on the operator's list: ask its administrator to start it with \
             --allow-webhook={url} (chart value allowedWebhooks)"
        ),
        _ => format!(
            "the key {ADDRESS} of the Secret that spec.findings.webhook.secretRef names holds a URL that is not on the \
             operator's list: ask its administrator to start it with --allow-webhook and how that URL begins (chart value \
             allowedWebhooks)"
        ),
    }
}

/// Waiting events of all CloudScans.
pub fn all_waiting(store: &Store) -> Result<usize, StoreError> {
    waiting(store, store.subscribers_with_notes()?)
}

fn waiting(store: &Store, of: impl IntoIterator<Item = Subscriber>) -> Result<usize, StoreError> {
    of.into_iter().map(|subscriber| store.count_notes(&subscriber, OUTBOX)).sum()
}

/// The receiver's URL and signing key.
fn receiver(webhook: &Webhook, secret: Option<&Secret>) -> Result<Receiver, String> {
    let value = |key: &str| secret?.data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let of_secret = || {
        let namespace = secret.and_then(ResourceExt::namespace).unwrap_or_default();
        format!("the Secret {namespace}/{}", secret.map(ResourceExt::name_any).unwrap_or_default())
    };
    let address = match value(ADDRESS) {
        None => None,
        Some(bytes) => {
            let url = String::from_utf8(bytes.trim_ascii().to_vec()).ok();
            let is_url = |url: &String| {
                url.parse().is_ok_and(|uri: hyper::Uri| matches!(uri.scheme_str(), Some("http" | "https")))
            };
            Some(
                url.filter(is_url)
                    .ok_or_else(|| format!("the key {ADDRESS} of {} is not an http or https URL", of_secret()))?,
            )
        }
    };
    let key = match value(SIGNING_KEY) {
        None => None,
        Some(bytes) => {
            let key = key_of(bytes)
                .ok_or_else(|| format!("the key {SIGNING_KEY} of {} is no base64 after whsec_", of_secret()))?;
            if key.is_empty() {
                return Err(format!(
                    "the key {SIGNING_KEY} of {} is empty: nothing can be signed with it",
                    of_secret()
                ));
            }
            Some(key)
        }
    };
    if secret.is_some() && key.is_none() && address.is_none() {
        return Err(format!("{} has neither a key {SIGNING_KEY} nor a key {ADDRESS}", of_secret()));
    }
    let url = address.or_else(|| webhook.url.clone()).ok_or_else(|| {
        format!("{} has no key {ADDRESS}, and spec.findings.webhook.url names none either", of_secret())
    })?;
    Ok(Receiver { url, key })
}

/// Standard Webhooks writes keys as `whsec_` and base64; anything else is used as it is.
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
    subscriber: Subscriber,
    http: Http,
    url: String,
    key: Option<hmac::Key>,
    state: Arc<Mutex<Delivery>>,
    wake: Arc<Notify>,
    changed: mpsc::UnboundedSender<Subscriber>,
}

impl Sender {
    async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            if let Err(error) = self.deliver_all().await {
                self.set_error(Some(error));
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            } else {
                backoff = FIRST_BACKOFF;
                self.wake.notified().await;
            }
        }
    }

    fn set_error(&self, error: Option<String>) {
        let mut state = lock(&self.state);
        let is_news = state.error.is_some() != error.is_some();
        if is_news {
            if let Some(error) = &error {
                tracing::warn!(cloudscan = %self.subscriber, "a webhook can't be called: {error}");
            } else {
                tracing::info!(cloudscan = %self.subscriber, "the webhook accepts events again");
            }
        }
        state.error = error;
        drop(state);
        if is_news {
            let _ = self.changed.send(self.subscriber.clone());
        }
    }

    /// In order: the first failure stops the rest.
    async fn deliver_all(&self) -> Result<(), String> {
        loop {
            // In this order: more events may be queued meanwhile, and no other task removes any.
            let (batch, waiting) = self
                .stored(|store, subscriber| {
                    Ok((
                        store.first_notes(subscriber, OUTBOX, BATCH_MAX_EVENTS)?,
                        store.count_notes(subscriber, OUTBOX)?,
                    ))
                })
                .await?;
            lock(&self.state).waiting = waiting;
            if batch.is_empty() {
                self.set_error(None);
                return Ok(());
            }
            for (name, body) in batch {
                self.post(body).await?;
                self.stored(move |store, subscriber| store.write_notes(subscriber, &[(name, None)])).await?;
                lock(&self.state).waiting -= 1;
            }
        }
    }

    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &Subscriber) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let subscriber = self.subscriber.clone();
        let done = self.store.run_blocking(move |store| work(store, &subscriber)).await;
        done.map_err(|error: StoreError| error.to_string())
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let id = serde_json::from_slice::<CloudEvent>(&body).map(|event| event.id).unwrap_or_default();
        let seconds = jiff::Timestamp::now().as_second();
        // No message about it names the URL: it may contain a token.
        let mut request = hyper::Request::post(&self.url)
            .header("content-type", "application/cloudevents+json; charset=utf-8")
            .header("user-agent", concat!("elava/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &id)
            .header("webhook-timestamp", seconds);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &id, seconds, &body));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        post::post(&self.http, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn a_request_is_signed_as_standard_webhooks_specifies() {
        let key = key_of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".to_vec()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(key_of(b"plain\n".to_vec()), Some(b"plain".to_vec()));
        assert_eq!(key_of(b"whsec_%".to_vec()), None);
    }

    #[test]
    fn the_address_and_the_key_may_stand_in_the_secret() {
        let secret = |entries: &[(&str, &str)]| {
            let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
            let data = entries.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))).collect();
            let mut secret = Secret { data: Some(data), ..Secret::default() };
            (secret.metadata.namespace, secret.metadata.name) =
                (Some("team-a".to_owned()), Some("hook".to_owned()));
            secret
        };
        let webhook = |url: Option<&str>| Webhook { url: url.map(str::to_owned), secret_ref: None };
        let (url, token) = ("https://hooks.example.com/elava", "https://hooks.example.com/elava/T0K3N");
        let reported = |url: Option<&str>, entries: &[(&str, &str)]| {
            receiver(&webhook(url), Some(&secret(entries))).map(|receiver| (receiver.url, receiver.key.is_some()))
        };
        assert_eq!(receiver(&webhook(Some(url)), None).map(|receiver| receiver.url), Ok(url.to_owned()));
        assert_eq!(reported(None, &[("address", &format!("{token}\n"))]), Ok((token.to_owned(), false)));
        assert_eq!(reported(Some(url), &[("address", token), ("signing-key", "k")]), Ok((token.to_owned(), true)));
        assert_eq!(reported(Some(url), &[("signing-key", "k")]), Ok((url.to_owned(), true)));
        for (url, entries, what) in [
            (Some(url), vec![("signing-key", "")], "is empty"),
            (Some(url), vec![("signing-key", "whsec_%")], "no base64"),
            (Some(url), vec![("other", "k")], "neither a key"),
            (None, vec![("signing-key", "k")], "no key address"),
            (None, vec![("address", "ftp://hooks/SECRET")], "not an http"),
            (None, vec![("address", "SECRET of somebody")], "not an http"),
        ] {
            let why = reported(url, &entries).unwrap_err();
            assert!(why.contains(what) && why.contains("team-a/hook") && !why.contains("SECRET"), "{why}");
        }
        let hidden = Receiver { url: token.to_owned(), key: None };
        assert!(!not_allowed(&webhook(None), &hidden).contains("T0K3N"));
        assert!(!not_allowed(&webhook(Some(url)), &hidden).contains("T0K3N"));
        let shown = Receiver { url: url.to_owned(), key: None };
        assert!(not_allowed(&webhook(Some(url)), &shown).contains(url));
    }

    #[test]
    fn only_what_is_listed_is_delivered() {
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
