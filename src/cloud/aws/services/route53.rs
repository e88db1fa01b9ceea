//! Route 53 hosted zones.

use serde_json::json;

use crate::cloud::CadenceClass;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};

pub(super) const TYPES: &[Declaration] = &[Declaration {
    name: "AWS::Route53::HostedZone",
    actions: &["route53:ListHostedZones", "route53:GetHostedZone", "route53:ListTagsForResource"],
    list: call("route53", "ListHostedZones").paged("Marker", "MaxItems", 100),
    items: &["HostedZones"],
    next_page: "NextMarker",
    describe: Some(|regional, zone| {
        Box::pin(async move {
            // The listing contains all fields.
            if zone.get("Name").is_none() {
                *zone = described(
                    regional.send("route53", "GetHostedZone", json!({ "Id": text(zone, "Id") })).await?,
                    "HostedZone",
                )?;
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
            let input = json!({ "ResourceId": text(zone, "Id"), "ResourceType": "hostedzone" });
            let answer = regional.send("route53", "ListTagsForResource", input).await?;
            Ok(tags_in(&answer, "ResourceTagSet.Tags"))
        })
    }),
    global: true,
    // Where Kubernetes writes records, they come and go every minute.
    volatile: &["ResourceRecordSetCount"],
    cadence: CadenceClass::Slow,
    ..Declaration::USUAL
}];
