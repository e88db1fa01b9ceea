//! Removes content that must not be kept from a file, by writing another that replaces it: the pages that redb
//! frees keep their content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle};
use serde_json::Value;

use crate::inventory::{ResourceType, Revision};
use crate::store::file::documents::{self, Dictionaries, Encoder};
use crate::store::file::log;
use crate::store::file::log::{LOG, Pages, Stretch};
use crate::store::file::open::Open;
use crate::store::file::open::PAGE_CACHE_MAX_BYTES;
use crate::store::file::open::catch_damage;
use crate::store::file::open::free_space_fn;
use crate::store::file::open::make_tables;
use crate::store::file::open::open_db;
use crate::store::file::open::refuse_other_schemas;
use crate::store::file::tables::{DICT, META, Rid, decode, encode};
use crate::store::state::State;
use crate::store::state::load::load;
use crate::store::state::load::named;
use crate::store::{PrivateFile, Store, StoreError};

/// Names the rules by which the file was cleaned last.
const CLEANED_BY: &str = "cleaned by";
/// Bytes of the log that are held in memory at once.
const COMMIT_MAX_BYTES: usize = 1 << 20;

/// What is removed from documents.
pub struct Cleaning<'a> {
    /// Names these rules: a file that was cleaned by them is left as it is.
    pub rules: String,
    /// Whether documents of a type may contain any of it.
    pub concerns: &'a dyn Fn(&ResourceType) -> bool,
    /// Removes it from a document of a type, in place. A document without any stays as it is.
    pub clean: &'a dyn Fn(&ResourceType, &mut Value),
}

impl Store {
    /// Cleans the file at `path`, which no process may have open, unless that was done by these rules. Returns the
    /// number of changed documents; zero if there is no file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`], [`StoreError::Schema`] or [`StoreError::NotAStore`] if the file can't be used,
    /// [`StoreError::DiskFull`] if the volume has no space for a second file, [`StoreError::Io`] or
    /// [`StoreError::Database`] if the new file can't be written, [`StoreError::Damaged`] if the old one is
    /// damaged. Only a whole new file replaces the old one.
    pub fn scrub(path: &Path, cleaning: &Cleaning<'_>) -> Result<u64, StoreError> {
        if !path.exists() || std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            return Ok(0);
        }
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        refuse_other_schemas(path)?;
        let file = path.to_owned();
        let open: Open = Box::new(move |builder| builder.open(&file));
        let db = open_db(path, &open)?;
        catch_damage(move || {
            if is_clean(&db, cleaning)? {
                return Ok(0);
            }
            let mut scrub = Scrub::of(&db, cleaning)?;
            scrub.find()?;
            if scrub.found == 0 {
                return mark(&db, cleaning).map(|()| 0);
            }
            let needed = std::fs::metadata(path).map_err(io)?.len();
            let free = free_space_fn(path)().unwrap_or(u64::MAX);
            if free < needed {
                return Err(StoreError::DiskFull { path: path.to_owned(), free, needed });
            }
            let unfinished = PrivateFile::begin(path).map_err(io)?;
            let other =
                Database::builder().set_cache_size(PAGE_CACHE_MAX_BYTES).create(unfinished.unfinished())?;
            make_tables(&other)?;
            scrub.write(&other)?;
            mark(&other, cleaning)?;
            // A file that can't be opened must not replace another.
            load(&other)?;
            let found = scrub.found;
            drop((scrub, other, db));
            unfinished.replace().map_err(io)?;
            Ok(found)
        })
    }
}

fn is_clean(db: &Database, cleaning: &Cleaning<'_>) -> Result<bool, StoreError> {
    let meta = db.begin_read()?.open_table(META)?;
    Ok(meta.get(CLEANED_BY)?.is_some_and(|rules| rules.value() == cleaning.rules.as_bytes()))
}

fn mark(db: &Database, cleaning: &Cleaning<'_>) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    txn.open_table(META)?.insert(CLEANED_BY, cleaning.rules.as_bytes())?;
    txn.commit()?;
    Ok(())
}

struct Scrub<'a> {
    cleaning: &'a Cleaning<'a>,
    txn: ReadTransaction,
    log: redb::ReadOnlyTable<(u64, Rid), &'static [u8]>,
    /// For the names of scopes.
    state: State,
    /// Of the new file.
    dictionaries: Dictionaries,
    /// Types in which something was found. All of their documents are rewritten, because what they were compressed
    /// with may contain it, too.
    types: BTreeSet<ResourceType>,
    samples: BTreeMap<ResourceType, Vec<Vec<u8>>>,
    found: u64,
}

impl<'a> Scrub<'a> {
    fn of(db: &Database, cleaning: &'a Cleaning<'a>) -> Result<Self, StoreError> {
        let txn = db.begin_read()?;
        let state = named(&txn)?;
        let log = txn.open_table(LOG)?;
        Ok(Self {
            cleaning,
            txn,
            log,
            state,
            dictionaries: Dictionaries::default(),
            types: BTreeSet::new(),
            samples: BTreeMap::new(),
            found: 0,
        })
    }

    fn type_of(&self, scope: u32) -> Result<ResourceType, StoreError> {
        let scope = self.state.scopes.get(&scope).ok_or(StoreError::Damaged { table: "scope" })?;
        Ok(scope.scope.resource_type.clone())
    }

    /// The document of a revision, before and after.
    fn cleaned(&self, kind: &ResourceType, rid: Rid, bytes: &[u8]) -> Result<(Value, Value), StoreError> {
        let read = |base| log::document(&self.log, base, rid);
        let before = documents::of_bytes(bytes, &self.state.dictionaries, read)?;
        let mut after = before.clone();
        (self.cleaning.clean)(kind, &mut after);
        Ok((before, after))
    }

    fn find(&mut self) -> Result<(), StoreError> {
        // A separate handle, because `self` is changed meanwhile.
        let log = self.txn.open_table(LOG)?;
        log::stretches_back(&log, 0..=u64::MAX, COMMIT_MAX_BYTES, |stretch| {
            for slice in stretch.slices {
                if slice.entries.iter().all(|logged| logged.document.is_empty()) {
                    continue;
                }
                let kind = self.type_of(slice.row.scope)?;
                if !(self.cleaning.concerns)(&kind) {
                    continue;
                }
                for logged in slice.entries.iter().filter(|logged| !logged.document.is_empty()) {
                    let (before, after) = self.cleaned(&kind, logged.entry.rid, &logged.document)?;
                    if before != after {
                        self.found += 1;
                        self.types.insert(kind.clone());
                    }
                    let samples = self.samples.entry(kind.clone()).or_default();
                    if samples.len() < documents::DICTIONARY_SAMPLES {
                        samples.push(text(&after));
                    }
                }
            }
            Ok(())
        })
    }

    fn write(&mut self, other: &Database) -> Result<(), StoreError> {
        each_table!(table => copy(&self.txn, other, table)?);
        self.write_dictionaries(other)?;
        log::stretches_back(&self.log, 0..=u64::MAX, COMMIT_MAX_BYTES, |stretch| {
            self.write_stretch(stretch, other)
        })
    }

    /// The dictionaries keep their numbers.
    fn write_dictionaries(&mut self, other: &Database) -> Result<(), StoreError> {
        let mut anew = Dictionaries::default();
        let txn = other.begin_write()?;
        {
            let mut table = txn.open_table(DICT)?;
            for row in self.txn.open_table(DICT)?.iter()? {
                let (number, bytes) = row?;
                let (kind, mut bytes): (ResourceType, Vec<u8>) = decode("dict", bytes.value())?;
                if self.types.contains(&kind) {
                    let samples = self.samples.remove(&kind).unwrap_or_default();
                    bytes = documents::train(&samples).unwrap_or_else(|| b"{}".to_vec());
                }
                table.insert(number.value(), encode(&(&kind, &bytes)).as_slice())?;
                anew.add(kind, bytes);
            }
        }
        txn.commit()?;
        self.dictionaries = anew;
        Ok(())
    }

    fn write_stretch(&self, stretch: Stretch, other: &Database) -> Result<(), StoreError> {
        let mut pages = Pages::default();
        for mut slice in stretch.slices {
            if slice.entries.iter().any(|logged| !logged.document.is_empty()) {
                let kind = self.type_of(slice.row.scope)?;
                if self.types.contains(&kind) {
                    let mut encoder = Encoder::new(&kind, &self.dictionaries);
                    for logged in slice.entries.iter_mut().filter(|logged| !logged.document.is_empty()) {
                        let rid = logged.entry.rid;
                        let (_, after) = self.cleaned(&kind, rid, &logged.document)?;
                        let base = match documents::base_of(&logged.document)? {
                            None => None,
                            Some(base) => {
                                let (_, of_base) =
                                    self.cleaned(&kind, rid, &log::document(&self.log, base, rid)?)?;
                                Some((base, text(&of_base)))
                            }
                        };
                        logged.document = encoder.encode(&text(&after), base);
                    }
                }
            }
            pages.add(Revision(slice.revision), &slice.row, slice.entries);
        }
        let txn = other.begin_write()?;
        pages.write(&mut txn.open_table(LOG)?)?;
        txn.commit()?;
        Ok(())
    }
}

fn text(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document is JSON")
}

/// Copies a table, except the log and the dictionaries, which are rewritten.
fn copy<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    definition: redb::TableDefinition<'_, K, V>,
) -> Result<(), StoreError> {
    if [LOG.name(), DICT.name()].contains(&definition.name()) {
        return Ok(());
    }
    let txn = to.begin_write()?;
    {
        let mut table = txn.open_table(definition)?;
        for row in from.open_table(definition)?.iter()? {
            let (key, value) = row?;
            table.insert(key.value(), value.value())?;
        }
    }
    txn.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::inventory::{Moment, Observation, Snapshot, Subscriber};
    use crate::store::system_clock;
    use crate::store::tests::{observation, sweep};

    const SECRET: &str = "correct-horse-battery-staple";

    /// Sweeps that show this many resources, each time with another size and a secret.
    fn record(path: &Path, rounds: u64, things: usize) -> Vec<(Revision, Vec<Value>)> {
        let now = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(1_800_000_000_000));
        let ticking = now.clone();
        let clock = std::sync::Arc::new(move || {
            crate::inventory::Timestamp::from_millis(ticking.load(std::sync::atomic::Ordering::Relaxed))
        });
        let store = Store::open(path, clock).unwrap();
        let mut reported = Vec::new();
        for round in 0..rounds {
            now.fetch_add(300_000, std::sync::atomic::Ordering::Relaxed);
            let mut sweep = sweep(store.now().minus(Duration::from_secs(1)));
            let thing = |n: usize| {
                let mut object = json!({"VolumeId": format!("vol-{n}"), "Size": round, "Long": "x".repeat(60)});
                if n.is_multiple_of(2) {
                    object["Inner"] = json!([{"Password": format!("{SECRET}-{n}"), "Kept": true}]);
                }
                Observation { attributes: (&object).into(), ..observation(&format!("vol-{n}"), &[], 8) }
            };
            sweep.observations = (0..things).map(thing).collect();
            store.commit(&sweep, Some(&Subscriber::new("team/one"))).unwrap();
            reported.push((store.revision(), documents(&store, Moment::Now)));
        }
        store.checkpoint().unwrap();
        reported
    }

    fn documents(store: &Store, moment: Moment) -> Vec<Value> {
        let snapshot = store.snapshot(moment).unwrap();
        let resources = snapshot.resources(&crate::inventory::Filter::default()).unwrap();
        resources.iter().map(|resource| snapshot.attributes(resource).unwrap()).collect()
    }

    fn clean(_: &ResourceType, document: &mut Value) {
        if let Some(inner) = document.pointer_mut("/Inner/0").and_then(Value::as_object_mut) {
            inner.remove("Password");
        }
    }

    fn cleaning(rules: &str) -> Cleaning<'static> {
        Cleaning { rules: rules.to_owned(), concerns: &|kind| kind.as_str() == "AWS::EC2::Volume", clean: &clean }
    }

    fn holds(path: &Path, what: &str) -> bool {
        std::fs::read(path).unwrap().windows(what.len()).any(|window| window == what.as_bytes())
    }

    #[test]
    fn a_secret_goes_out_of_every_version_the_dictionary_and_the_file_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        // Enough of them for a dictionary.
        let reported = record(&path, 4, documents::DICTIONARY_SAMPLES + 10);
        assert!(holds(&path, SECRET), "the test would show nothing");
        let found = usize::try_from(Store::scrub(&path, &cleaning("none")).unwrap()).unwrap();
        assert_eq!(found, 4 * (documents::DICTIONARY_SAMPLES + 10) / 2);
        assert!(!holds(&path, SECRET));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let store = Store::open(&path, system_clock()).unwrap();
        assert!(store.check().unwrap().flaws.is_empty());
        for (revision, mut documents_then) in reported {
            for document in &mut documents_then {
                clean(&ResourceType::new("AWS::EC2::Volume"), document);
            }
            assert_eq!(documents(&store, Moment::Revision(revision)), documents_then);
        }
        let snapshot = store.snapshot(Moment::Now).unwrap();
        assert_eq!(snapshot.visible(&Subscriber::new("team/one")).len(), 1);
    }

    #[test]
    fn what_is_clean_is_read_once_for_the_same_rules_and_never_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        assert_eq!(Store::scrub(&path, &cleaning("none")).unwrap(), 0, "there is none");
        record(&path, 2, 10);
        let nothing = Cleaning { rules: "other".to_owned(), concerns: &|_| true, clean: &|_, _| {} };
        assert_eq!(Store::scrub(&path, &nothing).unwrap(), 0);
        let same_name = Cleaning { rules: "other".to_owned(), ..cleaning("") };
        assert_eq!(Store::scrub(&path, &same_name).unwrap(), 0, "by these it was cleaned");
        assert_eq!(Store::scrub(&path, &cleaning("more")).unwrap(), 10);
        assert_eq!(Store::scrub(&path, &cleaning("more")).unwrap(), 0);
    }

    #[test]
    fn a_file_that_somebody_holds_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        record(&path, 1, 2);
        let store = Store::open(&path, system_clock()).unwrap();
        assert!(matches!(Store::scrub(&path, &cleaning("none")), Err(StoreError::Locked { .. })));
        drop(store);
    }
}
