//! The types, one file per service. A type is one declaration. What the rules know of a type (its references, its parents,
//! when it is unused) is in `facts`.

mod acm;
mod apigateway;
mod autoscaling;
mod backup;
mod cloudformation;
mod cloudfront;
mod cloudwatch;
mod dynamodb;
mod ec2;
mod ecr;
mod ecs;
mod efs;
mod eks;
mod elasticache;
mod elbv2;
mod emr;
mod fsx;
mod iam;
mod kafka;
mod kinesis;
mod kms;
mod lambda;
mod logs;
mod opensearch;
mod rds;
mod redshift;
mod route53;
mod s3;
mod sagemaker;
mod secretsmanager;
mod sns;
mod sqs;
mod stepfunctions;

use super::declare::Declaration;

/// All types, by service.
pub(super) const TYPES: &[&[Declaration]] = &[
    acm::TYPES,
    apigateway::TYPES,
    autoscaling::TYPES,
    backup::TYPES,
    cloudformation::TYPES,
    cloudfront::TYPES,
    cloudwatch::TYPES,
    dynamodb::TYPES,
    ec2::TYPES,
    ecr::TYPES,
    ecs::TYPES,
    efs::TYPES,
    eks::TYPES,
    elasticache::TYPES,
    elbv2::TYPES,
    emr::TYPES,
    fsx::TYPES,
    iam::TYPES,
    kafka::TYPES,
    kinesis::TYPES,
    kms::TYPES,
    lambda::TYPES,
    logs::TYPES,
    opensearch::TYPES,
    rds::TYPES,
    redshift::TYPES,
    route53::TYPES,
    s3::TYPES,
    sagemaker::TYPES,
    secretsmanager::TYPES,
    sns::TYPES,
    sqs::TYPES,
    stepfunctions::TYPES,
];
