//! Notes: small durable values of a subscriber. They take no revision.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable;

use super::file::tables::NOTE;
use super::write::writer::Request;
use super::{Store, StoreError};
use crate::inventory::Subscriber;

impl Store {
    /// Writes notes of a subscriber in one transaction; `None` deletes the note of that name. Takes no revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. All of them are written or none.
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

    /// One note of a subscriber; `None` if there is no such note.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] while the file waits to be opened again; [`StoreError::Database`] or
    /// [`StoreError::Damaged`] if it can't be read.
    pub fn note(&self, subscriber: &Subscriber, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.inner.shared.published()?.txn.open_table(NOTE)?;
        Ok(table.get((subscriber.as_str(), name))?.map(|bytes| bytes.value().to_vec()))
    }

    /// All notes of a subscriber whose names begin with `prefix`, by their whole names. Empty if there are none.
    ///
    /// # Errors
    ///
    /// As [`Store::note`].
    pub fn notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        Ok(self.first_notes(subscriber, prefix, usize::MAX)?.into_iter().collect())
    }

    /// Deletes the notes of a subscriber whose names begin with `prefix`.
    ///
    /// # Errors
    ///
    /// As [`Store::note`] and [`Store::write_notes`].
    pub fn drop_notes(&self, subscriber: &Subscriber, prefix: &str) -> Result<(), StoreError> {
        let notes: Vec<_> = self.notes(subscriber, prefix)?.into_keys().map(|name| (name, None)).collect();
        self.write_notes(subscriber, &notes)
    }

    /// As [`Store::notes`], but only the first `count`, in the order of their names.
    ///
    /// # Errors
    ///
    /// As [`Store::note`].
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
    ///
    /// # Errors
    ///
    /// As [`Store::note`].
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
    ///
    /// # Errors
    ///
    /// As [`Store::note`].
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

    /// Deletes the notes of all subscribers but these.
    ///
    /// # Errors
    ///
    /// As [`Store::drop_notes`]. The notes of some subscribers may be deleted by then.
    pub fn retain_notes(&self, subscribers: &BTreeSet<Subscriber>) -> Result<(), StoreError> {
        for subscriber in self.subscribers_with_notes()?.difference(subscribers) {
            self.drop_notes(subscriber, "")?;
        }
        Ok(())
    }
}
