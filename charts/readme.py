#!/usr/bin/env python3
"""Writes charts/elava/README.md: every value with its default, and its comment in values.yaml."""
import re
from pathlib import Path

CHART = Path(__file__).resolve().parent / "elava"
HEAD = """<!-- Written by `make generate` from values.yaml. Do not edit. -->

# The chart `elava`

```sh
helm install elava charts/elava --namespace elava --create-namespace
```

[docs/install.md](../../docs/install.md) describes the settings for credentials, permissions, backups and upgrades.
`values.schema.json` validates all values: a misspelled one is refused.

| value | default | |
|---|---|---|
"""


def rows(lines):
    """(path, default, comment) of each value, in order."""
    path, comment = [], []
    for line in lines:
        text = line.strip()
        if not text:
            comment = []
        elif text.startswith("#"):
            comment.append(text.lstrip("# ").rstrip())
        elif found := re.match(r"^( *)([A-Za-z]+): ?(.*)$", line):
            depth = len(found[1]) // 2
            path = path[:depth] + [found[2]]
            yield ".".join(path), found[3], " ".join(comment)
            comment = []


def main():
    table = []
    for path, default, comment in rows((CHART / "values.yaml").read_text().splitlines()):
        if path == "resources":
            table.append(f"| `{path}` | see values.yaml | {comment} |")
        elif default == "":
            if comment:
                table.append(f"| **`{path}`** | | {comment} |")
        elif not path.startswith(("resources.requests", "resources.limits")):
            table.append(f"| `{path}` | `{default}` | {comment} |")
    (CHART / "README.md").write_text(HEAD + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
