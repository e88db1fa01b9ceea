//! What the rules read from a snapshot, whatever its implementation.

use std::cell::RefCell;

use serde_json::Value;

use crate::inventory::{
    CompleteSweeps, History, Milestone, Resource, Revision, Scope, Snapshot, Timestamp, Version,
};

/// A snapshot without its error type: the first failure is kept, and everything after it is empty. The caller must
/// check [`Reading::done`] before it uses any result.
pub trait Reads {
    fn attributes(&self, resource: &Resource) -> Value;
    fn milestones(&self, resource: &Resource) -> Vec<Milestone>;
    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool);
    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps>;
    fn time_of(&self, revision: Revision) -> Timestamp;
}

pub struct Reading<'a, S: Snapshot> {
    snapshot: &'a S,
    failed: RefCell<Option<S::Error>>,
}

impl<'a, S: Snapshot> Reading<'a, S> {
    pub fn of(snapshot: &'a S) -> Self {
        Self { snapshot, failed: RefCell::new(None) }
    }

    pub fn done(self) -> Result<(), S::Error> {
        self.failed.into_inner().map_or(Ok(()), Err)
    }

    fn take<T>(&self, read: impl FnOnce() -> Result<T, S::Error>, otherwise: T) -> T {
        if self.failed.borrow().is_some() {
            return otherwise;
        }
        read().unwrap_or_else(|error| {
            *self.failed.borrow_mut() = Some(error);
            otherwise
        })
    }
}

impl<S> Reads for Reading<'_, S>
where
    S: Snapshot + History<Error = <S as Snapshot>::Error>,
{
    fn attributes(&self, resource: &Resource) -> Value {
        self.take(|| self.snapshot.attributes(resource), Value::Null)
    }

    fn milestones(&self, resource: &Resource) -> Vec<Milestone> {
        self.take(|| self.snapshot.milestones(resource), Vec::new())
    }

    fn versions(&self, resource: &Resource, more: &mut dyn FnMut(Version) -> bool) {
        self.take(|| self.snapshot.versions(resource, more), ());
    }

    fn complete_sweeps(&self, scope: &Scope) -> Option<CompleteSweeps> {
        self.snapshot.complete_sweeps(scope)
    }

    fn time_of(&self, revision: Revision) -> Timestamp {
        self.take(|| self.snapshot.time_of(revision), Timestamp::MIN)
    }
}
