//! SageMaker: endpoints and notebook instances.

use futures::future::BoxFuture;
use serde_json::json;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, send, tags_unless_more, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i32 = 100;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::SageMaker::Endpoint",
        actions: &["sagemaker:ListEndpoints", "sagemaker:DescribeEndpoint", "sagemaker:ListTags"],
        fetch: list!(sagemaker "sagemaker" "ListEndpoints": list_endpoints; page set_next_token, max_results(PAGE_SIZE)),
        items: &["Endpoints"],
        describe: Some(|regional, endpoint| {
            Box::pin(async move {
                let name = text(endpoint, "EndpointName");
                let request = regional.sagemaker().describe_endpoint().endpoint_name(name);
                *endpoint = send!(regional, "sagemaker" "DescribeEndpoint", request)?;
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
        fetch: list!(sagemaker "sagemaker" "ListNotebookInstances": list_notebook_instances;
            page set_next_token, max_results(PAGE_SIZE)),
        items: &["NotebookInstances"],
        describe: Some(|regional, notebook| {
            Box::pin(async move {
                let name = text(notebook, "NotebookInstanceName");
                let request = regional.sagemaker().describe_notebook_instance().notebook_instance_name(name);
                *notebook = send!(regional, "sagemaker" "DescribeNotebookInstance", request)?;
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
        let request = regional.sagemaker().list_tags().resource_arn(arn).max_results(100);
        tags_unless_more(&send!(regional, "sagemaker" "ListTags", request)?, "Tags", "NextToken")
    })
}
