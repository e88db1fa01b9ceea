//! A reverse proxy between the operator and the emulator that changes responses by rule, and logs them. All other
//! responses are the emulator's own. It also splits unpaged listings into pages, which the emulator does not do.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use tokio::runtime::Runtime;

/// Small, so that every listing of a test has several pages.
const PAGE: usize = 5;
/// The account that the emulator assigns to unknown keys.
pub const BASE_ACCOUNT: &str = "123456789012";

/// One call to the cloud.
#[derive(Clone, Debug)]
pub struct Call {
    pub account: String,
    /// The name of the caller's role; empty for none.
    pub role: String,
    pub region: String,
    pub service: String,
    pub action: String,
    pub params: BTreeMap<String, String>,
    /// The number of the page, from 1.
    pub page: usize,
    is_json: bool,
}

impl Call {
    /// Whether it reads one resource by its id, instead of listing.
    pub fn is_by_id(&self) -> bool {
        self.params
            .keys()
            .any(|k| k.ends_with("Id.1") || k == "DBInstanceIdentifier" || k == "prefix" || k == "AllocationId.1")
    }
}

const XML: &str = "text/xml";
const JSON: &str = "application/x-amz-json-1.1";
/// Services that use JSON without an operation header, by their signing names.
const REST_JSON: [&str; 7] = ["apigateway", "backup", "eks", "elasticfilesystem", "es", "kafka", "lambda"];

/// EC2 operations that AWS does not page either.
const UNPAGED: [&str; 5] = [
    "DescribeAddresses",
    "DescribeKeyPairs",
    "DescribePlacementGroups",
    "DescribeRegions",
    "DescribeVpnConnections",
];

/// EC2 operations that the emulator lacks and the proxy implements: the operation, the list element, the parameter that
/// names an id, and the error for an unknown id.
const STAND_INS: [(&str, &str, &str, &str); 2] = [
    (
        "DescribeCapacityReservations",
        "capacityReservationSet",
        "CapacityReservationId.1",
        "InvalidCapacityReservationId.NotFound",
    ),
    ("DescribePlacementGroups", "placementGroupSet", "GroupId.1", "InvalidPlacementGroup.Unknown"),
];

/// A response to the operator.
struct Answer {
    status: u16,
    kind: String,
    /// The header in which some services return the error code.
    error: Option<String>,
    text: String,
}

impl Answer {
    fn xml(status: u16, text: String) -> Self {
        Self { status, kind: XML.to_owned(), error: None, text }
    }
}

#[derive(Clone, Debug)]
pub enum Fault {
    /// Returns an error in the service's own format.
    Refuse { status: u16, code: &'static str, message: String },
    /// Leaves out the resources with these ids.
    Hide(Vec<String>),
    /// Returns this response instead.
    Show(&'static str),
    /// Returns a response that is created for each call.
    Make(fn(&Call) -> String),
    /// Empties every tag set.
    EmptyTags,
    /// Ends the connection in the middle of the response.
    Cut,
    /// Delays the response.
    Slow(Duration),
    /// Reports these regions as not opted in (DescribeRegions).
    NotOptedIn(Vec<String>),
}

/// A response as the operator got it.
#[derive(Clone, Debug)]
pub struct Logged {
    pub call: Call,
    pub status: u16,
    pub body: String,
}

type Matcher = Box<dyn Fn(&Call) -> bool + Send + Sync>;

struct Rule {
    id: u64,
    matches: Matcher,
    fault: Fault,
    hits: u64,
}

#[derive(Default)]
struct Inner {
    upstream: String,
    http: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Logged>>,
    /// The account and the name of the role, by access key id.
    accounts: Mutex<HashMap<String, (String, String)>>,
    /// Listings that are being returned page by page.
    listings: Mutex<HashMap<String, String>>,
    numbers: AtomicU64,
    /// Names and tags of alarms by account and region: see [`Proxy::alarm`].
    alarms: Mutex<BTreeMap<(String, String), BTreeMap<String, BTreeMap<String, String>>>>,
    /// Ids and XML of the resources that [`STAND_INS`] return, by account, region and operation.
    stand_ins: Mutex<BTreeMap<(String, String, String), Vec<(String, String)>>>,
}

pub struct Proxy {
    pub url: String,
    inner: Arc<Inner>,
    address: SocketAddr,
    /// A runtime of its own: all connections end with it.
    serving: Option<Runtime>,
}

#[derive(Clone, Copy, Debug)]
pub struct RuleId(u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Proxy {
    pub fn start(upstream: &str) -> Self {
        Self::start_at([127, 0, 0, 1], upstream)
    }

    /// Starts on this address of the machine.
    pub fn start_at(host: [u8; 4], upstream: &str) -> Self {
        let inner = Arc::new(Inner { upstream: upstream.to_owned(), ..Inner::default() });
        let listener = TcpListener::bind(SocketAddr::from((host, 0))).expect("the address is ours");
        let address = listener.local_addr().expect("it is bound");
        let serving = Some(serve(listener, inner.clone()));
        Self { url: format!("http://{address}"), inner, address, serving }
    }

    /// Stops serving: open connections are cut off, and new ones are refused.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }

    /// Serves again, at the same address and with the same rules.
    pub async fn serve_again(&mut self) {
        let bind = || async { TcpListener::bind(self.address).map_err(|error| error.to_string()) };
        let listener = super::eventually("the address is free again", bind).await;
        self.serving = Some(serve(listener, self.inner.clone()));
    }

    pub fn fault(&self, matches: impl Fn(&Call) -> bool + Send + Sync + 'static, fault: Fault) -> RuleId {
        let id = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        lock(&self.inner.rules).push(Rule { id, matches: Box::new(matches), fault, hits: 0 });
        RuleId(id)
    }

    pub fn heal(&self, rule: RuleId) {
        lock(&self.inner.rules).retain(|r| r.id != rule.0);
    }

    /// The number of calls that a rule has matched.
    pub fn hits(&self, rule: RuleId) -> u64 {
        lock(&self.inner.rules).iter().find(|r| r.id == rule.0).map_or(0, |r| r.hits)
    }

    pub fn log(&self) -> Vec<Logged> {
        lock(&self.inner.log).clone()
    }

    /// Adds a CloudWatch alarm, which the proxy serves itself: the emulator does not know all types of alarms.
    pub fn alarm(&self, account: &str, region: &str, name: &str, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let place = (account.to_owned(), region.to_owned());
        lock(&self.inner.alarms).entry(place).or_default().insert(name.to_owned(), tags);
    }

    /// Adds a resource to the listing of one of the [`STAND_INS`], in EC2's format:
    /// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeCapacityReservations.html>,
    /// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribePlacementGroups.html>
    pub fn stand_in(&self, account: &str, region: &str, action: &str, id: &str, item: &str) {
        let place = (account.to_owned(), region.to_owned(), action.to_owned());
        lock(&self.inner.stand_ins).entry(place).or_default().push((id.to_owned(), item.to_owned()));
    }

    pub fn delete_alarm(&self, account: &str, region: &str, name: &str) {
        let place = (account.to_owned(), region.to_owned());
        lock(&self.inner.alarms).entry(place).or_default().remove(name);
    }

    pub fn count(&self, matches: impl Fn(&Call) -> bool) -> usize {
        lock(&self.inner.log).iter().filter(|l| matches(&l.call)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(listener: TcpListener, inner: Arc<Inner>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("the system has threads");
    listener.set_nonblocking(true).expect("a socket can be so");
    let app = Router::new().fallback(handle).with_state(inner);
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is a socket");
        axum::serve(listener, app).await.expect("it serves");
    });
    runtime
}

async fn handle(
    Shared(inner): Shared<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<axum::body::Body> {
    let mut call = describe(&inner, &method, &uri, &headers, &body);
    let token = ["NextToken", "Marker", "continuation-token"]
        .iter()
        .find_map(|name| call.params.get(*name))
        .filter(|token| token.starts_with("proxy-"))
        .cloned();
    let offset: usize = token.as_deref().and_then(|t| t.rsplit('-').next()?.parse().ok()).unwrap_or(0);
    call.page = 1 + offset / PAGE;

    let faults: Vec<Fault> = lock(&inner.rules)
        .iter_mut()
        .filter(|rule| (rule.matches)(&call))
        .map(|rule| {
            rule.hits += 1;
            rule.fault.clone()
        })
        .collect();
    let is_json = call.is_json;
    let refusal = faults.iter().find_map(|fault| match fault {
        Fault::Refuse { status, code, message } if is_json => {
            let body = serde_json::json!({ "__type": code, "message": message });
            Some(Answer {
                status: *status,
                kind: JSON.to_owned(),
                error: Some((*code).to_owned()),
                text: body.to_string(),
            })
        }
        Fault::Refuse { status, code, message } => {
            Some(Answer::xml(*status, error_body(&call.service, code, message)))
        }
        _ => None,
    });
    if call.service == "monitoring" && refusal.is_none() {
        return cloudwatch(&inner, &call, &body);
    }
    for fault in &faults {
        if let Fault::Slow(span) = fault {
            tokio::time::sleep(*span).await;
        }
    }
    let Answer { status, kind, error, text: whole } = match (refusal, &token) {
        (Some(refused), _) => refused,
        (None, Some(token)) => {
            let listing = token.rsplit_once('-').map(|(listing, _)| listing.to_owned()).unwrap_or_default();
            if let Some(whole) = lock(&inner.listings).get(&listing) {
                Answer::xml(200, whole.clone())
            } else {
                let body = error_body(&call.service, "InvalidNextToken", "the token is not one of ours");
                Answer::xml(400, body)
            }
        }
        (None, None) => match STAND_INS.iter().find(|(action, ..)| *action == call.action) {
            Some(stand_in) => stand_in_answer(&inner, &call, stand_in),
            None => forward(&inner, &method, &uri, &headers, body).await,
        },
    };
    if call.action == "AssumeRole" && status == 200 {
        learn(&inner, &whole);
    }
    let mut text = whole;
    if status == 200 {
        text = paged(&inner, &call, text, token.is_none(), offset);
        for fault in &faults {
            text = match fault {
                Fault::Hide(ids) if is_json => hidden_json(&text, ids),
                Fault::Hide(ids) => hidden(&text, ids),
                Fault::Show(other) => (*other).to_owned(),
                Fault::Make(answer) => answer(&call),
                Fault::EmptyTags => without_tags(&text),
                Fault::NotOptedIn(regions) => not_opted_in(&text, regions),
                _ => text,
            };
        }
    }
    lock(&inner.log).push(Logged { call, status, body: text.clone() });
    if faults.iter().any(|fault| matches!(fault, Fault::Cut)) {
        let half = text.len() / 2;
        let chunks = [Ok(Bytes::from(text[..half].to_owned())), Err(std::io::Error::other("cut by a rule"))];
        let body = axum::body::Body::from_stream(futures::stream::iter(chunks));
        return Response::builder().header("content-type", kind).body(body).expect("it is a response");
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = (status, [("content-type", kind)], text).into_response();
    if let Some(error) = error.and_then(|error| error.parse().ok()) {
        response.headers_mut().insert("x-amzn-errortype", error);
    }
    response
}

fn stand_in_answer(
    inner: &Inner,
    call: &Call,
    (action, list, by_id, not_found): &(&str, &str, &str, &str),
) -> Answer {
    let place = (call.account.clone(), call.region.clone(), (*action).to_owned());
    let mut things = lock(&inner.stand_ins).get(&place).cloned().unwrap_or_default();
    if let Some(desired) = call.params.get(*by_id) {
        things.retain(|(id, _)| id == desired);
        if things.is_empty() {
            return Answer::xml(400, error_body("ec2", not_found, "there is none"));
        }
    }
    let items: Vec<String> = things.iter().map(|(_, item)| format!("<item>{item}</item>")).collect();
    let items = items.concat();
    Answer::xml(
        200,
        format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
             <{list}>{items}</{list}></{action}Response>"
        ),
    )
}

/// The two operations that a scan calls.
fn cloudwatch(inner: &Inner, call: &Call, body: &[u8]) -> Response<axum::body::Body> {
    let requested: serde_json::Value = serde_json::from_slice(body).expect("it is JSON");
    let place = (call.account.clone(), call.region.clone());
    let alarms = lock(&inner.alarms).get(&place).cloned().unwrap_or_default();
    let arn = |name: &str| format!("arn:aws:cloudwatch:{}:{}:alarm:{name}", call.region, call.account);
    let answer = if call.action == "ListTagsForResource" {
        let desired = requested["ResourceARN"].as_str().unwrap_or_default();
        let tags = alarms.iter().find(|(name, _)| arn(name) == desired).map(|(_, tags)| tags.clone());
        serde_json::json!({
            "Tags": tags.unwrap_or_default().iter().map(|(k, v)| serde_json::json!({"Key": k, "Value": v}))
                .collect::<Vec<_>>(),
        })
    } else {
        let named = requested["AlarmNames"].as_array();
        let is_requested = |name: &str| named.is_none_or(|named| named.iter().any(|n| n == name));
        let alarm = |name: &String| {
            serde_json::json!({"AlarmName": name, "AlarmArn": arn(name), "MetricName": "CPUUtilization",
                "StateValue": "OK", "EvaluationPeriods": 2, "Threshold": 0.5, "ActionsEnabled": true})
        };
        serde_json::json!({"MetricAlarms": alarms.keys().filter(|n| is_requested(n)).map(alarm).collect::<Vec<_>>()})
    };
    lock(&inner.log).push(Logged { call: call.clone(), status: 200, body: answer.to_string() });
    (StatusCode::OK, [("content-type", JSON)], answer.to_string()).into_response()
}

fn describe(inner: &Inner, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Call {
    // Credential=KEY/20261124/eu-west-1/ec2/aws4_request
    let authorization = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let credential: Vec<&str> = authorization
        .split("Credential=")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .unwrap_or_default()
        .split('/')
        .collect();
    let part = |i: usize| credential.get(i).copied().unwrap_or_default().to_owned();
    let base = || (BASE_ACCOUNT.to_owned(), String::new());
    let (account, role) = lock(&inner.accounts).get(&part(0)).cloned().unwrap_or_else(base);
    let service = part(3);
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let target = header("x-amz-target").rsplit_once('.').map(|(_, operation)| operation.to_owned());
    let is_json = target.is_some() || REST_JSON.contains(&service.as_str());
    let mut params: BTreeMap<String, String> =
        serde_urlencoded::from_str(uri.query().unwrap_or_default()).unwrap_or_default();
    let action = if service == "s3" {
        let bucket = uri.path().trim_matches('/');
        match (method, bucket.is_empty()) {
            (&Method::GET, true) => "ListBuckets",
            (&Method::GET, false) if params.contains_key("tagging") => "GetBucketTagging",
            (&Method::GET, false) if params.contains_key("location") => "GetBucketLocation",
            _ => "Other",
        }
        .to_owned()
    } else if let Some(operation) = target {
        let fields: BTreeMap<String, serde_json::Value> = serde_json::from_slice(body).unwrap_or_default();
        let texts = fields.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        params.extend(texts);
        operation
    } else if REST_JSON.contains(&service.as_str()) {
        format!("{method} {}", uri.path())
    } else {
        params.extend(serde_urlencoded::from_bytes::<BTreeMap<String, String>>(body).unwrap_or_default());
        // Route 53 and CloudFront use paths instead.
        params.get("Action").cloned().unwrap_or_else(|| format!("{method} {}", uri.path()))
    };
    Call { account, role, region: part(2), service, action, params, page: 1, is_json }
}

async fn forward(inner: &Inner, method: &Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Answer {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut request = inner.http.request(method.clone(), format!("{}{path}", inner.upstream)).body(body);
    for (name, value) in headers {
        if name != "host" && name != "content-length" {
            request = request.header(name, value);
        }
    }
    match request.send().await {
        Ok(answer) => {
            let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let kind = header("content-type").unwrap_or_else(|| XML.to_owned());
            let (status, error) = (answer.status().as_u16(), header("x-amzn-errortype"));
            Answer { status, kind, error, text: answer.text().await.unwrap_or_default() }
        }
        Err(error) => {
            let body = format!("<Error><Code>BadGateway</Code><Message>{error}</Message></Error>");
            Answer::xml(502, body)
        }
    }
}

/// Records the account and the role of the keys that AssumeRole returns.
fn learn(inner: &Inner, body: &str) {
    let Ok(document) = roxmltree::Document::parse(body) else { return };
    let text = |name: &str| {
        document
            .descendants()
            .find(|n| {
                n.has_tag_name(("https://sts.amazonaws.com/doc/2011-06-15/", name)) || n.tag_name().name() == name
            })?
            .text()
    };
    if let (Some(key), Some(arn)) = (text("AccessKeyId"), text("Arn")) {
        let account = arn.split(':').nth(4).unwrap_or_default().to_owned();
        let role = arn.split('/').nth(1).unwrap_or_default().to_owned();
        lock(&inner.accounts).insert(key.to_owned(), (account, role));
    }
}

fn error_body(service: &str, code: &str, message: &str) -> String {
    match service {
        "ec2" => format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
             <RequestID>proxy</RequestID></Response>"
        ),
        "s3" => {
            format!("<Error><Code>{code}</Code><Message>{message}</Message><RequestId>proxy</RequestId></Error>")
        }
        _ => format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>proxy</RequestId></ErrorResponse>"
        ),
    }
}

/// The list in a response, the parent of the page token, and the token's name.
fn list_of<'a>(
    document: &'a roxmltree::Document,
    call: &Call,
) -> Option<(roxmltree::Node<'a, 'a>, roxmltree::Node<'a, 'a>, &'static str)> {
    let root = document.root_element();
    let child = |node: roxmltree::Node<'a, 'a>, name: &str| node.children().find(|n| n.tag_name().name() == name);
    match call.service.as_str() {
        "ec2" if call.action.starts_with("Describe") && !UNPAGED.contains(&call.action.as_str()) => {
            let list = root.children().find(|n| n.children().any(|c| c.tag_name().name() == "item"))?;
            Some((list, root, "nextToken"))
        }
        "s3" if call.action == "ListBuckets" => Some((child(root, "Buckets")?, root, "ContinuationToken")),
        "rds" if call.action == "DescribeDBInstances" => {
            let result = child(root, "DescribeDBInstancesResult")?;
            Some((child(result, "DBInstances")?, result, "Marker"))
        }
        _ => None,
    }
}

/// The page of a listing that begins at `offset`.
fn paged(inner: &Inner, call: &Call, whole: String, first: bool, offset: usize) -> String {
    if call.is_by_id() {
        return whole;
    }
    let Ok(document) = roxmltree::Document::parse(&whole) else { return whole };
    let Some((list, parent, token_name)) = list_of(&document, call) else { return whole };
    let has_token =
        |n: roxmltree::Node| n.tag_name().name() == token_name && n.text().is_some_and(|t| !t.trim().is_empty());
    if parent.children().any(has_token) {
        return whole;
    }
    let items: Vec<_> = list.children().filter(roxmltree::Node::is_element).collect();
    if items.len() <= PAGE {
        return whole;
    }
    let listing =
        match (&first, ["NextToken", "Marker", "continuation-token"].iter().find_map(|n| call.params.get(*n))) {
            (false, Some(token)) => token.rsplit_once('-').map(|(l, _)| l.to_owned()).unwrap_or_default(),
            _ => format!("proxy-{}", inner.numbers.fetch_add(1, Ordering::Relaxed)),
        };
    let page: String = items.iter().skip(offset).take(PAGE).map(|n| &whole[n.range()]).collect();
    let next = offset + PAGE;
    let token =
        if next < items.len() { format!("<{token_name}>{listing}-{next}</{token_name}>") } else { String::new() };
    let (inside, after) = (items[0].range().start..items[items.len() - 1].range().end, list.range().end);
    let empty_tokens: Vec<_> =
        parent.children().filter(|n| n.tag_name().name() == token_name).map(|n| n.range()).collect();
    let mut out = String::new();
    out.push_str(&whole[..inside.start]);
    out.push_str(&page);
    out.push_str(&whole[inside.end..after]);
    out.push_str(&token);
    let mut at = after;
    for range in empty_tokens.into_iter().filter(|r| r.start >= after) {
        out.push_str(&whole[at..range.start]);
        at = range.end;
    }
    out.push_str(&whole[at..]);
    drop(document);
    lock(&inner.listings).insert(listing, whole);
    out
}

fn cut_out(text: &str, mut ranges: Vec<std::ops::Range<usize>>) -> String {
    ranges.sort_by_key(|r| r.start);
    let mut out = String::new();
    let mut at = 0;
    for range in ranges {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            at = range.end;
        }
    }
    out.push_str(&text[at..]);
    out
}

fn hidden(text: &str, ids: &[String]) -> String {
    let Ok(document) = roxmltree::Document::parse(text) else { return text.to_owned() };
    let is_thing = |n: &roxmltree::Node| {
        matches!(n.tag_name().name(), "item" | "Bucket" | "DBInstance")
            && n.children().any(|c| c.text().is_some_and(|t| ids.iter().any(|id| id == t)))
    };
    cut_out(text, document.descendants().filter(is_thing).map(|n| n.range()).collect())
}

/// Removes every item that is, or contains, one of the ids.
fn hidden_json(text: &str, ids: &[String]) -> String {
    fn without(value: &mut serde_json::Value, ids: &[String]) {
        let is_one =
            |value: &serde_json::Value| value.as_str().is_some_and(|text| ids.iter().any(|id| id == text));
        let is_it = |value: &serde_json::Value| {
            is_one(value) || value.as_object().is_some_and(|fields| fields.values().any(is_one))
        };
        match value {
            serde_json::Value::Array(items) => {
                items.retain(|item| !is_it(item));
                for item in items {
                    without(item, ids);
                }
            }
            serde_json::Value::Object(fields) => {
                for field in fields.values_mut() {
                    without(field, ids);
                }
            }
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::from_str(text) else { return text.to_owned() };
    without(&mut value, ids);
    value.to_string()
}

fn without_tags(text: &str) -> String {
    let Ok(document) = roxmltree::Document::parse(text) else { return text.to_owned() };
    let sets = document.descendants().filter(|n| n.tag_name().name() == "tagSet");
    cut_out(text, sets.map(|n| n.range()).collect())
}

fn not_opted_in(text: &str, regions: &[String]) -> String {
    let Ok(document) = roxmltree::Document::parse(text) else { return text.to_owned() };
    let mut out = String::new();
    let mut at = 0;
    for item in document.descendants().filter(|n| n.tag_name().name() == "item") {
        let field = |name: &str| item.children().find(|c| c.tag_name().name() == name);
        let named = field("regionName").and_then(|n| n.text()).is_some_and(|r| regions.iter().any(|x| x == r));
        if let (true, Some(status)) = (named, field("optInStatus")) {
            out.push_str(&text[at..status.range().start]);
            out.push_str("<optInStatus>not-opted-in</optInStatus>");
            at = status.range().end;
        }
    }
    out.push_str(&text[at..]);
    out
}
