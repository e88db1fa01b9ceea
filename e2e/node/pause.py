#!/usr/bin/env python3
"""pause.py OUT BINARY: builds the image of the container that holds a pod's namespaces."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "image"))
import build

root = build.Root()
root.add("pause", Path(sys.argv[2]).read_bytes(), 0o755)
build.image(sys.argv[1], "localhost/pause:1", [root], "/pause")
