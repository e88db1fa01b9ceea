//! The store against a naive model, and its rules one by one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::inventory::Outcome;
use crate::inventory::{
    Absence, AccountId, ChangeKind, Confirmation, EndCause, Filter, History, IdReuse, Moment, Observation,
    Presence, Reason, Region, Resource, ResourceKey, ResourceType, ScopeStatus, Snapshot, Sweep,
};
use crate::store::file::lives::{END, KEY, LIFE};
use crate::store::file::log::LOG;
use crate::store::file::tables::{DOCUMENT_MAX_BYTES, ID_MAX_BYTES, META, OPEN_SWEEP, RUN, Run, SUSPECT, decode};
use crate::store::state::checkpoint::{CKPT, CKPT_REST};
use crate::store::state::load::{fold_until, named};
use crate::store::state::locator::LifeDelta;
use crate::store::state::{checkpoint, lease};
use redb::ReadableTable;

mod absence;
mod backups;
mod changes;
mod files;
mod format;
mod hindsight;
mod lives;
mod model;
mod pages;
mod support;
mod visibility;
mod watches;

use support::{Bed, everything, kinds, large, until, well_used};
pub(crate) use support::{observation, scope, sweep};
