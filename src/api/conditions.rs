//! The types of conditions, and the reasons for them that are neither an error of the cloud
//! ([`Reason`](crate::inventory::Reason)) nor of the store. Users match on them: a new name breaks what they built.

/// Types of conditions.
pub mod condition {
    pub const TRUE: &str = "True";
    pub const FALSE: &str = "False";
    pub const UNKNOWN: &str = "Unknown";

    /// The accounts are scanned.
    pub const READY: &str = "Ready";
    /// A change of the spec is being applied.
    pub const RECONCILING: &str = "Reconciling";
    /// Only a user can fix what stops the scans.
    pub const STALLED: &str = "Stalled";
    /// Every scope was swept once.
    pub const FIRST_SCAN_COMPLETE: &str = "FirstScanComplete";
    /// Every account answers to its credentials.
    pub const CREDENTIALS_VALID: &str = "CredentialsValid";
    /// The last sweep of every scope was complete.
    pub const INVENTORY_COMPLETE: &str = "InventoryComplete";
    /// The documents of all listed resources were read.
    pub const ATTRIBUTES_READABLE: &str = "AttributesReadable";
    /// The tags of all listed resources were read.
    pub const TAGS_READABLE: &str = "TagsReadable";
    /// The clocks of the operator, its store and the cloud differ.
    pub const CLOCK_SKEW: &str = "ClockSkew";
    /// The receivers accepted all events.
    pub const WEBHOOK_DELIVERED: &str = "WebhookDelivered";
    /// Every rule could be decided for every resource.
    pub const FINDINGS_DECIDED: &str = "FindingsDecided";
    /// The exemption is in force.
    pub const ACTIVE: &str = "Active";
    /// The exemption ends within a week.
    pub const EXPIRING_SOON: &str = "ExpiringSoon";

    /// Those of a CloudScan.
    pub const OF_CLOUDSCAN: [&str; 11] = [
        READY,
        RECONCILING,
        STALLED,
        FIRST_SCAN_COMPLETE,
        CREDENTIALS_VALID,
        INVENTORY_COMPLETE,
        ATTRIBUTES_READABLE,
        TAGS_READABLE,
        CLOCK_SKEW,
        WEBHOOK_DELIVERED,
        FINDINGS_DECIDED,
    ];
}

/// Reasons for conditions.
pub mod reason {
    pub const SUSPENDED: &str = "Suspended";
    pub const SCANNING: &str = "Scanning";
    pub const PROGRESSING: &str = "Progressing";
    pub const REFUSED: &str = "Refused";
    pub const UP_TO_DATE: &str = "UpToDate";
    pub const NOT_STALLED: &str = "NotStalled";
    pub const COMPLETE: &str = "Complete";
    pub const VALID: &str = "Valid";
    pub const NOT_TRIED: &str = "NotTried";
    pub const MASS_LOSS_HELD: &str = "MassLossHeld";
    pub const READABLE: &str = "Readable";
    pub const BEHIND_STORE: &str = "BehindStore";
    pub const DIFFERS_FROM_CLOUD: &str = "DiffersFromCloud";
    pub const IN_STEP: &str = "InStep";
    pub const NOT_DELIVERED: &str = "NotDelivered";
    pub const DELIVERED: &str = "Delivered";
    pub const DECIDED: &str = "Decided";
    pub const UNDECIDED: &str = "Undecided";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const EXPIRED: &str = "Expired";
    pub const IN_FORCE: &str = "InForce";
    pub const EXPIRES: &str = "Expires";
    pub const NOT_SOON: &str = "NotSoon";
    pub const ENDPOINT_NOT_ALLOWED: &str = "EndpointNotAllowed";
    pub const ROLE_NOT_ALLOWED: &str = "RoleNotAllowed";
    pub const TOO_MANY_CLOUD_SCANS: &str = "TooManyCloudScans";
    pub const TOO_MANY_ACCOUNTS: &str = "TooManyAccounts";
    pub const TOO_MANY_RESOURCES: &str = "TooManyResources";
    pub const TOO_MANY_EXPRESSIONS: &str = "TooManyExpressions";
}
