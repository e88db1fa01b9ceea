//! CloudWatch: alarms on metrics, on logs and on other alarms.

use aws_sdk_cloudwatch::types::AlarmType;
use serde_json::Value;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{Declaration, ListAnswer, ListRequest, TagSource, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudWatch::Alarm",
    is_emulated: false,
    actions: &["cloudwatch:DescribeAlarms", "cloudwatch:ListTagsForResource"],
    // Without their types it lists only metric alarms.
    fetch: |regional, which| {
        Box::pin(async move {
            let request = regional.cloudwatch().describe_alarms().max_records(100);
            let request = request.set_alarm_types(Some(vec![
                AlarmType::MetricAlarm,
                AlarmType::CompositeAlarm,
                AlarmType::LogAlarm,
            ]));
            let request = match which {
                ListRequest::Page { token, .. } => request.set_next_token(token),
                ListRequest::Id(name) => request.alarm_names(name),
            };
            let mut answer = send!(regional, "cloudwatch" "DescribeAlarms", request)?;
            let each = ["MetricAlarms", "CompositeAlarms", "LogAlarms"].map(|kind| answer[kind].take());
            let all = each.iter().filter_map(Value::as_array).flatten();
            answer["MetricAlarms"] = all.cloned().collect();
            Ok(ListAnswer::Completed(answer))
        })
    },
    items: &["MetricAlarms"],
    id: "AlarmName",
    tags: TagSource::Call(|regional, alarm| {
        Box::pin(async move {
            let request = regional.cloudwatch().list_tags_for_resource().resource_arn(text(alarm, "AlarmArn"));
            Ok(tags_in(&send!(regional, "cloudwatch" "ListTagsForResource", request)?, "Tags"))
        })
    }),
    // The API reports no creation time.
    reusable_ids: true,
    // The current state of an alarm is what its users monitor it for.
    volatile: &[
        "ActionsSuppressedBy",
        "ActionsSuppressedReason",
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
