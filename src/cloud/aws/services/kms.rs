//! KMS keys.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_unless_more, text};
use crate::inventory::Tags;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::KMS::Key",
    actions: &["kms:ListKeys", "kms:DescribeKey", "kms:ListResourceTags"],
    list: call("kms", "ListKeys").paged("Marker", "Limit", 1000),
    items: &["Keys"],
    next_page: "NextMarker",
    describe: Some(|regional, key| {
        Box::pin(async move {
            *key = described(
                regional.send("kms", "DescribeKey", json!({ "KeyId": text(key, "KeyId") })).await?,
                "KeyMetadata",
            )?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|id| json!({ "KeyId": id })),
    id: "KeyId",
    not_found: &["NotFoundException"],
    tags: TagSource::Call(|regional, key| {
        Box::pin(async move {
            // AWS's own keys can't be tagged by users.
            if text(key, "KeyManager") == "AWS" {
                return Ok(Tags::Untaggable);
            }
            // A key has at most 50 tags, besides those of AWS itself.
            tags_unless_more(
                &regional
                    .send("kms", "ListResourceTags", json!({ "KeyId": text(key, "KeyId"), "Limit": 50 }))
                    .await?,
                "Tags",
                "NextMarker",
            )
        })
    }),
    birth: Some("CreationDate"),
    // A multi-Region key and its replicas share one id, but each is a separate key:
    // https://docs.aws.amazon.com/kms/latest/developerguide/mrk-how-it-works.html
    reusable_ids: true,
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
