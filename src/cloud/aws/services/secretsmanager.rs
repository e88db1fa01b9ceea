//! Secrets Manager: that secrets exist, never their values.

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, list, query};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SecretsManager::Secret",
    actions: &["secretsmanager:ListSecrets", "secretsmanager:DescribeSecret"],
    fetch: list!(secretsmanager "secretsmanager" "ListSecrets": list_secrets {include_planned_deletion(true)};
        page set_next_token, max_results(100)),
    items: &["SecretList"],
    // DescribeSecret returns other fields than the listing.
    by_id: ById::Exists(|regional, arn| {
        Box::pin(async move {
            let request = regional.secretsmanager().describe_secret().secret_id(arn);
            query!(regional, "secretsmanager" "DescribeSecret", request).map(drop)
        })
    }),
    id: "ARN",
    not_found: &["ResourceNotFoundException"],
    birth: Some("CreatedDate"),
    shape: 2,
    volatile: &[
        "LastAccessedDate",
        "LastChangedDate",
        "LastRotatedDate",
        "NextRotationDate",
        "SecretVersionsToStages",
    ],
    cadence: CadenceClass::Rare,
    secret: &["ExternalSecretRotationMetadata"],
    ..Declaration::USUAL
}];
