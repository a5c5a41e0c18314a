#!/usr/bin/env bash
# onnxruntime 1.32.0: the maximum over an axis drops a NaN, unless the NaN stands first, so an exported model hides it.
#
# torch's amax, amin, max(dim), argmax, max-pooling and norm(p=inf) return NaN, or its position, wherever in a row it
# is. torch.onnx.export writes them as ReduceMax, ReduceMin, ArgMax and MaxPool. One would guess that NaN comes out
# there too, as it does from the sum, the sort and the TopK of the same model. But the first three keep a NaN only where
# it is the first value of the row. At any other place it is skipped, and the maximum of the other values comes out.
# MaxPool drops it even in first place. So a row that torch shows to be broken gets an ordinary maximum, and amax(1)
# and topk(1) of one model differ.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import logging
from math import isnan, nan

import onnxruntime
import torch
import torch.nn.functional as F

logging.getLogger("torch.onnx").setLevel(logging.ERROR)
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
NAMES = ("amax", "amin", "max", "argmax", "norm_inf", "max_pool", "topk", "sort", "sum")


class Reductions(torch.nn.Module):
    def forward(self, x):
        pooled = F.max_pool1d(x[:, None], 4)[:, 0, 0]
        most = x.amax(1), x.amin(1), x.max(1).values, x.argmax(1), x.norm(p=float("inf"), dim=1), pooled
        return *most, x.topk(1).values[:, 0], x.sort(1, descending=True).values[:, 0], x.sum(1)


rows = torch.tensor([[1, 2, nan, 3], [nan, 1, 2, 3], [1, 3, 2, nan], [1, 3, 2, 0]])
torch.onnx.export(Reductions(), (rows,), dynamo=True, verbose=False).save("model.onnx")
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
outputs = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
want = {name: value.tolist() for name, value in zip(NAMES, Reductions()(rows))}
got = {name: value.tolist() for name, value in zip(NAMES, outputs)}
for name in NAMES:
    print(f"{name:9} torch {want[name]}  onnxruntime {got[name]}")

for name in ("amax", "amin", "max", "norm_inf", "max_pool", "topk", "sort", "sum"):
    assert [isnan(value) for value in want[name]] == [True, True, True, False], name
for name in ("topk", "sort", "sum"):
    assert [isnan(value) for value in got[name]] == [True, True, True, False], name
for name, value in {"amax": 3, "amin": 1, "max": 3, "norm_inf": 3}.items():
    assert got[name][::2] == [value, value] and isnan(got[name][1]), name
assert got["max_pool"] == [3, 3, 3, 3]
assert want["argmax"] == [2, 0, 3, 1] and got["argmax"] == [3, 0, 1, 1]
PYTHON
