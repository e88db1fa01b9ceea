//! CloudWatch: metric alarms.

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudWatch::Alarm",
    actions: &["cloudwatch:DescribeAlarms", "cloudwatch:ListTagsForResource"],
    fetch: list!(cloudwatch "cloudwatch" "DescribeAlarms": describe_alarms;
        page set_next_token, max_records(100); id alarm_names),
    items: &["MetricAlarms"],
    id: "AlarmName",
    tags: TagSource::Call(|regional, alarm| {
        Box::pin(async move {
            let request = regional.cloudwatch().list_tags_for_resource().resource_arn(text(alarm, "AlarmArn"));
            Ok(tags_in(&send!(regional, "cloudwatch" "ListTagsForResource", request)?, "Tags"))
        })
    }),
    // The API tells no time of creation.
    reusable_ids: true,
    // What it says now is what its users watch it for.
    volatile: &[
        "EvaluationState",
        "StateReason",
        "StateReasonData",
        "StateTransitionedTimestamp",
        "StateUpdatedTimestamp",
        "StateValue",
    ],
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
