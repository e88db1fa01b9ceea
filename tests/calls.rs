//! Every call as the AWS CLI would make it: requests against botocore's own serializer, endpoints against botocore's own
//! resolver, by e2e/tools/aws/calls.py.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use elava::cloud::aws::{Aws, access, keys};
use elava::cloud::{AccountTarget, Listing, Provider};
use elava::inventory::{Region, ResourceType, Scope};
use serde_json::{Value, json};

use crate::declarations::python;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cloud/aws/calls.json");

fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = serde_urlencoded::from_str(text).expect("it is URL-encoded");
    pairs.sort();
    pairs
}

/// A body in a form that does not depend on the order of its parts.
fn body(text: &str, headers: &BTreeMap<String, String>) -> Value {
    match headers.get("content-type").map(String::as_str) {
        Some(kind) if kind.contains("urlencoded") => json!(pairs(text)),
        Some(kind) if kind.contains("json") => serde_json::from_str(text).expect("it is JSON"),
        _ => json!(text),
    }
}

#[test]
fn every_request_is_the_one_that_the_aws_cli_writes() {
    let expected = python("calls.py", &[OsStr::new("requests"), OsStr::new(TABLE)], &Value::Null);
    let expected = expected.as_array().unwrap();
    assert!(expected.len() > 200, "{}", expected.len());
    for expected in expected {
        let (service, operation) =
            (expected["service"].as_str().unwrap(), expected["operation"].as_str().unwrap());
        let what = format!("{service} {operation} {}", expected["input"]);
        let written = Aws::request(service, operation, &expected["input"]).expect(&what);
        assert_eq!(written.method, expected["method"], "{what}");
        let (path, query) = written.path.split_once('?').unwrap_or((&written.path, ""));
        // The CLI leaves parts of the query string that belong to the operation in the path.
        let theirs = expected["path"].as_str().unwrap();
        let (their_path, fixed) = theirs.split_once('?').unwrap_or((theirs, ""));
        assert_eq!(path, their_path, "{what}");
        let mut their_query: Vec<(String, String)> = pairs(fixed);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        their_query.extend(expected["query"].as_array().unwrap().iter().map(|one| (text(&one[0]), text(&one[1]))));
        their_query.sort();
        assert_eq!(pairs(query), their_query, "{what}");
        for (name, value) in expected["headers"].as_object().unwrap() {
            let value = value.as_str().unwrap().split(';').next().unwrap();
            assert_eq!(
                written.headers.get(&name.to_lowercase()).map(String::as_str),
                Some(value),
                "{what}: {name}"
            );
        }
        let theirs = match &expected["body"] {
            Value::String(text) => body(text, &written.headers),
            Value::Array(fields) => {
                let mut fields: Vec<_> = fields.iter().map(|one| (text(&one[0]), text(&one[1]))).collect();
                fields.sort();
                json!(fields)
            }
            other => panic!("{what}: {other}"),
        };
        let theirs = if theirs == json!([]) { json!("") } else { theirs };
        assert_eq!(body(&written.body, &written.headers), theirs, "{what}");
    }
}

#[test]
fn every_endpoint_is_the_one_that_the_aws_cli_resolves() {
    let expected = python("calls.py", &[OsStr::new("endpoints"), OsStr::new(TABLE)], &Value::Null);
    let expected = expected.as_array().unwrap();
    assert!(expected.len() > 6_000, "{}", expected.len());
    for row in expected {
        let text = |at: usize| row[at].as_str();
        let (service, partition, region) = (text(0).unwrap(), text(1).unwrap(), text(2).unwrap());
        let found = Aws::endpoint(service, (partition, region), row[3] == json!(true), row[4] == json!(true)).ok();
        let expected = text(5).map(|url| (url.to_owned(), text(6).unwrap().to_owned()));
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn every_listing_is_a_request_and_what_must_be_named_in_full_is() {
    // A listing leaves out what these do not name.
    const WHOLE: [(&str, &str, &str); 3] = [
        ("acm", "ListCertificates", "Includes.keyTypes"),
        ("acm", "ListCertificates", "CertificateKeyPairOrigins"),
        ("cloudwatch", "DescribeAlarms", "AlarmTypes"),
    ];
    let mut whole = Vec::new();
    for (service, operation, inputs) in Aws::listings() {
        for input in inputs {
            let written = Aws::request(service, operation, &input);
            assert!(written.is_ok(), "{service} {operation} {input}: {written:?}");
            let named = WHOLE.iter().filter(|(of, called, _)| (*of, *called) == (service, operation));
            whole.extend(named.map(|(_, _, path)| {
                let values = path.split('.').fold(&input, |value, step| &value[step]);
                json!([service, operation, path, values])
            }));
        }
    }
    assert!(whole.len() >= WHOLE.len());
    let incomplete = python("calls.py", &[OsStr::new("every")], &json!(whole));
    assert_eq!(incomplete, json!([]));
}

#[test]
fn a_mistake_in_a_request_is_an_error_that_names_it() {
    let error = |input: Value| Aws::request("ec2", "DescribeVolumes", &input).unwrap_err();
    assert_eq!(error(json!({"VolumeId": "x"})), "DescribeVolumes has no parameter VolumeId");
    assert_eq!(
        error(json!({"VolumeIds": {"a": 1}})),
        "DescribeVolumes: VolumeId.1 is not of the form that the model defines"
    );
    assert!(Aws::request("ec2", "DescribeEverything", &json!({})).is_err());
    // A null is left out, and one value stands for a list of one.
    let written = Aws::request("ec2", "DescribeVolumes", &json!({"VolumeIds": "v", "NextToken": null})).unwrap();
    assert_eq!(written.body, "Action=DescribeVolumes&Version=2016-11-15&VolumeId.1=v");
}

/// AWS an hour ahead: like AWS it refuses a signature that is more than five minutes old. Counts what it refused.
async fn ahead(State(refused): State<Arc<AtomicUsize>>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let signed = headers["x-amz-date"].to_str().unwrap();
    let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", signed).unwrap();
    let signed = signed.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let (status, answer) = if now.duration_since(signed).abs() > jiff::SignedDuration::from_mins(5) {
        refused.fetch_add(1, Ordering::SeqCst);
        let error = "<Error><Code>SignatureDoesNotMatch</Code><Message>Signature expired</Message></Error>";
        (StatusCode::FORBIDDEN, format!("<ErrorResponse>{error}<Errors>{error}</Errors></ErrorResponse>"))
    } else if body.contains("GetCallerIdentity") {
        let result =
            "<Arn>arn:aws:iam::111122223333:user/u</Arn><UserId>U</UserId><Account>111122223333</Account>";
        let answer = format!("<GetCallerIdentityResult>{result}</GetCallerIdentityResult>");
        (StatusCode::OK, format!("<GetCallerIdentityResponse>{answer}</GetCallerIdentityResponse>"))
    } else {
        (StatusCode::OK, "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>".to_owned())
    };
    (status, [("date", date), ("content-type", "text/xml".to_owned())], answer)
}

#[tokio::test]
async fn calls_are_signed_with_the_time_of_the_cloud_and_the_next_session_knows_it() {
    let refused = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(ahead).with_state(refused.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let target = AccountTarget {
        account: None,
        provider: "aws".into(),
        access: access(keys("id", "secret"), None),
        endpoint: url.as_str().into(),
        include_regions: vec![Region::new("eu-west-1")],
        exclude_regions: Vec::new(),
    };
    let provider = Aws::new(1.0);
    let mut refusals = Vec::new();
    for _ in 0..2 {
        let session = provider.connect(&target).await.expect("it signs again");
        let scope = Scope {
            provider: "aws".into(),
            partition: session.identity().partition.clone(),
            endpoint: url.as_str().into(),
            account: session.identity().account.clone(),
            region: Region::new("eu-west-1"),
            resource_type: ResourceType::new("AWS::EC2::Volume"),
        };
        let listing = Listing::of(session.list(&scope)).await;
        assert!(listing.error.is_none(), "{:?}", listing.error);
        assert!(session.skew_millis() > 3_000_000, "{}", session.skew_millis());
        refusals.push(refused.load(Ordering::SeqCst));
    }
    assert_eq!(refusals, [1, 1], "one call learned it for all");
    serving.abort();
}
