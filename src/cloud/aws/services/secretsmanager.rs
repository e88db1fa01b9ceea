//! Secrets Manager: that secrets exist, never their values.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SecretsManager::Secret",
    actions: &["secretsmanager:ListSecrets", "secretsmanager:DescribeSecret"],
    list: call("secretsmanager", "ListSecrets").with(r#"{"IncludePlannedDeletion": true}"#).paged(
        "NextToken",
        "MaxResults",
        100,
    ),
    items: &["SecretList"],
    // DescribeSecret returns other fields than the listing.
    by_id: ById::Exists(|regional, arn| {
        Box::pin(async move {
            regional.query("secretsmanager", "DescribeSecret", json!({ "SecretId": arn })).await.map(drop)
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
