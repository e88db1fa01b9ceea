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

    /// Those of a FindingExemption.
    pub const OF_EXEMPTION: [&str; 2] = [ACTIVE, EXPIRING_SOON];
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
    macro_rules! names {
        ($(#[$doc:meta])* $all:ident { $($name:ident: $text:literal,)* }) => {
            $(pub const $name: &str = $text;)*
            $(#[$doc])*
            pub const $all: &[&str] = &[$($name),*];
        };
    }

    names! {
        /// Something is wrong: each has a section in docs/runbooks.md.
        PROBLEMS {
            REFUSED: "Refused",
            MASS_LOSS_HELD: "MassLossHeld",
            BEHIND_STORE: "BehindStore",
            DIFFERS_FROM_CLOUD: "DiffersFromCloud",
            NOT_DELIVERED: "NotDelivered",
            UNDECIDED: "Undecided",
            INVALID_SPEC: "InvalidSpec",
            ENDPOINT_NOT_ALLOWED: "EndpointNotAllowed",
            ROLE_NOT_ALLOWED: "RoleNotAllowed",
            TOO_MANY_CLOUD_SCANS: "TooManyCloudScans",
            TOO_MANY_ACCOUNTS: "TooManyAccounts",
            TOO_MANY_RESOURCES: "TooManyResources",
            TOO_MANY_EXPRESSIONS: "TooManyExpressions",
        }
    }

    names! {
        /// All is well, or in progress.
        HEALTHY {
            SUSPENDED: "Suspended",
            SCANNING: "Scanning",
            PROGRESSING: "Progressing",
            UP_TO_DATE: "UpToDate",
            NOT_STALLED: "NotStalled",
            COMPLETE: "Complete",
            VALID: "Valid",
            NOT_TRIED: "NotTried",
            READABLE: "Readable",
            IN_STEP: "InStep",
            DELIVERED: "Delivered",
            DECIDED: "Decided",
        }
    }

    names! {
        /// Of a FindingExemption, besides `InvalidSpec`.
        OF_EXEMPTION {
            EXPIRED: "Expired",
            IN_FORCE: "InForce",
            EXPIRES: "Expires",
            NOT_SOON: "NotSoon",
        }
    }
}
