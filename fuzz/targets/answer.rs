//! Responses of a cloud: the first byte selects the operation, the rest is the body.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../src/cloud/aws/convert.rs"]
mod convert;

/// Two XML formats, and JSON.
const OPERATIONS: [(&str, &str); 6] = [
    ("ec2", "DescribeInstances"),
    ("ec2", "DescribeVolumes"),
    ("rds", "DescribeDBInstances"),
    ("s3", "ListBuckets"),
    ("dynamodb", "DescribeTable"),
    ("cloudwatch", "DescribeAlarms"),
];

fuzz_target!(|data: &[u8]| {
    if let Some((which, body)) = data.split_first() {
        let (service, operation) = OPERATIONS[usize::from(*which) % OPERATIONS.len()];
        let _ = convert::convert(service, operation, body);
    }
});
