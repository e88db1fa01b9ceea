//! EMR clusters.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, call, described, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::EMR::Cluster",
    actions: &["elasticmapreduce:ListClusters", "elasticmapreduce:DescribeCluster"],
    // Without a filter it lists every cluster that ever ran.
    list: call("emr", "ListClusters")
        .with(r#"{"ClusterStates": ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING"]}"#)
        .with_token("Marker"),
    items: &["Clusters"],
    next_page: "Marker",
    describe: Some(|regional, cluster| {
        Box::pin(async move {
            *cluster = described(
                regional.send("emr", "DescribeCluster", json!({ "ClusterId": text(cluster, "Id") })).await?,
                "Cluster",
            )?;
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
