//! Elastic Load Balancing: application, network and gateway load balancers, and their target groups.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TagSource, list, next_page, send, tag_set, text};
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
        actions: &[
            "elasticloadbalancing:DescribeLoadBalancers",
            "elasticloadbalancing:DescribeListeners",
            "elasticloadbalancing:DescribeTags",
        ],
        fetch: list!(elbv2 "elbv2" "DescribeLoadBalancers": describe_load_balancers;
            page set_marker, page_size(PAGE); id load_balancer_arns),
        items: &["LoadBalancers"],
        enrich: Some(listeners),
        shape: 3,
        id: "LoadBalancerArn",
        not_found: &["LoadBalancerNotFound"],
        birth: Some("CreatedTime"),
        // Of an identity provider.
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
        fetch: list!(elbv2 "elbv2" "DescribeTargetGroups": describe_target_groups;
            page set_marker, page_size(PAGE); id target_group_arns),
        items: &["TargetGroups"],
        enrich: Some(targets),
        shape: 3,
        id: "TargetGroupArn",
        not_found: &["TargetGroupNotFound"],
        ..ELB
    },
];

/// What it listens for, and what becomes of it: `Listeners`.
fn listeners<'a>(regional: &'a Regional, balancer: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let arn = text(balancer, "LoadBalancerArn").to_owned();
        let mut all = Vec::new();
        let mut token = None;
        loop {
            let request = regional.elbv2().describe_listeners().load_balancer_arn(&arn).page_size(PAGE);
            let mut answer = send!(regional, "elbv2" "DescribeListeners", request.set_marker(token))?;
            all.append(answer["Listeners"].as_array_mut().unwrap_or(&mut Vec::new()));
            token = next_page(&answer, "NextMarker");
            if token.is_none() {
                break;
            }
        }
        all.sort_by(|a, b| text(a, "ListenerArn").cmp(text(b, "ListenerArn")));
        balancer["Listeners"] = Value::Array(all);
        Ok(())
    })
}

/// Whether it sends to anything: `HasTargets`. Which targets, and how many, changes with each pod.
fn targets<'a>(regional: &'a Regional, group: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let arn = text(group, "TargetGroupArn");
        let request = regional.elbv2().describe_target_health().target_group_arn(arn);
        let answer = match send!(regional, "elbv2" "DescribeTargetHealth", request) {
            // Of this group alone nobody can tell now: no reason to doubt the others.
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
        let request = regional.elbv2().describe_tags().set_resource_arns(Some(arns));
        let answer = send!(regional, "elbv2" "DescribeTags", request)?;
        let of_one = |one: &Value| (text(one, "ResourceArn").to_owned(), tag_set(one.get("Tags")));
        Ok(answer["TagDescriptions"].as_array().into_iter().flatten().map(of_one).collect())
    })
}
