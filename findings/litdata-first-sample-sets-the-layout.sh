#!/usr/bin/env bash
# litdata 0.2.76: the first sample written sets dtype and lengths for all; later samples are cut, filled up or
# read as other numbers.
#
# optimize() writes what a function returns, any nesting of dicts, tuples, lists and arrays, for a StreamingDataset. One
# would guess that a sample comes back as it was, or that one of another shape than the first is refused. The writer keeps
# the first sample's tree and the dtype of its arrays with one axis for all others, and checks neither
# (_serialize_with_data_format in streaming/writer.py zips values and formats):
# * (user, [items]) with the history [1, 2] first: [3, 4, 5, 6] comes back as [3, 4]. {"user": ..., "items": [...]} is
#   right, since such lists are stored as JSON, but with tuples it is cut as well.
# * {"items": (3, 4, 5, 6), "user": 1} becomes items (3, 4) and user 5, which is an item.
# * A shorter history is filled up: (4, 5) after (1, 2, 3) comes back as (4, 5, 0), and item 0 exists.
# * An int64 array after an int32 one is read as int32, [3, 0, 4, 0] for [3, 4]; float64 features after float32 ones as
#   float32, other numbers and twice as many. Arrays with two axes carry their dtype and are right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet litdata==0.2.76 numpy==2.4.6 torch==2.13.0
cd "$work"
cat >samples.py <<'PYTHON'
import numpy as np
import torch
from litdata import StreamingDataset, optimize

HISTORIES = [[1, 2], [3, 4, 5, 6], [8, 9, 10]]


def pair(i):
    return i, HISTORIES[i]


def record(i):
    return {"user": i, "items": HISTORIES[i]}


def items_first(i):
    return {"items": tuple(HISTORIES[i]), "user": i}


def shorter(i):
    return [(1, 2, 3), (4, 5), (6,)][i]


def ids(i):
    return np.array([3, 4], np.int64 if i == 1 else np.int32)


def features(i):
    return torch.tensor([0.5, 1.0], dtype=torch.float64 if i == 1 else torch.float32)


def matrix(i):
    return np.array([[3, 4]], np.int64 if i == 1 else np.int32)


def plain(sample):
    return sample.tolist() if hasattr(sample, "tolist") else sample


if __name__ == "__main__":
    seen = {}
    for function in (pair, record, items_first, shorter, ids, features, matrix):
        name = function.__name__
        optimize(fn=function, inputs=[0, 1, 2], output_dir=name, chunk_bytes="1MB", num_workers=1)
        stored = StreamingDataset(name)
        seen[name] = [plain(stored[i]) for i in range(3)]
        print(f"{name}: written {[plain(function(i)) for i in range(3)]}, read {seen[name]}")
    assert seen["record"] == [record(i) for i in range(3)] and seen["matrix"] == [[[3, 4]]] * 3
    assert seen["pair"] == [(0, [1, 2]), (1, [3, 4]), (2, [8, 9])]
    assert seen["items_first"] == [{"items": (1, 2), "user": 0}, {"items": (3, 4), "user": 5}, {"items": (8, 9), "user": 10}]
    assert seen["shorter"][:2] == [(1, 2, 3), (4, 5, 0)]
    assert seen["ids"] == [[3, 4], [3, 0, 4, 0], [3, 4]]
    assert seen["features"] == [[0.5, 1], [0, 1.75, 0, 1.875], [0.5, 1]]
PYTHON
HOME="$work" TMPDIR="$work" "$work/venv/bin/python" -W ignore samples.py 2>log | grep written || (cat log && exit 1)
