//! Route 53 hosted zones.

use aws_sdk_route53::types::TagResourceType;
use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, described, list, send, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Route53::HostedZone",
    actions: &["route53:ListHostedZones", "route53:GetHostedZone", "route53:ListTagsForResource"],
    fetch: list!(route53 "route53" "ListHostedZones": list_hosted_zones; page set_marker, max_items(100)),
    items: &["HostedZones"],
    next_page: "NextMarker",
    describe: Some(|regional, zone| {
        Box::pin(async move {
            // The listing contains all fields.
            if zone.get("Name").is_none() {
                let request = regional.route53().get_hosted_zone().id(text(zone, "Id"));
                *zone = described(send!(regional, "route53" "GetHostedZone", request)?, "HostedZone")?;
            }
            // "/hostedzone/Z123": everywhere else the id is only the last part.
            zone["Id"] = text(zone, "Id").rsplit('/').next().unwrap_or_default().into();
            Ok(())
        })
    }),
    by_id: ById::Describe(|id| json!({ "Id": id })),
    id: "Id",
    not_found: &["NoSuchHostedZone"],
    tags: TagSource::Call(|regional, zone| {
        Box::pin(async move {
            let request = regional.route53().list_tags_for_resource().resource_id(text(zone, "Id"));
            let request = request.resource_type(TagResourceType::Hostedzone);
            Ok(tags_in(&send!(regional, "route53" "ListTagsForResource", request)?, "ResourceTagSet.Tags"))
        })
    }),
    global: true,
    // Where Kubernetes writes records, they come and go every minute.
    volatile: &["ResourceRecordSetCount"],
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
