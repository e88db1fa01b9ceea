//! The types, one file per service. A type is one declaration; its call is usually `list!`. What the rules know of a type
//! (its references, its parents, when it is unused) is in `facts`.
//!
//! Without the feature `services` there is only EC2: enough for development and benchmarks.

#[cfg(feature = "services")]
mod acm;
#[cfg(feature = "services")]
mod apigateway;
#[cfg(feature = "services")]
mod autoscaling;
#[cfg(feature = "services")]
mod backup;
#[cfg(feature = "services")]
mod cloudformation;
#[cfg(feature = "services")]
mod cloudfront;
#[cfg(feature = "services")]
mod cloudwatch;
#[cfg(feature = "services")]
mod dynamodb;
mod ec2;
#[cfg(feature = "services")]
mod ecr;
#[cfg(feature = "services")]
mod ecs;
#[cfg(feature = "services")]
mod efs;
#[cfg(feature = "services")]
mod eks;
#[cfg(feature = "services")]
mod elasticache;
#[cfg(feature = "services")]
mod elbv2;
#[cfg(feature = "services")]
mod emr;
#[cfg(feature = "services")]
mod fsx;
#[cfg(feature = "services")]
mod iam;
#[cfg(feature = "services")]
mod kafka;
#[cfg(feature = "services")]
mod kinesis;
#[cfg(feature = "services")]
mod kms;
#[cfg(feature = "services")]
mod lambda;
#[cfg(feature = "services")]
mod logs;
#[cfg(feature = "services")]
mod opensearch;
#[cfg(feature = "services")]
mod rds;
#[cfg(feature = "services")]
mod redshift;
#[cfg(feature = "services")]
mod route53;
#[cfg(feature = "services")]
mod s3;
#[cfg(feature = "services")]
mod sagemaker;
#[cfg(feature = "services")]
mod secretsmanager;
#[cfg(feature = "services")]
mod sns;
#[cfg(feature = "services")]
mod sqs;
#[cfg(feature = "services")]
mod stepfunctions;

use super::declare::Declaration;

/// All types, by service.
pub(super) const TYPES: &[&[Declaration]] = &[
    #[cfg(feature = "services")]
    acm::TYPES,
    #[cfg(feature = "services")]
    apigateway::TYPES,
    #[cfg(feature = "services")]
    autoscaling::TYPES,
    #[cfg(feature = "services")]
    backup::TYPES,
    #[cfg(feature = "services")]
    cloudformation::TYPES,
    #[cfg(feature = "services")]
    cloudfront::TYPES,
    #[cfg(feature = "services")]
    cloudwatch::TYPES,
    #[cfg(feature = "services")]
    dynamodb::TYPES,
    ec2::TYPES,
    #[cfg(feature = "services")]
    ecr::TYPES,
    #[cfg(feature = "services")]
    ecs::TYPES,
    #[cfg(feature = "services")]
    efs::TYPES,
    #[cfg(feature = "services")]
    eks::TYPES,
    #[cfg(feature = "services")]
    elasticache::TYPES,
    #[cfg(feature = "services")]
    elbv2::TYPES,
    #[cfg(feature = "services")]
    emr::TYPES,
    #[cfg(feature = "services")]
    fsx::TYPES,
    #[cfg(feature = "services")]
    iam::TYPES,
    #[cfg(feature = "services")]
    kafka::TYPES,
    #[cfg(feature = "services")]
    kinesis::TYPES,
    #[cfg(feature = "services")]
    kms::TYPES,
    #[cfg(feature = "services")]
    lambda::TYPES,
    #[cfg(feature = "services")]
    logs::TYPES,
    #[cfg(feature = "services")]
    opensearch::TYPES,
    #[cfg(feature = "services")]
    rds::TYPES,
    #[cfg(feature = "services")]
    redshift::TYPES,
    #[cfg(feature = "services")]
    route53::TYPES,
    #[cfg(feature = "services")]
    s3::TYPES,
    #[cfg(feature = "services")]
    sagemaker::TYPES,
    #[cfg(feature = "services")]
    secretsmanager::TYPES,
    #[cfg(feature = "services")]
    sns::TYPES,
    #[cfg(feature = "services")]
    sqs::TYPES,
    #[cfg(feature = "services")]
    stepfunctions::TYPES,
];
