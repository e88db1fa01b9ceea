//! CloudFormation stacks.

use crate::cloud::aws::declare::{Declaration, call};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CloudFormation::Stack",
    // Without a name DescribeStacks also needs ListStacks, and lists only with both permissions:
    // https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeStacks.html
    actions: &["cloudformation:DescribeStacks", "cloudformation:ListStacks"],
    list: call("cloudformation", "DescribeStacks").with_token("NextToken").by_id("StackName"),
    items: &["Stacks"],
    id: "StackId",
    not_found: &["ValidationError"],
    birth: Some("CreationTime"),
    end_states: Some(("StackStatus", &["DELETE_COMPLETE"])),
    volatile: &["DriftInformation"],
    // Inputs and outputs may contain anything.
    secret: &["Parameters", "Outputs"],
    ..Declaration::USUAL
}];
