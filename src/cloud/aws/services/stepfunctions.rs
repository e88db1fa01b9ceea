//! Step Functions state machines.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::StepFunctions::StateMachine",
    actions: &["states:ListStateMachines", "states:DescribeStateMachine", "states:ListTagsForResource"],
    list: call("stepfunctions", "ListStateMachines").paged("nextToken", "maxResults", 1000),
    items: &["stateMachines"],
    next_page: "nextToken",
    // DescribeStateMachine returns another document than the listing.
    by_id: ById::Exists(|regional, arn| {
        Box::pin(async move {
            // Without the definition no key is needed, to which access may be denied.
            let input = json!({ "stateMachineArn": arn, "includedData": "METADATA_ONLY" });
            regional.query("stepfunctions", "DescribeStateMachine", input).await.map(drop)
        })
    }),
    id: "stateMachineArn",
    not_found: &["StateMachineDoesNotExist"],
    tags: TagSource::Call(|regional, machine| {
        Box::pin(async move {
            let arn = text(machine, "stateMachineArn");
            Ok(tags_in(
                &regional.send("stepfunctions", "ListTagsForResource", json!({ "resourceArn": arn })).await?,
                "tags",
            ))
        })
    }),
    birth: Some("creationDate"),
    reusable_ids: true,
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
