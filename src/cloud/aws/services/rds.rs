//! RDS: instances, clusters and snapshots.

use serde_json::json;

use futures::future::BoxFuture;

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{
    Answer, Call, Declaration, ListRequest, TAG_LIST, TagSource, call, tags_in, text,
};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i64 = 100;

const RDS: Declaration = Declaration { next_page: "Marker", reusable_ids: true, ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::RDS::DBInstance",
        actions: &["rds:DescribeDBInstances", "rds:ListTagsForResource"],
        list: call("rds", "DescribeDBInstances")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("DBInstanceIdentifier"),
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
        list: call("rds", "DescribeDBClusters")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("DBClusterIdentifier"),
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
        list: call("rds", "DescribeDBSnapshots")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("DBSnapshotIdentifier"),
        fetch: Some(snapshots),
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
        list: call("rds", "DescribeDBClusterSnapshots")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("DBClusterSnapshotIdentifier"),
        fetch: Some(snapshots),
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

/// The type must be named if the id is that of an automated snapshot. Only those have a colon in their names.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html>
fn snapshots<'a>(regional: &'a Regional, list: &'a Call, which: ListRequest) -> Answer<'a> {
    Box::pin(async move {
        let mut input = list.input(&which);
        if matches!(&which, ListRequest::Id(id) if id.starts_with("rds:")) {
            input["SnapshotType"] = "automated".into();
        }
        regional.query(list.service, list.operation, input).await.map(Into::into)
    })
}

fn tags<'a>(regional: &'a Regional, arn: &'a str) -> BoxFuture<'a, Result<Tags, Failure>> {
    Box::pin(async move {
        let answer = regional.send("rds", "ListTagsForResource", json!({ "ResourceName": arn })).await?;
        Ok(tags_in(&answer, "TagList"))
    })
}
