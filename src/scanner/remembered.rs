//! The desired subscriptions of CloudScans, kept in the store: after a restart scanning goes on while the API
//! server is unreachable. Credentials are never kept: a CloudScan with credentials in a Secret waits for the API
//! server.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Subscription;
use crate::cloud::{Access, AccountTarget, Credentials, Members, Providers};
use crate::inventory::{AccountId, LossLimits, Region, Subscriber};
use crate::store::{Store, StoreError};

/// The names of the notes.
const NOTE: &str = "subscriptions.2";
const MEMBERS: &str = "members";

#[derive(Serialize, Deserialize)]
struct Remembered {
    tenant: String,
    account: Option<AccountId>,
    provider: String,
    identity: Option<String>,
    parameters: BTreeMap<String, String>,
    endpoint: String,
    include_regions: Vec<Region>,
    exclude_regions: Vec<Region>,
    types: Vec<String>,
    interval: Duration,
    suspended: bool,
    loss_percent: u32,
    loss_minimum: u32,
    confirmations: u32,
    released: Vec<String>,
    requested_at: Option<String>,
    generation: i64,
}

pub(super) fn remember(
    store: &Store,
    subscriber: &Subscriber,
    desired: &[Subscription],
) -> Result<(), StoreError> {
    let remembered: Vec<Remembered> = desired
        .iter()
        .filter(|s| s.target.access.credentials == Credentials::Ambient)
        .map(|s| Remembered {
            tenant: s.tenant.to_string(),
            account: s.target.account.clone(),
            provider: s.target.provider.to_string(),
            identity: s.target.access.identity.clone(),
            parameters: s.target.access.parameters.clone(),
            endpoint: s.target.endpoint.to_string(),
            include_regions: s.target.include_regions.clone(),
            exclude_regions: s.target.exclude_regions.clone(),
            types: s.types.iter().map(|name| (*name).to_owned()).collect(),
            interval: s.interval,
            suspended: s.suspended,
            loss_percent: s.loss.percent,
            loss_minimum: s.loss.minimum,
            confirmations: s.confirmations,
            released: s.released.clone(),
            requested_at: s.requested_at.clone(),
            generation: s.generation,
        })
        .collect();
    let bytes = postcard::to_stdvec(&remembered).expect("it is plain data");
    if store.note(subscriber, NOTE)?.as_ref() == Some(&bytes) {
        return Ok(());
    }
    store.write_notes(subscriber, &[(NOTE.to_owned(), Some(bytes))])
}

/// Keeps the last complete list of an organization's accounts, and the units that it was requested for.
pub(super) fn remember_members(
    store: &Store,
    subscriber: &Subscriber,
    units: &[String],
    members: &Members,
) -> Result<(), StoreError> {
    let bytes = postcard::to_stdvec(&(units, members)).expect("it is plain data");
    if store.note(subscriber, MEMBERS)?.as_ref() == Some(&bytes) {
        return Ok(());
    }
    store.write_notes(subscriber, &[(MEMBERS.to_owned(), Some(bytes))])
}

/// `None` if no list for the same units is known.
pub(super) fn recall_members(
    store: &Store,
    subscriber: &Subscriber,
    units: &[String],
) -> Result<Option<Members>, StoreError> {
    let Some(bytes) = store.note(subscriber, MEMBERS)? else { return Ok(None) };
    let read = postcard::from_bytes::<(Vec<String>, Members)>(&bytes).ok();
    Ok(read.filter(|(requested, _)| requested == units).map(|(_, members)| members))
}

/// The subscriptions of all CloudScans, with the types that are still supported.
pub(super) fn recall(
    store: &Store,
    providers: &Providers,
) -> Result<Vec<(Subscriber, Vec<Subscription>)>, StoreError> {
    let (types, mut recalled) = (providers.all_types(), Vec::new());
    for subscriber in store.subscribers_with_notes()? {
        let Some(bytes) = store.note(&subscriber, NOTE)? else { continue };
        // A note of another version is no loss: the list of CloudScans restores it.
        let Ok(remembered) = postcard::from_bytes::<Vec<Remembered>>(&bytes) else { continue };
        let subscribe = |r: Remembered| Subscription {
            subscriber: subscriber.clone(),
            tenant: r.tenant.into(),
            target: AccountTarget {
                provider: r.provider.as_str().into(),
                account: r.account,
                access: Access {
                    credentials: Credentials::Ambient,
                    identity: r.identity,
                    parameters: r.parameters,
                },
                endpoint: r.endpoint.into(),
                include_regions: r.include_regions,
                exclude_regions: r.exclude_regions,
            },
            types: types.iter().map(|t| t.name).filter(|name| r.types.iter().any(|n| n == name)).collect(),
            interval: r.interval,
            suspended: r.suspended,
            loss: LossLimits { percent: r.loss_percent, minimum: r.loss_minimum },
            confirmations: r.confirmations,
            released: r.released,
            requested_at: r.requested_at,
            generation: r.generation,
        };
        recalled.push((subscriber.clone(), remembered.into_iter().map(subscribe).collect()));
    }
    Ok(recalled)
}
