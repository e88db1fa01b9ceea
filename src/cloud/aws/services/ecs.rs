//! ECS: clusters and services.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CloudError;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, ListAnswer, ListRequest, TagSource, call, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::Reason;
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::ECS::Cluster",
        actions: &["ecs:ListClusters", "ecs:DescribeClusters"],
        list: call("ecs", "ListClusters").paged("nextToken", "maxResults", 100),
        items: &["clusterArns"],
        next_page: "nextToken",
        describe: Some(|regional, cluster| {
            Box::pin(async move {
                let input = json!({ "clusters": [*cluster], "include": ["TAGS", "SETTINGS"] });
                let answer = regional.send("ecs", "DescribeClusters", input).await?;
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
        list: call("ecs", "ListServices").in_parent("cluster").paged("nextToken", "maxResults", 100),
        fetch: Some(|regional, list, which| {
            Box::pin(async move {
                let mut answer = regional.send(list.service, list.operation, list.input(&which)).await?;
                let ListRequest::Page { within: cluster, .. } = which else {
                    unreachable!("it is described by id")
                };
                let arns = answer["serviceArns"].take();
                let arns = arns.as_array().into_iter().flatten();
                answer["serviceArns"] =
                    arns.map(|arn| json!({ "clusterArn": cluster, "serviceArn": arn })).collect();
                Ok(ListAnswer::Completed(answer))
            })
        }),
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
                    let input = json!({ "cluster": cluster, "services": [arn], "include": ["TAGS"] });
                    let answer = regional.send("ecs", "DescribeServices", input).await;
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
        let list = call("ecs", "ListClusters").paged("nextToken", "maxResults", 100);
        let arns = regional.send_all(&list, json!({}), &["clusterArns"], "nextToken").await?;
        Ok(arns.iter().filter_map(|arn| arn.as_str().map(str::to_owned)).collect())
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
