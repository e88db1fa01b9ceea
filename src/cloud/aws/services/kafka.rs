//! MSK clusters.

use serde_json::{Value, json};

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, text};
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::MSK::Cluster",
    actions: &["kafka:ListClustersV2", "kafka:DescribeClusterV2"],
    list: call("kafka", "ListClustersV2").paged("NextToken", "MaxResults", 100),
    items: &["ClusterInfoList"],
    describe: Some(|regional, cluster| {
        Box::pin(async move {
            // The listing contains all fields.
            if cluster.get("ClusterName").is_none() {
                *cluster = described(
                    regional
                        .send("kafka", "DescribeClusterV2", json!({ "ClusterArn": text(cluster, "ClusterArn") }))
                        .await?,
                    "ClusterInfo",
                )?;
            }
            // Its hosts are in another order each time.
            for field in ["ZookeeperConnectString", "ZookeeperConnectStringTls"] {
                let hosts = cluster.get_mut("Provisioned").and_then(|provisioned| provisioned.get_mut(field));
                if let Some(Value::String(hosts)) = hosts {
                    let mut sorted: Vec<&str> = hosts.split(',').collect();
                    sorted.sort_unstable();
                    *hosts = sorted.join(",");
                }
            }
            Ok(())
        })
    }),
    by_id: ById::Describe(|arn| json!({ "ClusterArn": arn })),
    id: "ClusterArn",
    not_found: &["NotFoundException"],
    tags: TagSource::Inline("Tags", TagForm::Map),
    birth: Some("CreationTime"),
    end_states: Some(("State", &["DELETING"])),
    volatile: &["ActiveOperationArn"],
    ..Declaration::USUAL
}];
