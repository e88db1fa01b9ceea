//! API Gateway: REST APIs.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, send, text};
use crate::inventory::TagForm;

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::ApiGateway::RestApi",
    actions: &["apigateway:GET"],
    fetch: list!(apigateway "apigateway" "GetRestApis": get_rest_apis; page set_position, limit(500)),
    items: &["items"],
    next_page: "position",
    by_id: ById::Describe(|id| json!({ "id": id })),
    describe: Some(|regional, api| {
        Box::pin(async move {
            // The listing contains all fields.
            if api.get("createdDate").is_none() {
                let request = regional.apigateway().get_rest_api().rest_api_id(text(api, "id"));
                *api = send!(regional, "apigateway" "GetRestApi", request)?;
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
