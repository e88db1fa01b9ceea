//! ElastiCache: clusters and replication groups.

use serde_json::json;

use crate::cloud::aws::declare::{Declaration, TagSource, call, tags_in, text};

/// The maximum that its listings take.
const PAGE_SIZE: i64 = 100;

const CACHE: Declaration = Declaration {
    next_page: "Marker",
    tags: TagSource::Call(|regional, object| {
        Box::pin(async move {
            let answer = regional
                .send("elasticache", "ListTagsForResource", json!({ "ResourceName": text(object, "ARN") }))
                .await?;
            Ok(tags_in(&answer, "TagList"))
        })
    }),
    reusable_ids: true,
    ..Declaration::USUAL
};

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::ElastiCache::CacheCluster",
        actions: &["elasticache:DescribeCacheClusters", "elasticache:ListTagsForResource"],
        list: call("elasticache", "DescribeCacheClusters")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("CacheClusterId"),
        items: &["CacheClusters"],
        id: "CacheClusterId",
        not_found: &["CacheClusterNotFound"],
        birth: Some("CacheClusterCreateTime"),
        end_states: Some(("CacheClusterStatus", &["deleting", "deleted"])),
        // The nightly snapshot.
        passing_states: &[("snapshotting", "available")],
        ..CACHE
    },
    Declaration {
        name: "AWS::ElastiCache::ReplicationGroup",
        actions: &["elasticache:DescribeReplicationGroups", "elasticache:ListTagsForResource"],
        list: call("elasticache", "DescribeReplicationGroups")
            .paged("Marker", "MaxRecords", PAGE_SIZE)
            .by_id("ReplicationGroupId"),
        items: &["ReplicationGroups"],
        id: "ReplicationGroupId",
        not_found: &["ReplicationGroupNotFoundFault"],
        birth: Some("ReplicationGroupCreateTime"),
        end_states: Some(("Status", &["deleting"])),
        volatile: &["PendingModifiedValues.Resharding"],
        shape: 2,
        passing_states: &[("snapshotting", "available")],
        ..CACHE
    },
];
