//! SageMaker: endpoints and notebook instances.

use futures::future::BoxFuture;
use serde_json::json;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, tags_unless_more, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i64 = 100;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::SageMaker::Endpoint",
        actions: &["sagemaker:ListEndpoints", "sagemaker:DescribeEndpoint", "sagemaker:ListTags"],
        list: call("sagemaker", "ListEndpoints").paged("NextToken", "MaxResults", PAGE_SIZE),
        items: &["Endpoints"],
        describe: Some(|regional, endpoint| {
            Box::pin(async move {
                let name = text(endpoint, "EndpointName");
                *endpoint =
                    regional.send("sagemaker", "DescribeEndpoint", json!({ "EndpointName": name })).await?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| json!({ "EndpointName": name })),
        id: "EndpointName",
        not_found: &["ValidationException"],
        tags: TagSource::Call(|regional, endpoint| tags(regional, text(endpoint, "EndpointArn"))),
        birth: Some("CreationTime"),
        reusable_ids: true,
        end_states: Some(("EndpointStatus", &["Deleting"])),
        volatile: &[
            "ProductionVariants.CapacityReservationConfig.AvailableInstanceCount",
            "ProductionVariants.CapacityReservationConfig.UsedByCurrentEndpoint",
            "ProductionVariants.CapacityReservationConfig.Ec2CapacityReservations.AvailableInstanceCount",
            "ProductionVariants.CapacityReservationConfig.Ec2CapacityReservations.UsedByCurrentEndpoint",
            "ProductionVariants.CurrentInstanceCount",
            "ProductionVariants.CurrentServerlessConfig",
            "ProductionVariants.CurrentWeight",
            "ProductionVariants.DesiredInstanceCount",
            "ProductionVariants.InstancePools.CurrentInstanceCount",
            "ProductionVariants.VariantStatus",
            "ShadowProductionVariants.CapacityReservationConfig.AvailableInstanceCount",
            "ShadowProductionVariants.CapacityReservationConfig.UsedByCurrentEndpoint",
            "ShadowProductionVariants.CapacityReservationConfig.Ec2CapacityReservations.AvailableInstanceCount",
            "ShadowProductionVariants.CapacityReservationConfig.Ec2CapacityReservations.UsedByCurrentEndpoint",
            "ShadowProductionVariants.CurrentInstanceCount",
            "ShadowProductionVariants.CurrentServerlessConfig",
            "ShadowProductionVariants.CurrentWeight",
            "ShadowProductionVariants.DesiredInstanceCount",
            "ShadowProductionVariants.InstancePools.CurrentInstanceCount",
            "ShadowProductionVariants.VariantStatus",
            "LastModifiedTime",
            "PendingDeploymentSummary",
        ],
        shape: 3,
        passing_states: &[("Updating", "InService")],
        ..Declaration::USUAL
    },
    Declaration {
        name: "AWS::SageMaker::NotebookInstance",
        actions: &["sagemaker:ListNotebookInstances", "sagemaker:DescribeNotebookInstance", "sagemaker:ListTags"],
        list: call("sagemaker", "ListNotebookInstances").paged("NextToken", "MaxResults", PAGE_SIZE),
        items: &["NotebookInstances"],
        describe: Some(|regional, notebook| {
            Box::pin(async move {
                let name = text(notebook, "NotebookInstanceName");
                *notebook = regional
                    .send("sagemaker", "DescribeNotebookInstance", json!({ "NotebookInstanceName": name }))
                    .await?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| json!({ "NotebookInstanceName": name })),
        id: "NotebookInstanceName",
        not_found: &["ValidationException"],
        tags: TagSource::Call(|regional, notebook| tags(regional, text(notebook, "NotebookInstanceArn"))),
        birth: Some("CreationTime"),
        reusable_ids: true,
        end_states: Some(("NotebookInstanceStatus", &["Deleting"])),
        ..Declaration::USUAL
    },
];

fn tags<'a>(regional: &'a Regional, arn: &'a str) -> BoxFuture<'a, Result<Tags, Failure>> {
    Box::pin(async move {
        // A resource has at most 50 tags, besides those of AWS itself.
        tags_unless_more(
            &regional.send("sagemaker", "ListTags", json!({ "ResourceArn": arn, "MaxResults": 100 })).await?,
            "Tags",
            "NextToken",
        )
    })
}
