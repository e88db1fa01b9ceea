//! Auto Scaling groups.

use crate::cloud::aws::declare::{Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::AutoScaling::AutoScalingGroup",
    actions: &["autoscaling:DescribeAutoScalingGroups"],
    list: call("autoscaling", "DescribeAutoScalingGroups")
        .paged("NextToken", "MaxRecords", 100)
        .by_id("AutoScalingGroupNames"),
    items: &["AutoScalingGroups"],
    id: "AutoScalingGroupName",
    birth: Some("CreatedTime"),
    reusable_ids: true,
    end_states: Some(("Status", &["Delete in progress"])),
    // Instances come and go, and are scanned themselves.
    volatile: &["Instances", "PredictedCapacity", "WarmPoolSize"],
    shape: 2,
    ..Declaration::USUAL
}];
