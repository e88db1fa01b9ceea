//! FSx file systems.

use crate::cloud::aws::declare::{Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::FSx::FileSystem",
    actions: &["fsx:DescribeFileSystems"],
    list: call("fsx", "DescribeFileSystems").paged("NextToken", "MaxResults", 100).by_id("FileSystemIds"),
    items: &["FileSystems"],
    id: "FileSystemId",
    not_found: &["FileSystemNotFound"],
    birth: Some("CreationTime"),
    end_states: Some(("Lifecycle", &["DELETING"])),
    volatile: &["AdministrativeActions", "WindowsConfiguration.MaintenanceOperationsInProgress"],
    secret: &["OntapConfiguration.FsxAdminPassword"],
    shape: 2,
    ..Declaration::USUAL
}];
