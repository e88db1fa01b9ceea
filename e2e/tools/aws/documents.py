#!/usr/bin/env python3
"""Compares recorded resources with botocore: documents.py LOG < resources.json

LOG has the requests and responses that recorded/serve.py writes. Standard input is
{"types": [...], "resources": [...]}: the declarations (`Aws::paths` with `added`), and
{"type", "id", "tags", "attributes"} of the recorded resources. Each response is parsed by botocore's own parser, whose
result the AWS CLI prints; a resource must equal, field by field, one of the objects that were returned with its id,
without the fields that its declaration leaves out. Prints {"compared": N, "tags": N, "wrong": [...]}.
"""
import base64
import copy
import datetime
import json
import sys
import urllib.parse

import botocore.parsers
import botocore.session

session = botocore.session.Session()
given = json.load(sys.stdin)
types = {kind["type"]: kind for kind in given["types"]}
# Services whose IAM prefix differs from the name that requests are signed for.
SIGNED = {"cloudwatch": "monitoring"}
# Lists whose order is significant; the others are sets.
ORDERED = {"CacheBehaviors", "TerminationPolicies"}


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def parsed(call):
    model = session.get_service_model(call["service"])
    operation = model.operation_model(call["operation"])
    answer = call["answer"]
    headers = {key.lower(): value for key, value in answer["headers"].items()}
    # Elava prefers JSON where a service has several protocols.
    protocol = "json" if "json" in (model.metadata.get("protocols") or []) else model.metadata["protocol"]
    response = {
        "status_code": answer["status"], "headers": botocore.awsrequest.HeadersDict(headers),
        "body": base64.b64decode(answer["body"]), "context": {"operation_name": call["operation"]},
    }
    parser = botocore.parsers.create_parser(protocol)
    shape = operation.output_shape
    out = parser.parse(response, shape)
    out.pop("ResponseMetadata", None)
    return plain(out)


def remove(value, path):
    if isinstance(value, list):
        for inner in value:
            remove(inner, path)
    elif isinstance(value, dict):
        step, _, rest = path.partition(".")
        if rest:
            remove(value.get(step), rest)
        else:
            value.pop(step, None)


def ordered(value):
    if isinstance(value, dict):
        return {key: inner if key in ORDERED else ordered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((ordered(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


def at(value, path):
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def items(answer, path):
    level = [answer]
    for step in path:
        inner = [value.get(step) for value in level if isinstance(value, dict)]
        level = [one for value in inner for one in (value if isinstance(value, list) else [value])]
    return [value for value in level if isinstance(value, dict)]


def written(kind, found):
    """Converts an object to the form in which the type records it, where that differs from AWS's."""
    name = kind["type"]
    if name == "AWS::IAM::Role" and isinstance(found.get("AssumeRolePolicyDocument"), str):
        found["AssumeRolePolicyDocument"] = json.loads(urllib.parse.unquote(found["AssumeRolePolicyDocument"]))
    if name == "AWS::Route53::HostedZone":
        found["Id"] = found["Id"].split("/")[-1]
    if name == "AWS::MSK::Cluster":
        for field in ("ZookeeperConnectString", "ZookeeperConnectStringTls"):
            if field in found.get("Provisioned", {}):
                found["Provisioned"][field] = ",".join(sorted(found["Provisioned"][field].split(",")))
    for field, unit in (("creationTime", 1000), ("CreatedTimestamp", 1)):
        if name in ("AWS::Logs::LogGroup", "AWS::SQS::Queue") and field in found:
            moment = datetime.datetime.fromtimestamp(int(found[field]) / unit, datetime.timezone.utc)
            found[field] = moment.isoformat()
    return found


def cleaned(kind, found):
    found = written(kind, copy.deepcopy(found))
    for path in kind["volatile"] + kind["secret"] + list(kind["added"]) + ([kind["tags"]] if kind["tags"] else []):
        remove(found, path)
    passing = dict(zip(kind["passingStates"][::2], kind["passingStates"][1::2]))
    if kind["state"] and at(found, kind["state"]) in passing:
        inner = found
        *steps, last = kind["state"].split(".")
        for step in steps:
            inner = inner[step]
        inner[last] = passing[inner[last]]
    return ordered(found)


def tag_set(tags):
    if isinstance(tags, dict):
        return {key: value or "" for key, value in tags.items()}
    first = lambda tag, names: next((tag[name] for name in names if tag.get(name) is not None), "")
    return {first(tag, ["Key", "key", "TagKey"]): first(tag, ["Value", "value", "TagValue"]) for tag in tags or []}


def strings(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


calls = {}
seen = set()
for line in open(sys.argv[1]):
    if line in seen:
        continue
    seen.add(line)
    call = json.loads(line)
    if call["service"] == "sts":
        continue
    found = parsed(call)
    values = {value for _, value in call["params"] if isinstance(value, str)}
    # A call may belong to several services: RDS, DocumentDB and Neptune share theirs.
    signed = session.get_service_model(call["service"]).signing_name
    calls.setdefault(signed, []).append((call["operation"], values, call["answer"]["status"], found))

objects, tagged = {}, {}
for service, answers in calls.items():
    for operation, asked, status, found in answers:
        if "Tag" in operation:
            sets = found.get("TagDescriptions")
            if service == "ec2":
                for one in asked:
                    tags = [tag for tag in found.get("Tags", []) if tag["ResourceId"] == one]
                    tagged.setdefault((service, one), []).append(tag_set(tags))
            elif sets is not None:
                for one in sets:
                    tagged.setdefault((service, one["ResourceArn"]), []).append(tag_set(one.get("Tags")))
            else:
                holder = found.get("ResourceTagSet", found)
                holder = holder["Tags"]["Items"] if isinstance(holder.get("Tags"), dict) and "Items" in holder["Tags"] else \
                    next((holder[name] for name in ("Tags", "TagList", "TagSet", "tags") if name in holder), [])
                for value in asked:
                    tagged.setdefault((service, value), []).append(tag_set(holder))
            continue
        if status != 200:
            continue
        objects.setdefault(service, []).append((operation, asked, found))


def candidates(kind, resource):
    service = kind["actions"][0].split(":")[0]
    service = SIGNED.get(service, service)
    for operation, asked, found in objects.get(service, []):
        listed = items(found, kind["items"])
        others = [found]
        for inner in found.values():
            others += inner if isinstance(inner, list) else [inner]
        for one in listed + [one for one in others if isinstance(one, dict)]:
            if kind["type"] == "AWS::SQS::Queue" and operation == "GetQueueAttributes" and resource["id"] in asked:
                one = {**one, "QueueUrl": resource["id"]}
            if str(one.get(kind["id"], "")).split("/hostedzone/")[-1] == resource["id"]:
                yield one
            elif kind["id"] not in one and resource["id"] in asked and one is found.get("Attributes"):
                yield one


wrong, compared, compared_tags = [], 0, 0
for resource in given["resources"]:
    kind = types[resource["type"]]
    service = kind["actions"][0].split(":")[0]
    service = SIGNED.get(service, service)
    kept = ordered({key: value for key, value in resource["attributes"].items() if key not in kind["added"]})
    found = list(candidates(kind, resource))
    if not found:
        wrong.append(f"{resource['type']} {resource['id']}: no answer has it")
        continue
    clean = [cleaned(kind, one) for one in found]
    compared += 1
    if kept not in clean:
        nearest = min(clean, key=lambda one: len(set(map(str, one.items())) ^ set(map(str, kept.items()))))
        differs = {key: (kept.get(key), nearest.get(key)) for key in {*kept, *nearest} if kept.get(key) != nearest.get(key)}
        wrong.append(f"{resource['type']} {resource['id']}: {json.dumps(differs)[:600]}")
    if resource.get("tags") is None:
        continue
    sets = [tag_set(one.get(kind["tags"])) for one in found] if kind["tags"] else []
    if not kind["tags"] or not any(sets):
        # Early ElastiCache responses had no ARN for the tag call.
        names = {"", resource["id"], *strings(resource["attributes"])}
        names |= {name.removesuffix(":*") for name in names}
        sets += [one for name in names for one in tagged.get((service, name), [])]
    compared_tags += 1
    if resource["tags"] not in sets:
        wrong.append(f"{resource['type']} {resource['id']}: tags {json.dumps(resource['tags'])} are none of {json.dumps(sets)[:400]}")
json.dump({"compared": compared, "tags": compared_tags, "wrong": wrong}, sys.stdout, indent=1)
