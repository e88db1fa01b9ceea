//! ECS: clusters and services.

use aws_sdk_ecs::types::{ClusterField, ServiceField};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CloudError;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{
    ById, Declaration, ListAnswer, ListRequest, TagSource, list, next_page, send, text,
};
use crate::cloud::aws::error::Failure;
use crate::inventory::Reason;
use crate::inventory::TagForm;

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
                *cluster = first(answer, "clusters")?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|arn| arn.into()),
        id: "clusterArn",
        not_found: &["MISSING"],
        tags: TagSource::Inline("tags", TagForm::List { key: "key", value: "value" }),
        // The API reports no creation time.
        reusable_ids: true,
        end_states: Some(("status", &["DEPROVISIONING", "INACTIVE"])),
        volatile: &[
            "activeServicesCount",
            "pendingTasksCount",
            "registeredContainerInstancesCount",
            "runningTasksCount",
            "statistics",
            "attachmentsStatus",
        ],
        shape: 2,
        ..Declaration::USUAL
    },
    Declaration {
        name: "AWS::ECS::Service",
        actions: &["ecs:ListClusters", "ecs:ListServices", "ecs:DescribeServices"],
        within: Some(clusters),
        fetch: |regional, which| {
            Box::pin(async move {
                let ListRequest::Page { within, token } = which else { unreachable!("it is described by id") };
                let cluster = within.unwrap_or_default();
                let request = regional.ecs().list_services().cluster(&cluster).max_results(100);
                let mut answer = send!(regional, "ecs" "ListServices", request.set_next_token(token))?;
                let arns = answer["serviceArns"].take();
                let arns = arns.as_array().into_iter().flatten();
                answer["serviceArns"] =
                    arns.map(|arn| json!({ "clusterArn": cluster, "serviceArn": arn })).collect();
                Ok(ListAnswer::Completed(answer))
            })
        },
        items: &["serviceArns"],
        next_page: "nextToken",
        describe: Some(|regional, service| {
            Box::pin(async move {
                let arn = text(service, "serviceArn").to_owned();
                // The ARN of a service that is older than the long format does not name its cluster, and
                // DescribeServices without one searches only the cluster `default`.
                let candidates = match text(service, "clusterArn") {
                    "" => clusters(regional).await?,
                    cluster => vec![cluster.to_owned()],
                };
                for cluster in candidates {
                    let request = regional.ecs().describe_services().cluster(cluster).services(&arn);
                    let answer = send!(regional, "ecs" "DescribeServices", request.include(ServiceField::Tags));
                    match answer.and_then(|answer| first(answer, "services")) {
                        Ok(found) => {
                            *service = found;
                            return Ok(());
                        }
                        Err(Failure::NotFound { .. }) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                Err(missing())
            })
        }),
        by_id: ById::Describe(|arn| match arn.split('/').collect::<Vec<_>>()[..] {
            // arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/NAME
            [_, cluster, _] => json!({ "clusterArn": cluster, "serviceArn": arn }),
            _ => json!({ "serviceArn": arn }),
        }),
        id: "serviceArn",
        not_found: &["MISSING", "ClusterNotFoundException"],
        tags: TagSource::Inline("tags", TagForm::List { key: "key", value: "value" }),
        birth: Some("createdAt"),
        reusable_ids: true,
        end_states: Some(("status", &["DRAINING", "INACTIVE"])),
        shape: 2,
        volatile: &[
            "currentServiceRevisions.pendingTaskCount",
            "currentServiceRevisions.requestedTaskCount",
            "currentServiceRevisions.runningTaskCount",
            "deployments",
            "events",
            "pendingCount",
            "runningCount",
            "taskSets",
        ],
        secret: &["deploymentConfiguration.lifecycleHooks.hookDetails"],
        ..Declaration::USUAL
    },
];

/// The requested item. ECS answers with success and lists what it could not show among the failures; only `MISSING`
/// means that it does not exist:
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html>
fn first(mut answer: Value, list: &str) -> Result<Value, Failure> {
    if let Some(found) = answer[list].get_mut(0) {
        return Ok(found.take());
    }
    let failure = &answer["failures"][0];
    match text(failure, "reason") {
        "MISSING" => Err(missing()),
        reason => {
            let message =
                format!("ecs does not show {}: {reason} {}", text(failure, "arn"), text(failure, "detail"));
            Err(Failure::Error(CloudError::new(Reason::ServerError, message)))
        }
    }
}

fn missing() -> Failure {
    Failure::NotFound { code: "MISSING".to_owned() }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_does_not_exist() {
        let answer = |reason: &str| json!({"services": [], "failures": [{"arn": "a", "reason": reason}]});
        assert!(matches!(first(answer("MISSING"), "services"), Err(Failure::NotFound { .. })));
        for other in ["INACTIVE", "ACCESS_DENIED", ""] {
            assert!(matches!(first(answer(other), "services"), Err(Failure::Error(_))), "{other}");
        }
        assert!(matches!(first(json!({"services": [], "failures": []}), "services"), Err(Failure::Error(_))));
        assert_eq!(
            first(json!({"services": [{"status": "ACTIVE"}]}), "services").ok(),
            Some(json!({"status": "ACTIVE"}))
        );
    }
}
