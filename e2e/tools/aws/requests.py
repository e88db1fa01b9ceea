#!/usr/bin/env python3
"""Checks requests against the service models: requests.py LOG, with lines that recorded/serve.py writes.

Prints {"operations": [...], "wrong": [...], "unset": [...]}: the requested operations, numbers outside the bounds of
the model, and members that control what a listing hides and that no request of the operation sets. It runs on the
emulator's Python, whose botocore is the one that the AWS CLI is built on.
"""
import json
import re
import sys

import botocore.session

session = botocore.session.Session()
# Matched by name, or by documentation that describes what is left out by default.
HIDING = re.compile(r"^(include|show)|deleted", re.I)
BY_DEFAULT = re.compile(r"(default[^.]{0,120}(not included|excluded|not returned|only))|(not (included|returned|listed)[^.]{0,60}unless)", re.I)

asked = {}
for line in open(sys.argv[1]):
    request = json.loads(line)
    asked.setdefault((request["service"], request["operation"]), []).append(request["params"])

wrong, unset = [], []
for (service, operation), requests in sorted(asked.items()):
    shape = session.get_service_model(service).operation_model(operation).input_shape
    if shape is None:
        continue
    names = {}
    for member, value in shape.members.items():
        wire = value.serialization.get("name", member)
        for name in {member, wire, wire[:1].upper() + wire[1:], value.serialization.get("locationName", member)}:
            names[name.lower()] = member
        if value.type_name == "list":
            item = value.member.serialization.get("name")
            if item:
                names[item.lower()] = member
    used = set()
    for params in requests:
        for path, value in params:
            member = names.get(path.split(".")[0].lower())
            if member is None:
                continue
            used.add(member)
            bounds = shape.members[member].metadata
            if shape.members[member].type_name in ("integer", "long") and "." not in path:
                if not bounds.get("min", -(1 << 62)) <= int(value) <= bounds.get("max", 1 << 62):
                    wrong.append(f"{service}.{operation}.{member}: {value} is not within {bounds}")
    for member, value in shape.members.items():
        told = re.sub(r"<[^>]+>", "", value.documentation or "")
        if member not in used and (HIDING.search(member) or BY_DEFAULT.search(told)):
            unset.append(f"{service}.{operation}.{member}")
json.dump({"operations": [".".join(key) for key in sorted(asked)], "wrong": sorted(set(wrong)), "unset": unset}, sys.stdout)
