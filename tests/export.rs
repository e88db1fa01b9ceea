//! The output of `elava store export`, as DuckDB reads it: the queries of docs/export.md. Also the commands that work
//! on a store while an operator holds it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use elava::cloud::Provider;
use elava::cloud::aws::Aws;
use elava::inventory::{
    Absence, AccountId, Confirmation, Facts, IdReuse, Observation, Outcome, Reason, Region, ResourceType, Scope,
    Sweep, Tags, Timestamp,
};
use elava::store::{Clock, Store};
use serde_json::{Value, json};

use crate::support::operator::binary;

const HOUR: i64 = 3_600_000;

/// A history of the last nine days, with everything that the queries need.
struct Past {
    now: Arc<AtomicI64>,
    store: Store,
}

impl Past {
    fn sweep_once(&self, hours: i64, account: &str, kind: &str, change: impl FnOnce(&mut Sweep)) {
        self.now.fetch_add(hours * HOUR, Ordering::SeqCst);
        let ended = self.store.now();
        let mut sweep = Sweep {
            scope: Scope {
                provider: "aws".into(),
                partition: "aws".into(),
                endpoint: "".into(),
                account: AccountId::new(account),
                region: Region::new("eu-west-1"),
                resource_type: ResourceType::new(kind),
            },
            started: ended.minus(Duration::from_secs(5)),
            ended,
            cadence: Some(Duration::from_hours(12)),
            shape: 1,
            ids: IdReuse::Unique,
            confirmation: Confirmation::ReadById,
            outcome: Outcome::Complete,
            observations: Vec::new(),
            absences: std::collections::BTreeMap::new(),
            held: false,
            skew_millis: 0,
        };
        change(&mut sweep);
        self.store.commit(&sweep, None).unwrap();
    }

    fn volumes(&self, hours: i64, account: &str, seen: &[(&str, &str, u32)], missing: &[(&str, Absence)]) {
        self.sweep_once(hours, account, "AWS::EC2::Volume", |sweep| {
            sweep.observations = seen.iter().map(|(id, owner, size)| volume(id, owner, *size)).collect();
            sweep.absences = missing.iter().map(|(id, absence)| ((*id).to_owned(), *absence)).collect();
        });
    }
}

fn volume(id: &str, owner: &str, size: u32) -> Observation {
    let tags = [("Name", "data"), ("owner", owner)].into_iter().filter(|(_, value)| !value.is_empty());
    Observation {
        id: id.to_owned(),
        tags: Tags::Known(tags.collect()),
        attributes: (&json!({"VolumeId": id, "Size": size, "State": "available"})).into(),
        birth: Some(Timestamp::from_millis(1)),
        end_state: None,
        unread: Vec::new(),
    }
}

fn make(path: &Path) -> Store {
    let start = Timestamp::from(jiff::Timestamp::now()).as_millis() - 216 * HOUR;
    let now = Arc::new(AtomicI64::new(start));
    let clock: Clock = {
        let now = now.clone();
        Arc::new(move || Timestamp::from_millis(now.load(Ordering::SeqCst)))
    };
    let past = Past { now, store: Store::open(path, clock).unwrap() };
    let (one, two) = ("111122223333", "444455556666");
    let gone = Absence::NotFound;
    past.volumes(1, one, &[("vol-1", "anna", 8), ("vol-2", "Anna", 8), ("vol-3", "bo", 8)], &[]);
    past.volumes(1, two, &[("vol-8", "bo", 100)], &[]);
    past.volumes(60, one, &[("vol-1", "anna", 16), ("vol-2", "", 8), ("vol-3", "bo", 8), ("vol-4", "bo", 1)], &[]);
    past.volumes(5, one, &[("vol-1", "anna", 32), ("vol-2", "", 8), ("vol-3", "bo", 8)], &[("vol-4", gone)]);
    // One volume moves to the other account, and one that had ended comes back.
    past.volumes(100, two, &[("vol-8", "bo", 100), ("vol-3", "bo", 8)], &[]);
    past.volumes(1, one, &[("vol-1", "anna", 32)], &[("vol-2", gone), ("vol-3", gone)]);
    past.volumes(12, one, &[("vol-1", "anna", 32), ("vol-2", "", 8)], &[]);
    let bucket = |hours, birth: &str| {
        past.sweep_once(hours, one, "AWS::S3::Bucket", |sweep| {
            sweep.ids = IdReuse::Reusable;
            let birth = Some(birth.parse().unwrap());
            let orders = json!({"Name": "orders"});
            sweep.observations =
                vec![Observation { birth, attributes: (&orders).into(), ..volume("orders", "anna", 0) }];
        });
    };
    bucket(1, "2020-01-01T00:00:00Z");
    bucket(12, "2026-01-01T00:00:00Z");
    past.sweep_once(1, two, "AWS::EC2::Volume", |sweep| sweep.outcome = Outcome::Failed(Reason::Denied));
    // Missed, and the absence could not be confirmed.
    past.volumes(20, two, &[("vol-3", "bo", 8), ("vol-9", "", 5)], &[("vol-8", Absence::Unconfirmed)]);
    past.store
}

const QUERY: &str = r#"
import duckdb, json, sys
folder, questions = sys.argv[1], json.load(sys.stdin)
answers = {}
for form in ("parquet", "jsonl"):
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    for table in ("changes", "resources", "sweeps"):
        parquet = f"{folder}/{table}.parquet"
        if form == "parquet":
            db.execute(f"CREATE VIEW {table} AS FROM '{parquet}'")
        else:
            columns = {row[0]: row[1] for row in db.execute(f"DESCRIBE FROM '{parquet}'").fetchall()}
            db.execute(f"CREATE VIEW {table} AS FROM read_json('{folder}/{table}.jsonl', columns = {columns})")
    answers[form] = [[[str(cell) for cell in row] for row in db.execute(q).fetchall()] for q in questions]
print(json.dumps(answers))
"#;

#[test]
fn every_question_of_the_docs_has_an_answer_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    drop(make(&dir.path().join("elava.redb")));
    for format in ["parquet", "jsonl"] {
        let export = |to: &str| {
            Command::new(binary())
                .args(["store", "export", "--to", to, "--format", format, "--store", "elava.redb"])
                .current_dir(dir.path())
                .output()
                .unwrap()
        };
        let output = export("history");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let again = export("history");
        assert!(
            !again.status.success() && String::from_utf8_lossy(&again.stderr).contains("nothing is overwritten")
        );
    }

    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/export.md")).unwrap();
    let questions: Vec<&str> =
        docs.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(questions.len(), 20);
    let python = Path::new(&std::env::var("ELAVA_TOOLS").expect("make test names it")).join("duckdb/bin/python");
    let mut child = Command::new(python)
        .args(["-c", QUERY, "history"])
        .current_dir(dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &questions).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (n, question) in questions.iter().enumerate() {
        let (parquet, jsonl) = (&answers["parquet"][n], &answers["jsonl"][n]);
        assert!(!parquet.as_array().unwrap().is_empty(), "no row answers {question}");
        assert_eq!(parquet, jsonl, "{question}");
    }
    let answer = |part: &str| {
        let n = questions.iter().position(|q| q.contains(part)).unwrap();
        &answers["parquet"][n]
    };
    let key = |account: &str, id: &str| format!("aws/{account}/eu-west-1/AWS::EC2::Volume/{id}");
    assert_eq!(answer("owner_before")[0][0], key("111122223333", "vol-2"));
    assert_eq!(answer("owner_before")[0][2], "Anna");
    assert_eq!(answer("moved_from")[0][0], key("111122223333", "vol-3"));
    assert_eq!(answer("moved_from")[0][1], key("444455556666", "vol-3"));
    assert_eq!(answer("WHERE retracted")[0][0], key("111122223333", "vol-2"));
    assert_eq!(answer("WHERE suspect")[0], json!([key("444455556666", "vol-8"), "Unknown"]));
    assert_eq!(answer("outcome <> 'Complete'")[0][4], "Denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_held_is_backed_up_and_exported_through_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("elava.redb");
    let store = make(&path);
    let listener = elava::server::bind_socket(&elava::store::socket_path(&path)).unwrap();
    let serving =
        tokio::spawn(elava::server::serve_socket(listener, store.clone(), Facts::of([Aws::default().facts()])));
    let run = |args: &[&str]| {
        let output = Command::new(binary()).args(args).current_dir(dir.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, error)
    };
    let good = |args: &[&str]| {
        let (is_good, out, error) = run(args);
        assert!(is_good, "{args:?}: {error}");
        out
    };
    good(&["store", "backup", "--to", "elava.backup"]);
    let piped = good(&["store", "backup"]);
    good(&["store", "restore", "elava.backup", "--store", "copy.redb"]);
    std::fs::write(dir.path().join("piped.backup"), piped).unwrap();
    good(&["store", "restore", "piped.backup", "--store", "piped.redb"]);
    for copy in ["copy.redb", "piped.redb"] {
        good(&["store", "check", "--store", copy]);
        let get = |store: &str| {
            let mut answer: Value =
                serde_json::from_slice(&good(&["get", "-o", "json", "--attributes", "--store", store])).unwrap();
            for field in ["revision", "time", "unknown"] {
                answer.as_object_mut().unwrap().remove(field);
            }
            answer
        };
        assert_eq!(get(copy), get("elava.redb"));
    }
    for table in ["changes", "resources", "sweeps"] {
        for (store, to) in [("elava.redb", "held"), ("copy.redb", "copied")] {
            if table == "changes" {
                good(&["store", "export", "--format", "jsonl", "--to", to, "--store", store]);
            }
        }
        let read = |from: &str| std::fs::read_to_string(dir.path().join(format!("{from}/{table}.jsonl"))).unwrap();
        assert!(read("held").lines().count() > 1);
        assert_eq!(read("held"), read("copied"), "{table}");
    }

    // A store that may be open is not changed, and nothing is overwritten.
    for (args, reported) in [
        (&["store", "compact"][..], "in use by another process"),
        (&["store", "retain"], "in use by another process"),
        (&["store", "restore", "elava.backup", "--store", "copy.redb"], "nothing is overwritten"),
        (&["store", "restore", "copy.redb", "--store", "new.redb"], "no backup"),
        (&["store", "backup", "--to", "elava.backup"], "nothing is overwritten"),
        (&["store", "retain", "--store", "copy.redb", "--keep-detail", "9d", "--keep-days", "1d"], "shorter"),
    ] {
        let (is_good, _, error) = run(args);
        assert!(!is_good && error.contains(reported), "{args:?}: {error}");
    }
    assert!(!dir.path().join("new.redb").exists());
    let freed = good(&["store", "retain", "--store", "copy.redb", "--keep-detail", "1d", "-o", "json"]);
    assert!(serde_json::from_slice::<Value>(&freed).unwrap()["daysThinned"].as_u64().unwrap() >= 2);
    good(&["store", "compact", "--store", "copy.redb"]);
    good(&["store", "migrate", "--store", "copy.redb"]);
    good(&["store", "check", "--store", "copy.redb"]);
    // Which revisions end a day depends on the time of day.
    let requested: Vec<_> =
        ["1", "2", "3", "4", "5", "6"].map(|at| run(&["at", at, "--store", "copy.redb"])).into();
    assert!(requested.iter().any(|(is_good, ..)| *is_good), "ends of days are kept: {requested:?}");
    let refused = requested.iter().find(|(is_good, ..)| !is_good).expect("others are not");
    assert!(refused.2.contains("nearest kept moments"), "{}", refused.2);
    serving.abort();
}
