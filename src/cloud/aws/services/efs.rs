//! EFS file systems.

use crate::cloud::aws::declare::{Declaration, list};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::EFS::FileSystem",
    actions: &["elasticfilesystem:DescribeFileSystems"],
    fetch: list!(efs "efs" "DescribeFileSystems": describe_file_systems;
        page set_marker, max_items(1000); id file_system_id),
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
