//! Reads with hindsight: later sweeps correct what a past moment could not know.

use std::collections::BTreeMap;

use crate::inventory::{Moment, Presence, Resource, ScopeStatus};
use crate::store::file::lives::{self, Tombstone};
use crate::store::file::tables::{Rid, ScopeNo};
use crate::store::read::snapshot::StoreSnapshot;
use crate::store::{Store, StoreError};

impl Store {
    /// State at a moment, with what later sweeps show about it: present if a sweep before and one after show the
    /// same life, unknown between last seen and first missed, absent from then on.
    ///
    /// # Errors
    ///
    /// As [`Store::snapshot`]; [`StoreError::Database`] or [`StoreError::Damaged`] if the later ends can't be
    /// read.
    pub fn snapshot_in_hindsight(&self, moment: Moment) -> Result<StoreSnapshot, StoreError> {
        let snapshot = self.snapshot(moment)?;
        let (state, newest) = (&snapshot.state, &snapshot.newest);
        let mut ends = BTreeMap::new();
        lives::tombstones_back(&*snapshot.txn()?, newest.revision, newest.ends, |revision, rid, tombstone| {
            let is_after = revision > state.revision.0;
            if is_after {
                // Of two ends of one life the first counts, which comes last here.
                ends.insert(rid, (revision, tombstone));
            }
            is_after
        })?;
        Ok(StoreSnapshot { ends_after: Some(ends), ..snapshot })
    }
}

impl StoreSnapshot {
    /// Corrects a resource by what became known of its life after the moment.
    pub(super) fn correct(&self, rid: Rid, ends_after: &BTreeMap<Rid, (u64, Tombstone)>, resource: &mut Resource) {
        let end = ends_after.get(&rid);
        if let Some((revision, tombstone)) = end
            && self.at >= tombstone.first_missed
        {
            // A retracted end was no end: what happened in between is unknown.
            let is_retracted = tombstone.retracted.is_some();
            resource.presence = if is_retracted { Presence::Unknown } else { Presence::Absent };
            resource.end = (!is_retracted).then(|| tombstone.end(*revision));
            return;
        }
        let last_seen = match end {
            Some((_, tombstone)) => Some(tombstone.last_seen),
            None => self.newest.suspects.get(&rid).map(|suspect| suspect.last_seen),
        };
        if last_seen.is_none_or(|last_seen| self.at <= last_seen) {
            resource.presence = Presence::Present;
            resource.suspect = None;
        } else {
            resource.presence = Presence::Unknown;
        }
    }

    /// With hindsight: corrects resources of a scope if the moment lies between two sweeps.
    pub(super) fn apply_hindsight_to_scope(
        &self,
        number: ScopeNo,
        status: ScopeStatus,
        resources: &mut [(Rid, &mut Resource)],
    ) {
        let Some(ends_after) = &self.ends_after else { return };
        if !matches!(status, ScopeStatus::Current | ScopeStatus::Stale) {
            return;
        }
        match self.is_swept_later(number) {
            Ok(true) => resources.iter_mut().for_each(|(rid, resource)| self.correct(*rid, ends_after, resource)),
            Ok(false) => {}
            // As with a run that can't be read: unknown, never present.
            Err(_) => resources.iter_mut().for_each(|(_, resource)| resource.presence = Presence::Unknown),
        }
    }
}
