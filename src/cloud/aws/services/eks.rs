//! EKS: clusters and node groups.

use futures::future::BoxFuture;
use serde_json::json;

use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{
    ById, Declaration, ListAnswer, ListRequest, TagSource, described, list, next_page, send, text,
};
use crate::cloud::aws::error::Failure;
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::EKS::Cluster",
        actions: &["eks:ListClusters", "eks:DescribeCluster"],
        fetch: list!(eks "eks" "ListClusters": list_clusters {include("all")};
            page set_next_token, max_results(100)),
        items: &["clusters"],
        next_page: "nextToken",
        describe: Some(|regional, cluster| {
            Box::pin(async move {
                let request = regional.eks().describe_cluster().name(cluster.as_str().unwrap_or_default());
                *cluster = described(send!(regional, "eks" "DescribeCluster", request)?, "cluster")?;
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
        fetch: |regional, which| {
            Box::pin(async move {
                let ListRequest::Page { within, token } = which else { unreachable!("it is described by id") };
                let cluster = within.unwrap_or_default();
                let request = regional.eks().list_nodegroups().cluster_name(&cluster).max_results(100);
                let mut answer = send!(regional, "eks" "ListNodegroups", request.set_next_token(token))?;
                let names = answer["nodegroups"].take();
                let names = names.as_array().into_iter().flatten();
                answer["nodegroups"] =
                    names.map(|name| json!({ "clusterName": cluster, "nodegroupName": name })).collect();
                Ok(ListAnswer::Completed(answer))
            })
        },
        items: &["nodegroups"],
        next_page: "nextToken",
        describe: Some(|regional, group| {
            Box::pin(async move {
                let request = regional.eks().describe_nodegroup().cluster_name(text(group, "clusterName"));
                let request = request.nodegroup_name(text(group, "nodegroupName"));
                *group = described(send!(regional, "eks" "DescribeNodegroup", request)?, "nodegroup")?;
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
        let mut clusters = Vec::new();
        let mut token = None;
        loop {
            let request = regional.eks().list_clusters().set_next_token(token).max_results(100);
            let answer = send!(regional, "eks" "ListClusters", request)?;
            let page = answer["clusters"].as_array().into_iter().flatten();
            clusters.extend(page.filter_map(|name| name.as_str().map(str::to_owned)));
            token = next_page(&answer, "nextToken");
            if token.is_none() {
                return Ok(clusters);
            }
        }
    })
}
