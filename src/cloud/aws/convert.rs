//! From a response body on the wire (XML or JSON, depending on the service) to the object that `aws <service>
//! describe-...` prints.
//!
//! The SDK's output types can't be serialized, and the names on the wire (`tagSet.item`, `"true"`) are not used by
//! people. `shapes.json` is generated from the service models that the AWS CLI is built on (e2e/tools/aws/shapes.py);
//! this module converts a body by it. Like the CLI, it drops what the model does not name.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::LazyLock;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

#[derive(Debug, thiserror::Error)]
pub(super) enum ConvertError {
    #[error("the answer is not XML")]
    Xml(#[from] quick_xml::Error),
    #[error("the answer is not XML: {0}")]
    NotXml(&'static str),
    #[error("the answer is not JSON")]
    Json(#[from] serde_json::Error),
    #[error("the answer has no element {0}")]
    Wrapper(String),
    #[error("{path} is not a {kind}: {text}")]
    Scalar { path: String, kind: &'static str, text: String },
}

/// The shapes of a service as in `shapes.json`: by name.
#[derive(Deserialize)]
struct Model {
    operations: BTreeMap<String, Operation>,
    shapes: BTreeMap<String, Described>,
}

#[derive(Deserialize)]
struct Operation {
    shape: String,
    wrapper: Option<String>,
    payload: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Described {
    /// Name -> its name on the wire, its shape.
    Structure {
        members: BTreeMap<String, (String, String)>,
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

/// The same, in the form that is used for conversion: by number.
struct Service {
    operations: BTreeMap<String, Output>,
    shapes: Vec<Shape>,
}

struct Output {
    shape: Of,
    wrapper: Option<String>,
    /// The member that the whole body is.
    payload: Option<Member>,
}

/// The type of a value.
#[derive(Clone, Copy)]
enum Of {
    Shape(usize),
    Text,
    Boolean,
    Integer,
    Float,
    Timestamp,
    /// JSON that no model describes.
    Document,
}

#[derive(Clone)]
struct Member {
    name: String,
    of: Of,
}

enum Shape {
    /// By their names on the wire.
    Structure(HashMap<Box<str>, Member>),
    List {
        item: Of,
        flattened: bool,
    },
    Map {
        key: String,
        value: String,
        of: Of,
        flattened: bool,
    },
}

impl From<Model> for Service {
    fn from(model: Model) -> Self {
        let numbers: HashMap<&str, usize> = model.shapes.keys().map(String::as_str).zip(0..).collect();
        let of = |name: &str| match name {
            "boolean" => Of::Boolean,
            "integer" => Of::Integer,
            "float" => Of::Float,
            "timestamp" => Of::Timestamp,
            "document" => Of::Document,
            name => numbers.get(name).copied().map_or(Of::Text, Of::Shape),
        };
        let member = |name: &str, shape: &str| Member { name: name.to_owned(), of: of(shape) };
        let shape = |described: &Described| match described {
            Described::Structure { members } => {
                let by_wire = |(name, (wire, shape)): (&String, &(String, String))| {
                    (wire.as_str().into(), member(name, shape))
                };
                Shape::Structure(members.iter().map(by_wire).collect())
            }
            Described::List { item, flattened } => Shape::List { item: of(item), flattened: *flattened },
            Described::Map { key, value: (value, shape), flattened } => {
                Shape::Map { key: key.clone(), value: value.clone(), of: of(shape), flattened: *flattened }
            }
        };
        let payload = |operation: &Operation| {
            let name = operation.payload.as_deref()?;
            let Described::Structure { members } = &model.shapes[&operation.shape] else { return None };
            members.get(name).map(|(_, shape)| member(name, shape))
        };
        let output = |operation: &Operation| Output {
            shape: of(&operation.shape),
            wrapper: operation.wrapper.clone(),
            payload: payload(operation),
        };
        let operations = model.operations.iter().map(|(name, operation)| (name.clone(), output(operation)));
        Self { operations: operations.collect(), shapes: model.shapes.values().map(shape).collect() }
    }
}

static TABLE: LazyLock<BTreeMap<String, Service>> = LazyLock::new(|| {
    let table: BTreeMap<String, Model> = serde_json::from_str(include_str!("shapes.json"))
        .expect("shapes.json is generated in this shape; a test reads it");
    table.into_iter().map(|(name, model)| (name, model.into())).collect()
});

/// The place of a value in an answer: formatted only for errors.
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

/// Maximum nesting of an answer. The deepest described object has 9 levels.
const MAX_DEPTH: u32 = 64;

pub(super) fn convert(service: &str, operation: &str, body: &[u8]) -> Result<Value, ConvertError> {
    converted(service, operation, body, None)
}

/// Passes each object of the list at the path to `take` as soon as it is read, and returns the rest of the answer: a
/// page of EC2's has a thousand, and all of them as trees take ten times as much memory as their text. Objects that
/// can't be read separately (JSON, a list without an element around it) stay in the rest.
pub(super) fn convert_each(
    service: &str,
    operation: &str,
    body: &[u8],
    path: &[&str],
    take: &mut dyn FnMut(Value),
) -> Result<Value, ConvertError> {
    converted(service, operation, body, Some(Items { path, take }))
}

/// The path of a listing's objects from here on, and the function that takes them.
struct Items<'a> {
    path: &'a [&'a str],
    take: &'a mut dyn FnMut(Value),
}

fn converted(service: &str, operation: &str, body: &[u8], items: Option<Items>) -> Result<Value, ConvertError> {
    let service = &TABLE[service];
    let output = &service.operations[operation];
    let path = Path::Operation(operation);
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        return service.json_value(output.shape, serde_json::from_slice(body)?, &path, 0);
    }
    // The lossy conversion is slow, and rarely needed.
    let text = std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    Walk { service, reader: reader(&text) }.answer(output, items, &path)
}

impl Items<'_> {
    /// The same within a member, if it is the next step of the path.
    fn behind(self, member: &str) -> Option<Self> {
        let (step, further) = self.path.split_first()?;
        (*step == member).then_some(Self { path: further, take: self.take })
    }
}

impl Service {
    /// Whether its elements are among the other members, without an element around them.
    fn is_flattened(&self, of: Of) -> bool {
        let Of::Shape(number) = of else { return false };
        matches!(self.shapes[number], Shape::List { flattened: true, .. } | Shape::Map { flattened: true, .. })
    }

    fn json_value(&self, of: Of, value: Value, path: &Path, depth: u32) -> Result<Value, ConvertError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(path));
        }
        let wrong = |kind, value: &Value| {
            let text = value.to_string().chars().take(100).collect();
            ConvertError::Scalar { path: path.to_string(), kind, text }
        };
        let shape = match of {
            Of::Shape(number) => &self.shapes[number],
            Of::Timestamp => {
                let at = match &value {
                    Value::Number(seconds) => seconds.as_f64().and_then(from_seconds).map(format_time),
                    Value::String(text) => rfc3339(text),
                    _ => None,
                };
                return at.map(Value::String).ok_or_else(|| wrong("time", &value));
            }
            Of::Boolean if !value.is_boolean() => return Err(wrong("boolean", &value)),
            Of::Integer | Of::Float if !value.is_number() => return Err(wrong("number", &value)),
            Of::Text if !value.is_string() => return Err(wrong("text", &value)),
            _ => return Ok(value),
        };
        match (shape, value) {
            (Shape::Structure(members), Value::Object(fields)) => {
                let mut object = Map::new();
                // JSON has two ways to omit a value.
                for (wire, found) in fields.into_iter().filter(|(_, found)| !found.is_null()) {
                    let Some(Member { name, of }) = members.get(wire.as_str()) else { continue };
                    let path = Path::Member(path, name);
                    object.insert(name.clone(), self.json_value(*of, found, &path, depth + 1)?);
                }
                Ok(Value::Object(object))
            }
            (Shape::List { item, .. }, Value::Array(items)) => {
                items.into_iter().map(|found| self.json_value(*item, found, path, depth + 1)).collect()
            }
            (Shape::Map { of, .. }, Value::Object(fields)) => {
                let convert = |(key, found)| Ok((key, self.json_value(*of, found, path, depth + 1)?));
                fields.into_iter().map(convert).collect::<Result<_, _>>().map(Value::Object)
            }
            (_, value) => Err(wrong("list or object as the model defines", &value)),
        }
    }
}

fn too_deep(path: &Path) -> ConvertError {
    ConvertError::Scalar { path: path.to_string(), kind: "described object", text: "too deep".into() }
}

/// One pass over an XML body. A page of EC2's has 4 MB, so only the result is kept.
struct Walk<'a> {
    service: &'a Service,
    reader: Reader<&'a [u8]>,
}

fn reader(text: &str) -> Reader<&[u8]> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    reader
}

/// The possible contents of an element.
enum Inside<'a> {
    Element(BytesStart<'a>),
    Text(Cow<'a, str>),
    End,
}

impl<'a> Walk<'a> {
    fn answer(mut self, output: &Output, items: Option<Items>, path: &Path) -> Result<Value, ConvertError> {
        let root = loop {
            match self.inside()? {
                Inside::Element(root) => break root,
                Inside::Text(text) if text.trim().is_empty() => {}
                Inside::Text(_) | Inside::End => return Err(ConvertError::NotXml("it begins with no element")),
            }
        };
        let found = if let Some(wrapper) = &output.wrapper {
            self.wrapped(wrapper, output.shape, items, path)?
        } else if root.local_name().as_ref() == "LocationConstraint" {
            // S3 answers GetBucketLocation with a bare scalar root.
            let text = self.text()?;
            let location = if text.is_empty() { Value::Null } else { Value::String(text.into_owned()) };
            serde_json::json!({ "LocationConstraint": location })
        } else if let Some(Member { name, of }) = &output.payload {
            let within = items.and_then(|items| items.behind(name));
            let found = self.value_but_items(*of, within, path, 0)?;
            Value::Object([(name.clone(), found)].into_iter().collect())
        } else {
            self.value_but_items(output.shape, items, path, 0)?
        };
        loop {
            match self.reader.read_event()? {
                Event::Eof => return Ok(found),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if text.trim().is_empty() => {}
                _ => return Err(ConvertError::NotXml("something stands behind its end")),
            }
        }
    }

    /// The next content of the current element.
    fn inside(&mut self) -> Result<Inside<'a>, ConvertError> {
        loop {
            return Ok(match self.reader.read_event()? {
                Event::Start(element) => Inside::Element(element),
                Event::End(_) => Inside::End,
                Event::Text(text) => Inside::Text(text.xml10_content()),
                Event::CData(text) => Inside::Text(text.xml10_content()),
                Event::GeneralRef(reference) => Inside::Text(referred(&reference)?),
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => continue,
                Event::Empty(_) => unreachable!("empty elements are expanded"),
                Event::DocType(_) => return Err(ConvertError::NotXml("it has a document type")),
                Event::Eof => return Err(ConvertError::NotXml("it is cut off")),
            });
        }
    }

    fn skip(&mut self, element: &BytesStart) -> Result<(), ConvertError> {
        self.reader.read_to_end(element.name())?;
        Ok(())
    }

    /// The text of the current element, up to its end.
    fn text(&mut self) -> Result<Cow<'a, str>, ConvertError> {
        let mut all = Cow::Borrowed("");
        loop {
            match self.inside()? {
                Inside::End => return Ok(all),
                Inside::Element(element) => self.skip(&element)?,
                Inside::Text(text) if all.is_empty() => all = text,
                Inside::Text(text) => all.to_mut().push_str(&text),
            }
        }
    }

    /// The first element of a name in the current one.
    fn wrapped(
        &mut self,
        name: &str,
        of: Of,
        mut items: Option<Items>,
        path: &Path,
    ) -> Result<Value, ConvertError> {
        let mut found = None;
        while let Some(element) = self.element()? {
            if found.is_none() && element.local_name().as_ref() == name {
                found = Some(self.value_but_items(of, items.take(), path, 0)?);
            } else {
                self.skip(&element)?;
            }
        }
        found.ok_or_else(|| ConvertError::Wrapper(name.to_owned()))
    }

    /// The next element in the current one; none at its end.
    fn element(&mut self) -> Result<Option<BytesStart<'a>>, ConvertError> {
        loop {
            match self.inside()? {
                Inside::Element(element) => return Ok(Some(element)),
                Inside::End => return Ok(None),
                Inside::Text(_) => {}
            }
        }
    }

    /// The current element, up to its end, without the objects that are passed to `items`.
    fn value_but_items(
        &mut self,
        of: Of,
        items: Option<Items>,
        path: &Path,
        depth: u32,
    ) -> Result<Value, ConvertError> {
        let service = self.service;
        let (Some(items), Of::Shape(number)) = (items, of) else { return self.value(of, path, depth) };
        match (&service.shapes[number], items.path) {
            (Shape::List { item, .. }, []) => {
                while self.element()?.is_some() {
                    (items.take)(self.value(*item, path, depth + 1)?);
                }
                Ok(Value::Null)
            }
            // A single object is treated as a list of one.
            (_, []) => {
                (items.take)(self.value(of, path, depth)?);
                Ok(Value::Null)
            }
            (Shape::List { item, .. }, further) => {
                while self.element()?.is_some() {
                    let within = Items { path: further, take: &mut *items.take };
                    let mut rest = self.value_but_items(*item, Some(within), path, depth + 1)?;
                    self::items(&mut rest, further).into_iter().for_each(&mut *items.take);
                }
                Ok(Value::Null)
            }
            (Shape::Structure(members), [step, further @ ..]) => {
                let mut object = Map::new();
                while let Some(element) = self.element()? {
                    match members.get(element.local_name().as_ref()) {
                        Some(Member { name, of }) if name == step && !service.is_flattened(*of) => {
                            if object.contains_key(name) {
                                self.skip(&element)?;
                                continue;
                            }
                            let within = Items { path: further, take: &mut *items.take };
                            let path = &Path::Member(path, name);
                            let rest = self.value_but_items(*of, Some(within), path, depth + 1)?;
                            object.insert(name.clone(), rest);
                        }
                        Some(member) => self.member(member, &element, path, depth, &mut object)?,
                        None => self.skip(&element)?,
                    }
                }
                Ok(Value::Object(object))
            }
            (Shape::Map { .. }, _) => self.value(of, path, depth),
        }
    }

    /// The current element, up to its end.
    fn value(&mut self, of: Of, path: &Path, depth: u32) -> Result<Value, ConvertError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(path));
        }
        let Of::Shape(number) = of else { return scalar(of, &self.text()?, path) };
        let service = self.service;
        match &service.shapes[number] {
            Shape::Structure(members) => {
                let mut object = Map::new();
                while let Some(element) = self.element()? {
                    match members.get(element.local_name().as_ref()) {
                        Some(member) => self.member(member, &element, path, depth, &mut object)?,
                        None => self.skip(&element)?,
                    }
                }
                Ok(Value::Object(object))
            }
            Shape::List { item, .. } => {
                let mut items = Vec::new();
                while self.element()?.is_some() {
                    items.push(self.value(*item, path, depth + 1)?);
                }
                Ok(Value::Array(items))
            }
            Shape::Map { key, value, of, .. } => {
                let mut object = Map::new();
                while self.element()?.is_some() {
                    self.map_entry((key, value), *of, path, depth, &mut object)?;
                }
                Ok(Value::Object(object))
            }
        }
    }

    /// One element of a member: the whole member, or one element of a flattened list or map.
    fn member(
        &mut self,
        Member { name, of }: &Member,
        element: &BytesStart,
        path: &Path,
        depth: u32,
        object: &mut Map<String, Value>,
    ) -> Result<(), ConvertError> {
        let path = &Path::Member(path, name);
        let service = self.service;
        let shape = if let Of::Shape(number) = of { Some(&service.shapes[*number]) } else { None };
        match shape {
            Some(Shape::List { item, flattened: true }) => {
                let one = self.value(*item, path, depth + 1)?;
                let list = object.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().expect("it is made here").push(one);
            }
            Some(Shape::Map { key, value, of, flattened: true }) => {
                let entries = object.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                let entries = entries.as_object_mut().expect("it is made here");
                self.map_entry((key, value), *of, path, depth, entries)?;
            }
            // If a member occurs twice, the first counts.
            _ if object.contains_key(name) => self.skip(element)?,
            _ => {
                let value = self.value(*of, path, depth + 1)?;
                object.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn map_entry(
        &mut self,
        (key, value): (&str, &str),
        of: Of,
        path: &Path,
        depth: u32,
        object: &mut Map<String, Value>,
    ) -> Result<(), ConvertError> {
        let (mut name, mut found) = (None, None);
        while let Some(element) = self.element()? {
            let wire = element.local_name();
            if name.is_none() && wire.as_ref() == key {
                name = Some(self.text()?.into_owned());
            } else if found.is_none() && wire.as_ref() == value {
                found = Some(self.value(of, path, depth + 1)?);
            } else {
                self.skip(&element)?;
            }
        }
        if let Some(found) = found {
            object.insert(name.unwrap_or_default(), found);
        }
        Ok(())
    }
}

/// `&amp;`, `&#xD;`: only the references that XML itself defines.
fn referred(reference: &BytesRef) -> Result<Cow<'static, str>, ConvertError> {
    if let Some(char) = reference.resolve_char_ref()? {
        return Ok(Cow::Owned(char.to_string()));
    }
    let text = quick_xml::escape::resolve_predefined_entity(reference);
    text.map(Cow::Borrowed).ok_or(ConvertError::NotXml("it refers to what it does not have"))
}

fn scalar(of: Of, text: &str, path: &Path) -> Result<Value, ConvertError> {
    let wrong = |kind| ConvertError::Scalar { path: path.to_string(), kind, text: text.to_owned() };
    Ok(match of {
        Of::Boolean => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(wrong("boolean")),
        },
        Of::Integer => Value::Number(text.trim().parse::<i64>().map_err(|_| wrong("integer"))?.into()),
        Of::Float => {
            let number =
                text.trim().parse::<f64>().ok().and_then(Number::from_f64).ok_or_else(|| wrong("number"))?;
            Value::Number(number)
        }
        Of::Timestamp => Value::String(rfc3339(text).ok_or_else(|| wrong("time"))?),
        Of::Text | Of::Document | Of::Shape(_) => Value::String(text.to_owned()),
    })
}

/// In the format in which the AWS CLI prints times: `2026-11-24T08:30:00+00:00`, with a fraction only if there is one.
fn rfc3339(text: &str) -> Option<String> {
    let text = text.trim();
    let at: jiff::Timestamp = text.parse().ok().or_else(|| format!("{text}Z").parse().ok())?;
    Some(format_time(at))
}

fn format_time(at: jiff::Timestamp) -> String {
    let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
    let format =
        if at.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S.%6f+00:00" };
    utc.strftime(format).to_string()
}

/// Seconds since 1970, to the millisecond: further digits are floating-point artifacts.
fn from_seconds(seconds: f64) -> Option<jiff::Timestamp> {
    #[allow(clippy::cast_possible_truncation)] // It saturates, and is out of range then.
    jiff::Timestamp::from_millisecond((seconds * 1e3).round() as i64).ok()
}

/// A time that its service returns as a number: milliseconds since 1970, or seconds as text.
pub(super) fn counted_time(count: &Value) -> Option<String> {
    let at = match count {
        Value::Number(millis) => jiff::Timestamp::from_millisecond(millis.as_i64()?).ok()?,
        Value::String(seconds) => jiff::Timestamp::from_second(seconds.parse().ok()?).ok()?,
        _ => return None,
    };
    Some(format_time(at))
}

/// The objects of an answer: `["Reservations", "Instances"]` flattens two lists.
pub fn items(answer: &mut Value, path: &[&str]) -> Vec<Value> {
    let mut level = vec![answer.take()];
    for step in path {
        level = level
            .into_iter()
            .flat_map(|mut value| match value.get_mut(*step).map(Value::take) {
                Some(Value::Array(items)) => items,
                Some(object @ Value::Object(_)) => vec![object],
                _ => Vec::new(),
            })
            .collect();
    }
    level
}

#[cfg(test)]
mod tests {
    use super::super::declare::items;
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
    fn a_body_that_is_one_member_of_the_answer_stands_under_its_name() {
        let body = br"<DistributionList><Items><DistributionSummary><Id>E1</Id></DistributionSummary></Items>
            <NextMarker>n</NextMarker></DistributionList>";
        let found = convert("cloudfront", "ListDistributions", body).unwrap();
        assert_eq!(found, json!({"DistributionList": {"Items": [{"Id": "E1"}], "NextMarker": "n"}}));
    }

    #[test]
    fn text_comes_in_pieces_and_is_put_together() {
        let volume = |inside: &str| {
            let body = format!(
                "<?xml version=\"1.0\"?>\n<!-- a --><DescribeVolumesResponse><volumeSet><item>{inside}</item></volumeSet>\
                 </DescribeVolumesResponse>\n"
            );
            convert("ec2", "DescribeVolumes", body.as_bytes()).map(|mut found| found["Volumes"][0].take())
        };
        let pieces =
            "<volumeId>a&lt;b &#x26; <![CDATA[<c>]]>&#13;\r\nd<!-- e -->f</volumeId><volumeId>later</volumeId>";
        assert_eq!(volume(pieces).unwrap(), json!({"VolumeId": "a<b & <c>\r\ndf"}), "of two the first counts");
        assert_eq!(volume("<volumeId/><other><volumeId>x</volumeId></other>").unwrap(), json!({"VolumeId": ""}));
        assert_eq!(volume("<ns:volumeId xmlns:ns='n'>v</ns:volumeId>").unwrap(), json!({"VolumeId": "v"}));
        assert!(volume("<volumeId>&unknown;</volumeId>").is_err());
        assert!(volume("<volumeId>x</size>").is_err(), "what ends is not what began");
    }

    #[test]
    fn objects_that_are_handed_out_one_by_one_are_those_of_the_whole() {
        let instances = "<DescribeInstancesResponse><requestId>r</requestId><reservationSet>\
             <item><ownerId>o</ownerId><instancesSet><item><instanceId>a</instanceId><tagSet><item><key>k</key>\
             <value>v</value></item></tagSet></item><item><instanceId>b</instanceId></item></instancesSet></item>\
             <item><instancesSet/></item><item><instancesSet><item><instanceId>c</instanceId></item></instancesSet>\
             <instancesSet><item><instanceId>later</instanceId></item></instancesSet></item></reservationSet>\
             <nextToken>t</nextToken></DescribeInstancesResponse>";
        let databases = "<DescribeDBInstancesResponse><DescribeDBInstancesResult><Marker>m</Marker><DBInstances>\
             <DBInstance><DBInstanceIdentifier>a</DBInstanceIdentifier></DBInstance></DBInstances>\
             </DescribeDBInstancesResult><ResponseMetadata/></DescribeDBInstancesResponse>";
        let distributions = "<DistributionList><Items><DistributionSummary><Id>E1</Id></DistributionSummary>\
             <DistributionSummary><Id>E2</Id></DistributionSummary></Items><NextMarker>n</NextMarker></DistributionList>";
        let tables = r#"{"TableNames": ["a", "b"], "LastEvaluatedTableName": "b"}"#;
        let flat = "<ListQueuesResult><QueueUrls>a</QueueUrls><QueueUrls>b</QueueUrls></ListQueuesResult>";
        // How many are passed on, and how many stay in the rest.
        let cases: [(&str, &str, &str, &[&str], (usize, usize)); 7] = [
            ("ec2", "DescribeInstances", instances, &["Reservations", "Instances"], (3, 0)),
            ("ec2", "DescribeInstances", "<DescribeInstancesResponse/>", &["Reservations", "Instances"], (0, 0)),
            ("rds", "DescribeDBInstances", databases, &["DBInstances"], (1, 0)),
            ("cloudfront", "ListDistributions", distributions, &["DistributionList", "Items"], (2, 0)),
            ("cloudfront", "ListDistributions", distributions, &["DistributionList"], (1, 0)),
            ("dynamodb", "ListTables", tables, &["TableNames"], (0, 2)),
            ("sqs", "ListQueues", flat, &["QueueUrls"], (0, 2)),
        ];
        let without = |mut answer: Value, path: &[&str]| {
            let list = path[..path.len() - 1].iter().fold(&mut answer, |value, step| &mut value[*step]);
            if let Some(fields) = list.as_object_mut() {
                fields.remove(path[path.len() - 1]);
            } else {
                *list = Value::Null;
            }
            answer
        };
        for (service, operation, body, path, (handed_out, left)) in cases {
            let each = |body: &[u8]| {
                let mut each = Vec::new();
                let mut rest = convert_each(service, operation, body, path, &mut |object| each.push(object))?;
                let others = without(rest.clone(), path);
                let counts = (each.len(), items(&mut rest.clone(), path).len());
                each.extend(items(&mut rest, path));
                Ok::<_, ConvertError>((each, others, counts))
            };
            let mut whole = convert(service, operation, body.as_bytes()).unwrap();
            let others = without(whole.clone(), path);
            let objects = items(&mut whole, path);
            assert_eq!(each(body.as_bytes()).unwrap(), (objects, others, (handed_out, left)), "{operation}");
            for end in 0..body.len() {
                assert!(each(&body.as_bytes()[..end]).is_err(), "{operation}, cut off after {end} bytes");
            }
        }
    }

    #[test]
    fn what_is_not_an_answer_is_an_error_not_an_empty_listing() {
        let whole = "<DescribeVolumesResponse><volumeSet><item><volumeId>v</volumeId></item></volumeSet></DescribeVolumesResponse>";
        assert!(convert("ec2", "DescribeVolumes", whole.as_bytes()).is_ok());
        for end in 0..whole.len() {
            let cut = convert("ec2", "DescribeVolumes", &whole.as_bytes()[..end]);
            assert!(cut.is_err(), "cut off after {end} bytes: {cut:?}");
        }
        assert!(convert("ec2", "DescribeVolumes", format!("{whole}\n<more/>").as_bytes()).is_err());
        assert!(convert("ec2", "DescribeVolumes", format!("<!DOCTYPE x>{whole}").as_bytes()).is_err());
        assert!(convert("ec2", "DescribeVolumes", b"<html>proxy").is_err());
        assert!(convert("rds", "DescribeDBInstances", b"<DescribeDBInstancesResponse/>").is_err());
        let bad = b"<DescribeVolumesResponse><volumeSet><item><size>many</size></item></volumeSet></DescribeVolumesResponse>";
        let error = convert("ec2", "DescribeVolumes", bad).unwrap_err().to_string();
        assert!(error.contains("DescribeVolumes.Volumes.Size is not a integer: many"), "{error}");
    }
}
