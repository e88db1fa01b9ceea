#!/usr/bin/env python3
"""Prints what could be declared as a resource type: candidates.py SERVICE...

For each listing without a required parameter: the call as src/cloud/aws/services declares it, where its items are, the
members of an item that look like its id, its creation time, its state and its tags, and the operation that describes one
item. A draft, from names: read the service's documentation before you declare anything from it.

    ~/.cache/elava/tools-*/aws/bin/python e2e/tools/aws/candidates.py memorydb
"""
import re
import sys

import botocore.session

session = botocore.session.get_session()
BIRTH = re.compile(r"^(creat\w*(time|date|at|timestamp|on)|(create|creation)(d?)(time|date|timestamp)?|starttime)$", re.I)


def first(value):
    return value[0] if isinstance(value, list) else value


def members(shape):
    return shape.members if shape.type_name == "structure" else {}


def of_item(item):
    found = {"id": [], "birth": [], "state": [], "tags": []}
    for name, member in members(item).items():
        if member.type_name == "string" and re.search(r"(^|[a-z])(arn|id|identifier|name)$", name, re.I):
            found["id"].append(name)
        if member.type_name == "timestamp" and BIRTH.match(name):
            found["birth"].append(name)
        if re.search(r"(status|state|lifecycle)$", name, re.I):
            found["state"].append(name)
        if re.search(r"^tag", name, re.I) and member.type_name in ("list", "map"):
            found["tags"].append(name)
    return found


def describing(model, singular):
    """Operations that take the id of one item: their names, with their required parameters and errors."""
    for name in model.operation_names:
        if re.match(rf"(Describe|Get){singular}(V2)?$", name, re.I):
            operation = model.operation_model(name)
            shape = operation.input_shape
            errors = [error.metadata.get("error", {}).get("code") or error.name for error in operation.error_shapes]
            absent = [code for code in errors if re.search("NotFound|NoSuch|DoesNotExist", code)]
            yield f"{name}({', '.join(shape.required_members if shape else [])}) absent: {', '.join(absent) or '?'}"


def listings(service):
    model = session.get_service_model(service)
    try:
        pages = session.get_paginator_model(service)._paginator_config
    except Exception:  # pylint: disable=broad-except
        pages = {}
    for name in model.operation_names:
        if not re.match(r"(List|Describe|Get)\w+", name):
            continue
        operation = model.operation_model(name)
        given, output = operation.input_shape, operation.output_shape
        if output is None or (given is not None and given.required_members):
            continue
        page = pages.get(name, {})
        lists = [member for member, shape in output.members.items() if shape.type_name == "list"]
        key = first(page.get("result_key", lists[0] if len(lists) == 1 else None))
        if not key or "." in key or key not in output.members or output.members[key].type_name != "list":
            continue
        call = f'call("{service}", "{name}")'
        token, size = first(page.get("input_token")), page.get("limit_key")
        if token and size:
            most = given.members[size].metadata.get("max", "?")
            call += f'.paged("{token}", "{size}", {most})'
        elif token:
            call += f'.with_token("{token}")'
        print(f"\n{call}")
        print(f'  items: ["{key}"]   next page: {first(page.get("output_token"))}')
        item = output.members[key].member
        for part, names in of_item(item).items():
            if names:
                print(f"  {part}: {', '.join(names)}")
        if not members(item):
            print("  an item is only a name")
        singular = re.sub(r"^(List|Describe|Get)", "", name)
        singular = re.sub(r"ies$", "y", singular) if singular.endswith("ies") else re.sub(r"s$", "", singular)
        for one in describing(model, singular):
            print(f"  {one}")


for service in sys.argv[1:]:
    listings(service)
