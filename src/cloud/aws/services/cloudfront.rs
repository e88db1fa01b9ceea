//! CloudFront distributions.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudFront::Distribution",
    actions: &["cloudfront:ListDistributions", "cloudfront:GetDistribution", "cloudfront:ListTagsForResource"],
    list: call("cloudfront", "ListDistributions").paged("Marker", "MaxItems", 100),
    items: &["DistributionList", "Items"],
    next_page: "DistributionList.NextMarker",
    // GetDistribution returns another document than the listing.
    by_id: ById::Exists(|regional, id| {
        Box::pin(
            async move { regional.query("cloudfront", "GetDistribution", json!({ "Id": id })).await.map(drop) },
        )
    }),
    id: "Id",
    not_found: &["NoSuchDistribution"],
    tags: TagSource::Call(|regional, distribution| {
        Box::pin(async move {
            Ok(tags_in(
                &regional
                    .send("cloudfront", "ListTagsForResource", json!({ "Resource": text(distribution, "ARN") }))
                    .await?,
                "Tags.Items",
            ))
        })
    }),
    global: true,
    // Headers to origins may contain credentials. The model marks the comment, which users write, as sensitive.
    secret: &["Origins.Items.CustomHeaders", "Comment"],
    shape: 2,
    ..Declaration::USUAL
}];
