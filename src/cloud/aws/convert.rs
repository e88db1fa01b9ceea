//! From a response body on the wire to the object that `aws <service> describe-...` prints.
//!
//! The SDK's output types can't be serialised, and the wire's own names (`tagSet.item`, `"true"`) are
//! nobody's. `shapes.json` is generated from the service models that the AWS CLI is built on
//! (e2e/tools/aws/shapes.py); this walks a body along it. Elements that the model does not name are
//! dropped, as the CLI does.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use roxmltree::Node;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::inventory::Timestamp;

#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    #[error("the answer is not XML")]
    Xml(#[from] roxmltree::Error),
    #[error("the answer has no element {0}")]
    Wrapper(String),
    #[error("{path} is not a {kind}: {text}")]
    Scalar { path: String, kind: &'static str, text: String },
}

#[derive(Deserialize)]
struct Service {
    operations: BTreeMap<String, Output>,
    shapes: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
struct Output {
    shape: String,
    wrapper: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shape {
    Structure { members: BTreeMap<String, (String, String)> },
    List { item: String, flattened: bool },
    Map { key: String, value: (String, String), flattened: bool },
}

static TABLE: LazyLock<BTreeMap<String, Service>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("shapes.json"))
        .expect("shapes.json is generated in this shape; a test reads it")
});

/// How deep an answer may nest. The deepest described object has 9 levels.
const MAX_DEPTH: u32 = 64;

pub(super) fn convert(service: &str, operation: &str, body: &[u8]) -> Result<Value, ConvertError> {
    let service = &TABLE[service];
    let output = &service.operations[operation];
    let text = String::from_utf8_lossy(body);
    let document = roxmltree::Document::parse(&text)?;
    let mut root = document.root_element();
    if let Some(wrapper) = &output.wrapper {
        root = children(root, wrapper).next().ok_or_else(|| ConvertError::Wrapper(wrapper.clone()))?;
    }
    // S3 answers GetBucketLocation with a bare scalar root.
    if root.tag_name().name() == "LocationConstraint" {
        return Ok(serde_json::json!({ "LocationConstraint": root.text() }));
    }
    value(service, &output.shape, root, operation, 0)
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn value(
    service: &Service,
    shape: &str,
    node: Node<'_, '_>,
    path: &str,
    depth: u32,
) -> Result<Value, ConvertError> {
    if depth > MAX_DEPTH {
        return Err(ConvertError::Scalar {
            path: path.to_owned(),
            kind: "described object",
            text: "too deep".into(),
        });
    }
    match service.shapes.get(shape) {
        None => scalar(shape, node.text().unwrap_or(""), path),
        Some(Shape::Structure { members }) => {
            let mut object = Map::new();
            for (name, (wire, member)) in members {
                let path = format!("{path}.{name}");
                if let Some(found) = member_value(service, member, node, wire, &path, depth)? {
                    object.insert(name.clone(), found);
                }
            }
            Ok(Value::Object(object))
        }
        Some(Shape::List { item, .. }) => {
            let items = node.children().filter(Node::is_element);
            items
                .map(|child| value(service, item, child, path, depth + 1))
                .collect::<Result<_, _>>()
                .map(Value::Array)
        }
        Some(Shape::Map { key, value: inner, .. }) => {
            let mut object = Map::new();
            for entry in node.children().filter(Node::is_element) {
                map_entry(service, key, inner, entry, path, depth, &mut object)?;
            }
            Ok(Value::Object(object))
        }
    }
}

fn member_value(
    service: &Service,
    shape: &str,
    parent: Node<'_, '_>,
    wire: &str,
    path: &str,
    depth: u32,
) -> Result<Option<Value>, ConvertError> {
    let mut found = children(parent, wire).peekable();
    if found.peek().is_none() {
        return Ok(None);
    }
    match service.shapes.get(shape) {
        Some(Shape::List { item, flattened: true }) => {
            let items = found.map(|node| value(service, item, node, path, depth + 1));
            items.collect::<Result<_, _>>().map(|items| Some(Value::Array(items)))
        }
        Some(Shape::Map { key, value: inner, flattened: true }) => {
            let mut object = Map::new();
            for entry in found {
                map_entry(service, key, inner, entry, path, depth, &mut object)?;
            }
            Ok(Some(Value::Object(object)))
        }
        _ => found.next().map(|node| value(service, shape, node, path, depth + 1)).transpose(),
    }
}

fn map_entry(
    service: &Service,
    key: &str,
    (wire, shape): &(String, String),
    entry: Node<'_, '_>,
    path: &str,
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
    let name = children(entry, key).next().and_then(|n| n.text()).unwrap_or("").to_owned();
    if let Some(node) = children(entry, wire).next() {
        object.insert(name, value(service, shape, node, path, depth + 1)?);
    }
    Ok(())
}

fn scalar(kind: &str, text: &str, path: &str) -> Result<Value, ConvertError> {
    let wrong = |kind| ConvertError::Scalar { path: path.to_owned(), kind, text: text.to_owned() };
    Ok(match kind {
        "boolean" => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(wrong("boolean")),
        },
        "integer" => Value::Number(text.trim().parse::<i64>().map_err(|_| wrong("integer"))?.into()),
        "float" => {
            let number =
                text.trim().parse::<f64>().ok().and_then(Number::from_f64).ok_or_else(|| wrong("number"))?;
            Value::Number(number)
        }
        "timestamp" => Value::String(rfc3339(text).ok_or_else(|| wrong("time"))?),
        _ => Value::String(text.to_owned()),
    })
}

/// As the AWS CLI prints times: `2026-11-24T08:30:00+00:00`, with a fraction only where there is one.
fn rfc3339(text: &str) -> Option<String> {
    let text = text.trim();
    let at: jiff::Timestamp = text.parse().ok().or_else(|| format!("{text}Z").parse().ok())?;
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    let format =
        if at.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S.%6f+00:00" };
    Some(utc.strftime(format).to_string())
}

pub(super) fn time_field(object: &Value, field: &str) -> Option<Timestamp> {
    object.get(field)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ec2_body_becomes_the_names_and_types_of_the_model() {
        let body = br#"<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
            <requestId>r</requestId><volumeSet><item>
              <volumeId>vol-1</volumeId><size>8</size><encrypted>false</encrypted>
              <createTime>2026-11-24T08:30:00.000Z</createTime>
              <tagSet><item><key>Owner</key><value>a&amp;b</value></item></tagSet><attachmentSet/>
              <notInTheModel>x</notInTheModel>
            </item></volumeSet><nextToken>t</nextToken></DescribeVolumesResponse>"#;
        assert_eq!(
            convert("ec2", "DescribeVolumes", body).unwrap(),
            json!({"NextToken": "t", "Volumes": [{
                "VolumeId": "vol-1", "Size": 8, "Encrypted": false, "CreateTime": "2026-11-24T08:30:00+00:00",
                "Tags": [{"Key": "Owner", "Value": "a&b"}], "Attachments": []
            }]})
        );
    }

    #[test]
    fn a_query_body_is_unwrapped_and_an_s3_location_is_a_bare_scalar() {
        let body = br"<ListTagsForResourceResponse><ListTagsForResourceResult><TagList>
            <Tag><Key>k</Key><Value>v</Value></Tag></TagList></ListTagsForResourceResult></ListTagsForResourceResponse>";
        let tags = convert("rds", "ListTagsForResource", body).unwrap();
        assert_eq!(tags, json!({"TagList": [{"Key": "k", "Value": "v"}]}));
        let location = br#"<LocationConstraint xmlns="x">eu-west-1</LocationConstraint>"#;
        assert_eq!(convert("s3", "GetBucketLocation", location).unwrap()["LocationConstraint"], "eu-west-1");
    }

    #[test]
    fn what_is_not_an_answer_is_an_error_not_an_empty_listing() {
        assert!(convert("ec2", "DescribeVolumes", b"<html>proxy").is_err());
        assert!(convert("rds", "DescribeDBInstances", b"<DescribeDBInstancesResponse/>").is_err());
        let bad = b"<DescribeVolumesResponse><volumeSet><item><size>many</size></item></volumeSet></DescribeVolumesResponse>";
        let error = convert("ec2", "DescribeVolumes", bad).unwrap_err().to_string();
        assert!(error.contains("DescribeVolumes.Volumes.Size is not a integer: many"), "{error}");
    }
}
