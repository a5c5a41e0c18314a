"""Reads `pip index versions torch` and prints the last patch release of every supported minor one, a line each."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from _build.sources import OLDEST_TORCH

listed = re.search(r"^Available versions: (.*)$", sys.stdin.read(), flags=re.M)
if listed is None:
    sys.exit("pip index versions torch lists nothing")
newest = {}
for release in listed[1].split(", "):
    if match := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", release):
        minor, patch = (int(match[1]), int(match[2])), int(match[3])
        if minor >= OLDEST_TORCH:
            newest[minor] = max(patch, newest.get(minor, 0))
print("\n".join(f"{major}.{minor}.{newest[major, minor]}" for major, minor in sorted(newest)))
