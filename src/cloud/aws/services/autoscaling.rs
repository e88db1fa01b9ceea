//! Auto Scaling groups.

use crate::cloud::aws::declare::{Declaration, list};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::AutoScaling::AutoScalingGroup",
    actions: &["autoscaling:DescribeAutoScalingGroups"],
    fetch: list!(autoscaling "autoscaling" "DescribeAutoScalingGroups": describe_auto_scaling_groups;
        page set_next_token, max_records(100); id auto_scaling_group_names),
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
