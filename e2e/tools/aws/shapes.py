#!/usr/bin/env python3
"""Writes two tables of the operations that Elava calls into a folder (src/cloud/aws):

- shapes.json: how a response body on the wire becomes the object that `aws <service> describe-...` prints;
- calls.json: how a request is written (protocol, names on the wire), and the endpoints that are not
  https://PREFIX.REGION.SUFFIX.

The source is botocore's service models in the emulator's pinned environment, which the AWS CLI is
built on. `make generate` runs this; CI fails if a committed file differs.
"""
import collections
import json
import os
import sys

import botocore.session
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError

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
    "lambda": ["ListFunctions", "ListTags"],
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
# Operations that only show whether something exists: nothing of their answers is kept.
EXISTENCE = {
    "cloudfront": ["GetDistribution"],
    "lambda": ["GetFunctionConfiguration"],
    "secretsmanager": ["DescribeSecret"],
    "stepfunctions": ["DescribeStateMachine"],
}
# The protocols that requests can be written in, the preferred one first.
PROTOCOLS = ["json", "rest-json", "rest-xml", "query", "ec2"]
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


def request_shape(shape, shapes, protocol):
    """The reference to an input shape, as `describe` has it for outputs."""
    if shape.type_name in SCALARS:
        return SCALARS[shape.type_name]
    if shape.name in shapes:
        return shape.name
    entry = shapes[shape.name] = {}
    if shape.type_name == "structure":
        entry["members"] = {
            name: {
                "at": member.serialization.get("location", "body"),
                "wire": request_name(name, member, protocol),
                "of": request_shape(member, shapes, protocol),
            }
            for name, member in sorted(shape.members.items())
        }
    elif shape.type_name == "list":
        entry["list"] = request_shape(shape.member, shapes, protocol)
        # The element around each item: none in EC2's protocol, or if the list is flattened.
        is_bare = protocol == "ec2" or shape.serialization.get("flattened")
        entry["item"] = None if is_bare else shape.member.serialization.get("name", "member")
    else:
        sys.exit(f"shapes.py: {shape.name} is a {shape.type_name}, which no request can be written with")
    return shape.name


def request_name(name, member, protocol):
    wire = member.serialization
    if protocol == "ec2":
        if "queryName" in wire:
            return wire["queryName"]
        name = wire.get("name", name)
        return name[0].upper() + name[1:]
    is_flattened = member.type_name == "list" and wire.get("flattened")
    if protocol == "query" and is_flattened and "name" in member.member.serialization:
        return member.member.serialization["name"]
    return wire.get("name", name)


class Endpoints:
    """The endpoints of a service, as the AWS CLI resolves them."""

    VARIANTS = {"": (False, False), "fips": (True, False), "dualstack": (False, True), "fips+dualstack": (True, True)}

    def __init__(self, loader, service, model, static):
        self.partitions = loader.load_data("partitions")
        self.provider = EndpointProvider(loader.load_service_model(service, "endpoint-rule-set-1"), self.partitions)
        self.prefix = model.endpoint_prefix
        self.static = static

    def resolve(self, region, variant):
        """The URL and the region that is signed for, or None if there is no such endpoint."""
        fips, dual_stack = self.VARIANTS[variant]
        try:
            found = self.provider.resolve_endpoint(
                Region=region, UseFIPS=fips, UseDualStack=dual_stack, **self.static
            )
        except EndpointProviderError:
            return None
        schemes = found.properties.get("authSchemes", [{}])
        return found.url, schemes[0].get("signingRegion", region)

    def usual(self, partition, region, variant):
        fips, dual_stack = self.VARIANTS[variant]
        outputs = partition["outputs"]
        suffix = outputs["dualStackDnsSuffix" if dual_stack else "dnsSuffix"]
        return f"https://{self.prefix}{'-fips' if fips else ''}.{region}.{suffix}", region

    def odd(self):
        """Where the endpoint is not the usual one: by PARTITION/VARIANT or REGION/VARIANT, a template and the region
        that is signed for, if it is not the requested one."""
        odd = {}
        for partition in self.partitions["partitions"]:
            regions = sorted(region for region in partition["regions"] if not region.endswith("-global"))
            for variant in self.VARIANTS:
                def template(region, resolved):
                    if resolved is None:
                        return None
                    url, signed = resolved
                    return url.replace(region, "{region}"), None if signed == region else signed

                found = {region: template(region, self.resolve(region, variant)) for region in regions}
                usual = {region: template(region, self.usual(partition, region, variant)) for region in regions}
                # A global service is called alike in every region, also where its own region is called.
                common, _ = collections.Counter(found.values()).most_common(1)[0]
                if common is not None and common[1] is not None:
                    literal = common[0].replace("{region}", common[1])
                    same = {r: t and t[0].replace("{region}", r) == literal for r, t in found.items()}
                    if all(same.values()):
                        odd[f"{partition['id']}/{variant}"] = [literal, common[1]]
                        continue
                if common != usual[regions[0]]:
                    odd[f"{partition['id']}/{variant}"] = common and list(common)
                for region in regions:
                    if found[region] != common:
                        odd[f"{region}/{variant}"] = found[region] and list(found[region])
        return odd


def static_parameters(model, operations):
    """Parameters of the endpoint that the operations set; the same for all that Elava calls."""
    sets = []
    for name in operations:
        parameters = model.operation_model(name).static_context_parameters
        # Elava lists no directory buckets, which alone have control endpoints.
        relevant = [parameter for parameter in parameters if parameter.name != "UseS3ExpressControlEndpoint"]
        sets.append({parameter.name: parameter.value for parameter in relevant})
    return sets[0] if all(one == sets[0] for one in sets) else sys.exit(f"shapes.py: {model.service_name}: {sets}")


def calls_of(session, service, operations):
    model = session.get_service_model(service)
    metadata = model.metadata
    offered = metadata.get("protocols") or [metadata["protocol"]]
    protocol = next(protocol for protocol in PROTOCOLS if protocol in offered)
    shapes, calls = {}, {}
    for name in operations:
        operation = model.operation_model(name)
        shape = operation.input_shape
        calls[name] = {
            "method": operation.http["method"],
            "uri": operation.http["requestUri"],
            "input": request_shape(shape, shapes, protocol) if shape is not None else None,
        }
    loader = session.get_component("data_loader")
    static = static_parameters(model, operations)
    return {
        "protocol": protocol,
        "id": str(model.service_id),
        "version": metadata["apiVersion"],
        "prefix": model.endpoint_prefix,
        "signing": model.signing_name,
        "target": metadata.get("targetPrefix"),
        "json": metadata.get("jsonVersion"),
        "query_mode": "awsQueryCompatible" in metadata,
        "endpoints": Endpoints(loader, service, model, static).odd(),
        "operations": calls,
        "shapes": dict(sorted(shapes.items())),
    }


def partitions_of(session):
    table = []
    for partition in session.get_component("data_loader").load_data("partitions")["partitions"]:
        outputs = partition["outputs"]
        table.append({
            "id": partition["id"],
            "suffix": outputs["dnsSuffix"],
            "dualstack": outputs["dualStackDnsSuffix"],
        })
    return table


def write(folder, name, table):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1, sort_keys=True)
        file.write("\n")


def main(folder):
    session = botocore.session.get_session()
    table, services = {}, {}
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
        services[service] = calls_of(session, service, operations + EXISTENCE.get(service, []))
    write(folder, "shapes.json", table)
    write(folder, "calls.json", {"partitions": partitions_of(session), "services": services})


if __name__ == "__main__":
    main(sys.argv[1])
