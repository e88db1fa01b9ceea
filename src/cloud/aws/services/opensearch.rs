//! OpenSearch domains.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::OpenSearchService::Domain",
    actions: &["es:ListDomainNames", "es:DescribeDomain", "es:ListTags"],
    fetch: list!(opensearch "opensearch" "ListDomainNames": list_domain_names),
    items: &["DomainNames"],
    describe: Some(|regional, domain| {
        Box::pin(async move {
            let request = regional.opensearch().describe_domain().domain_name(text(domain, "DomainName"));
            let answer = send!(regional, "opensearch" "DescribeDomain", request)?;
            *domain = described(answer, "DomainStatus")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|name| json!({ "DomainName": name })),
    id: "DomainName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, domain| {
        Box::pin(async move {
            let request = regional.opensearch().list_tags().arn(text(domain, "ARN"));
            let answer = send!(regional, "opensearch" "ListTags", request)?;
            Ok(tags_in(&answer, "TagList"))
        })
    }),
    // The API reports no creation time.
    reusable_ids: true,
    end_states: Some(("DomainProcessingStatus", &["Deleting"])),
    volatile: &["ChangeProgressDetails", "ServiceSoftwareOptions", "Processing", "UpgradeProcessing"],
    shape: 2,
    ..Declaration::USUAL
}];
