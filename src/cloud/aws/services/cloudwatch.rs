//! CloudWatch: alarms on metrics, on logs and on other alarms.

use serde_json::{Value, json};

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{Declaration, ListAnswer, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudWatch::Alarm",
    is_emulated: false,
    actions: &["cloudwatch:DescribeAlarms", "cloudwatch:ListTagsForResource"],
    // Without their types it lists only metric alarms.
    list: call("cloudwatch", "DescribeAlarms")
        .with(r#"{"AlarmTypes": ["CompositeAlarm", "MetricAlarm", "LogAlarm"]}"#)
        .paged("NextToken", "MaxRecords", 100)
        .by_id("AlarmNames"),
    fetch: Some(|regional, list, which| {
        Box::pin(async move {
            let mut answer = regional.send(list.service, list.operation, list.input(&which)).await?;
            let each = ["MetricAlarms", "CompositeAlarms", "LogAlarms"].map(|kind| answer[kind].take());
            let all = each.iter().filter_map(Value::as_array).flatten();
            answer["MetricAlarms"] = all.cloned().collect();
            Ok(ListAnswer::Completed(answer))
        })
    }),
    items: &["MetricAlarms"],
    id: "AlarmName",
    tags: TagSource::Call(|regional, alarm| {
        Box::pin(async move {
            Ok(tags_in(
                &regional
                    .send("cloudwatch", "ListTagsForResource", json!({ "ResourceARN": text(alarm, "AlarmArn") }))
                    .await?,
                "Tags",
            ))
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
