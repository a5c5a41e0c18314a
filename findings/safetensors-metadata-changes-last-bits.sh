#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0: the length of a metadata text decides the last bits of a loaded model's outputs.
#
# One would guess that files with the same tensors and different metadata load to models with the same outputs. The
# tensors are equal to the bit. But they lie where the file puts them, behind a header that is padded to 8 bytes: their
# address modulo 64, which is 0 for a tensor that torch allocates, is any multiple of 8. The matrix-vector product of
# torch's BLAS treats rows that begin at another offset in another order of summation. So F.linear of one row, and
# weight @ vector, have different last bits after a longer or shorter training note in the metadata, though each file
# gives the same bits every time. A product with several rows does not differ here, nor does bfloat16. clone() after
# loading takes the difference away.
#
# Prints what it sees and fails if that changes. Needs Python 3.11, a network, and an x86 processor for the last part.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

print("safetensors", version("safetensors"), "torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
torch.manual_seed(0)
torch.set_num_threads(1)
weight, inputs = torch.randn(1000, 96), torch.randn(7, 96)
offsets, results = [], {name: set() for name in ("one row", "weight @ vector", "seven rows", "one row, cloned")}
for length in range(0, 64, 8):
    save_file({"weight": weight}, "model.safetensors", {"note": "x" * length})
    loaded = load_file("model.safetensors")["weight"]
    assert loaded.equal(weight)
    offsets.append(loaded.data_ptr() % 64)
    for name, output in (
        ("one row", F.linear(inputs[:1], loaded)),
        ("weight @ vector", loaded @ inputs[0]),
        ("seven rows", F.linear(inputs, loaded)),
        ("one row, cloned", F.linear(inputs[:1], loaded.clone())),
    ):
        results[name].add(output.numpy().tobytes())
print("address modulo 64, for notes of 0, 8, ... 56 characters:", offsets)
print("different results of eight files:", {name: len(found) for name, found in results.items()})
assert sorted(offsets) == list(range(0, 64, 8))
assert len(results["one row, cloned"]) == len(results["seven rows"]) == 1
if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
    assert len(results["one row"]) > 1 and len(results["weight @ vector"]) > 1
PYTHON
