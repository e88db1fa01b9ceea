//! SNS topics.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SNS::Topic",
    actions: &["sns:ListTopics", "sns:GetTopicAttributes", "sns:ListTagsForResource"],
    fetch: list!(sns "sns" "ListTopics": list_topics; page set_next_token),
    items: &["Topics"],
    describe: Some(|regional, topic| {
        Box::pin(async move {
            let request = regional.sns().get_topic_attributes().topic_arn(text(topic, "TopicArn"));
            *topic = described(send!(regional, "sns" "GetTopicAttributes", request)?, "Attributes")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|arn| json!({ "TopicArn": arn })),
    id: "TopicArn",
    not_found: &["NotFound"],
    tags: TagSource::Call(|regional, topic| {
        Box::pin(async move {
            let request = regional.sns().list_tags_for_resource().resource_arn(text(topic, "TopicArn"));
            Ok(tags_in(&send!(regional, "sns" "ListTagsForResource", request)?, "Tags"))
        })
    }),
    // The API reports no creation time.
    reusable_ids: true,
    // The beginning of the archive moves all the time.
    volatile: &["BeginningArchiveTime", "SubscriptionsConfirmed", "SubscriptionsPending", "SubscriptionsDeleted"],
    ..Declaration::USUAL
}];
