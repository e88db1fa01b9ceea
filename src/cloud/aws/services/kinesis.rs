//! Kinesis data streams.

use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_in, text};

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
    tags: TagSource::Call(|regional, stream| {
        Box::pin(async move {
            // A stream has at most 50, which is what one call answers.
            let request = regional.kinesis().list_tags_for_stream().stream_name(text(stream, "StreamName"));
            Ok(tags_in(&send!(regional, "kinesis" "ListTagsForStream", request.limit(50))?, "Tags"))
        })
    }),
    birth: Some("StreamCreationTimestamp"),
    reusable_ids: true,
    end_states: Some(("StreamStatus", &["DELETING"])),
    volatile: &["OpenShardCount", "ConsumerCount", "WarmThroughput"],
    shape: 2,
    ..Declaration::USUAL
}];
