//! Backup vaults.

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, send, tags_unless_more, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Backup::BackupVault",
    actions: &["backup:ListBackupVaults", "backup:ListTags"],
    fetch: list!(backup "backup" "ListBackupVaults": list_backup_vaults; page set_next_token, max_results(1000)),
    items: &["BackupVaultList"],
    // For a vault that does not exist DescribeBackupVault returns the same denial as for one that may not be read:
    // https://github.com/hashicorp/terraform-provider-aws/issues/11840
    by_id: ById::Sweeps,
    id: "BackupVaultName",
    tags: TagSource::Call(|regional, vault| {
        Box::pin(async move {
            let request = regional.backup().list_tags().resource_arn(text(vault, "BackupVaultArn"));
            tags_unless_more(&send!(regional, "backup" "ListTags", request)?, "Tags", "NextToken")
        })
    }),
    birth: Some("CreationDate"),
    reusable_ids: true,
    volatile: &["NumberOfRecoveryPoints"],
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
