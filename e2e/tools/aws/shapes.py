#!/usr/bin/env python3
"""Writes src/cloud/aws/shapes.json: how a response body on the wire becomes the object that
`aws <service> describe-...` prints, for the operations that Elava calls.

The source is botocore's service models in the emulator's pinned environment, which the AWS CLI is
built on. `make generate` runs this; CI fails if the committed file differs.
"""
import json
import sys

import botocore.session

OPERATIONS = {
    "acm": ["DescribeCertificate", "ListCertificates", "ListTagsForCertificate"],
    "apigateway": ["GetRestApi", "GetRestApis"],
    "autoscaling": ["DescribeAutoScalingGroups"],
    "backup": ["ListBackupVaults", "ListTags"],
    "cloudformation": ["DescribeStacks"],
    "cloudfront": ["ListDistributions", "ListTagsForResource"],
    "cloudwatch": ["DescribeAlarms", "ListTagsForResource"],
    "dynamodb": ["DescribeTable", "ListTables", "ListTagsOfResource"],
    "ec2": [
        "DescribeAddresses", "DescribeCapacityReservations", "DescribeFlowLogs", "DescribeImages",
        "DescribeInstances", "DescribeInternetGateways", "DescribeKeyPairs", "DescribeLaunchTemplateVersions",
        "DescribeLaunchTemplates",
        "DescribeNatGateways", "DescribeNetworkAcls", "DescribeNetworkInterfaces",
        "DescribePlacementGroups", "DescribeRegions", "DescribeRouteTables", "DescribeSecurityGroups",
        "DescribeSnapshots", "DescribeSubnets", "DescribeTags", "DescribeTransitGatewayAttachments",
        "DescribeTransitGateways", "DescribeVolumes", "DescribeVpcEndpoints",
        "DescribeVpcPeeringConnections", "DescribeVpcs", "DescribeVpnConnections",
    ],
    "ecr": ["DescribeRepositories", "ListTagsForResource"],
    "ecs": ["DescribeClusters", "DescribeServices", "ListClusters", "ListServices"],
    "efs": ["DescribeFileSystems"],
    "eks": ["DescribeCluster", "DescribeNodegroup", "ListClusters", "ListNodegroups"],
    "elasticache": ["DescribeCacheClusters", "DescribeReplicationGroups", "ListTagsForResource"],
    "elbv2": [
        "DescribeListeners", "DescribeLoadBalancers", "DescribeTags", "DescribeTargetGroups", "DescribeTargetHealth",
    ],
    "emr": ["DescribeCluster", "ListClusters"],
    "fsx": ["DescribeFileSystems"],
    "iam": ["GetRole", "GetUser", "ListAccessKeys", "ListRoleTags", "ListRoles", "ListUserTags", "ListUsers"],
    "kafka": ["DescribeClusterV2", "ListClustersV2"],
    "kinesis": ["DescribeStreamSummary", "ListStreams", "ListTagsForStream"],
    "kms": ["DescribeKey", "ListKeys", "ListResourceTags"],
    "lambda": ["GetFunctionConfiguration", "ListFunctions", "ListTags"],
    "logs": ["DescribeLogGroups", "ListTagsForResource"],
    "opensearch": ["DescribeDomain", "ListDomainNames", "ListTags"],
    "organizations": ["ListAccounts", "ListAccountsForParent", "ListOrganizationalUnitsForParent"],
    "rds": [
        "DescribeDBClusterSnapshots", "DescribeDBClusters", "DescribeDBInstances", "DescribeDBSnapshots",
        "ListTagsForResource",
    ],
    "redshift": ["DescribeClusters"],
    "route53": ["GetHostedZone", "ListHostedZones", "ListTagsForResource"],
    "s3": ["GetBucketLocation", "GetBucketTagging", "ListBuckets"],
    "sagemaker": [
        "DescribeEndpoint", "DescribeNotebookInstance", "ListEndpoints", "ListNotebookInstances",
        "ListTags",
    ],
    "secretsmanager": ["ListSecrets"],
    "sns": ["GetTopicAttributes", "ListTagsForResource", "ListTopics"],
    "sqs": ["GetQueueAttributes", "ListQueueTags", "ListQueues"],
    "stepfunctions": ["ListStateMachines", "ListTagsForResource"],
}
SCALARS = {
    "string": "string", "character": "string", "blob": "string", "boolean": "boolean", "integer": "integer",
    "long": "integer", "float": "float", "double": "float", "timestamp": "timestamp",
}


def describe(shape, shapes):
    """The reference to `shape`: a scalar's kind, or the name of an entry of `shapes`."""
    if shape.type_name in SCALARS:
        return SCALARS[shape.type_name]
    if shape.name in shapes:
        return shape.name
    entry = shapes[shape.name] = {}
    wire = shape.serialization
    if shape.type_name == "structure":
        # A document is arbitrary JSON.
        if shape.is_document_type:
            del shapes[shape.name]
            return "document"
        entry["members"] = {
            # An unflattened list wraps its items in an element of the member's own name; a flattened list repeats the
            # element, which is named after the list's member if that has a name.
            name: [wire_name(name, member), describe(member, shapes)]
            for name, member in sorted(shape.members.items())
        }
    elif shape.type_name == "list":
        entry["item"] = describe(shape.member, shapes)
        entry["flattened"] = bool(wire.get("flattened"))
    elif shape.type_name == "map":
        entry["key"] = shape.key.serialization.get("name", "key")
        entry["value"] = [shape.value.serialization.get("name", "value"), describe(shape.value, shapes)]
        entry["flattened"] = bool(wire.get("flattened"))
    else:
        sys.exit(f"shapes.py: {shape.name} is a {shape.type_name}, which nothing here can convert")
    return shape.name


def wire_name(name, member):
    if member.type_name == "list" and member.serialization.get("flattened"):
        return member.member.serialization.get("name", member.serialization.get("name", name))
    return member.serialization.get("name", name)


def main(path):
    session = botocore.session.get_session()
    table = {}
    for service, operations in OPERATIONS.items():
        model = session.get_service_model(service)
        shapes, outputs = {}, {}
        for operation in operations:
            output = model.operation_model(operation).output_shape
            outputs[operation] = {
                "shape": describe(output, shapes),
                "wrapper": output.serialization.get("resultWrapper"),
                # The member that is the whole body.
                "payload": output.serialization.get("payload"),
            }
        table[service] = {"operations": outputs, "shapes": dict(sorted(shapes.items()))}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
