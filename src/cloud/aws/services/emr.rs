//! EMR clusters.

use aws_sdk_emr::types::ClusterState;
use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, ListRequest, described, query, send, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::EMR::Cluster",
    actions: &["elasticmapreduce:ListClusters", "elasticmapreduce:DescribeCluster"],
    fetch: |regional, which| {
        Box::pin(async move {
            let ListRequest::Page { token, .. } = which else { unreachable!("it is described by id") };
            // Without a filter it lists every cluster that ever ran.
            let running = [
                ClusterState::Starting,
                ClusterState::Bootstrapping,
                ClusterState::Running,
                ClusterState::Waiting,
                ClusterState::Terminating,
            ];
            let request = regional.emr().list_clusters().set_cluster_states(Some(running.to_vec()));
            query!(regional, "emr" "ListClusters", request.set_marker(token)).map(Into::into)
        })
    },
    items: &["Clusters"],
    next_page: "Marker",
    describe: Some(|regional, cluster| {
        Box::pin(async move {
            let request = regional.emr().describe_cluster().cluster_id(text(cluster, "Id"));
            *cluster = described(send!(regional, "emr" "DescribeCluster", request)?, "Cluster")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|id| json!({ "Id": id })),
    id: "Id",
    not_found: &["InvalidRequestException"],
    birth: Some("Status.Timeline.CreationDateTime"),
    end_states: Some(("Status.State", &["TERMINATING", "TERMINATED", "TERMINATED_WITH_ERRORS"])),
    volatile: &["NormalizedInstanceHours"],
    // Settings of its applications.
    secret: &[
        "Configurations",
        "KerberosAttributes.ADDomainJoinPassword",
        "KerberosAttributes.CrossRealmTrustPrincipalPassword",
        "KerberosAttributes.KdcAdminPassword",
    ],
    // Changes with each step that runs on it.
    passing_states: &[("WAITING", "RUNNING")],
    ..Declaration::USUAL
}];
