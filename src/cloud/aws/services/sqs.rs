//! SQS queues.

use aws_sdk_sqs::types::QueueAttributeName;

use crate::cloud::aws::convert::counted_time;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::SQS::Queue",
    actions: &["sqs:ListQueues", "sqs:GetQueueAttributes", "sqs:ListQueueTags"],
    fetch: list!(sqs "sqs" "ListQueues": list_queues; page set_next_token, max_results(1000)),
    items: &["QueueUrls"],
    describe: Some(|regional, queue| {
        Box::pin(async move {
            let url = queue.as_str().unwrap_or_default().to_owned();
            let request = regional.sqs().get_queue_attributes().queue_url(&url);
            let request = request.attribute_names(QueueAttributeName::All);
            *queue = described(send!(regional, "sqs" "GetQueueAttributes", request)?, "Attributes")?;
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
            let request = regional.sqs().list_queue_tags().queue_url(text(queue, "QueueUrl"));
            Ok(tags_in(&send!(regional, "sqs" "ListQueueTags", request)?, "Tags"))
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
