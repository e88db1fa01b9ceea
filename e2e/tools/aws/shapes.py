#!/usr/bin/env python3
"""Writes src/cloud/aws/shapes.json: how a response body on the wire becomes the object that
`aws <service> describe-...` prints, for the operations that Elava reads with.

The source is botocore's service models in the emulator's pinned environment, the same that the AWS
CLI is built on. `make generate` runs this; CI fails when the committed file differs.
"""
import json
import sys

import botocore.session

OPERATIONS = {
    "ec2": [
        "DescribeAddresses", "DescribeImages", "DescribeInstances", "DescribeInternetGateways",
        "DescribeKeyPairs", "DescribeLaunchTemplates", "DescribeNatGateways", "DescribeNetworkInterfaces",
        "DescribeRegions", "DescribeRouteTables", "DescribeSecurityGroups", "DescribeSnapshots",
        "DescribeSubnets", "DescribeTags", "DescribeVolumes", "DescribeVpcs",
    ],
    "rds": ["DescribeDBInstances", "ListTagsForResource"],
    "s3": ["GetBucketLocation", "GetBucketTagging", "ListBuckets"],
}
SCALARS = {
    "string": "string", "character": "string", "blob": "string", "boolean": "boolean", "integer": "integer",
    "long": "integer", "float": "float", "double": "float", "timestamp": "timestamp",
}


def describe(shape, shapes):
    """The name under which `shape` can be looked up: a scalar's kind, or an entry of `shapes`."""
    if shape.type_name in SCALARS:
        return SCALARS[shape.type_name]
    if shape.name in shapes:
        return shape.name
    entry = shapes[shape.name] = {}
    wire = shape.serialization
    if shape.type_name == "structure":
        entry["members"] = {
            # An unflattened list wraps its items in an element of the member's own name; a flattened
            # one repeats the element, named by the list's member where that has a name.
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
            }
        table[service] = {"operations": outputs, "shapes": dict(sorted(shapes.items()))}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
