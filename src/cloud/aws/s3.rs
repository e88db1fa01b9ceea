//! S3: buckets, listed account-wide; their tags and their place need further calls.

use futures::future::BoxFuture;
use serde_json::Value;

use super::Regional;
use super::declare::{Answer, Declaration, TagSource, Which};
use super::error::{Failure, classify};
use crate::cloud::CadenceClass;
use crate::inventory::TagSet;

const PAGE: i32 = 1000;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::S3::Bucket",
    actions: &["s3:ListAllMyBuckets", "s3:GetBucketLocation", "s3:GetBucketTagging"],
    fetch: list,
    items: &["Buckets"],
    next_page: "ContinuationToken",
    id: "Name",
    tags: TagSource::Call(tags),
    birth: Some("CreationDate"),
    reusable_ids: true,
    global: true,
    cadence: CadenceClass::Fast,
    // The place is kept as `location`, whether the listing has it or not.
    volatile: &["BucketRegion"],
    enrich: Some(locate),
    ..Declaration::EC2
}];

fn list(regional: &Regional, which: Which) -> Answer<'_> {
    Box::pin(async move {
        let request = regional.s3.list_buckets().max_buckets(PAGE);
        let request = match which {
            Which::Page(token) => request.set_continuation_token(token),
            Which::Id(name) => request.prefix(name),
        };
        let capture = regional.capture();
        let sent = request.customize().interceptor(capture.clone()).send().await;
        regional.answer("s3", "ListBuckets", &capture, sent.map(drop))
    })
}

fn locate<'a>(regional: &'a Regional, bucket: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let known = bucket.get("BucketRegion").and_then(Value::as_str).map(str::to_owned);
        let location = if let Some(region) = known {
            region
        } else {
            let name = bucket["Name"].as_str().unwrap_or_default();
            let capture = regional.capture();
            let request = regional.s3.get_bucket_location().bucket(name);
            let sent = request.customize().interceptor(capture.clone()).send().await;
            let answer = regional.answer("s3", "GetBucketLocation", &capture, sent.map(drop))?;
            // The API's oldest region has no name there, and Ireland an old one:
            // https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html
            match answer["LocationConstraint"].as_str() {
                None | Some("") => "us-east-1".to_owned(),
                Some("EU") => "eu-west-1".to_owned(),
                Some(region) => region.to_owned(),
            }
        };
        bucket["location"] = location.into();
        Ok(())
    })
}

fn tags<'a>(regional: &'a Regional, bucket: &'a Value) -> BoxFuture<'a, Result<TagSet, Failure>> {
    Box::pin(async move {
        let name = bucket["Name"].as_str().unwrap_or_default();
        // A bucket answers only at the endpoint of its own region.
        let there = regional.elsewhere(bucket["location"].as_str());
        let capture = there.capture();
        let request = there.s3.get_bucket_tagging().bucket(name);
        match request.customize().interceptor(capture.clone()).send().await {
            Ok(_) => {
                let answer = there.answer("s3", "GetBucketTagging", &capture, Ok::<(), NoError>(()))?;
                Ok(super::tag_set(answer.get("TagSet")))
            }
            // Not an error: this is how S3 says "untagged".
            Err(error) if code(&error) == Some("NoSuchTagSet") => Ok(TagSet::new()),
            Err(error) => Err(classify(&error, "s3:GetBucketTagging")),
        }
    })
}

type NoError = aws_smithy_runtime_api::client::result::SdkError<
    aws_sdk_s3::operation::get_bucket_tagging::GetBucketTaggingError,
    aws_smithy_runtime_api::client::orchestrator::HttpResponse,
>;

fn code(error: &NoError) -> Option<&str> {
    use aws_smithy_types::error::metadata::ProvideErrorMetadata;
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}
