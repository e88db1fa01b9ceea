//! Kinesis data streams.

use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, more_tags, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Kinesis::Stream",
    actions: &["kinesis:ListStreams", "kinesis:DescribeStreamSummary", "kinesis:ListTagsForStream"],
    fetch: list!(kinesis "kinesis" "ListStreams": list_streams; page set_next_token, limit(100)),
    items: &["StreamNames"],
    describe: Some(|regional, stream| {
        Box::pin(async move {
            let name = stream.as_str().unwrap_or_default();
            let request = regional.kinesis().describe_stream_summary().stream_name(name);
            let answer = send!(regional, "kinesis" "DescribeStreamSummary", request)?;
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
            let request = regional.kinesis().list_tags_for_stream().stream_name(text(stream, "StreamName"));
            let answer = send!(regional, "kinesis" "ListTagsForStream", request.limit(50))?;
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
