//! FSx file systems.

use crate::cloud::aws::declare::{Declaration, list};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::FSx::FileSystem",
    actions: &["fsx:DescribeFileSystems"],
    fetch: list!(fsx "fsx" "DescribeFileSystems": describe_file_systems;
        page set_next_token, max_results(100); id file_system_ids),
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
