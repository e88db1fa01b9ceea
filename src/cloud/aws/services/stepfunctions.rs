//! Step Functions state machines.

use aws_sdk_sfn::types::IncludedData;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, list, query, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::StepFunctions::StateMachine",
    actions: &["states:ListStateMachines", "states:DescribeStateMachine", "states:ListTagsForResource"],
    fetch: list!(stepfunctions "stepfunctions" "ListStateMachines": list_state_machines;
        page set_next_token, max_results(1000)),
    items: &["stateMachines"],
    next_page: "nextToken",
    // DescribeStateMachine returns another document than the listing.
    by_id: ById::Exists(|regional, arn| {
        Box::pin(async move {
            let request = regional.stepfunctions().describe_state_machine().state_machine_arn(arn);
            // Without the definition no key is needed, to which access may be denied.
            let request = request.included_data(IncludedData::MetadataOnly);
            query!(regional, "stepfunctions" "DescribeStateMachine", request).map(drop)
        })
    }),
    id: "stateMachineArn",
    not_found: &["StateMachineDoesNotExist"],
    tags: TagSource::Call(|regional, machine| {
        Box::pin(async move {
            let arn = text(machine, "stateMachineArn");
            let request = regional.stepfunctions().list_tags_for_resource().resource_arn(arn);
            Ok(tags_in(&send!(regional, "stepfunctions" "ListTagsForResource", request)?, "tags"))
        })
    }),
    birth: Some("creationDate"),
    reusable_ids: true,
    cadence: CadenceClass::Rare,
    ..Declaration::USUAL
}];
