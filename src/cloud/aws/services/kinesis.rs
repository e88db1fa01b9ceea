//! Kinesis data streams.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, more_tags, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Kinesis::Stream",
    actions: &["kinesis:ListStreams", "kinesis:DescribeStreamSummary", "kinesis:ListTagsForStream"],
    list: call("kinesis", "ListStreams").paged("NextToken", "Limit", 100),
    items: &["StreamNames"],
    describe: Some(|regional, stream| {
        Box::pin(async move {
            let name = stream.as_str().unwrap_or_default();
            let answer = regional.send("kinesis", "DescribeStreamSummary", json!({ "StreamName": name })).await?;
            *stream = described(answer, "StreamDescriptionSummary")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|name| name.into()),
    id: "StreamName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, stream| {
        Box::pin(async move {
            // A stream has at most 50 tags, the maximum that one call returns.
            let answer = regional
                .send(
                    "kinesis",
                    "ListTagsForStream",
                    json!({ "StreamName": text(stream, "StreamName"), "Limit": 50 }),
                )
                .await?;
            if answer["HasMoreTags"] == true {
                return Err(more_tags());
            }
            Ok(tags_in(&answer, "Tags"))
        })
    }),
    birth: Some("StreamCreationTimestamp"),
    reusable_ids: true,
    end_states: Some(("StreamStatus", &["DELETING"])),
    volatile: &["OpenShardCount", "ConsumerCount", "ChannelCount", "QueueCount", "WarmThroughput"],
    shape: 3,
    ..Declaration::USUAL
}];
