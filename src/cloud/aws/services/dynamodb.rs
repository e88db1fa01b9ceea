//! DynamoDB tables.

use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, next_page, send, tag_set, text};
use crate::inventory::{TagSet, Tags};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::DynamoDB::Table",
    actions: &["dynamodb:ListTables", "dynamodb:DescribeTable", "dynamodb:ListTagsOfResource"],
    fetch: list!(dynamodb "dynamodb" "ListTables": list_tables; page set_exclusive_start_table_name, limit(100)),
    items: &["TableNames"],
    next_page: "LastEvaluatedTableName",
    describe: Some(|regional, table| {
        Box::pin(async move {
            let name = table.as_str().unwrap_or_default();
            let request = regional.dynamodb().describe_table().table_name(name);
            let answer = send!(regional, "dynamodb" "DescribeTable", request)?;
            *table = described(answer, "Table")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|name| name.into()),
    id: "TableName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, table| {
        Box::pin(async move {
            let mut tags = TagSet::new();
            let mut token = None;
            loop {
                let request = regional.dynamodb().list_tags_of_resource().resource_arn(text(table, "TableArn"));
                let answer = send!(regional, "dynamodb" "ListTagsOfResource", request.set_next_token(token))?;
                let page = tag_set(answer.get("Tags"));
                tags = tags.iter().chain(page.iter()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                token = next_page(&answer, "NextToken");
                if token.is_none() {
                    return Ok(Tags::Known(tags));
                }
            }
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
