//! DynamoDB tables.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tag, text};
use crate::inventory::Tags;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::DynamoDB::Table",
    actions: &["dynamodb:ListTables", "dynamodb:DescribeTable", "dynamodb:ListTagsOfResource"],
    list: call("dynamodb", "ListTables").paged("ExclusiveStartTableName", "Limit", 100),
    items: &["TableNames"],
    next_page: "LastEvaluatedTableName",
    describe: Some(|regional, table| {
        Box::pin(async move {
            let name = table.as_str().unwrap_or_default();
            let answer = regional.send("dynamodb", "DescribeTable", json!({ "TableName": name })).await?;
            *table = described(answer, "Table")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|name| name.into()),
    id: "TableName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, table| {
        Box::pin(async move {
            let list = call("dynamodb", "ListTagsOfResource").with_token("NextToken");
            let of_it = json!({ "ResourceArn": text(table, "TableArn") });
            let tags = regional.send_all(&list, of_it, &["Tags"], "NextToken").await?;
            Ok(Tags::Known(tags.iter().map(tag).collect()))
        })
    }),
    birth: Some("CreationDateTime"),
    reusable_ids: true,
    end_states: Some(("TableStatus", &["DELETING"])),
    // Updated every six hours.
    volatile: &[
        "TableSizeBytes",
        "ItemCount",
        "GlobalSecondaryIndexes.IndexSizeBytes",
        "GlobalSecondaryIndexes.ItemCount",
        "LocalSecondaryIndexes.IndexSizeBytes",
        "LocalSecondaryIndexes.ItemCount",
        "ProvisionedThroughput.NumberOfDecreasesToday",
        "GlobalSecondaryIndexes.ProvisionedThroughput.NumberOfDecreasesToday",
        "WarmThroughput",
        "GlobalSecondaryIndexes.WarmThroughput",
        "Replicas.WarmThroughput",
        "Replicas.GlobalSecondaryIndexes.WarmThroughput",
        "Replicas.ReplicaStatusPercentProgress",
        "VectorIndexes.ItemCount",
        "VectorIndexes.IndexSizeBytes",
        "ProvisionedThroughput.LastIncreaseDateTime",
        "ProvisionedThroughput.LastDecreaseDateTime",
        "GlobalSecondaryIndexes.ProvisionedThroughput.LastIncreaseDateTime",
        "GlobalSecondaryIndexes.ProvisionedThroughput.LastDecreaseDateTime",
    ],
    shape: 2,
    passing_states: &[("UPDATING", "ACTIVE")],
    ..Declaration::USUAL
}];
