//! Who owns the recorded past. Subscribers come in groups (`group/name`). A group that another owner takes over
//! under the same name begins anew: it sees nothing that its predecessor saw.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::inventory::{Revision, Subscriber};
use crate::store::file::tables::{decode, encode};

/// The name of internal notes: a subscriber's name is never empty.
const INTERNAL_SUBSCRIBER: &str = "";
const PREFIX: &str = "tenant/";

#[derive(Debug, Serialize, Deserialize)]
struct Tenant {
    identity: String,
    /// What was seen until then was seen by a previous owner.
    since: Revision,
}

impl Store {
    /// The revision after which a group of subscribers belongs to `identity`. If it belonged to another identity,
    /// it loses its visibilities and all its notes now. If it belonged to none, `identity` takes over what exists.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotWritten`] if the transaction fails or the volume is full, [`StoreError::Poisoned`] while
    /// the file waits to be opened again. [`StoreError::Database`] or [`StoreError::Damaged`] if the file can't be
    /// read.
    pub fn claim_tenant(&self, group: &str, identity: &str) -> Result<Revision, StoreError> {
        let known = {
            let _stays = self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner);
            self.tenant(group)?
        };
        if let Some(tenant) = known.filter(|tenant| tenant.identity == identity) {
            return Ok(tenant.since);
        }
        let _alone = self.inner.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let since = match self.tenant(group)? {
            Some(tenant) if tenant.identity == identity => return Ok(tenant.since),
            None => Revision::ZERO,
            Some(_) => {
                self.revoke_tenant(group)?;
                self.revision()
            }
        };
        let (nobody, name) = (Subscriber::new(INTERNAL_SUBSCRIBER), format!("{PREFIX}{group}"));
        let tenant = encode(&Tenant { identity: identity.to_owned(), since });
        self.write_notes(&nobody, &[(name, Some(tenant))])?;
        Ok(since)
    }

    /// Runs `work` for a subscriber while the owner of its group can't change. `work` gets whether `identity` is
    /// that owner. An empty identity always is, and a group without an owner belongs to every identity.
    ///
    /// # Errors
    ///
    /// The error of the work. [`StoreError::Poisoned`] while the file waits to be opened again;
    /// [`StoreError::Database`] or [`StoreError::Damaged`] if it can't be read.
    pub fn with_tenant_lock<T>(
        &self,
        subscriber: &Subscriber,
        identity: &str,
        work: impl FnOnce(bool) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _stays = self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let group = subscriber.as_str().split('/').next().unwrap_or_default();
        let is_theirs =
            identity.is_empty() || self.tenant(group)?.is_none_or(|tenant| tenant.identity == identity);
        work(is_theirs)
    }

    fn tenant(&self, group: &str) -> Result<Option<Tenant>, StoreError> {
        let noted = self.note(&Subscriber::new(INTERNAL_SUBSCRIBER), &format!("{PREFIX}{group}"))?;
        noted.map(|bytes| decode("note", &bytes)).transpose()
    }

    /// Removes the owner of every group: the next one under its name takes over what exists.
    ///
    /// # Errors
    ///
    /// As [`Store::drop_notes`].
    pub fn clear_tenants(&self) -> Result<(), StoreError> {
        self.drop_notes(&Subscriber::new(INTERNAL_SUBSCRIBER), PREFIX)
    }

    fn revoke_tenant(&self, group: &str) -> Result<(), StoreError> {
        let is_of_it =
            |subscriber: &Subscriber| subscriber.as_str().split_once('/').is_some_and(|(own, _)| own == group);
        for (subscriber, scope) in self.visibilities().iter().filter(|(subscriber, _)| is_of_it(subscriber)) {
            self.revoke_visibility(subscriber, scope)?;
        }
        for subscriber in self.subscribers_with_notes()?.into_iter().filter(is_of_it) {
            self.drop_notes(&subscriber, "")?;
        }
        tracing::warn!("{group} is another's under the same name: what its predecessor saw is not shown to it");
        Ok(())
    }
}
