//! EFS file systems.

use crate::cloud::aws::declare::{Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::EFS::FileSystem",
    actions: &["elasticfilesystem:DescribeFileSystems"],
    list: call("efs", "DescribeFileSystems").paged("Marker", "MaxItems", 1000).by_id("FileSystemId"),
    items: &["FileSystems"],
    next_page: "NextMarker",
    id: "FileSystemId",
    not_found: &["FileSystemNotFound"],
    birth: Some("CreationTime"),
    end_states: Some(("LifeCycleState", &["deleting", "deleted"])),
    // Metered every hour.
    volatile: &["SizeInBytes"],
    ..Declaration::USUAL
}];
