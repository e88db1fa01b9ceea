//! Whose the past is. Viewers come in groups (`group/name`); a group that somebody else takes over under the same name
//! begins anew: nothing that its predecessor saw is its to see.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::record::{decode, encode};
use super::{Store, StoreError};
use crate::inventory::{Revision, Viewer};

/// The notes of nobody: a viewer's name is never empty.
const NOBODY: &str = "";
const PREFIX: &str = "tenant/";

#[derive(Debug, Serialize, Deserialize)]
struct Tenant {
    identity: String,
    /// What was seen until then was seen by another.
    since: Revision,
}

impl Store {
    /// The revision after which a group of viewers is that of `identity`. One that was another's loses what it
    /// covered and all its notes now; one that was nobody's takes over what there is.
    pub fn tenant_since(&self, group: &str, identity: &str) -> Result<Revision, StoreError> {
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
                self.dispossess(group)?;
                self.revision()
            }
        };
        let (nobody, name) = (Viewer::new(NOBODY), format!("{PREFIX}{group}"));
        let tenant = encode(&Tenant { identity: identity.to_owned(), since });
        self.write_notes(&nobody, &[(name, Some(tenant))])?;
        Ok(since)
    }

    /// Does something for a viewer while its group stays whose it is; tells it whether that is who is named. An empty name
    /// is anybody's, and so is a group that was never named.
    pub fn as_tenant<T>(
        &self,
        viewer: &Viewer,
        identity: &str,
        work: impl FnOnce(bool) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _stays = self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let group = viewer.as_str().split('/').next().unwrap_or_default();
        let is_theirs =
            identity.is_empty() || self.tenant(group)?.is_none_or(|tenant| tenant.identity == identity);
        work(is_theirs)
    }

    fn tenant(&self, group: &str) -> Result<Option<Tenant>, StoreError> {
        let noted = self.note(&Viewer::new(NOBODY), &format!("{PREFIX}{group}"))?;
        noted.map(|bytes| decode("note", &bytes)).transpose()
    }

    /// Makes every group nobody's: whoever has its name next takes over what there is.
    pub fn forget_tenants(&self) -> Result<(), StoreError> {
        self.drop_notes(&Viewer::new(NOBODY), PREFIX)
    }

    fn dispossess(&self, group: &str) -> Result<(), StoreError> {
        let is_of_it = |viewer: &Viewer| viewer.as_str().split_once('/').is_some_and(|(own, _)| own == group);
        for (viewer, scope) in self.covers().iter().filter(|(viewer, _)| is_of_it(viewer)) {
            self.drop_cover(viewer, scope)?;
        }
        for viewer in self.note_viewers()?.into_iter().filter(is_of_it) {
            self.drop_notes(&viewer, "")?;
        }
        tracing::warn!("{group} is another's under the same name: what its predecessor saw is not shown to it");
        Ok(())
    }
}
