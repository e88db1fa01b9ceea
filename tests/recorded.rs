//! Recorded responses of real AWS (e2e/tools/aws/recorded), served on the wire again: every type is listed completely,
//! a second scan changes nothing, no rule reports anything as gone, and the service's model allows every request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use elava::cloud::aws::{Aws, access, keys};
use elava::cloud::{AccountTarget, Provider};
use elava::inventory::{
    AccountId, Facts, Filter, FindingKind, LossLimits, Moment, Region, Resource, RuleSettings, Snapshot,
    Subscriber, TagMatch,
};
use elava::policy::{Evaluator, Prices};
use elava::scanner::{AccountScanner, Subscription};
use elava::store::{Store, StoreSnapshot, system_clock};
use serde_json::{Value, json};

use crate::declarations;
use crate::support::process::Process;
use crate::support::{DEADLINE, free_port, tools};

/// The account of the recordings, as it was published.
const ACCOUNT: &str = "644160558196";
const REGION: &str = "us-east-1";
/// Request members that control what a listing hides and that are not set, with the reason.
const LEFT_ALONE: [(&str, &str); 12] = [
    ("autoscaling.DescribeAutoScalingGroups.AutoScalingGroupNames", "without names all are listed"),
    ("autoscaling.DescribeAutoScalingGroups.IncludeInstances", "the instances are not kept"),
    ("autoscaling.DescribeAutoScalingGroups.IncludeManagedResources", "they are included by default"),
    ("docdb.DescribeDBClusterSnapshots.IncludePublic", "they are others'"),
    ("docdb.DescribeDBClusterSnapshots.IncludeShared", "they are others'"),
    ("ec2.DescribeKeyPairs.IncludePublicKey", "a field, not a key pair"),
    ("elasticache.DescribeCacheClusters.ShowCacheClustersNotInReplicationGroups", "it would leave out the others"),
    ("elasticache.DescribeCacheClusters.ShowCacheNodeInfo", "fields, not a cluster"),
    ("elbv2.DescribeTargetHealth.Include", "a field of each target"),
    ("logs.DescribeLogGroups.includeLinkedAccounts", "they are others'"),
    ("rds.DescribeDBSnapshots.IncludePublic", "they are others'"),
    ("rds.DescribeDBSnapshots.IncludeShared", "they are others'"),
];

struct Recorded {
    url: String,
    log: std::path::PathBuf,
    _server: Process,
}

fn serve(dir: &std::path::Path) -> Recorded {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/aws/recorded");
    let port = free_port();
    let log = dir.join("requests.jsonl");
    let args = [format!("{folder}/serve.py"), format!("{folder}/answers.jsonl.gz"), port.to_string()];
    let python = tools().join("aws/bin/python");
    let server = Process::start(dir, "recorded", &python, args, &[("REQUESTS", log.display().to_string())]);
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < DEADLINE, "the recorded answers are not served");
        std::thread::sleep(Duration::from_millis(100));
    }
    Recorded { url: format!("http://127.0.0.1:{port}"), log, _server: server }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_answers_of_real_aws_are_read_whole_and_twice_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = serve(dir.path());
    let store = Store::open(&dir.path().join("elava.redb"), system_clock()).unwrap();
    let provider = Arc::new(Aws::new(1.0));
    let types: Vec<&'static str> = provider.types().iter().map(|info| info.name).collect();
    let endpoint: Arc<str> = recorded.url.as_str().into();
    let account = AccountId::new(ACCOUNT);
    let subscription = Subscription {
        subscriber: Subscriber::new("team-a/recorded"),
        tenant: "".into(),
        target: AccountTarget {
            account: Some(account.clone()),
            provider: "aws".into(),
            access: access(keys("somebody", "somebody"), None),
            endpoint: endpoint.clone(),
            include_regions: vec![Region::new(REGION)],
            exclude_regions: Vec::new(),
        },
        types: types.clone(),
        interval: Duration::from_mins(5),
        suspended: false,
        loss: LossLimits::DEFAULT,
        confirmations: 2,
        released: Vec::new(),
        requested_at: None,
        generation: 1,
    };
    let mut scanner = AccountScanner::new(provider, store.clone(), account, endpoint);
    let subscriptions = [subscription];
    let first = scanner.round(&subscriptions, true, &|_, _| {}).await;
    for (scope, report) in &first.scopes {
        assert!(report.outcome.is_complete(), "{scope}: {:?}", report.error);
    }
    assert_eq!(first.scopes.len(), types.len(), "every type was listed");
    let filter = Filter::default();
    let resources = store.snapshot(Moment::Now).unwrap().resources(&filter).unwrap();
    let with_some: BTreeSet<&str> = resources.iter().map(|r| r.key.resource_type.as_str()).collect();
    println!("recorded: {} resources of {} types", resources.len(), with_some.len());
    assert!(resources.len() > 1000 && with_some.len() > 45, "{} of {}", resources.len(), with_some.len());

    // Load balancers and their listeners were recorded in different accounts.
    let is_reported = |action: &str| !action.starts_with("elasticloadbalancing:");
    let unread = first.scopes.values().flat_map(|report| report.unread.keys());
    let unread: Vec<_> = unread.filter(|unread| is_reported(&unread.action)).collect();
    assert!(unread.is_empty(), "all of it could be read: {unread:?}");

    let second = scanner.round(&subscriptions, true, &|_, _| {}).await;
    assert!(second.changes.is_empty(), "nothing changed: {:?}", second.changes);

    let settings = RuleSettings { managed_by: Some(vec![TagMatch::key("terraform")]), ..RuleSettings::default() };
    let snapshot = store.snapshot(Moment::Now).unwrap();
    let evaluation = Evaluator::new(Facts::of([Aws::default().facts()]), Arc::new(Prices::shipped()))
        .evaluate(&snapshot, None, &settings, &BTreeSet::new())
        .unwrap();
    let gone: Vec<_> = evaluation.findings.iter().filter(|f| f.kind == FindingKind::Disappeared).collect();
    assert!(gone.is_empty(), "nothing is gone: {gone:?}");
    assert!(evaluation.findings.iter().any(|f| f.kind == FindingKind::Untagged), "the rules looked at them");

    against_the_models(&recorded.log);
    as_botocore_reads_them(&recorded.log, &snapshot, &resources);
}

/// Compares the resources with botocore's objects, field by field, with their tags.
fn as_botocore_reads_them(log: &std::path::Path, snapshot: &StoreSnapshot, resources: &[Resource]) {
    // Load balancers without recorded listeners have no attributes.
    let is_whole = |resource: &&Resource| {
        let is_balancing = resource.key.resource_type.as_str().starts_with("AWS::ElasticLoadBalancingV2::");
        !(is_balancing && snapshot.attributes(resource).unwrap() == json!({}))
    };
    let resources: Vec<Value> = resources
        .iter()
        .filter(is_whole)
        .map(|resource| {
            json!({
                "type": resource.key.resource_type.as_str(),
                "id": &*resource.key.id,
                "tags": resource.tags.known(),
                "attributes": snapshot.attributes(resource).unwrap(),
            })
        })
        .collect();
    let given = json!({"types": declarations::paths(), "resources": resources});
    let reported = declarations::python("documents.py", &[log.as_os_str()], &given);
    println!("documents: {} compared, the tags of {}", reported["compared"], reported["tags"]);
    assert_eq!(reported["wrong"], json!([]), "{:#}", reported["wrong"]);
    assert!(reported["compared"].as_u64() > Some(1000) && reported["tags"].as_u64() > Some(500), "{reported}");
}

/// Checks the requests against the models with e2e/tools/aws/requests.py: bounds, names, and what a listing hides.
fn against_the_models(log: &std::path::Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/aws/requests.py");
    let output = Command::new(tools().join("aws/bin/python")).arg(script).arg(log).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reported: BTreeMap<String, Vec<Value>> = serde_json::from_slice(&output.stdout).unwrap();
    let operations = reported["operations"].len();
    assert!(operations > 60, "{operations} operations were asked for");
    assert!(reported["wrong"].is_empty(), "requests that real AWS would refuse: {:#?}", reported["wrong"]);
    let hiding: Vec<&str> = reported["unset"].iter().filter_map(Value::as_str).collect();
    let unexplained: Vec<&&str> =
        hiding.iter().filter(|member| !LEFT_ALONE.iter().any(|(known, _)| known == *member)).collect();
    assert!(
        unexplained.is_empty(),
        "members that decide what is hidden, neither set nor explained: {unexplained:#?}"
    );
}
