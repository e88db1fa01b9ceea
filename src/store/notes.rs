//! Notes: small durable values of a subscriber. They take no revision.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable;

use super::file::tables::NOTE;
use super::write::writer::Request;
use super::{Store, StoreError};
use crate::inventory::Subscriber;

impl Store {
    /// Writes small durable values of a subscriber. Takes no revision.
    pub fn write_notes(
        &self,
        subscriber: &Subscriber,
        notes: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StoreError> {
        if notes.is_empty() {
            return Ok(());
        }
        self.submit(Request::Notes(subscriber.clone(), notes.to_vec())).map(|_| ())
    }

    /// One note of a subscriber.
    pub fn note(&self, subscriber: &Subscriber, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        Ok(table.get((subscriber.as_str(), name))?.map(|bytes| bytes.value().to_vec()))
    }

    /// All notes of a subscriber whose names begin with `prefix`.
    pub fn notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.first_notes(subscriber, prefix, usize::MAX)?.into_iter().collect())
    }

    /// Deletes the notes of a subscriber whose names begin with `prefix`.
    pub fn drop_notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<(), StoreError> {
        let notes: Vec<_> = self.notes(subscriber, prefix)?.into_keys().map(|name| (name, None)).collect();
        self.write_notes(subscriber, &notes)
    }

    /// The first `count` of these notes, in the order of their names.
    pub fn first_notes(
        &self,
        subscriber: &Subscriber,
        prefix: &str,
        count: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut out = Vec::new();
        for row in table.range((subscriber.as_str(), prefix)..)?.take(count) {
            let (key, value) = row?;
            let (row_subscriber, name) = key.value();
            if row_subscriber != subscriber.as_str() || !name.starts_with(prefix) {
                break;
            }
            out.push((name.to_owned(), value.value().to_vec()));
        }
        Ok(out)
    }

    /// Number of notes of a subscriber whose names begin with `prefix`.
    pub fn count_notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<usize, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut count = 0;
        for row in table.range((subscriber.as_str(), prefix)..)? {
            let (key, _) = row?;
            let (row_subscriber, name) = key.value();
            if row_subscriber != subscriber.as_str() || !name.starts_with(prefix) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// All subscribers that have notes.
    pub fn subscribers_with_notes(&self) -> Result<BTreeSet<Subscriber>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        let mut subscribers = BTreeSet::new();
        for row in table.iter()? {
            let (key, _) = row?;
            let (subscriber, _) = key.value();
            if !subscriber.is_empty() {
                subscribers.insert(Subscriber::from(subscriber));
            }
        }
        Ok(subscribers)
    }

    /// Deletes the notes of all other subscribers.
    pub fn retain_notes(&self, subscribers: &BTreeSet<Subscriber>) -> Result<(), StoreError> {
        for subscriber in self.subscribers_with_notes()?.difference(subscribers) {
            self.drop_notes(subscriber, "")?;
        }
        Ok(())
    }
}
