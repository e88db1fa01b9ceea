//! Lambda functions.

use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, query, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Lambda::Function",
    actions: &["lambda:ListFunctions", "lambda:GetFunctionConfiguration", "lambda:ListTags"],
    fetch: list!(lambda "lambda" "ListFunctions": list_functions; page set_marker, max_items(50)),
    items: &["Functions"],
    next_page: "NextMarker",
    // GetFunctionConfiguration returns more fields than the listing.
    by_id: ById::Exists(|regional, name| {
        Box::pin(async move {
            let request = regional.lambda().get_function_configuration().function_name(name);
            query!(regional, "lambda" "GetFunctionConfiguration", request).map(drop)
        })
    }),
    id: "FunctionName",
    not_found: &["ResourceNotFoundException"],
    tags: TagSource::Call(|regional, function| {
        Box::pin(async move {
            let request = regional.lambda().list_tags().resource(text(function, "FunctionArn"));
            let answer = send!(regional, "lambda" "ListTags", request)?;
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
