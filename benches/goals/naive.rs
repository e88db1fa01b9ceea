//! Designs without a store: one row per resource per scan. In redb, with sorted keys, one transaction per scan and the
//! same cache; and in SQLite, with the indexes that the queries need.

use std::path::Path;

use elava::inventory::{Scope, Sweep};
use redb::{Database, ReadableDatabase, TableDefinition};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// The size of redb's cache, as in the store.
const CACHE_BYTES: usize = 64 << 20;
/// (scan, scope and id) -> the whole described object
const ROWS: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("rows");

/// A row: its key, id, owner and whole object.
pub struct Row {
    pub key: String,
    pub id: String,
    pub owner: String,
    pub text: Vec<u8>,
}

fn key(scope: &Scope, id: &str) -> String {
    scope.key(id).to_string()
}

/// The rows of a scan, sorted by key.
pub fn rows(sweeps: &[Sweep]) -> Vec<Row> {
    let row = |sweep: &Sweep, seen: &elava::inventory::Observation| {
        let mut object: Value = serde_json::from_slice(seen.attributes.as_bytes()).expect("it is JSON");
        let tags = seen.tags.known().expect("all are known");
        object["Tags"] = tags.iter().map(|(k, v)| json!({"Key": k, "Value": v})).collect();
        Row {
            key: key(&sweep.scope, &seen.id),
            id: seen.id.clone(),
            owner: tags.get("owner").unwrap_or_default().to_owned(),
            text: serde_json::to_vec(&object).expect("JSON can be written to memory"),
        }
    };
    let mut rows: Vec<Row> = sweeps.iter().flat_map(|s| s.observations.iter().map(move |o| row(s, o))).collect();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

pub struct NaiveRedb(Database);

impl NaiveRedb {
    pub fn new(path: &Path) -> Self {
        Self(Database::builder().set_cache_size(CACHE_BYTES).create(path).expect("a new file"))
    }

    pub fn scan(&self, number: u32, rows: &[Row]) {
        let txn = self.0.begin_write().expect("it writes");
        let mut table = txn.open_table(ROWS).expect("it is there");
        for row in rows {
            table.insert((number, row.key.as_str()), row.text.as_slice()).expect("it writes");
        }
        drop(table);
        txn.commit().expect("it is durable");
    }

    fn each(&self, number: u32, mut report: impl FnMut(&str, &[u8])) {
        let table = self.0.begin_read().expect("it reads").open_table(ROWS).expect("it is there");
        for row in table.range((number, "")..(number + 1, "")).expect("it reads") {
            let (key, text) = row.expect("it reads");
            report(key.value().1, text.value());
        }
    }

    /// Lists ids and owners, which requires reading each object.
    pub fn list(&self, number: u32) -> usize {
        let mut bytes = 0;
        self.each(number, |key, text| {
            let object: Value = serde_json::from_slice(text).expect("it is JSON");
            let owner = object["Tags"].as_array().into_iter().flatten().find(|tag| tag["Key"] == "owner");
            bytes += key.len() + owner.and_then(|tag| tag["Value"].as_str()).map_or(0, str::len);
        });
        bytes
    }

    pub fn lookup(&self, number: u32, key: &str) -> usize {
        let table = self.0.begin_read().expect("it reads").open_table(ROWS).expect("it is there");
        let row = table.get((number, key)).expect("it reads");
        row.map_or(0, |row| row.value().len())
    }

    /// The number of versions of a resource, with one lookup per scan.
    pub fn history(&self, scans: u32, key: &str) -> usize {
        (0..scans).map(|number| self.lookup(number, key)).filter(|length| *length > 0).count()
    }

    /// Counts the keys that one scan has and the next does not have.
    pub fn disappeared(&self, from: u32, to: u32) -> usize {
        let keys = |number| {
            let mut keys = Vec::new();
            self.each(number, |key, _| keys.push(key.to_owned()));
            keys
        };
        let after: std::collections::HashSet<String> = keys(to).into_iter().collect();
        keys(from).into_iter().filter(|key| !after.contains(key)).count()
    }
}

pub struct NaiveSqlite(Connection);

impl NaiveSqlite {
    pub fn new(path: &Path) -> Self {
        let db = Connection::open(path).expect("a new file");
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536;
             CREATE TABLE row (scan INTEGER, key TEXT, id TEXT, owner TEXT, object TEXT, PRIMARY KEY (scan, key))
               WITHOUT ROWID;
             CREATE INDEX by_owner ON row (scan, owner);
             CREATE INDEX by_id ON row (id, scan);",
        )
        .expect("it makes tables");
        Self(db)
    }

    pub fn scan(&mut self, number: u32, rows: &[Row]) {
        let txn = self.0.transaction().expect("it writes");
        {
            let mut insert =
                txn.prepare("INSERT INTO row VALUES (?1, ?2, ?3, ?4, ?5)").expect("it is a statement");
            for row in rows {
                let text = std::str::from_utf8(&row.text).expect("JSON is text");
                insert.execute(params![number, row.key, row.id, row.owner, text]).expect("it writes");
            }
        }
        txn.commit().expect("it is durable");
    }

    fn count(&self, question: &str, parameters: impl rusqlite::Params) -> usize {
        let mut statement = self.0.prepare_cached(question).expect("it is a statement");
        statement.query_map(parameters, |row| row.get::<_, String>(0)).expect("it reads").count()
    }

    pub fn list(&self, number: u32) -> usize {
        self.count("SELECT key || owner FROM row WHERE scan = ?1", params![number])
    }

    pub fn lookup(&self, number: u32, key: &str) -> usize {
        self.count("SELECT object FROM row WHERE scan = ?1 AND key = ?2", params![number, key])
    }

    pub fn with_owner(&self, number: u32, owner: &str) -> usize {
        self.count("SELECT key FROM row WHERE scan = ?1 AND owner = ?2", params![number, owner])
    }

    pub fn history(&self, id: &str) -> usize {
        self.count("SELECT object FROM row WHERE id = ?1 ORDER BY scan", params![id])
    }

    pub fn disappeared(&self, from: u32, to: u32) -> usize {
        let question = "SELECT key FROM row AS a WHERE scan = ?1 AND NOT EXISTS
                          (SELECT 1 FROM row AS b WHERE b.scan = ?2 AND b.key = a.key)";
        self.count(question, params![from, to])
    }
}
