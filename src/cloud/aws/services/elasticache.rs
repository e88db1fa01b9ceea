//! ElastiCache: clusters and replication groups.

use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tags_in, text};

/// The maximum that its listings take.
const PAGE_SIZE: i32 = 100;

const CACHE: Declaration = Declaration {
    next_page: "Marker",
    tags: TagSource::Call(|regional, object| {
        Box::pin(async move {
            let request = regional.elasticache().list_tags_for_resource().resource_name(text(object, "ARN"));
            let answer = send!(regional, "elasticache" "ListTagsForResource", request)?;
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
        fetch: list!(elasticache "elasticache" "DescribeCacheClusters": describe_cache_clusters;
            page set_marker, max_records(PAGE_SIZE); id cache_cluster_id),
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
        fetch: list!(elasticache "elasticache" "DescribeReplicationGroups": describe_replication_groups;
            page set_marker, max_records(PAGE_SIZE); id replication_group_id),
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
