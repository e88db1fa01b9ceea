//! CloudWatch Logs: log groups.

use crate::cloud::CadenceClass;
use crate::cloud::aws::convert::counted_time;
use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Logs::LogGroup",
    actions: &["logs:DescribeLogGroups", "logs:ListTagsForResource"],
    fetch: list!(logs "logs" "DescribeLogGroups": describe_log_groups;
        page set_next_token, limit(50); id log_group_name_prefix),
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
            let request = regional.logs().list_tags_for_resource().resource_arn(arn);
            Ok(tags_in(&send!(regional, "logs" "ListTagsForResource", request)?, "tags"))
        })
    }),
    birth: Some("creationTime"),
    reusable_ids: true,
    volatile: &["storedBytes"],
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
