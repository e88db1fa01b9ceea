//! EKS: clusters and node groups.

use futures::future::BoxFuture;
use serde_json::json;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, ListAnswer, ListRequest, TagSource, call, described, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::EKS::Cluster",
        actions: &["eks:ListClusters", "eks:DescribeCluster"],
        list: call("eks", "ListClusters").with(r#"{"include": ["all"]}"#).paged("nextToken", "maxResults", 100),
        items: &["clusters"],
        next_page: "nextToken",
        describe: Some(|regional, cluster| {
            Box::pin(async move {
                *cluster = described(
                    regional
                        .send("eks", "DescribeCluster", json!({ "name": cluster.as_str().unwrap_or_default() }))
                        .await?,
                    "cluster",
                )?;
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| name.into()),
        id: "name",
        not_found: &["ResourceNotFoundException"],
        tags: TagSource::Inline("tags", TagForm::Map),
        birth: Some("createdAt"),
        reusable_ids: true,
        end_states: Some(("status", &["DELETING"])),
        volatile: &["health"],
        // With these another user could connect a cluster.
        secret: &["connectorConfig.activationCode", "connectorConfig.activationId"],
        shape: 2,
        ..Declaration::USUAL
    },
    Declaration {
        name: "AWS::EKS::Nodegroup",
        actions: &["eks:ListClusters", "eks:ListNodegroups", "eks:DescribeNodegroup"],
        within: Some(clusters),
        list: call("eks", "ListNodegroups").in_parent("clusterName").paged("nextToken", "maxResults", 100),
        fetch: Some(|regional, list, which| {
            Box::pin(async move {
                let mut answer = regional.send(list.service, list.operation, list.input(&which)).await?;
                let ListRequest::Page { within: cluster, .. } = which else {
                    unreachable!("it is described by id")
                };
                let names = answer["nodegroups"].take();
                let names = names.as_array().into_iter().flatten();
                answer["nodegroups"] =
                    names.map(|name| json!({ "clusterName": cluster, "nodegroupName": name })).collect();
                Ok(ListAnswer::Completed(answer))
            })
        }),
        items: &["nodegroups"],
        next_page: "nextToken",
        describe: Some(|regional, group| {
            Box::pin(async move {
                let input = json!({
                    "clusterName": text(group, "clusterName"), "nodegroupName": text(group, "nodegroupName"),
                });
                *group = described(regional.send("eks", "DescribeNodegroup", input).await?, "nodegroup")?;
                Ok(())
            })
        }),
        // arn:aws:eks:REGION:ACCOUNT:nodegroup/CLUSTER/NAME/UUID
        by_id: ById::Describe(|arn| {
            let mut parts = arn.split('/').skip(1);
            json!({ "clusterName": parts.next(), "nodegroupName": parts.next() })
        }),
        id: "nodegroupArn",
        not_found: &["ResourceNotFoundException"],
        tags: TagSource::Inline("tags", TagForm::Map),
        birth: Some("createdAt"),
        end_states: Some(("status", &["DELETING"])),
        volatile: &["health", "modifiedAt"],
        ..Declaration::USUAL
    },
];

/// Clusters that may have node groups: clusters that are only connected have none, and their listing is refused.
fn clusters(regional: &Regional) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
    Box::pin(async move {
        let list = call("eks", "ListClusters").paged("nextToken", "maxResults", 100);
        let names = regional.send_all(&list, json!({}), &["clusters"], "nextToken").await?;
        Ok(names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    })
}
