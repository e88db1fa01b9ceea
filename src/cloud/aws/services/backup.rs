//! Backup vaults.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, tags_unless_more, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Backup::BackupVault",
    actions: &["backup:ListBackupVaults", "backup:ListTags"],
    list: call("backup", "ListBackupVaults").paged("NextToken", "MaxResults", 1000),
    items: &["BackupVaultList"],
    // For a vault that does not exist DescribeBackupVault returns the same denial as for one that may not be read:
    // https://github.com/hashicorp/terraform-provider-aws/issues/11840
    by_id: ById::Sweeps,
    id: "BackupVaultName",
    tags: TagSource::Call(|regional, vault| {
        Box::pin(async move {
            tags_unless_more(
                &regional
                    .send("backup", "ListTags", json!({ "ResourceArn": text(vault, "BackupVaultArn") }))
                    .await?,
                "Tags",
                "NextToken",
            )
        })
    }),
    birth: Some("CreationDate"),
    reusable_ids: true,
    volatile: &["NumberOfRecoveryPoints"],
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
