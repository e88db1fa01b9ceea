//! CloudWatch Logs: log groups.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::convert::counted_time;
use crate::cloud::aws::declare::{Declaration, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Logs::LogGroup",
    actions: &["logs:DescribeLogGroups", "logs:ListTagsForResource"],
    list: call("logs", "DescribeLogGroups").paged("nextToken", "limit", 50).by_id("logGroupNamePrefix"),
    items: &["logGroups"],
    next_page: "nextToken",
    describe: Some(|_, group| {
        Box::pin(async move {
            if let Some(at) = group.get("creationTime").and_then(counted_time) {
                group["creationTime"] = at.into();
            }
            Ok(())
        })
    }),
    id: "logGroupName",
    tags: TagSource::Call(|regional, group| {
        Box::pin(async move {
            // The ARN that ends in ":*" stands for the streams in the group.
            let arn = text(group, "arn").trim_end_matches(":*");
            Ok(tags_in(
                &regional.send("logs", "ListTagsForResource", json!({ "resourceArn": arn })).await?,
                "tags",
            ))
        })
    }),
    birth: Some("creationTime"),
    reusable_ids: true,
    volatile: &["storedBytes"],
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
