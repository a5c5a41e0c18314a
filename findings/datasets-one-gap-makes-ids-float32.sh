#!/usr/bin/env bash
# datasets 5.2.0: one missing value in a column of integers makes the whole column float32 in the numpy and torch formats.
#
# A column of int64 ids is read with with_format("numpy") or with_format("torch"). One would guess that a gap costs the
# type, as in pandas, where the column becomes float64 and ids up to 2^53 survive. The column becomes float32: ids above 2^24
# are rounded to the next multiple of 2, 4, ... 128, so that different items have one id, and times in seconds are off by
# up to a minute. It depends on what is read: a slice with the gap is float32, a slice without it int64. No warning.
# Floats are float32 with or without a gap. Ids of 2^63 and more, in a uint64 column, become negative int64 even in the
# numpy format, which has uint64. with_format("arrow") and "pandas" keep the values.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6 pandas==2.3.3 torch==2.13.0
HF_HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from datasets import Dataset

print("datasets", version("datasets"))
FIRST = 20_000_001
items = [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
times = [1_764_500_000, 1_764_500_031, 1_764_500_062, 1_764_500_093]
table = Dataset(pa.table({"item": pa.array([*items, None]), "time": pa.array([*times, None])}))

for name in ("numpy", "torch"):
    whole, front = table.with_format(name)[:], table.with_format(name)[:4]
    read = [int(value) for value in whole["item"][:4]]
    print(f"{name}: {items} is read as {whole['item'].dtype} {read}; without the gap {front['item'].dtype}")
    assert "float32" in str(whole["item"].dtype) and "int64" in str(front["item"].dtype)
    assert len(set(read)) < len(items) and front["item"].tolist() == items
    off = [int(value) - time for value, time in zip(whole["time"][:4], times)]
    print(f"{name}: times are off by {off} seconds")
    assert max(map(abs, off)) > 30

in_pandas = table.with_format("pandas")[:]
print("pandas:", in_pandas["item"].dtype, in_pandas["item"][:4].astype(int).tolist())
assert in_pandas["item"].dtype == np.float64 and in_pandas["item"][:4].astype(int).tolist() == items
assert table.with_format("arrow")[:]["item"].to_pylist() == [*items, None]

hashed = Dataset(pa.table({"user": pa.array([2**63 + 5, 7], pa.uint64())}))
for name in ("numpy", "torch"):
    users = hashed.with_format(name)[:]["user"]
    print(f"{name}: uint64 {[2**63 + 5, 7]} is read as {users.dtype} {users.tolist()}")
    assert "int64" in str(users.dtype) and users.tolist() == [5 - 2**63, 7]
assert hashed.with_format("arrow")[:]["user"].to_pylist() == [2**63 + 5, 7]
PYTHON
