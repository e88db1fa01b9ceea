//! Certificate Manager.

use aws_sdk_acm::types::{CertificateKeyPairOrigin, Filters, KeyAlgorithm};
use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{
    ById, Declaration, ListRequest, TagSource, described, query, send, tags_in, text,
};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CertificateManager::Certificate",
    actions: &["acm:ListCertificates", "acm:DescribeCertificate", "acm:ListTagsForCertificate"],
    fetch: |regional, which| {
        Box::pin(async move {
            let ListRequest::Page { token, .. } = which else { unreachable!("it is described by id") };
            // Without a filter it lists only RSA keys of 1024 and 2048 bits.
            let every = KeyAlgorithm::values().iter().map(|name| KeyAlgorithm::from(*name)).collect();
            let filter = Filters::builder().set_key_types(Some(every)).build();
            let request = regional.acm().list_certificates().includes(filter).max_items(1000);
            // Without this it omits certificates that were ordered by ACME.
            let origins =
                CertificateKeyPairOrigin::values().iter().map(|name| CertificateKeyPairOrigin::from(*name));
            let request = request.set_certificate_key_pair_origins(Some(origins.collect()));
            query!(regional, "acm" "ListCertificates", request.set_next_token(token)).map(Into::into)
        })
    },
    items: &["CertificateSummaryList"],
    describe: Some(|regional, certificate| {
        Box::pin(async move {
            let arn = text(certificate, "CertificateArn");
            let request = regional.acm().describe_certificate().certificate_arn(arn);
            *certificate = described(send!(regional, "acm" "DescribeCertificate", request)?, "Certificate")?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|arn| json!({ "CertificateArn": arn })),
    id: "CertificateArn",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, certificate| {
        Box::pin(async move {
            let arn = text(certificate, "CertificateArn");
            let request = regional.acm().list_tags_for_certificate().certificate_arn(arn);
            Ok(tags_in(&send!(regional, "acm" "ListTagsForCertificate", request)?, "Tags"))
        })
    }),
    birth: Some("CreatedAt"),
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
