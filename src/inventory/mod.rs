//! The domain types of Elava. Pure: no I/O, no clock, nothing specific to Kubernetes or a cloud.
//!
//! The rest of the crate is written in these terms, so a term with two meanings here becomes a bug everywhere.
//! `store` implements the read traits of [`read`]; `policy` uses them.

mod document;
mod expression;
mod facts;
mod fields;
mod finding;
mod key;
mod read;
mod settings;
mod sweep;
mod tags;
mod target;
mod time;

pub use document::texts;
pub use expression::{
    EXPRESSION_MAX_BYTES, Expression, ExpressionError, NAMESPACE_EXPRESSIONS_MAX_BYTES,
    OBJECT_EXPRESSIONS_MAX_BYTES,
};
pub use facts::{
    Billing, Claim, Described, Edge, Facts, OrphanCase, Parent, Pins, ProviderFacts, Role, SinceSource, TagField,
    TagForm, TypeFacts, Usage,
};
pub use fields::{FieldChange, field_changes};
pub use finding::{FindingKind, KindError, Severity};
pub use key::{
    AccountId, GLOBAL_REGION, KeyError, Region, ResourceKey, ResourceType, Scope, Subscriber, short_type,
};
pub use read::{
    Change, ChangeKind, CompleteSweeps, Diff, End, EndCause, Filter, History, Milestone, MilestoneKind, Moment,
    Presence, Resource, RetainedMoment, ScopeStatus, ScopeView, Snapshot, Suspect, Version, Visibility, Watermark,
    is_untagged,
};
pub use settings::{
    Exemption, FindingSettings, LossLimits, OwnerSource, OwnershipSettings, RequiredTag, RuleSettings, Selector,
    TagMatch,
};
pub use sweep::{
    Absence, CLOCK_TOLERANCE, CONFIRMATION_SPACING_MIN, Confirmation, Document, IdReuse, Observation, Outcome,
    Part, Reason, Sweep, Unread,
};
pub use tags::{TagSet, Tags};
pub use target::{Access, AccountTarget, Credentials, Member, Members, SecretKeys};
pub use time::{Revision, Timestamp, TimestampError};
