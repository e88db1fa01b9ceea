//! CloudScans and FindingExemptions with every field at its bounds, as the API server accepts them: the operator's
//! memory for them is bounded, and no other tenant waits for more than a round. BOUNDS_OBJECTS sets the number of
//! objects of each kind: `make bench-bounds` uses a thousand.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elava::api::{CloudScan, FindingExemption, crds};
use elava::inventory::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Map, Value, json};

use crate::support::world::{IRELAND, World};
use crate::support::{eventually, number};

const A: &str = "111122223333";
/// The scan interval of the other tenant.
const INTERVAL: Duration = Duration::from_secs(20);
/// The maximum bytes of objects of one kind in a namespace, as in src/controller/watched.rs.
const NAMESPACE_BYTES: usize = 8 << 20;
/// In memory an object takes a few times the size of its JSON: it is kept as the object, as settings, and as
/// subscriptions by account.
const TIMES_JSON: usize = 6;
/// Memory that does not grow with the objects.
const ALLOWED_BYTES: usize = 96 << 20;

/// Fields with few allowed values, and fields that would make the operator refuse a spec before it reads the rest.
const LEFT_OUT: [&str; 6] = [
    "spec.provider.aws.organization",
    "spec.provider.aws.endpointURL",
    "spec.resourceTypes",
    "spec.tagPolicy.exemptTypes",
    "spec.suspend",
    "spec.disappearance.ignore",
];

/// The largest value that a schema accepts; `n` distinguishes the items of a list.
fn at_bounds(schema: &Value, path: &str, n: usize) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let fields = properties.iter().filter_map(|(name, schema)| {
                let path = format!("{path}.{name}");
                (!LEFT_OUT.contains(&path.as_str())).then(|| (name.clone(), at_bounds(schema, &path, n)))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Some("array") => {
            let most = schema["maxItems"].as_u64().unwrap_or_else(|| panic!("{path} has no bound"));
            let known = match path {
                "spec.ownership.sources" => {
                    Some(json!(["Tags", "Stack", "AutoScalingGroup", "Cluster", "VolumeClaim", "Account"]))
                }
                "spec.findings.exclude" | "spec.selector.kinds" => Some(json!(["Flapping", "DriftedOut"])),
                _ => None,
            };
            known.unwrap_or_else(|| {
                (0..usize::try_from(most).unwrap())
                    .map(|n| at_bounds(&schema["items"], &format!("{path}[]"), n))
                    .collect()
            })
        }
        Some("integer") => {
            let most = schema["maximum"].as_f64().unwrap_or_else(|| panic!("{path} has no bound"));
            // schemars writes a whole number as a float.
            serde_json::from_str(&format!("{most:.0}")).unwrap()
        }
        Some("boolean") => json!(true),
        Some("string") => json!(text(schema, path, n)),
        other => panic!("{path} is {other:?}"),
    }
}

fn text(schema: &Value, path: &str, n: usize) -> String {
    let most = schema["maxLength"].as_u64().map(|most| usize::try_from(most).unwrap());
    let bound = || most.unwrap_or_else(|| panic!("{path} has no bound"));
    let filled = |begin: String| format!("{begin}{}", "x".repeat(bound().saturating_sub(begin.len())));
    let last = path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
    match last {
        "interval" => format!("{}s", INTERVAL.as_secs()),
        "gracePeriod" | "keep" | "keepResolved" | "stoppedFor" => "999999h".to_owned(),
        "id" | "accounts" | "excludeAccounts" => format!("{:012}", 700_000_000_000_usize + n),
        "roleARN" => filled(format!("arn:aws:iam::{:012}:role/", 700_000_000_000_usize + n)),
        "include" | "regions" => format!("eu-west-{}", n + 1),
        "exclude" => format!("us-east-{}", n + 1),
        "resourceTypes" => format!("AWS::EC2::Type{n}"),
        "url" => filled("https://hooks.example.com/elava/".to_owned()),
        "pattern" | "keyPattern" => format!("[a-z]{{1,200}}{n}"),
        "expiresAt" => "2100-01-01T00:00:00Z".to_owned(),
        _ => filled(format!("v{n}")),
    }
}

fn schema_of(kind: &str) -> Value {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("it is ours");
    let schema = crd.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema);
    serde_json::to_value(schema.expect("it has one")).expect("it is JSON")["properties"]["spec"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_at_their_bounds_take_bounded_memory_and_keep_nobody_waiting() {
    let count = number("BOUNDS_OBJECTS").map_or(20, |count| usize::try_from(count).unwrap());
    let world = World::start_with(vec![("ELAVA_NAMESPACE_CLOUDSCANS", count.to_string())]).await;
    world.hands(A, IRELAND).await.volume(&[]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = json!(format!("{}s", INTERVAL.as_secs()));
    world.apply_scan("team-a", "one", &spec);
    world.scan_now("team-a", "one").await;
    let memory = || usize::try_from(world.operator.process.memory_kib().1).unwrap() << 10;
    let before = memory();

    world.cluster.run(&["create", "namespace", "bounds"]);
    let mut scan_spec = at_bounds(&schema_of("CloudScan"), "spec", 0);
    // Refers to a Secret that does not exist: each account is tried again and again.
    scan_spec["provider"]["aws"]["credentialsSecretRef"] = json!({"name": "x".repeat(253)});
    let exemption_spec = at_bounds(&schema_of("FindingExemption"), "spec", 0);
    let bytes = scan_spec.to_string().len() + exemption_spec.to_string().len();
    let scans: Api<CloudScan> = Api::namespaced(world.client.clone(), "bounds");
    let exemptions: Api<FindingExemption> = Api::namespaced(world.client.clone(), "bounds");
    // The end times of the other tenant's scans, from its status.
    let seen: Arc<Mutex<BTreeSet<Timestamp>>> = Arc::default();
    let (client, sampled) = (world.client.clone(), seen.clone());
    let sampling = tokio::spawn(async move {
        let scans: Api<CloudScan> = Api::namespaced(client, "team-a");
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            ticks.tick().await;
            let last = scans.get("one").await.ok().and_then(|scan| scan.status?.last_scan);
            sampled.lock().unwrap().extend(last.map(|scan| scan.end_time));
        }
    });
    let rounds = || seen.lock().unwrap().len();
    let mut after_one = 0;
    for n in 0..count {
        let metadata = ObjectMeta { name: Some(format!("at-bounds-{n}")), ..ObjectMeta::default() };
        let mut scan: CloudScan =
            serde_json::from_value(json!({"metadata": {}, "spec": scan_spec})).expect("it is one");
        scan.metadata = metadata.clone();
        scans.create(&PostParams::default(), &scan).await.expect("the API server lets it through");
        let mut exemption: FindingExemption =
            serde_json::from_value(json!({"metadata": {}, "spec": exemption_spec})).expect("it is one");
        exemption.metadata = metadata;
        exemptions.create(&PostParams::default(), &exemption).await.expect("the API server lets it through");
        if n == 0 {
            let check = || async {
                let status = scans.get("at-bounds-0").await.map_err(|error| error.to_string())?.status;
                status.filter(|status| !status.conditions.is_empty()).ok_or("nothing is said of it".to_owned())
            };
            eventually("the first is taken up", check).await;
            after_one = memory();
        }
    }
    // Some more rounds of the other tenant while all objects exist.
    let until_then = rounds();
    let goes_on = || async { if rounds() > until_then + 4 { Ok(()) } else { Err(rounds().to_string()) } };
    eventually("the other tenant is looked at", goes_on).await;
    sampling.abort();
    let all: Vec<Timestamp> = seen.lock().unwrap().iter().copied().collect();
    let longest = all.windows(2).map(|two| two[1].since(two[0])).max().unwrap_or_default();
    let after = memory();
    let held = (bytes * count).min(2 * NAMESPACE_BYTES);
    let allowed = held * TIMES_JSON + ALLOWED_BYTES;
    let mib = |bytes: usize| bytes >> 20;
    println!(
        "bounds: {count} of each kind, {} KiB the two: the operator takes {} MiB before, {} MiB with the first, {} MiB with \
         all (at most {} MiB more are allowed); another tenant was looked at every {:.0} s at the latest, asked for every {} s",
        bytes >> 10,
        mib(before),
        mib(after_one),
        mib(after),
        mib(allowed),
        longest.as_secs_f64(),
        INTERVAL.as_secs(),
    );
    assert!(after.saturating_sub(before) <= allowed, "the operator takes more than is bounded");
    assert!(longest <= 2 * INTERVAL + INTERVAL / 2, "another tenant waited for more than a round: {longest:?}");
}
