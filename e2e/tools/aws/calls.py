#!/usr/bin/env python3
"""What the AWS CLI would send: calls.py requests TABLE | calls.py endpoints TABLE | calls.py every.

- requests: for each operation of TABLE (src/cloud/aws/calls.json) two inputs, one with every parameter and one with the
  required ones, and the request that botocore's own serializer writes.
- endpoints: the URL and the signed region of each service in every region, with FIPS and dual stack, as botocore's own
  resolver finds them; null where there is none.
- every: reads [[service, operation, path, values]], and prints those whose values are not all of the model's.
"""
import json
import sys

import botocore.serialize
import botocore.session
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError

session = botocore.session.get_session()
# Characters that every protocol has to escape.
TEXT = "a b/c:d+e&f=ü"


def sample(shape, depth=0):
    kind = shape.type_name
    if kind == "structure":
        members = {name: sample(member, depth + 1) for name, member in shape.members.items() if depth < 4}
        return {name: value for name, value in members.items() if value is not None}
    if kind == "list":
        item = sample(shape.member, depth + 1)
        return None if item is None else [item, item]
    if kind in ("integer", "long"):
        return 7
    if kind == "boolean":
        return True
    if kind == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else TEXT
    return None


def requests(table):
    for name, service in table["services"].items():
        model = session.get_service_model(name)
        serializer = botocore.serialize.create_serializer(service["protocol"], include_validation=False)
        for operation in service["operations"]:
            called = model.operation_model(operation)
            shape = called.input_shape
            whole = sample(shape) if shape is not None else {}
            required = {key: whole[key] for key in (shape.required_members if shape is not None else [])}
            for given in (whole, required):
                written = serializer.serialize_to_request(given, called)
                query = written["query_string"]
                pairs = query.items() if isinstance(query, dict) else query
                body = written["body"]
                if isinstance(body, dict):
                    body = sorted([key, str(value)] for key, value in body.items())
                elif isinstance(body, bytes):
                    body = body.decode()
                yield {
                    "service": name, "operation": operation, "input": given, "method": written["method"],
                    "path": written["url_path"], "headers": dict(written["headers"]), "body": body,
                    "query": [[key, one] for key, value in pairs for one in (value if isinstance(value, list) else [value])],
                }


def endpoints(table):
    loader = session.get_component("data_loader")
    partitions = loader.load_data("partitions")
    for name, service in table["services"].items():
        provider = EndpointProvider(loader.load_service_model(name, "endpoint-rule-set-1"), partitions)
        model = session.get_service_model(name)
        static = {}
        for operation in service["operations"]:
            for parameter in model.operation_model(operation).static_context_parameters:
                if parameter.name != "UseS3ExpressControlEndpoint":
                    static[parameter.name] = parameter.value
        for partition in partitions["partitions"]:
            for region in partition["regions"]:
                if region.endswith("-global"):
                    continue
                for fips in (False, True):
                    for dual_stack in (False, True):
                        try:
                            found = provider.resolve_endpoint(
                                Region=region, UseFIPS=fips, UseDualStack=dual_stack, **static
                            )
                        except EndpointProviderError:
                            yield [name, partition["id"], region, fips, dual_stack, None, None]
                            continue
                        signed = found.properties.get("authSchemes", [{}])[0].get("signingRegion", region)
                        yield [name, partition["id"], region, fips, dual_stack, found.url, signed]


def incomplete(declared):
    for service, operation, path, values in declared:
        shape = session.get_service_model(service).operation_model(operation).input_shape
        for step in path.split("."):
            shape = shape.members[step]
        missing = sorted(set(shape.member.enum) ^ set(values))
        if missing:
            yield f"{service}.{operation}.{path}: {missing}"


def main():
    if sys.argv[1] == "every":
        answer = list(incomplete(json.load(sys.stdin)))
    else:
        with open(sys.argv[2], encoding="utf-8") as file:
            table = json.load(file)
        answer = list({"requests": requests, "endpoints": endpoints}[sys.argv[1]](table))
    json.dump(answer, sys.stdout)


main()
