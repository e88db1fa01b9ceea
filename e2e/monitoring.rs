//! Our metrics in a real Prometheus, which scrapes the operator and evaluates every query of the dashboard and every
//! alert. Also traces, as an OTLP receiver gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::world::{IRELAND, World};
use crate::support::{eventually, free_port, tools};

const A: &str = "111122223333";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Debian's program, if this machine could fetch it.
fn program(name: &str) -> Option<PathBuf> {
    let path = tools().join("debian/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {name} on this machine: e2e/tools/install.sh says why");
    None
}

struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Process,
}

impl Prometheus {
    fn start(program: &Path, dir: &Path, operator: &str) -> Self {
        let port = free_port();
        let target = operator.trim_start_matches("http://");
        let rules = Path::new(ROOT).join("charts/elava/files/alerts.yaml");
        let config = json!({
            "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "elava", "static_configs": [{"targets": [target]}]}],
        });
        let path = dir.join("prometheus.yaml");
        std::fs::write(&path, config.to_string()).unwrap();
        let arguments = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", dir.join("prometheus").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let process = Process::start(dir, "prometheus", program, arguments, &[]);
        Self { url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new(), _process: process }
    }

    async fn fetch(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), query).unwrap();
        let answer = self.http.get(url).send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }
}

/// Collects the queries of a panel and of the panels in it.
fn queries(panel: &Value, found: &mut Vec<(String, String)>) {
    let title = panel["title"].as_str().unwrap_or_default();
    for target in panel["targets"].as_array().into_iter().flatten() {
        found.push((title.to_owned(), target["expr"].as_str().unwrap_or_default().to_owned()));
    }
    for below in panel["panels"].as_array().into_iter().flatten() {
        queries(below, found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_answers_the_whole_dashboard_and_no_alert_fires_where_all_is_well() {
    let backups = tempfile::tempdir().unwrap();
    let world = World::start_with(vec![("ELAVA_BACKUP_DIR", backups.path().display().to_string())]).await;
    world.hands(A, IRELAND).await.volume(&[]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = json!("2s");
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;

    // Every metric has a line in the docs, and every line has a metric.
    let scraped = reqwest::get(format!("{}/metrics", world.operator.url())).await.unwrap().text().await.unwrap();
    let is: BTreeSet<&str> =
        scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `elava_"));
    let reported = regex::Regex::new(r"`(elava_[a-z_]+)").unwrap();
    let documented: BTreeSet<String> = rows
        .flat_map(|row| reported.captures_iter(row.split('|').nth(1).unwrap_or_default()))
        .map(|found| found[1].trim_end_matches("_total").to_owned())
        .collect();
    let is: BTreeSet<String> = is.into_iter().map(str::to_owned).collect();
    assert_eq!(is, documented, "docs/metrics.md has the metrics that there are");

    for line in [
        r#"elava_cloudscans{suspended="false"} 1"#,
        r#"elava_cloudscan_conditions{condition="Ready",status="True"} 1"#,
    ] {
        assert!(scraped.lines().any(|is| is == line), "{line} is none of {scraped}");
    }

    let Some(program) = program("prometheus") else { return };
    let prometheus = Prometheus::start(&program, world.dir.path(), &world.operator.url());
    let dashboard = std::fs::read_to_string(Path::new(ROOT).join("charts/elava/files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        queries(panel, &mut all);
    }
    assert!(all.len() > 20, "the dashboard is read: {all:?}");
    let empty = || async {
        let mut empty = BTreeMap::new();
        for (title, query) in &all {
            let query = query.replace("$__rate_interval", "30s").replace("$__range", "30s");
            match prometheus.fetch("query", &[("query", &query)]).await {
                Ok(data) if data["result"].as_array().is_some_and(|result| !result.is_empty()) => {}
                other => drop(empty.insert(title.clone(), format!("{query}: {other:?}"))),
            }
        }
        if empty.is_empty() { Ok(()) } else { Err(format!("{empty:#?}")) }
    };
    eventually("every panel of the dashboard shows something", empty).await;

    let evaluated = || async {
        let data = prometheus.fetch("rules", &[]).await?;
        let rules: Vec<Value> = data["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        let is_bad = |rule: &&Value| rule["health"] != "ok" || rule["state"] == "firing";
        let bad: Vec<&Value> = rules.iter().filter(is_bad).collect();
        if rules.len() > 5 && bad.is_empty() {
            Ok(())
        } else {
            Err(format!("{} rules, of them {bad:#?}", rules.len()))
        }
    };
    eventually("every alert is evaluated, and none fires", evaluated).await;
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let Some(promtool) = program("promtool") else { return };
    for arguments in
        [["check", "rules", "charts/elava/files/alerts.yaml"], ["test", "rules", "tests/alerts/alerts.test.yaml"]]
    {
        let output = Command::new(&promtool).current_dir(ROOT).args(arguments).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {}: {out}{err}", arguments.join(" "));
    }
    let text = std::fs::read_to_string(Path::new(ROOT).join("charts/elava/files/alerts.yaml")).unwrap();
    let groups: Value = serde_yaml::from_str(&text).unwrap();
    let runbooks = std::fs::read_to_string(Path::new(ROOT).join("docs/runbooks.md")).unwrap();
    let tests = std::fs::read_to_string(Path::new(ROOT).join("tests/alerts/alerts.test.yaml")).unwrap();
    let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(runbooks.contains(&format!("\n### {name}\n")), "{name} has a runbook");
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with(&format!("docs/runbooks.md#{}", name.to_lowercase())), "{url}");
        assert!(tests.matches(name).count() >= 2, "{name} is tested both ways");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_and_a_reconcile_are_traces_if_a_collector_is_configured() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let spans: Arc<Mutex<Vec<(String, BTreeMap<String, String>)>>> = Arc::default();
    let seen = spans.clone();
    let receive = move |body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).expect("it is OTLP");
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            assert!(attributes.iter().any(|a| a.key == "service.name"), "{attributes:?}");
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let text = |a: opentelemetry_proto::tonic::common::v1::KeyValue| (a.key, format!("{:?}", a.value));
                seen.lock().unwrap().push((span.name, span.attributes.into_iter().map(text).collect()));
            }
        }
    };
    let receiver = Router::new().route("/v1/traces", post(receive));
    tokio::spawn(async move { axum::serve(listener, receiver).await });
    let world = World::start_with(vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]).await;
    let mut spec = world.scan_spec(&[A]);
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    world.apply_scan("team-a", "one", &spec);
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    let traced = || async {
        let spans = spans.lock().unwrap();
        let has = |name: &str, key: &str, value: &str| {
            spans.iter().any(|(n, attributes)| n == name && attributes.get(key).is_some_and(|v| v.contains(value)))
        };
        let all = has("scan", "account", A)
            && has("sweep", "resource_type", "AWS::EC2::Volume")
            && has("sweep", "outcome", "Complete")
            && has("reconcile", "cloudscan", "team-a/one")
            && spans.iter().any(|(name, _)| name == "commit");
        if all { Ok(()) } else { Err(format!("{spans:?}").chars().take(2_000).collect()) }
    };
    eventually("a scan is a trace, down to its sweeps", traced).await;
}
