"""Pages through DescribeInstances with boto3: pager.py URL ACCOUNTS REGION..."""
import json
import resource
import sys
import time

import boto3

url, accounts, regions = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
started = time.monotonic()
seen = 0
for number in range(accounts):
    account = 100_000_000_000 + number
    for region in regions:
        ec2 = boto3.client(
            "ec2", endpoint_url=url, region_name=region,
            aws_access_key_id=f"ELAVA{account:012}", aws_secret_access_key="secret",
        )
        for page in ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000}):
            seen += sum(len(r["Instances"]) for r in page["Reservations"])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "seen": seen,
    "seconds": time.monotonic() - started,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "peak_mb": used.ru_maxrss / 1024,
}))
