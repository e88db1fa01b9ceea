#!/usr/bin/env python3
"""Serves recorded responses of real AWS on the wire: one account, one region, the union of all recordings.

    serve.py answers.jsonl.gz [PORT]      on the emulator's Python (botocore's models, moto's serializers)

Prints "ready" on standard error. Items of several recordings with the same id are served as they were recorded, so an
id can appear twice in a listing. The tags of an id are one recorded response of the call, chosen by the id.
"""
import base64, datetime, gzip, hashlib, http.server, json, os, re, sys, threading, urllib.parse
import botocore.session
from moto.core.model import ServiceModel
from moto.core import serialize
ACCOUNT, REGION = "644160558196", "us-east-1"
CORPUS = sys.argv[1]; PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 5777
session = botocore.session.Session(); loader = session.get_component("data_loader")
MODELS = {}
for name in session.get_available_services():
    MODELS[name] = ServiceModel(loader.load_service_model(name, "service-2"), name)
by_prefix = {}
for name, m in MODELS.items(): by_prefix.setdefault(m.endpoint_prefix, []).append(name)

def plain(v, shape=None):
    if isinstance(v, dict):
        if v.get("__class__") == "datetime" or v.get("class") == "datetime":
            return datetime.datetime(v["year"], v["month"], v["day"], v.get("hour", 0), v.get("minute", 0), v.get("second", 0), v.get("microsecond", 0), tzinfo=datetime.timezone.utc)
        return {k: plain(x) for k, x in v.items()}
    if isinstance(v, list): return [plain(x) for x in v]
    return v

def shaped(v, shape):
    """The value with the types of the model; fields that the model does not define are left out."""
    t = shape.type_name
    if v is None: return None
    if t == "structure":
        if not isinstance(v, dict): return None
        return {k: y for k, x in v.items() if k in shape.members and (y := shaped(x, shape.members[k])) is not None}
    if t == "list": return [y for x in (v if isinstance(v, list) else [v]) if (y := shaped(x, shape.member)) is not None]
    if t == "map": return {k: y for k, x in v.items() if (y := shaped(x, shape.value)) is not None} if isinstance(v, dict) else None
    if t == "timestamp":
        if isinstance(v, datetime.datetime): return v
        if isinstance(v, (int, float)): return datetime.datetime.fromtimestamp(v, datetime.timezone.utc)
        from dateutil import parser
        try: d = parser.parse(str(v)); return d if d.tzinfo else d.replace(tzinfo=datetime.timezone.utc)
        except Exception: return None
    if t in ("integer", "long"):
        try: return int(v)
        except Exception: return None
    if t in ("float", "double"):
        try: return float(v)
        except Exception: return None
    if t == "boolean": return v if isinstance(v, bool) else str(v).lower() == "true"
    if t == "blob": return v.encode() if isinstance(v, str) else None
    if t == "string": return v if isinstance(v, str) else json.dumps(v) if isinstance(v, (dict, list)) else str(v)
    return v

RECORDED = {}
for line in gzip.open(CORPUS, "rt"):
    row = json.loads(line); prefix, op = row["operation"].rsplit(".", 1); data = plain(row["data"]); best = None
    if "Error" in data: continue
    for name in by_prefix.get(prefix, []):
        if op not in MODELS[name].operation_names: continue
        out = MODELS[name].operation_model(op).output_shape
        d = out and shaped(data, out)
        if d and (best is None or len(d) > len(best[1])): best = (name, d)
    if best: RECORDED.setdefault((best[0], op), []).append(best[1])

def lists(shape, path=()):
    return [k for k, s in shape.members.items() if s.type_name == "list"]

def merged(name, op):
    out = MODELS[name].operation_model(op).output_shape; total = {}
    def merge(a, b, shape):
        for k, v in b.items():
            if re.search(r"(next|continuation).*(token|marker)|^(next)?marker$|istruncated|hasmore", k, re.I): continue
            s = shape.members[k]
            if s.type_name == "list":
                have = a.setdefault(k, [])
                seen = {json.dumps(x, default=str, sort_keys=True) for x in have}
                for x in v:
                    j = json.dumps(x, default=str, sort_keys=True)
                    if j not in seen: seen.add(j); have.append(x)
            elif s.type_name == "structure" and isinstance(v, dict): merge(a.setdefault(k, {}), v, s)
            else: a.setdefault(k, v)
    for d in RECORDED[name, op]: merge(total, d, out)
    return total
MERGED = {k: merged(*k) for k in RECORDED}
pairs = MERGED.get(("ec2", "DescribeKeyPairs"), {}); pairs["KeyPairs"] = [x for x in pairs.get("KeyPairs", []) if "KeyPairId" in x]

def strings(v):
    if isinstance(v, dict):
        for x in v.values(): yield from strings(x)
    elif isinstance(v, list):
        for x in v: yield from strings(x)
    elif isinstance(v, str): yield v

def top(v):
    """The strings that identify an object itself, not those of nested references."""
    return {x for x in v.values() if isinstance(x, str)} if isinstance(v, dict) else {v} if isinstance(v, str) else set()

PAGE = re.compile(r"^(max.*|limit|pagesize|nexttoken|marker|token|starting.*|exclusive.*|position|action|version|maxitems)$", re.I)

class NotFound(Exception): pass
CALLS = []
LOCK = threading.Lock()

def answer(name, op, params):
    """params: flat (path, value) pairs of the request."""
    if (name, op) == ("sts", "GetCallerIdentity"): return {"Account": ACCOUNT, "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/r/s", "UserId": "AIDA"}
    if op == "DescribeRegions": return {"Regions": [{"RegionName": REGION, "Endpoint": "x", "OptInStatus": "opt-in-not-required"}]}
    m = MODELS[name].operation_model(op)
    wanted = {v for k, v in params if not PAGE.match(k.split(".")[0]) and not re.search(r"Filter|Owner|Include|include|AttributeName|AlarmTypes|Type$|^State|ALL|status", k) and isinstance(v, str) and v not in ("self", "All", "true", "false", "TAGS")}
    if (name, op) not in RECORDED:
        if m.output_shape is None: return {}
        if wanted and not re.search("Tag", op): raise NotFound
        return {}
    if "Tag" in op and wanted:
        rows = RECORDED[name, op]; i = int(hashlib.md5(min(wanted).encode()).hexdigest(), 16) % len(rows); return rows[i]
    data = MERGED[name, op]
    if not wanted: return paged(name, op, data, dict(params))
    ls = [k for k in lists(m.output_shape) if isinstance(data.get(k), list)]
    if ls:
        hit = {}
        for k in ls:
            if name == "ec2" and op == "DescribeInstances":
                hit[k] = [dict(r, Instances=[i for i in r["Instances"] if i["InstanceId"] in wanted]) for r in data[k] if any(i["InstanceId"] in wanted for i in r.get("Instances", []))]
            else:
                hit[k] = [x for x in data[k] if top(x) & wanted]
        if any(hit.values()): return {**{k: v for k, v in data.items() if k not in ls}, **hit}
        # Listed within a parent (the services of a cluster): the union for every parent.
        if re.match("List", op): return data
        raise NotFound
    for row in RECORDED[name, op]:
        if wanted & set(strings(row)): return row
    if re.search("Attributes|Location|Tagging|Policy|Versioning|Encryption", op):
        rows = RECORDED[name, op]; i = int(hashlib.md5(min(wanted).encode()).hexdigest(), 16) % len(rows); return rows[i]
    raise NotFound

def paged(name, op, data, params):
    try: p = loader.load_service_model(name, "paginators-1")["pagination"][op]
    except Exception: return data
    keys = p["result_key"]; key = keys if isinstance(keys, str) else keys[0]
    tin, tout = p["input_token"], p["output_token"]
    if not isinstance(tin, str): return data
    if not isinstance(tout, str): tout = tout[0]
    tout = tout.split("||")[0].strip().split("[")[0]
    if "." in key or "." in tout:
        return data
    size = next((int(v) for k, v in params.items() if k == p.get("limit_key")), None)
    start = next((v for k, v in params.items() if k == tin), None)
    items = data.get(key, [])
    if not isinstance(items, list): return data
    n = int(start) if start and str(start).isdigit() else 0
    size = min(size or 7, 7)
    page = {**data, key: items[n:n + size]}
    if n + size < len(items):
        page[tout] = str(n + size)
        for more in [p.get("more_results")]:
            if more and "." not in more: page[more] = True
    elif p.get("more_results") and "." not in p["more_results"]: page[p["more_results"]] = False
    return page

def route(handler, body):
    auth = handler.headers.get("Authorization", ""); m = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", auth)
    signing = m[2] if m else "sts"
    names = [n for n, x in MODELS.items() if x.signing_name == signing] or by_prefix.get(signing, [])
    url = urllib.parse.urlsplit(handler.path); query = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
    target = handler.headers.get("X-Amz-Target")
    if target:
        prefix, op = target.rsplit(".", 1)
        for n in names:
            if MODELS[n].metadata.get("targetPrefix") == prefix and op in MODELS[n].operation_names:
                return n, op, list(flat(json.loads(body or b"{}")))
    if signing == "s3" and url.path == "/" : return "s3", "ListBuckets", [(k, v) for k, v in query if k != "x-id"]
    form = urllib.parse.parse_qsl(body.decode("latin1"), keep_blank_values=True) if b"Action=" in body else []
    action = dict(form).get("Action")
    if action:
        version = dict(form).get("Version")
        for n in names:
            if action in MODELS[n].operation_names and MODELS[n].api_version == version: return n, action, form
    best = None
    for n in names:
        x = MODELS[n]
        if x.protocol not in ("rest-json", "rest-xml") : continue
        for op in x.operation_names:
            h = x.operation_model(op).http; uri, _, q = h["requestUri"].partition("?")
            if h["method"] != handler.command: continue
            pat = "/".join(re.escape(s) if not s.startswith("{") else "(.+)" if s.endswith("+}") else "([^/]+)" for s in uri.rstrip("/").split("/"))
            mm = re.fullmatch(pat + "/?", url.path.rstrip("/") or "")
            need = set(k.split("=")[0] for k in q.split("&") if k)
            have = {k for k, _ in query}
            if mm and need <= have:
                score = (len(need), -uri.count("{"), -len([k for k in have - need if k not in ("x-id",)]) * 0)
                if best is None or score > best[0]:
                    params = [(f"path{i}", urllib.parse.unquote(g)) for i, g in enumerate(mm.groups())] + [(k, v) for k, v in query if k not in need and k != "x-id"]
                    if body and body[:1] == b"{": params += list(flat(json.loads(body)))
                    best = (score, n, op, params)
    return best[1:] if best else (None, None, None)

def flat(v, path=""):
    if isinstance(v, dict):
        for k, x in v.items(): yield from flat(x, f"{path}.{k}" if path else k)
    elif isinstance(v, list):
        for i, x in enumerate(v): yield from flat(x, f"{path}.{i}")
    else: yield path, v

class Failure(Exception): pass
def failure(code, message, status=400):
    e = type(code, (Exception,), {})(message); e.code = code; e.message = message; return e

# The serializer names S3's documents after their shapes; S3 does not.
S3_ROOTS = [("ListBucketsResponse", "ListAllMyBucketsResult"), ("GetBucketTaggingResponse", "Tagging"), ("GetBucketLocationResponse", "LocationConstraint")]
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name, op, params = route(self, body)
        CALLS.append((name, op))
        self.call = {"service": name, "operation": op, "params": [[k, v] for k, v in params]}
        if not name:
            print("unrouted", self.command, self.path, self.headers.get("X-Amz-Target"), body[:120], file=sys.stderr); self.reply(404, b"", {}); return
        om = MODELS[name].operation_model(op)
        if om.input_shape is not None:
            located = {m.serialization.get("name", k): k for k, m in om.input_shape.members.items()}
            params = [(located.get(k, k), v) for k, v in params]
        # CloudWatch has several protocols.
        protocol = "json" if self.headers.get("X-Amz-Target") else MODELS[name].protocol
        s = serialize.get_serializer_class(name, protocol)(operation_model=om)
        try: r = s.serialize(answer(name, op, params))
        except NotFound if name == "ecs" else ():
            one = next((v for k, v in params if k in ("clusters.0", "services.0")), "")
            r = s.serialize({"clusters": [], "services": [], "failures": [{"arn": one, "reason": "MISSING"}]})
        except NotFound:
            codes = [e.metadata.get("error", {}).get("code") or e.name for e in om.error_shapes]
            code = next((c for c in codes if re.search("NotFound|NoSuch|DoesNotExist|NonExist", c)), None)
            if name == "sagemaker": code = "ValidationException"
            code = code or {"ec2": "InvalidID.NotFound"}.get(name, "ResourceNotFoundException")
            if os.environ.get("VERBOSE"): print("notfound", name, op, params, code, file=sys.stderr)
            try: r = s.serialize(failure(code, "Could not find it" if name == "sagemaker" else "not found"))
            except Exception as e: print("cannot say", name, op, code, repr(e)[:100], file=sys.stderr); self.reply(400, b"", {}); return
        except Exception as e:
            import traceback; print("broken", name, op, traceback.format_exc()[-700:], file=sys.stderr); self.reply(500, b"", {}); return
        b = r["body"]; b = b.encode() if isinstance(b, str) else b
        for said, meant in S3_ROOTS if name == "s3" else (): b = b.replace(f"<{said}>".encode(), f"<{meant}>".encode()).replace(f"</{said}>".encode(), f"</{meant}>".encode())
        if (name, op) == ("s3", "GetBucketLocation"): b = re.sub(rb"<LocationConstraint>\s*<LocationConstraint>(.*?)</LocationConstraint>\s*</LocationConstraint>", rb"<LocationConstraint>\1</LocationConstraint>", b)
        self.reply(r["status_code"], b, r["headers"])
    def reply(self, status, body, headers):
        if self.call["service"] and os.environ.get("REQUESTS"):
            answer = {"status": status, "headers": {k: str(v) for k, v in headers.items()}, "body": base64.b64encode(body).decode()}
            with LOCK, open(os.environ["REQUESTS"], "a") as log: print(json.dumps({**self.call, "answer": answer}, default=str), file=log)
        self.send_response(status)
        for k, v in headers.items(): self.send_header(k, str(v))
        self.send_header("Content-Length", str(len(body))); self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_HEAD = do
if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), H)
    print("ready", len(RECORDED), "operations", file=sys.stderr, flush=True)
    server.serve_forever()
