//! Elastic Load Balancing: application, network and gateway load balancers, and their target groups.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TagSource, call, tag_set, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagSet;

/// The maximum that its listings take.
const PAGE_SIZE: i64 = 400;
/// The maximum number of resources whose tags one call returns.
const DESCRIBE_TAGS_MAX_RESOURCES: usize = 20;

const ELB: Declaration = Declaration {
    next_page: "NextMarker",
    tags: TagSource::Calls(DESCRIBE_TAGS_MAX_RESOURCES, tags),
    ..Declaration::USUAL
};

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::ElasticLoadBalancingV2::LoadBalancer",
        actions: &[
            "elasticloadbalancing:DescribeLoadBalancers",
            "elasticloadbalancing:DescribeListeners",
            "elasticloadbalancing:DescribeTags",
        ],
        list: call("elbv2", "DescribeLoadBalancers")
            .paged("Marker", "PageSize", PAGE_SIZE)
            .by_id("LoadBalancerArns"),
        items: &["LoadBalancers"],
        enrich: Some(listeners),
        shape: 3,
        id: "LoadBalancerArn",
        not_found: &["LoadBalancerNotFound"],
        birth: Some("CreatedTime"),
        // The client secret of an identity provider.
        secret: &["Listeners.DefaultActions.AuthenticateOidcConfig.ClientSecret"],
        ..ELB
    },
    Declaration {
        name: "AWS::ElasticLoadBalancingV2::TargetGroup",
        actions: &[
            "elasticloadbalancing:DescribeTargetGroups",
            "elasticloadbalancing:DescribeTargetHealth",
            "elasticloadbalancing:DescribeTags",
        ],
        list: call("elbv2", "DescribeTargetGroups")
            .paged("Marker", "PageSize", PAGE_SIZE)
            .by_id("TargetGroupArns"),
        items: &["TargetGroups"],
        enrich: Some(targets),
        shape: 3,
        id: "TargetGroupArn",
        not_found: &["TargetGroupNotFound"],
        ..ELB
    },
];

/// Its listeners and their actions: `Listeners`.
fn listeners<'a>(regional: &'a Regional, balancer: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let arn = text(balancer, "LoadBalancerArn").to_owned();
        let list = call("elbv2", "DescribeListeners").paged("Marker", "PageSize", PAGE_SIZE);
        let of_it = json!({ "LoadBalancerArn": arn });
        let mut all = regional.send_all(&list, of_it, &["Listeners"], "NextMarker").await?;
        all.sort_by(|a, b| text(a, "ListenerArn").cmp(text(b, "ListenerArn")));
        balancer["Listeners"] = Value::Array(all);
        Ok(())
    })
}

/// Whether it has any target: `HasTargets`. Which targets, and how many, changes with each pod.
fn targets<'a>(regional: &'a Regional, group: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let arn = text(group, "TargetGroupArn");
        let answer = match regional.send("elbv2", "DescribeTargetHealth", json!({ "TargetGroupArn": arn })).await {
            // The health of this group is unavailable now: no reason to doubt the others.
            Err(Failure::Error(error)) if error.message.contains("HealthUnavailable") => {
                return Err(Failure::NotFound { code: "HealthUnavailable".to_owned() });
            }
            answered => answered?,
        };
        let has_targets = answer["TargetHealthDescriptions"].as_array().is_some_and(|targets| !targets.is_empty());
        group["HasTargets"] = has_targets.into();
        Ok(())
    })
}

fn tags(regional: &Regional, arns: Vec<String>) -> BoxFuture<'_, Result<BTreeMap<String, TagSet>, Failure>> {
    Box::pin(async move {
        let answer = regional.send("elbv2", "DescribeTags", json!({ "ResourceArns": arns })).await?;
        let of_one = |one: &Value| (text(one, "ResourceArn").to_owned(), tag_set(one.get("Tags")));
        Ok(answer["TagDescriptions"].as_array().into_iter().flatten().map(of_one).collect())
    })
}
