//! Requests as data: an operation and its parameters, written in the protocol of its service.
//!
//! `calls.json` is generated from the service models that the AWS CLI is built on (e2e/tools/aws/shapes.py). It has the
//! names of the parameters on the wire, and the endpoints.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("no service {0} is known")]
    Service(String),
    #[error("no operation {0} is known")]
    Operation(String),
    #[error("an endpoint is configured for {service}: FIPS and dual stack can't be requested there")]
    ConfiguredEndpoint { service: String },
    #[error("{operation} has no parameter {name}")]
    Parameter { operation: String, name: String },
    #[error("{operation}: {name} is not of the form that the model defines")]
    Form { operation: String, name: String },
    #[error(
        "{service} has no endpoint in {region} with {variant}: see AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT"
    )]
    Endpoint { service: String, region: String, variant: &'static str },
}

#[derive(Deserialize)]
struct Table {
    partitions: Vec<Partition>,
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Partition {
    id: String,
    suffix: String,
    dualstack: String,
}

#[derive(Deserialize)]
pub(super) struct Service {
    protocol: Protocol,
    /// Its name in the settings of the AWS SDKs.
    pub id: String,
    version: String,
    prefix: String,
    /// The name that requests are signed for.
    pub signing: String,
    target: Option<String>,
    json: Option<String>,
    /// It reports errors by the codes of the former Query protocol if it is requested to.
    query_mode: bool,
    /// By `PARTITION/VARIANT` and `REGION/VARIANT`, where the endpoint is not the usual one.
    endpoints: BTreeMap<String, Option<(String, Option<String>)>>,
    operations: BTreeMap<String, Operation>,
    shapes: BTreeMap<String, Shape>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Protocol {
    Json,
    RestJson,
    RestXml,
    Query,
    Ec2,
}

#[derive(Deserialize)]
struct Operation {
    method: String,
    uri: String,
    input: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shape {
    Structure { members: BTreeMap<String, Member> },
    List { list: String, item: Option<String> },
}

#[derive(Deserialize)]
struct Member {
    at: Location,
    /// Its name on the wire.
    wire: String,
    of: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Location {
    Body,
    Uri,
    QueryString,
    Header,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    serde_json::from_str(include_str!("calls.json"))
        .expect("calls.json is generated in this form; a test reads it")
});

/// A request without its host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub method: &'static str,
    /// With the query string.
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// Where a request is sent, and the region that it is signed for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub url: String,
    pub signing_region: String,
}

pub(super) fn service(name: &str) -> Result<&'static Service, RequestError> {
    TABLE.services.get(name).ok_or_else(|| RequestError::Service(name.to_owned()))
}

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// A scalar as it is written outside JSON.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Where a list is expected, a single value is a list of one.
fn each(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

impl Service {
    /// Writes a request. Parameters that are null are left out.
    pub fn request(&'static self, operation: &str, input: &Value) -> Result<Request, RequestError> {
        let called =
            self.operations.get(operation).ok_or_else(|| RequestError::Operation(operation.to_owned()))?;
        let writer = Writer { service: self, operation };
        let (path, fixed) = called.uri.split_once('?').unwrap_or((&called.uri, ""));
        let mut path = path.to_owned();
        let mut query: Vec<String> = fixed.split('&').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut headers = Vec::new();
        let mut body = Map::new();
        for (name, value, member) in writer.members(called.input.as_deref(), input)? {
            let malformed = || writer.malformed(name);
            match member.at {
                Location::Body => {
                    body.insert(name.clone(), value.clone());
                }
                Location::Uri => {
                    let text = plain(value).filter(|text| !text.is_empty()).ok_or_else(malformed)?;
                    path = path.replace(&format!("{{{}}}", member.wire), &encoded(&text));
                    let greedy: Vec<String> = text.split('/').map(encoded).collect();
                    path = path.replace(&format!("{{{}+}}", member.wire), &greedy.join("/"));
                }
                Location::QueryString => {
                    for one in each(value) {
                        let text = plain(one).ok_or_else(malformed)?;
                        query.push(format!("{}={}", encoded(&member.wire), encoded(&text)));
                    }
                }
                Location::Header => headers.push((member.wire.as_str(), plain(value).ok_or_else(malformed)?)),
            }
        }
        let body = Value::Object(body);
        let content = match self.protocol {
            Protocol::Query | Protocol::Ec2 => {
                let mut form = vec![format!("Action={operation}"), format!("Version={}", self.version)];
                if let Some(shape) = &called.input {
                    writer.form(shape, "", &body, &mut form)?;
                }
                Some(("application/x-www-form-urlencoded".to_owned(), form.join("&")))
            }
            Protocol::Json => {
                let body =
                    called.input.as_ref().map_or(Ok(body.clone()), |shape| writer.json(shape, "", &body))?;
                let version = self.json.as_deref().unwrap_or("1.0");
                Some((format!("application/x-amz-json-{version}"), body.to_string()))
            }
            Protocol::RestJson if called.method != "GET" => {
                let body =
                    called.input.as_ref().map_or(Ok(body.clone()), |shape| writer.json(shape, "", &body))?;
                Some(("application/json".to_owned(), body.to_string()))
            }
            // Nothing that lists or describes has a body in these.
            Protocol::RestJson | Protocol::RestXml if body.as_object().is_some_and(|body| !body.is_empty()) => {
                return Err(writer.malformed("the body"));
            }
            Protocol::RestJson | Protocol::RestXml => None,
        };
        let mut body = String::new();
        if let Some((kind, content)) = content {
            headers.push(("content-type", kind));
            body = content;
        }
        if self.protocol == Protocol::Json {
            let target = self.target.as_deref().unwrap_or_default();
            headers.push(("x-amz-target", format!("{target}.{operation}")));
            if self.query_mode {
                headers.push(("x-amzn-query-mode", "true".to_owned()));
            }
        }
        if self.id == "API Gateway" {
            // Otherwise it answers in another format: https://github.com/boto/botocore/pull/690
            headers.push(("accept", "application/json".to_owned()));
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        Ok(Request { method: &called.method, path, headers, body })
    }

    /// The endpoint in a region, with FIPS-validated cryptography or with IPv6 if that is requested.
    pub fn endpoint(
        &self,
        partition: &str,
        region: &str,
        fips: bool,
        dual_stack: bool,
    ) -> Result<Endpoint, RequestError> {
        let variant = match (fips, dual_stack) {
            (false, false) => "",
            (true, false) => "fips",
            (false, true) => "dualstack",
            (true, true) => "fips+dualstack",
        };
        let known = |place: &str| self.endpoints.get(&format!("{place}/{variant}"));
        let (template, signed) = match known(region).or_else(|| known(partition)) {
            Some(Some((template, signed))) => (template.clone(), signed.as_deref()),
            Some(None) => {
                let (service, region) = (self.id.clone(), region.to_owned());
                return Err(RequestError::Endpoint { service, region, variant });
            }
            None => {
                // Partitions that are newer than the table have suffixes that nobody knows yet.
                let of = TABLE.partitions.iter().find(|known| known.id == partition);
                let of = of.unwrap_or(&TABLE.partitions[0]);
                let suffix = if dual_stack { &of.dualstack } else { &of.suffix };
                (format!("https://{}{}.{{region}}.{suffix}", self.prefix, if fips { "-fips" } else { "" }), None)
            }
        };
        Ok(Endpoint {
            url: template.replace("{region}", region),
            signing_region: signed.unwrap_or(region).to_owned(),
        })
    }
}

struct Writer<'a> {
    service: &'static Service,
    operation: &'a str,
}

impl Writer<'_> {
    fn malformed(&self, name: &str) -> RequestError {
        RequestError::Form { operation: self.operation.to_owned(), name: name.to_owned() }
    }

    fn shape(&self, name: &str) -> Option<&'static Shape> {
        self.service.shapes.get(name)
    }

    /// The parameters that are set, with what the model says of each.
    fn members<'v>(
        &self,
        shape: Option<&str>,
        input: &'v Value,
    ) -> Result<Vec<(&'v String, &'v Value, &'static Member)>, RequestError> {
        let members = match shape.and_then(|shape| self.shape(shape)) {
            Some(Shape::Structure { members }) => Some(members),
            _ => None,
        };
        let input = input.as_object().ok_or_else(|| self.malformed("the input"))?;
        let set = input.iter().filter(|(_, value)| !value.is_null());
        let known = |(name, value)| {
            let member = members.and_then(|members| members.get(name)).ok_or_else(|| RequestError::Parameter {
                operation: self.operation.to_owned(),
                name: String::clone(name),
            })?;
            Ok((name, value, member))
        };
        set.map(known).collect()
    }

    /// Adds a value as the fields of a form.
    fn form(&self, of: &str, prefix: &str, value: &Value, form: &mut Vec<String>) -> Result<(), RequestError> {
        match self.shape(of) {
            Some(Shape::Structure { .. }) => {
                for (_, value, member) in self.members(Some(of), value)? {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    self.form(&member.of, &format!("{prefix}{dot}{}", member.wire), value, form)?;
                }
            }
            Some(Shape::List { list, item }) => {
                for (number, one) in each(value).iter().enumerate() {
                    let number = number + 1;
                    let name = match item {
                        Some(item) => format!("{prefix}.{item}.{number}"),
                        None => format!("{prefix}.{number}"),
                    };
                    self.form(list, &name, one, form)?;
                }
            }
            None => {
                let text = plain(value).ok_or_else(|| self.malformed(prefix))?;
                form.push(format!("{}={}", encoded(prefix), encoded(&text)));
            }
        }
        Ok(())
    }

    /// A value as JSON, by its names on the wire.
    fn json(&self, of: &str, name: &str, value: &Value) -> Result<Value, RequestError> {
        match self.shape(of) {
            Some(Shape::Structure { .. }) => {
                let mut object = Map::new();
                for (name, value, member) in self.members(Some(of), value)? {
                    object.insert(member.wire.clone(), self.json(&member.of, name, value)?);
                }
                Ok(Value::Object(object))
            }
            Some(Shape::List { list, .. }) => each(value).iter().map(|one| self.json(list, name, one)).collect(),
            None if value.is_array() || value.is_object() => Err(self.malformed(name)),
            None if of == "string" => Ok(plain(value).into()),
            None => Ok(value.clone()),
        }
    }
}
