//! RDS: instances, clusters and snapshots.

use futures::future::BoxFuture;

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{
    Declaration, ListRequest, TAG_LIST, TagSource, list, query, send, tags_in, text,
};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i32 = 100;

const RDS: Declaration = Declaration { next_page: "Marker", reusable_ids: true, ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::RDS::DBInstance",
        actions: &["rds:DescribeDBInstances", "rds:ListTagsForResource"],
        fetch: list!(rds "rds" "DescribeDBInstances": describe_db_instances;
            page set_marker, max_records(PAGE_SIZE); id db_instance_identifier),
        items: &["DBInstances"],
        id: "DBInstanceIdentifier",
        not_found: &["DBInstanceNotFound"],
        tags: TagSource::Call(|regional, instance| tags(regional, text(instance, "DBInstanceArn"))),
        birth: Some("InstanceCreateTime"),
        end_states: Some(("DBInstanceStatus", &["deleting"])),
        // LatestRestorableTime changes every five minutes; the tags are read by their own call.
        volatile: &[
            "LatestRestorableTime",
            "TagList",
            "PercentProgress",
            "StorageOperationPercentProgress",
            "AdditionalStorageVolumes.StorageOperationPercentProgress",
        ],
        shape: 2,
        // The nightly backup.
        passing_states: &[("backing-up", "available")],
        secret: &["PendingModifiedValues.MasterUserPassword"],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBCluster",
        actions: &["rds:DescribeDBClusters", "rds:ListTagsForResource"],
        fetch: list!(rds "rds" "DescribeDBClusters": describe_db_clusters;
            page set_marker, max_records(PAGE_SIZE); id db_cluster_identifier),
        items: &["DBClusters"],
        id: "DBClusterIdentifier",
        not_found: &["DBClusterNotFoundFault"],
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
            "Capacity",
            "AllocatedStorage",
        ],
        shape: 2,
        passing_states: &[("backing-up", "available")],
        secret: &["PendingModifiedValues.MasterUserPassword"],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBSnapshot",
        actions: &["rds:DescribeDBSnapshots"],
        fetch: |regional, which| {
            Box::pin(async move {
                let request = regional.rds().describe_db_snapshots();
                let request = match which {
                    ListRequest::Page { token, .. } => request.set_marker(token).max_records(PAGE_SIZE),
                    // The type must be named if the id is that of an automated snapshot.
                    ListRequest::Id(id) => request.set_snapshot_type(automated(&id)).db_snapshot_identifier(id),
                };
                query!(regional, "rds" "DescribeDBSnapshots", request).map(Into::into)
            })
        },
        items: &["DBSnapshots"],
        id: "DBSnapshotIdentifier",
        not_found: &["DBSnapshotNotFound"],
        // There are too many for a call each.
        tags: TagSource::Inline("TagList", TAG_LIST),
        birth: Some("SnapshotCreateTime"),
        end_states: Some(("Status", &["deleting", "deleted"])),
        volatile: &["PercentProgress"],
        ..RDS
    },
    Declaration {
        name: "AWS::RDS::DBClusterSnapshot",
        actions: &["rds:DescribeDBClusterSnapshots"],
        fetch: |regional, which| {
            Box::pin(async move {
                let request = regional.rds().describe_db_cluster_snapshots();
                let request = match which {
                    ListRequest::Page { token, .. } => request.set_marker(token).max_records(PAGE_SIZE),
                    // The type must be named if the id is that of an automated snapshot.
                    ListRequest::Id(id) => {
                        request.set_snapshot_type(automated(&id)).db_cluster_snapshot_identifier(id)
                    }
                };
                query!(regional, "rds" "DescribeDBClusterSnapshots", request).map(Into::into)
            })
        },
        items: &["DBClusterSnapshots"],
        id: "DBClusterSnapshotIdentifier",
        not_found: &["DBClusterSnapshotNotFoundFault"],
        tags: TagSource::Inline("TagList", TAG_LIST),
        birth: Some("SnapshotCreateTime"),
        end_states: Some(("Status", &["deleting", "deleted"])),
        volatile: &["PercentProgress"],
        cadence: CadenceClass::Slow,
        ..RDS
    },
];

/// Only automated snapshots have a colon in their names.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html>
fn automated(id: &str) -> Option<String> {
    id.starts_with("rds:").then(|| "automated".to_owned())
}

fn tags<'a>(regional: &'a Regional, arn: &'a str) -> BoxFuture<'a, Result<Tags, Failure>> {
    Box::pin(async move {
        let request = regional.rds().list_tags_for_resource().resource_name(arn);
        let answer = send!(regional, "rds" "ListTagsForResource", request)?;
        Ok(tags_in(&answer, "TagList"))
    })
}
