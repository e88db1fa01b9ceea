//! From a response body on the wire (XML, JSON or CBOR, whatever the service speaks) to the object that
//! `aws <service> describe-...` prints.
//!
//! The SDK's output types can't be serialised, and the wire's own names (`tagSet.item`, `"true"`) are
//! nobody's. `shapes.json` is generated from the service models that the AWS CLI is built on
//! (e2e/tools/aws/shapes.py); this walks a body along it. What the model does not name is dropped, as the
//! CLI does.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::LazyLock;

use roxmltree::Node;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    #[error("the answer is not XML")]
    Xml(#[from] roxmltree::Error),
    #[error("the answer is not JSON")]
    Json(#[from] serde_json::Error),
    #[error("the answer is not CBOR")]
    Cbor(#[from] ciborium::de::Error<std::io::Error>),
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
    payload: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shape {
    Structure {
        members: BTreeMap<String, (String, String)>,
        /// Name and shape of the members that an element stands for.
        #[serde(skip)]
        by_element: HashMap<String, Vec<(String, String)>>,
    },
    List {
        item: String,
        flattened: bool,
    },
    Map {
        key: String,
        value: (String, String),
        flattened: bool,
    },
}

static TABLE: LazyLock<BTreeMap<String, Service>> = LazyLock::new(|| {
    let mut table: BTreeMap<String, Service> = serde_json::from_str(include_str!("shapes.json"))
        .expect("shapes.json is generated in this shape; a test reads it");
    for shape in table.values_mut().flat_map(|service| service.shapes.values_mut()) {
        if let Shape::Structure { members, by_element } = shape {
            for (name, (wire, member)) in members {
                by_element.entry(wire.clone()).or_default().push((name.clone(), member.clone()));
            }
        }
    }
    table
});

/// Where in an answer something stands: written out only where that is wrong.
#[derive(Clone, Copy)]
enum Path<'a> {
    Operation(&'a str),
    Member(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Operation(name) => f.write_str(name),
            Path::Member(of, name) => write!(f, "{of}.{name}"),
        }
    }
}

/// How deep an answer may nest. The deepest described object has 9 levels.
const MAX_DEPTH: u32 = 64;

pub(super) fn convert(service: &str, operation: &str, body: &[u8]) -> Result<Value, ConvertError> {
    let service = &TABLE[service];
    let output = &service.operations[operation];
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {
            service.json_value(&output.shape, serde_json::from_slice(body)?, &Path::Operation(operation), 0)
        }
        // A map, of whatever length.
        Some(0xa0..=0xbf) => {
            let body: ciborium::Value = ciborium::from_reader(body)?;
            service.json_value(&output.shape, json(body), &Path::Operation(operation), 0)
        }
        _ => from_xml(service, output, operation, body),
    }
}

/// CBOR as JSON has it: a time is a number of seconds, bytes are text.
fn json(value: ciborium::Value) -> Value {
    use ciborium::Value as Cbor;
    match value {
        Cbor::Bool(bool) => bool.into(),
        Cbor::Integer(number) => i64::try_from(number).map_or(Value::Null, Value::from),
        Cbor::Float(number) => number.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        Cbor::Tag(_, value) => json(*value),
        Cbor::Array(items) => items.into_iter().map(json).collect(),
        Cbor::Map(entries) => {
            entries.into_iter().filter_map(|(key, value)| Some((key.into_text().ok()?, json(value)))).collect()
        }
        _ => Value::Null,
    }
}

impl Service {
    fn json_value(&self, shape: &str, value: Value, path: &Path, depth: u32) -> Result<Value, ConvertError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(path));
        }
        let wrong = |kind, value: &Value| {
            let text = value.to_string().chars().take(100).collect();
            ConvertError::Scalar { path: path.to_string(), kind, text }
        };
        match (self.shapes.get(shape), value) {
            (Some(Shape::Structure { members, .. }), Value::Object(mut fields)) => {
                let mut object = Map::new();
                for (name, (wire, member)) in members {
                    // JSON says in two ways that there is none.
                    if let Some(found) = fields.remove(wire).filter(|found| !found.is_null()) {
                        let path = Path::Member(path, name);
                        object.insert(name.clone(), self.json_value(member, found, &path, depth + 1)?);
                    }
                }
                Ok(Value::Object(object))
            }
            (Some(Shape::List { item, .. }), Value::Array(items)) => {
                items.into_iter().map(|found| self.json_value(item, found, path, depth + 1)).collect()
            }
            (Some(Shape::Map { value: (_, inner), .. }), Value::Object(fields)) => {
                let convert = |(key, found)| Ok((key, self.json_value(inner, found, path, depth + 1)?));
                fields.into_iter().map(convert).collect::<Result<_, _>>().map(Value::Object)
            }
            (Some(_), value) => Err(wrong("list or object as the model says", &value)),
            (None, value) => match (shape, &value) {
                ("timestamp", Value::Number(seconds)) => {
                    let at = seconds.as_f64().and_then(from_seconds);
                    at.map(|at| Value::String(printed(at))).ok_or_else(|| wrong("time", &value))
                }
                ("timestamp", Value::String(text)) => {
                    rfc3339(text).map(Value::String).ok_or_else(|| wrong("time", &value))
                }
                ("boolean", Value::Bool(_))
                | ("integer" | "float", Value::Number(_))
                | ("string", Value::String(_))
                | ("document", _) => Ok(value),
                ("boolean", _) => Err(wrong("boolean", &value)),
                ("integer" | "float", _) => Err(wrong("number", &value)),
                _ => Err(wrong("text", &value)),
            },
        }
    }
}

fn too_deep(path: &Path) -> ConvertError {
    ConvertError::Scalar { path: path.to_string(), kind: "described object", text: "too deep".into() }
}

fn from_xml(service: &Service, output: &Output, operation: &str, body: &[u8]) -> Result<Value, ConvertError> {
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
    if let Some(payload) = &output.payload
        && let Some(Shape::Structure { members, .. }) = service.shapes.get(&output.shape)
        && let Some((_, shape)) = members.get(payload)
    {
        let found = value(service, shape, root, &Path::Operation(operation), 0)?;
        return Ok(Value::Object([(payload.clone(), found)].into_iter().collect()));
    }
    value(service, &output.shape, root, &Path::Operation(operation), 0)
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn value(
    service: &Service,
    shape: &str,
    node: Node<'_, '_>,
    path: &Path,
    depth: u32,
) -> Result<Value, ConvertError> {
    if depth > MAX_DEPTH {
        return Err(too_deep(path));
    }
    match service.shapes.get(shape) {
        None => scalar(shape, node.text().unwrap_or(""), path),
        Some(Shape::Structure { by_element, .. }) => {
            let mut object = Map::new();
            for child in node.children().filter(Node::is_element) {
                for (name, member) in by_element.get(child.tag_name().name()).into_iter().flatten() {
                    let path = Path::Member(path, name);
                    add_member(service, (name, member), child, &path, depth, &mut object)?;
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

/// One element of a member: all of it, or one of the elements that a flattened list or map is made of.
fn add_member(
    service: &Service,
    (name, shape): (&String, &str),
    node: Node<'_, '_>,
    path: &Path,
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
    match service.shapes.get(shape) {
        Some(Shape::List { item, flattened: true }) => {
            let one = value(service, item, node, path, depth + 1)?;
            let list = object.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().expect("it is made here").push(one);
        }
        Some(Shape::Map { key, value: inner, flattened: true }) => {
            let entries = object.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            let entries = entries.as_object_mut().expect("it is made here");
            map_entry(service, key, inner, node, path, depth, entries)?;
        }
        // Of two the first counts.
        _ if object.contains_key(name) => {}
        _ => {
            object.insert(name.clone(), value(service, shape, node, path, depth + 1)?);
        }
    }
    Ok(())
}

fn map_entry(
    service: &Service,
    key: &str,
    (wire, shape): &(String, String),
    entry: Node<'_, '_>,
    path: &Path,
    depth: u32,
    object: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
    let name = children(entry, key).next().and_then(|n| n.text()).unwrap_or("").to_owned();
    if let Some(node) = children(entry, wire).next() {
        object.insert(name, value(service, shape, node, path, depth + 1)?);
    }
    Ok(())
}

fn scalar(kind: &str, text: &str, path: &Path) -> Result<Value, ConvertError> {
    let wrong = |kind| ConvertError::Scalar { path: path.to_string(), kind, text: text.to_owned() };
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
    Some(printed(at))
}

fn printed(at: jiff::Timestamp) -> String {
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    let format =
        if at.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S.%6f+00:00" };
    utc.strftime(format).to_string()
}

/// Seconds since 1970, to the millisecond: more digits are an accident of floating point.
fn from_seconds(seconds: f64) -> Option<jiff::Timestamp> {
    #[allow(clippy::cast_possible_truncation)] // It saturates, and is out of range then.
    jiff::Timestamp::from_millisecond((seconds * 1e3).round() as i64).ok()
}

/// A time that its service counts instead of writing it: milliseconds since 1970, or seconds as text.
pub(super) fn counted_time(count: &Value) -> Option<String> {
    let at = match count {
        Value::Number(millis) => jiff::Timestamp::from_millisecond(millis.as_i64()?).ok()?,
        Value::String(seconds) => jiff::Timestamp::from_second(seconds.parse().ok()?).ok()?,
        _ => return None,
    };
    Some(printed(at))
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
    fn a_json_body_keeps_what_the_model_names_and_prints_times_as_the_cli_does() {
        let body = br#"{"Table": {"TableName": "t", "CreationDateTime": 1764054000.25, "ItemCount": 3,
            "TableStatus": "ACTIVE", "NotInTheModel": 1, "KeySchema": null}}"#;
        assert_eq!(
            convert("dynamodb", "DescribeTable", body).unwrap(),
            json!({"Table": {"TableName": "t", "CreationDateTime": "2025-11-25T07:00:00.250000+00:00",
                "ItemCount": 3, "TableStatus": "ACTIVE"}})
        );
        let body = br#"{"clusterInfoList": [{"clusterName": "c", "tags": {"owner": "a"}}]}"#;
        assert_eq!(
            convert("kafka", "ListClustersV2", body).unwrap(),
            json!({"ClusterInfoList": [{"ClusterName": "c", "Tags": {"owner": "a"}}]})
        );
        let error = convert("dynamodb", "DescribeTable", br#"{"Table": {"ItemCount": "many"}}"#).unwrap_err();
        assert!(error.to_string().contains("DescribeTable.Table.ItemCount is not a number"), "{error}");
    }

    #[test]
    fn a_cbor_body_is_the_same_object() {
        let alarm = json!({"MetricAlarms": [{"AlarmName": "a", "Threshold": 0.5, "EvaluationPeriods": 2,
            "ActionsEnabled": true}]});
        let mut body = Vec::new();
        ciborium::into_writer(&alarm, &mut body).unwrap();
        assert_eq!(
            convert("cloudwatch", "DescribeAlarms", &body).unwrap(),
            json!({"MetricAlarms": [{"AlarmName": "a", "Threshold": 0.5, "EvaluationPeriods": 2,
                "ActionsEnabled": true}]})
        );
    }

    #[test]
    fn a_body_that_is_one_member_of_the_answer_stands_under_its_name() {
        let body = br"<DistributionList><Items><DistributionSummary><Id>E1</Id></DistributionSummary></Items>
            <NextMarker>n</NextMarker></DistributionList>";
        let found = convert("cloudfront", "ListDistributions", body).unwrap();
        assert_eq!(found, json!({"DistributionList": {"Items": [{"Id": "E1"}], "NextMarker": "n"}}));
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
