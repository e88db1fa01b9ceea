//! S3: buckets, listed account-wide; their tags and their location need further calls.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{Declaration, TagSource, call, tags_in, text};
use crate::cloud::aws::error::Failure;
use crate::cloud::remove;
use crate::inventory::{TagSet, Tags};

const PAGE_SIZE: i64 = 1000;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::S3::Bucket",
    actions: &["s3:ListAllMyBuckets", "s3:GetBucketLocation", "s3:GetBucketTagging"],
    list: call("s3", "ListBuckets").paged("ContinuationToken", "MaxBuckets", PAGE_SIZE).by_id("Prefix"),
    items: &["Buckets"],
    next_page: "ContinuationToken",
    id: "Name",
    tags: TagSource::Call(tags),
    birth: Some("CreationDate"),
    reusable_ids: true,
    global: true,
    cadence: CadenceClass::Fast,
    shape: 2,
    // The location is kept as `location`, whether the listing contains it or not.
    volatile: &["BucketRegion"],
    enrich: Some(locate),
    ..Declaration::USUAL
}];

fn locate<'a>(regional: &'a Regional, bucket: &'a mut Value) -> BoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        // "This date can change when making changes to your bucket, such as editing its bucket policy", everywhere but
        // in the first region of the partition: as a birth it would mean a new bucket under the old name.
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_Bucket.html
        if !regional.lists_bucket_creation() {
            remove(bucket, "CreationDate");
        }
        let known = bucket.get("BucketRegion").and_then(Value::as_str).map(str::to_owned);
        let location = if let Some(region) = known {
            region
        } else {
            let answer =
                regional.send("s3", "GetBucketLocation", json!({ "Bucket": text(bucket, "Name") })).await?;
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

fn tags<'a>(regional: &'a Regional, bucket: &'a Value) -> BoxFuture<'a, Result<Tags, Failure>> {
    Box::pin(async move {
        // A bucket responds only at the endpoint of its own region.
        let there = regional.elsewhere(text(bucket, "location"));
        match there.send("s3", "GetBucketTagging", json!({ "Bucket": text(bucket, "Name") })).await {
            Ok(answer) => Ok(tags_in(&answer, "TagSet")),
            // Not an error: this is how S3 reports "untagged".
            Err(Failure::NotFound { code }) if code == "NoSuchTagSet" => Ok(Tags::Known(TagSet::new())),
            Err(failure) => Err(failure),
        }
    })
}
