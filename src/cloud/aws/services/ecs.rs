//! ECS: clusters and services.

use aws_sdk_ecs::types::{ClusterField, ServiceField};
use futures::future::BoxFuture;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, Which, ask, described, list, next_page, send};
use crate::cloud::aws::error::Failure;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::ECS::Cluster",
        actions: &["ecs:ListClusters", "ecs:DescribeClusters"],
        fetch: list!(ecs "ecs" "ListClusters": list_clusters; page set_next_token, max_results(100)),
        items: &["clusterArns"],
        next_page: "nextToken",
        describe: Some(|regional, cluster| {
            Box::pin(async move {
                let request = regional.ecs().describe_clusters().clusters(cluster.as_str().unwrap_or_default());
                let request = request.include(ClusterField::Tags).include(ClusterField::Settings);
                let answer = send!(regional, "ecs" "DescribeClusters", request)?;
                *cluster = described(answer, "clusters.0")?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|arn| arn.into()),
        id: "clusterArn",
        tags: TagSource::Inline("tags"),
        // The API tells no time of creation.
        reusable_ids: true,
        end_states: Some(("status", &["DEPROVISIONING", "INACTIVE"])),
        volatile: &[
            "activeServicesCount",
            "pendingTasksCount",
            "registeredContainerInstancesCount",
            "runningTasksCount",
            "statistics",
        ],
        ..Declaration::USUAL
    },
    Declaration {
        name: "AWS::ECS::Service",
        actions: &["ecs:ListClusters", "ecs:ListServices", "ecs:DescribeServices"],
        within: Some(clusters),
        fetch: |regional, which| {
            Box::pin(async move {
                let Which::Page { within, token } = which else { unreachable!("it is described by id") };
                let request = regional.ecs().list_services().set_cluster(within).max_results(100);
                ask!(regional, "ecs" "ListServices", request.set_next_token(token)).map(Into::into)
            })
        },
        items: &["serviceArns"],
        next_page: "nextToken",
        describe: Some(|regional, service| {
            Box::pin(async move {
                let arn = service.as_str().unwrap_or_default();
                // arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/NAME
                let cluster = arn.split('/').nth(1).unwrap_or_default();
                let request = regional.ecs().describe_services().cluster(cluster).services(arn);
                let answer = send!(regional, "ecs" "DescribeServices", request.include(ServiceField::Tags))?;
                *service = described(answer, "services.0")?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|arn| arn.into()),
        id: "serviceArn",
        tags: TagSource::Inline("tags"),
        birth: Some("createdAt"),
        reusable_ids: true,
        end_states: Some(("status", &["DRAINING", "INACTIVE"])),
        volatile: &["deployments", "events", "pendingCount", "runningCount", "taskSets"],
        ..Declaration::USUAL
    },
];

fn clusters(regional: &Regional) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
    Box::pin(async move {
        let mut clusters = Vec::new();
        let mut token = None;
        loop {
            let request = regional.ecs().list_clusters().set_next_token(token).max_results(100);
            let answer = send!(regional, "ecs" "ListClusters", request)?;
            let page = answer["clusterArns"].as_array().into_iter().flatten();
            clusters.extend(page.filter_map(|arn| arn.as_str().map(str::to_owned)));
            token = next_page(&answer, "nextToken");
            if token.is_none() {
                return Ok(clusters);
            }
        }
    })
}
