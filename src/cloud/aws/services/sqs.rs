//! SQS queues.

use serde_json::json;

use crate::cloud::aws::convert::counted_time;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SQS::Queue",
    actions: &["sqs:ListQueues", "sqs:GetQueueAttributes", "sqs:ListQueueTags"],
    list: call("sqs", "ListQueues").paged("NextToken", "MaxResults", 1000),
    items: &["QueueUrls"],
    describe: Some(|regional, queue| {
        Box::pin(async move {
            let url = queue.as_str().unwrap_or_default().to_owned();
            let input = json!({ "QueueUrl": url, "AttributeNames": ["All"] });
            *queue = described(regional.send("sqs", "GetQueueAttributes", input).await?, "Attributes")?;
            queue["QueueUrl"] = url.into();
            if let Some(at) = counted_time(&queue["CreatedTimestamp"]) {
                queue["CreatedTimestamp"] = at.into();
            }
            Ok(())
        })
    }),
    by_id: ById::Describe(|url| url.into()),
    id: "QueueUrl",
    not_found: &["QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"],
    tags: TagSource::Call(|regional, queue| {
        Box::pin(async move {
            Ok(tags_in(
                &regional.send("sqs", "ListQueueTags", json!({ "QueueUrl": text(queue, "QueueUrl") })).await?,
                "Tags",
            ))
        })
    }),
    birth: Some("CreatedTimestamp"),
    reusable_ids: true,
    volatile: &[
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "LastModifiedTimestamp",
    ],
    ..Declaration::USUAL
}];
