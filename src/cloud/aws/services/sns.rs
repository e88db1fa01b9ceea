//! SNS topics.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SNS::Topic",
    actions: &["sns:ListTopics", "sns:GetTopicAttributes", "sns:ListTagsForResource"],
    list: call("sns", "ListTopics").with_token("NextToken"),
    items: &["Topics"],
    describe: Some(|regional, topic| {
        Box::pin(async move {
            *topic = described(
                regional.send("sns", "GetTopicAttributes", json!({ "TopicArn": text(topic, "TopicArn") })).await?,
                "Attributes",
            )?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|arn| json!({ "TopicArn": arn })),
    id: "TopicArn",
    not_found: &["NotFound"],
    tags: TagSource::Call(|regional, topic| {
        Box::pin(async move {
            Ok(tags_in(
                &regional
                    .send("sns", "ListTagsForResource", json!({ "ResourceArn": text(topic, "TopicArn") }))
                    .await?,
                "Tags",
            ))
        })
    }),
    // The API reports no creation time.
    reusable_ids: true,
    // The beginning of the archive moves all the time.
    volatile: &["BeginningArchiveTime", "SubscriptionsConfirmed", "SubscriptionsPending", "SubscriptionsDeleted"],
    ..Declaration::USUAL
}];
