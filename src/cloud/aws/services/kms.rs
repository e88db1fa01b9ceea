//! KMS keys.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_unless_more, text};
use crate::inventory::Tags;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::KMS::Key",
    actions: &["kms:ListKeys", "kms:DescribeKey", "kms:ListResourceTags"],
    fetch: list!(kms "kms" "ListKeys": list_keys; page set_marker, limit(1000)),
    items: &["Keys"],
    next_page: "NextMarker",
    describe: Some(|regional, key| {
        Box::pin(async move {
            let request = regional.kms().describe_key().key_id(text(key, "KeyId"));
            *key = described(send!(regional, "kms" "DescribeKey", request)?, "KeyMetadata")?;
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
            let request = regional.kms().list_resource_tags().key_id(text(key, "KeyId")).limit(50);
            tags_unless_more(&send!(regional, "kms" "ListResourceTags", request)?, "Tags", "NextMarker")
        })
    }),
    birth: Some("CreationDate"),
    // A multi-Region key and its replicas share one id, but each is a separate key:
    // https://docs.aws.amazon.com/kms/latest/developerguide/mrk-how-it-works.html
    reusable_ids: true,
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
