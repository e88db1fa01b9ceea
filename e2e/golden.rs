//! The complete output that users read: `kubectl get` and `kubectl describe`, compared with the reviewed files in
//! `golden/`. Values that differ between runs are masked. `UPDATE_GOLDEN=1` rewrites the files: review them before you
//! commit them.

use std::path::Path;

use regex::Regex;
use serde_json::json;

use crate::support::eventually;
use crate::support::world::{IRELAND, World, name_of};

const A: &str = "111122223333";
const SCAN: &str = "one";

/// Masks everything that differs between runs.
fn masked(text: &str, ids: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (id, word) in ids {
        text = text.replace(id, word);
    }
    let patterns = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
        (r"(?i)(revision:?\s+)\d+", "${1}N"),
        (r"(Resource Version:\s+)\d+", "${1}N"),
        (r"(API Calls:\s+)\d+", "${1}N"),
        (r"(Last Handled Reconcile At:\s+).*", "${1}REQUEST"),
        (r"http://127\.0\.0\.1:\d+", "http://endpoint"),
        // Ages, and hashes in names.
        (r"(?m)(\s)\d+m?\d*s(\s|$)", "${1}AGE${2}"),
        (r"-[0-9a-f]{16}\b", "-HASH"),
    ];
    for (pattern, word) in patterns {
        text = Regex::new(pattern).expect("it is a pattern").replace_all(&text, word).into_owned();
    }
    // Column widths depend on the masked values.
    let gaps = Regex::new(r"(\S) {2,}").expect("it is a pattern");
    let lines = text.lines().map(|line| gaps.replace_all(line.trim_end(), "$1  ").into_owned());
    let mut lines: Vec<String> = lines.collect();
    // kubectl sorts events by time in whole seconds: events of the same second come in any order.
    if let Some(events) = lines.iter().position(|line| line == "Events:") {
        let rows = lines.len().min(events + 3);
        lines[rows..].sort();
    }
    lines.join("\n") + "\n"
}

fn is_golden(name: &str, seen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, seen).expect("the work tree is writable");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == seen, "{name} is not what a person approved of (UPDATE_GOLDEN=1 writes it):\n{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_and_describe_are_what_a_person_approved_of() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let lost = hands.volume(&[("Name", "data"), ("owner", "team-a")]).await;
    let bare = hands.volume(&[]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    // No findings that depend on time alone.
    spec["findings"] = json!({"exclude": ["Orphaned"]});
    world.apply_scan("team-a", SCAN, &spec);
    world.wait_for_condition("team-a", SCAN, "FirstScanComplete", "True").await;
    world.wait_for_open("team-a", &[format!("Untagged {bare}")]).await;
    hands.untag(&lost, &["owner"]).await;
    hands.delete_volume(&bare).await;
    world.scan_now("team-a", SCAN).await;
    world.scan_now("team-a", SCAN).await;
    world.wait_for_open("team-a", &[format!("OwnershipLost {lost}"), format!("Disappeared {bare}")]).await;
    world.wait_for_condition("team-a", SCAN, "FindingsDecided", "True").await;

    let ids = [(lost.as_str(), "vol-1111"), (bare.as_str(), "vol-2222")];
    let read = |args: &[&str]| masked(&world.cluster.run(&[args, &["-n", "team-a"]].concat()), &ids);
    is_golden("get-findings.txt", &read(&["get", "resourcefindings", "--sort-by=.status.kind"]));
    is_golden("get-cloudscans.txt", &read(&["get", "cloudscans"]));
    for finding in world.findings("team-a").await {
        let (name, kind) = (name_of(&finding), finding.status.expect("it says something").kind);
        let described = || async {
            let text = read(&["describe", "resourcefinding", &name]);
            if text.contains("Events:  <none>") { Err(text) } else { Ok(text) }
        };
        let text = eventually("describe shows the event", described).await;
        is_golden(&format!("describe-{}.txt", kind.to_lowercase()), &text);
    }
    let text = read(&["describe", "cloudscan", SCAN]);
    let status = text.split_once("\nStatus:").map(|(_, status)| format!("Status:{status}")).expect("it has one");
    let status = status.split("\nEvents:").next().unwrap_or_default().to_owned() + "\n";
    is_golden("describe-cloudscan-status.txt", &status);
}
