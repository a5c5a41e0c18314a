"""Fails unless every public op was measured: ``python .ci/check_benchmarks.py benchmarks.json``.

Public ops are what mmssl_fast exports from mmssl_fast/ops/<op>.py; benchmarks/bench_<op>.py measures them.
"""

import json
import re
import sys
from pathlib import Path

import mmssl_fast


def main(report):
    homes = [getattr(getattr(mmssl_fast, name), "__module__", None) or "" for name in mmssl_fast.__all__]
    ops = {home.removeprefix("mmssl_fast.ops.") for home in homes if home.startswith("mmssl_fast.ops.")}
    if not ops:
        sys.exit("mmssl_fast exports no op")
    names = [each["fullname"] for each in json.loads(Path(report).read_text())["benchmarks"]]
    measured = {match[1] for name in names if (match := re.search(r"bench_(\w+)\.py::", name))}
    if missing := sorted(ops - measured):
        sys.exit(f"no benchmark ran for {', '.join(missing)}: benchmarks/bench_<op>.py must hold one")
    print(f"{len(names)} benchmarks of {len(ops)} ops")


if __name__ == "__main__":
    main(sys.argv[1])
