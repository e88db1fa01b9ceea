//! ECR repositories.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{Declaration, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::ECR::Repository",
    actions: &["ecr:DescribeRepositories", "ecr:ListTagsForResource"],
    list: call("ecr", "DescribeRepositories").paged("nextToken", "maxResults", 1000).by_id("repositoryNames"),
    items: &["repositories"],
    next_page: "nextToken",
    id: "repositoryName",
    not_found: &["RepositoryNotFoundException"],
    tags: TagSource::Call(|regional, repository| {
        Box::pin(async move {
            let arn = text(repository, "repositoryArn");
            Ok(tags_in(&regional.send("ecr", "ListTagsForResource", json!({ "resourceArn": arn })).await?, "tags"))
        })
    }),
    birth: Some("createdAt"),
    reusable_ids: true,
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
