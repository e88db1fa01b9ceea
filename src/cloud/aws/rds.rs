//! RDS: database instances; their tags need a further call each.

use futures::future::BoxFuture;
use serde_json::Value;

use super::Regional;
use super::declare::{Answer, Declaration, TagSource, Which};
use super::error::Failure;
use crate::cloud::CadenceClass;
use crate::inventory::TagSet;

/// The most that DescribeDBInstances takes.
const PAGE: i32 = 100;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::RDS::DBInstance",
    actions: &["rds:DescribeDBInstances", "rds:ListTagsForResource"],
    fetch: list,
    items: &["DBInstances"],
    next_page: "Marker",
    id: "DBInstanceIdentifier",
    tags: TagSource::Call(tags),
    birth: Some("InstanceCreateTime"),
    reusable_ids: true,
    end_states: Some(("DBInstanceStatus", &["deleting"])),
    // Moves on every five minutes; the tags are read by their own call.
    volatile: &["LatestRestorableTime", "TagList"],
    cadence: CadenceClass::Fast,
    ..Declaration::EC2
}];

fn list(regional: &Regional, which: Which) -> Answer<'_> {
    Box::pin(async move {
        let request = regional.rds.describe_db_instances();
        let request = match which {
            Which::Page(marker) => request.set_marker(marker).max_records(PAGE),
            Which::Id(id) => request.db_instance_identifier(id),
        };
        let capture = regional.capture();
        let sent = request.customize().interceptor(capture.clone()).send().await;
        regional.answer("rds", "DescribeDBInstances", &capture, sent.map(drop))
    })
}

fn tags<'a>(regional: &'a Regional, instance: &'a Value) -> BoxFuture<'a, Result<TagSet, Failure>> {
    Box::pin(async move {
        let arn = instance["DBInstanceArn"].as_str().unwrap_or_default();
        let capture = regional.capture();
        let request = regional.rds.list_tags_for_resource().resource_name(arn);
        let sent = request.customize().interceptor(capture.clone()).send().await;
        let answer = regional.answer("rds", "ListTagsForResource", &capture, sent.map(drop))?;
        Ok(super::tag_set(answer.get("TagList")))
    })
}
