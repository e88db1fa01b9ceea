//! ECR repositories.

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{Declaration, TagSource, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::ECR::Repository",
    actions: &["ecr:DescribeRepositories", "ecr:ListTagsForResource"],
    fetch: list!(ecr "ecr" "DescribeRepositories": describe_repositories;
        page set_next_token, max_results(1000); id repository_names),
    items: &["repositories"],
    next_page: "nextToken",
    id: "repositoryName",
    not_found: &["RepositoryNotFoundException"],
    tags: TagSource::Call(|regional, repository| {
        Box::pin(async move {
            let arn = text(repository, "repositoryArn");
            let request = regional.ecr().list_tags_for_resource().resource_arn(arn);
            Ok(tags_in(&send!(regional, "ecr" "ListTagsForResource", request)?, "tags"))
        })
    }),
    birth: Some("createdAt"),
    reusable_ids: true,
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
