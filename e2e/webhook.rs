//! A webhook receiver that fails and recovers: it gets every event, in order, and can recognize repeated ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use serde_json::{Value, json};

use crate::support::world::{IRELAND, World};
use crate::support::{eventually, free_port};

const A: &str = "111122223333";
const KEY: &[u8] = b"0123456789abcdef";

#[derive(Clone, Default)]
struct Receiver {
    fails: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    async fn start(&self, port: u16) {
        let receiver = self.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move { receiver.take(&headers, &body) };
        let app = Router::new().route("/hook", post(take));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        tokio::spawn(async move { axum::serve(listener, app).await });
    }

    fn take(&self, headers: &HeaderMap, body: &Bytes) -> StatusCode {
        if self.fails.load(Ordering::SeqCst) {
            self.refused.store(true, Ordering::SeqCst);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, KEY));
        signed.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
        signed.update(body);
        let expected = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(signed.sign()));
        assert_eq!(header("webhook-signature"), expected);
        assert!(header("content-type").starts_with("application/cloudevents+json"));
        let event: Value = serde_json::from_slice(body).expect("an event is JSON");
        assert_eq!(event["id"], header("webhook-id"));
        self.events.lock().unwrap().push(event);
        StatusCode::NO_CONTENT
    }

    /// Type and resource id of each event, without repetitions, in the order of their first arrival.
    fn reported(&self) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        let events = self.events.lock().unwrap();
        let fresh = events.iter().filter(|event| seen.insert(event["id"].as_str().unwrap_or_default().to_owned()));
        fresh
            .map(|event| {
                let what = event["type"].as_str().unwrap_or_default().trim_start_matches("dev.elava.finding.");
                format!("{what} {}", event["data"]["status"]["id"].as_str().unwrap_or_default())
            })
            .collect()
    }

    async fn wait_for(&self, desired: &[String]) {
        let check = || async {
            let reported = self.reported();
            if reported == desired { Ok(()) } else { Err(format!("{reported:?}")) }
        };
        eventually(&format!("exactly {desired:?} were told"), check).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_away_loses_nothing_not_even_when_the_operator_is_killed() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/hook");
    let mut world = World::start_with(vec![("ELAVA_ALLOW_WEBHOOK", url.clone())]).await;
    let receiver = Receiver::default();
    receiver.start(port).await;
    let hands = world.hands(A, IRELAND).await;
    let first = hands.volume(&[]).await;

    let mut spec = world.scan_spec(&[A]);
    // The address is in the Secret, too.
    spec["findings"] = json!({"webhook": {"secretRef": {"name": "hook"}}});
    world.apply_scan("team-a", "one", &spec);
    // The Secret with the key does not exist yet.
    let (_, why) = world.wait_for_condition("team-a", "one", "WebhookDelivered", "False").await;
    assert!(why.contains("rolebinding") || why.contains("no Secret"), "{why}");
    let bind = ["create", "rolebinding", "elava-credentials", "-n", "team-a", "--clusterrole=elava-credentials"];
    world.cluster.run(&[&bind[..], &["--serviceaccount=elava:elava"]].concat());
    let key = format!("--from-literal=signing-key={}", String::from_utf8_lossy(KEY));
    let address = format!("--from-literal=address={url}");
    world.cluster.run(&["create", "secret", "generic", "hook", "-n", "team-a", &key, &address]);
    world.scan_now("team-a", "one").await;
    receiver.wait_for(&[format!("opened {first}")]).await;
    world.wait_for_condition("team-a", "one", "WebhookDelivered", "True").await;

    receiver.fails.store(true, Ordering::SeqCst);
    hands.tag(&first, &[("owner", "a")]).await;
    let second = hands.volume(&[]).await;
    world.scan_now("team-a", "one").await;
    world.wait_for_open("team-a", &[format!("Untagged {second}")]).await;
    let (_, why) = world.wait_for_condition("team-a", "one", "WebhookDelivered", "False").await;
    assert!(why.contains("503") && !why.contains("/hook"), "{why}");
    assert!(receiver.refused.load(Ordering::SeqCst));
    world.operator.kill();
    world.operator.restart().await;
    receiver.fails.store(false, Ordering::SeqCst);
    let ordered = |reported: &[String]| {
        let place = |what: &str| reported.iter().position(|t| t == what);
        place(&format!("opened {first}")) < place(&format!("resolved {first}"))
    };
    let check = || async {
        let reported = receiver.reported();
        let all = [format!("opened {first}"), format!("resolved {first}"), format!("opened {second}")];
        if all.iter().all(|what| reported.contains(what)) && reported.len() == 3 {
            Ok(reported)
        } else {
            Err(format!("{reported:?}"))
        }
    };
    let reported = eventually("all three were told, each as one", check).await;
    assert!(ordered(&reported), "{reported:?}");
    world.wait_for_condition("team-a", "one", "WebhookDelivered", "True").await;
    let event = receiver.events.lock().unwrap()[0].clone();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["source"], "/apis/elava.dev/v1alpha1/namespaces/team-a/cloudscans/one");
    assert_eq!(event["data"]["kind"], "ResourceFinding");

    let status = world.cluster.run(&["get", "cloudscan", "one", "-n", "team-a", "-o", "yaml"]);
    assert!(
        !status.contains("/hook") && !world.operator.process.log().contains("/hook"),
        "the address is told nowhere"
    );
    spec["findings"]["webhook"] = json!({"url": "http://169.254.169.254/latest"});
    world.apply_scan("team-a", "one", &spec);
    let refused = || async {
        let (_, _, message) = world.condition("team-a", "one", "WebhookDelivered").await.unwrap_or_default();
        if message.contains("--allow-webhook") { Ok(()) } else { Err(message) }
    };
    eventually("nothing is sent to an address that is not allowed", refused).await;

    // An event waits. Without a webhook nothing waits any more: it is not delivered when there is one again.
    let third = hands.volume(&[]).await;
    world.scan_now("team-a", "one").await;
    let waits = || async {
        let (_, _, message) = world.condition("team-a", "one", "WebhookDelivered").await.unwrap_or_default();
        if message.starts_with("1 events wait") { Ok(()) } else { Err(message) }
    };
    eventually("an event waits", waits).await;
    spec["findings"] = json!({});
    world.apply_scan("team-a", "one", &spec);
    let is_gone = || async {
        match world.condition("team-a", "one", "WebhookDelivered").await {
            None => Ok(()),
            Some(condition) => Err(format!("{condition:?}")),
        }
    };
    eventually("there is no webhook", is_gone).await;
    spec["findings"] = json!({"webhook": {"secretRef": {"name": "hook"}}});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "WebhookDelivered", "True").await;
    assert!(!receiver.reported().contains(&format!("opened {third}")), "{:?}", receiver.reported());
}
