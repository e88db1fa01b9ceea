//! OpenSearch domains.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::OpenSearchService::Domain",
    actions: &["es:ListDomainNames", "es:DescribeDomain", "es:ListTags"],
    list: call("opensearch", "ListDomainNames"),
    items: &["DomainNames"],
    describe: Some(|regional, domain| {
        Box::pin(async move {
            let answer = regional
                .send("opensearch", "DescribeDomain", json!({ "DomainName": text(domain, "DomainName") }))
                .await?;
            *domain = described(answer, "DomainStatus")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|name| json!({ "DomainName": name })),
    id: "DomainName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, domain| {
        Box::pin(async move {
            let answer = regional.send("opensearch", "ListTags", json!({ "ARN": text(domain, "ARN") })).await?;
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
