//! Secrets Manager: that there are secrets, never what they say.

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, list};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SecretsManager::Secret",
    actions: &["secretsmanager:ListSecrets"],
    fetch: list!(secretsmanager "secretsmanager" "ListSecrets": list_secrets; page set_next_token, max_results(100)),
    items: &["SecretList"],
    // DescribeSecret answers with other fields than the listing.
    by_id: ById::Sweeps,
    id: "ARN",
    birth: Some("CreatedDate"),
    volatile: &["LastAccessedDate"],
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
