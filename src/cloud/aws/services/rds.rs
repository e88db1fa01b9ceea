//! RDS: instances, clusters and snapshots.

use futures::future::BoxFuture;

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tags_in, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The most that its listings take.
const PAGE: i32 = 100;

const RDS: Declaration = Declaration { next_page: "Marker", reusable_ids: true, ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::RDS::DBInstance",
        actions: &["rds:DescribeDBInstances", "rds:ListTagsForResource"],
        fetch: list!(rds "rds" "DescribeDBInstances": describe_db_instances;
            page set_marker, max_records(PAGE); id db_instance_identifier),
        items: &["DBInstances"],
        id: "DBInstanceIdentifier",
        tags: TagSource::Call(|regional, instance| tags(regional, text(instance, "DBInstanceArn"))),
        birth: Some("InstanceCreateTime"),
        end_states: Some(("DBInstanceStatus", &["deleting"])),
        // Moves on every five minutes; the tags are read by their own call.
        volatile: &[
            "LatestRestorableTime",
            "TagList",
            "PercentProgress",
            "StorageOperationPercentProgress",
            "AdditionalStorageVolumes.StorageOperationPercentProgress",
        ],
        shape: 2,
        // Every night.
        passing_states: &[("backing-up", "available")],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBCluster",
        actions: &["rds:DescribeDBClusters", "rds:ListTagsForResource"],
        fetch: list!(rds "rds" "DescribeDBClusters": describe_db_clusters;
            page set_marker, max_records(PAGE); id db_cluster_identifier),
        items: &["DBClusters"],
        id: "DBClusterIdentifier",
        tags: TagSource::Call(|regional, cluster| tags(regional, text(cluster, "DBClusterArn"))),
        birth: Some("ClusterCreateTime"),
        end_states: Some(("Status", &["deleting"])),
        volatile: &[
            "LatestRestorableTime",
            "EarliestRestorableTime",
            "TagList",
            "PercentProgress",
            "BacktrackConsumedChangeRecords",
            "EarliestBacktrackTime",
        ],
        shape: 2,
        passing_states: &[("backing-up", "available")],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBSnapshot",
        actions: &["rds:DescribeDBSnapshots"],
        fetch: list!(rds "rds" "DescribeDBSnapshots": describe_db_snapshots;
            page set_marker, max_records(PAGE); id db_snapshot_identifier),
        items: &["DBSnapshots"],
        id: "DBSnapshotIdentifier",
        // There are too many for a call each.
        tags: TagSource::Inline("TagList"),
        birth: Some("SnapshotCreateTime"),
        end_states: Some(("Status", &["deleting", "deleted"])),
        volatile: &["PercentProgress"],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBClusterSnapshot",
        actions: &["rds:DescribeDBClusterSnapshots"],
        fetch: list!(rds "rds" "DescribeDBClusterSnapshots": describe_db_cluster_snapshots;
            page set_marker, max_records(PAGE); id db_cluster_snapshot_identifier),
        items: &["DBClusterSnapshots"],
        id: "DBClusterSnapshotIdentifier",
        tags: TagSource::Inline("TagList"),
        birth: Some("SnapshotCreateTime"),
        end_states: Some(("Status", &["deleting", "deleted"])),
        volatile: &["PercentProgress"],
        cadence: CadenceClass::Slow,
        ..RDS
    },
];

fn tags<'a>(regional: &'a Regional, arn: &'a str) -> BoxFuture<'a, Result<Tags, Failure>> {
    Box::pin(async move {
        let request = regional.rds().list_tags_for_resource().resource_name(arn);
        let answer = send!(regional, "rds" "ListTagsForResource", request)?;
        Ok(tags_in(&answer, "TagList"))
    })
}
