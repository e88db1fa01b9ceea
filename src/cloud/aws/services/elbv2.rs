//! Elastic Load Balancing: application, network and gateway load balancers, and their target groups.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tag_set, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagSet;

/// The most that its listings take.
const PAGE: i32 = 400;
/// The most resources that one call tells the tags of.
const TAGGED: usize = 20;

const ELB: Declaration =
    Declaration { next_page: "NextMarker", tags: TagSource::Calls(TAGGED, tags), ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::ElasticLoadBalancingV2::LoadBalancer",
        actions: &["elasticloadbalancing:DescribeLoadBalancers", "elasticloadbalancing:DescribeTags"],
        fetch: list!(elbv2 "elbv2" "DescribeLoadBalancers": describe_load_balancers;
            page set_marker, page_size(PAGE); id load_balancer_arns),
        items: &["LoadBalancers"],
        id: "LoadBalancerArn",
        birth: Some("CreatedTime"),
        ..ELB
    },
    Declaration {
        name: "AWS::ElasticLoadBalancingV2::TargetGroup",
        actions: &["elasticloadbalancing:DescribeTargetGroups", "elasticloadbalancing:DescribeTags"],
        fetch: list!(elbv2 "elbv2" "DescribeTargetGroups": describe_target_groups;
            page set_marker, page_size(PAGE); id target_group_arns),
        items: &["TargetGroups"],
        id: "TargetGroupArn",
        ..ELB
    },
];

fn tags(regional: &Regional, arns: Vec<String>) -> BoxFuture<'_, Result<BTreeMap<String, TagSet>, Failure>> {
    Box::pin(async move {
        let request = regional.elbv2().describe_tags().set_resource_arns(Some(arns));
        let answer = send!(regional, "elbv2" "DescribeTags", request)?;
        let of_one = |one: &Value| (text(one, "ResourceArn").to_owned(), tag_set(one.get("Tags")));
        Ok(answer["TagDescriptions"].as_array().into_iter().flatten().map(of_one).collect())
    })
}
