//! CloudFront distributions.

use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, query, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudFront::Distribution",
    actions: &["cloudfront:ListDistributions", "cloudfront:GetDistribution", "cloudfront:ListTagsForResource"],
    fetch: list!(cloudfront "cloudfront" "ListDistributions": list_distributions; page set_marker, max_items(100)),
    items: &["DistributionList", "Items"],
    next_page: "DistributionList.NextMarker",
    // GetDistribution returns another document than the listing.
    by_id: ById::Exists(|regional, id| {
        Box::pin(async move {
            let request = regional.cloudfront().get_distribution().id(id);
            query!(regional, "cloudfront" "GetDistribution", request).map(drop)
        })
    }),
    id: "Id",
    not_found: &["NoSuchDistribution"],
    tags: TagSource::Call(|regional, distribution| {
        Box::pin(async move {
            let request = regional.cloudfront().list_tags_for_resource().resource(text(distribution, "ARN"));
            Ok(tags_in(&send!(regional, "cloudfront" "ListTagsForResource", request)?, "Tags.Items"))
        })
    }),
    global: true,
    // Headers to origins may contain credentials. The model marks the comment, which users write, as sensitive.
    secret: &["Origins.Items.CustomHeaders", "Comment"],
    shape: 2,
    ..Declaration::USUAL
}];
