//! Redshift clusters.

use crate::cloud::aws::declare::{Declaration, list};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Redshift::Cluster",
    actions: &["redshift:DescribeClusters"],
    fetch: list!(redshift "redshift" "DescribeClusters": describe_clusters;
        page set_marker, max_records(100); id cluster_identifier),
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
