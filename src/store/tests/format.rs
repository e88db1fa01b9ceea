//! The worked example of docs/store-format.md is what the store writes.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::*;
use crate::inventory::Absence;
use crate::store::file::lives::{END, KEY, LIFE};
use crate::store::file::log::LOG;
use crate::store::file::tables::{META, RUN, SCOPE, SYM, VISIBILITY};

/// A volume with one tag, which is there in a first sweep and gone in a second one.
fn example(path: &Path) {
    let now = Arc::new(Mutex::new("2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap()));
    let ticking = now.clone();
    let store = Store::open(path, Arc::new(move || *ticking.lock().unwrap())).unwrap();
    let subscriber = Subscriber::new("team-a/one");
    let swept = |minutes: u32, observations: Vec<Observation>, absent: &[&str]| {
        let started = "2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap().plus(Duration::from_mins(1) * minutes);
        let mut sweep = sweep(started);
        sweep.observations = observations;
        sweep.absences = absent.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        *now.lock().unwrap() = sweep.ended;
        store.commit(&sweep, Some(&subscriber)).unwrap();
    };
    swept(0, vec![observation("vol-1", &[("owner", "a")], 8)], &[]);
    swept(20, Vec::new(), &["vol-1"]);
    store.flush().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// Every row but the random id of the store.
fn dump(path: &Path) -> String {
    let db = Database::open(path).unwrap();
    let txn = db.begin_read().unwrap();
    let mut out = String::new();
    macro_rules! rows {
        ($name:literal, $table:expr) => {
            for row in txn.open_table($table).unwrap().iter().unwrap() {
                let (key, value) = row.unwrap();
                let key = format!("{:?}", key.value());
                if key != "\"id\"" {
                    writeln!(out, "{:6} {key:24} {}", $name, hex(value.value())).unwrap();
                }
            }
        };
    }
    rows!("meta", META);
    rows!("scope", SCOPE);
    rows!("sym", SYM);
    rows!("life", LIFE);
    rows!("log", LOG);
    rows!("cover", VISIBILITY);
    rows!("run", RUN);
    rows!("end", END);
    for row in txn.open_table(KEY).unwrap().iter().unwrap() {
        let (key, value) = row.unwrap();
        writeln!(out, "key    {} -> {:?}", hex(&key.value()), value.value()).unwrap();
    }
    out
}

#[test]
fn the_example_in_the_docs_is_what_the_store_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("elava.redb");
    example(&path);
    let written = dump(&path);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/store-format.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let begins = "```text store-example\n";
    let start = text.find(begins).expect("the page has the example") + begins.len();
    let end = start + text[start..].find("```").expect("the example ends");
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(&page, format!("{}{written}{}", &text[..start], &text[end..])).unwrap();
        return;
    }
    assert_eq!(&text[start..end], written, "UPDATE_GOLDEN=1 rewrites it: then explain it anew");
}
