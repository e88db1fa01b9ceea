//! The vocabulary of Elava as types. Pure: no I/O, no clock, nothing of Kubernetes or of a cloud.
//!
//! Everything else in the crate is written in these words, so a word that means two things here
//! becomes a bug everywhere. `store` implements the read traits of [`read`]; `policy` reads them.

mod expression;
mod fields;
mod finding;
mod key;
mod read;
mod settings;
mod sweep;
mod tags;
mod time;

pub use expression::{
    EXPRESSION_MAX_BYTES, Expression, ExpressionError, NAMESPACE_EXPRESSIONS_MAX_BYTES,
    OBJECT_EXPRESSIONS_MAX_BYTES,
};
pub use fields::{FieldChange, field_changes};
pub use finding::{FindingKind, KindError, Severity};
pub use key::{AccountId, GLOBAL_REGION, KeyError, Region, ResourceKey, ResourceType, Scope, Viewer};
pub use read::{
    Change, ChangeKind, Cover, Diff, End, EndCause, Filter, History, KeptMoment, Looks, Milestone, MilestoneKind,
    Moment, Presence, Resource, ScopeStatus, ScopeView, Snapshot, Suspect, Version, Watermark, is_untagged,
    shared_by,
};
pub use settings::{
    Exemption, FindingSettings, LossLimits, OwnerSource, OwnershipSettings, RequiredTag, RuleSettings, Selector,
    TagMatch,
};
pub use sweep::{
    Absence, CLOCK_TOLERANCE, Confirmation, Document, IdReuse, Observation, Outcome, Part, Reason, SWEEPS_APART,
    Sweep, Unread,
};
pub use tags::{TagSet, Tags};
pub use time::{Revision, Timestamp, TimestampError};
