//! API Gateway: REST APIs.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, text};
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::ApiGateway::RestApi",
    actions: &["apigateway:GET"],
    list: call("apigateway", "GetRestApis").paged("position", "limit", 500),
    items: &["items"],
    next_page: "position",
    by_id: ById::Describe(|id| json!({ "id": id })),
    describe: Some(|regional, api| {
        Box::pin(async move {
            // The listing contains all fields.
            if api.get("createdDate").is_none() {
                *api = regional.send("apigateway", "GetRestApi", json!({ "restApiId": text(api, "id") })).await?;
            }
            Ok(())
        })
    }),
    id: "id",
    not_found: &["NotFoundException"],
    tags: TagSource::Inline("tags", TagForm::Map),
    birth: Some("createdDate"),
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
