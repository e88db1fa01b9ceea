//! Redshift clusters.

use crate::cloud::aws::declare::{Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Redshift::Cluster",
    actions: &["redshift:DescribeClusters"],
    list: call("redshift", "DescribeClusters").paged("Marker", "MaxRecords", 100).by_id("ClusterIdentifier"),
    items: &["Clusters"],
    next_page: "Marker",
    id: "ClusterIdentifier",
    not_found: &["ClusterNotFound"],
    birth: Some("ClusterCreateTime"),
    reusable_ids: true,
    end_states: Some(("ClusterStatus", &["deleting", "final-snapshot"])),
    volatile: &[
        "NextMaintenanceWindowStartTime",
        "ExpectedNextSnapshotScheduleTime",
        "RestoreStatus",
        "ClusterAvailabilityStatus",
        "DataTransferProgress",
        "ExpectedNextSnapshotScheduleTimeStatus",
        "LoggingPublishStatus",
        "ResizeInfo",
    ],
    shape: 2,
    secret: &["PendingModifiedValues.MasterUserPassword"],
    ..Declaration::USUAL
}];
