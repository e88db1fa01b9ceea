//! Certificate Manager.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::CertificateManager::Certificate",
    actions: &["acm:ListCertificates", "acm:DescribeCertificate", "acm:ListTagsForCertificate"],
    // Without a filter it lists only RSA keys of 1024 and 2048 bits, and without the origins it omits certificates that
    // were ordered by ACME.
    list: call("acm", "ListCertificates")
        .with(
            r#"{
                "Includes": {"keyTypes": [
                    "RSA_1024", "RSA_2048", "RSA_3072", "RSA_4096", "EC_prime256v1", "EC_secp384r1", "EC_secp521r1"
                ]},
                "CertificateKeyPairOrigins": ["AWS_MANAGED", "CUSTOMER_PROVIDED", "ACME"]
            }"#,
        )
        .paged("NextToken", "MaxItems", 1000),
    items: &["CertificateSummaryList"],
    describe: Some(|regional, certificate| {
        Box::pin(async move {
            let arn = text(certificate, "CertificateArn");
            *certificate = described(
                regional.send("acm", "DescribeCertificate", json!({ "CertificateArn": arn })).await?,
                "Certificate",
            )?;
            Ok(())
        })
    }),
    by_id: ById::Describe(|arn| json!({ "CertificateArn": arn })),
    id: "CertificateArn",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, certificate| {
        Box::pin(async move {
            let arn = text(certificate, "CertificateArn");
            Ok(tags_in(
                &regional.send("acm", "ListTagsForCertificate", json!({ "CertificateArn": arn })).await?,
                "Tags",
            ))
        })
    }),
    birth: Some("CreatedAt"),
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
