#!/usr/bin/env python3
"""Makes calls to the emulator, for tests: one JSON object a line on standard input, one answer a line.

    {"url": ..., "region": ..., "keys": [ID, SECRET, TOKEN], "service": ..., "operation": ..., "input": {...}}
    {"answer": {...}} or {"error": "..."}
"""
import json
import sys

import botocore.session
from botocore import xform_name
from botocore.config import Config

session = botocore.session.get_session()
clients = {}
for line in sys.stdin:
    call = json.loads(line)
    key = (call["url"], call["region"], *call["keys"], call["service"])
    try:
        if key not in clients:
            identity, secret, token = call["keys"]
            clients[key] = session.create_client(
                call["service"], region_name=call["region"], endpoint_url=call["url"], aws_access_key_id=identity,
                aws_secret_access_key=secret, aws_session_token=token,
                config=Config(s3={"addressing_style": "path"}, parameter_validation=True),
            )
        answer = getattr(clients[key], xform_name(call["operation"]))(**call["input"])
        answer.pop("ResponseMetadata", None)
        result = {"answer": answer}
    except Exception as error:  # pylint: disable=broad-except
        result = {"error": f"{call['service']} {call['operation']}: {error}"}
    print(json.dumps(result, default=str), flush=True)
