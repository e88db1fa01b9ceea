//! Lambda functions.

use serde_json::json;

use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Lambda::Function",
    actions: &["lambda:ListFunctions", "lambda:GetFunctionConfiguration", "lambda:ListTags"],
    list: call("lambda", "ListFunctions").paged("Marker", "MaxItems", 50),
    items: &["Functions"],
    next_page: "NextMarker",
    // GetFunctionConfiguration returns more fields than the listing.
    by_id: ById::Exists(|regional, name| {
        Box::pin(async move {
            regional.query("lambda", "GetFunctionConfiguration", json!({ "FunctionName": name })).await.map(drop)
        })
    }),
    id: "FunctionName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, function| {
        Box::pin(async move {
            let answer =
                regional.send("lambda", "ListTags", json!({ "Resource": text(function, "FunctionArn") })).await?;
            Ok(tags_in(&answer, "Tags"))
        })
    }),
    // The API reports no creation time.
    reusable_ids: true,
    // Users store keys in them.
    shape: 2,
    secret: &["Environment", "ImageConfigResponse.Error.Message", "RuntimeVersionConfig.Error.Message"],
    ..Declaration::USUAL
}];
