#!/usr/bin/env bash
# safetensors 0.8.0 with torch: tensors that were loaded long ago change when their file is overwritten.
#
# load_file returns ordinary CPU tensors, and the `with safe_open` block is closed, so one would guess that they own their
# memory, as after torch.load. But they lie in a private mapping of the file, whose pages show what is written to it:
# copying another checkpoint over the file (cp, shutil.copyfile: the same inode) changes the weights of a model that is
# already in use, in part or as a whole, without an error. safetensors.numpy.load_file and
# safetensors.torch.load(bytes) copy. Writing to a tensor does not change the file. A new file that is renamed over the
# old one (os.replace) is safe, since the mapping keeps the old one.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import shutil

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

names = "old.safetensors", "new.safetensors"
for value, name in enumerate(names):
    safetensors.torch.save_file({"weight": torch.full((50_000,), float(value))}, name)


def loaded():
    with safe_open("used.safetensors", "pt") as file:
        opened = file.get_tensor("weight")
    with open("used.safetensors", "rb") as file:
        parsed = safetensors.torch.load(file.read())["weight"]
    return {
        "torch load_file": safetensors.torch.load_file("used.safetensors")["weight"],
        "safe_open": opened,
        "numpy load_file": safetensors.numpy.load_file("used.safetensors")["weight"],
        "torch load of bytes": parsed,
    }


def means(tensors):
    return {name: float(tensor.mean()) for name, tensor in tensors.items()}


shutil.copyfile("old.safetensors", "used.safetensors")
weights = loaded()
print("loaded:", means(weights))
assert set(means(weights).values()) == {0.0}
shutil.copyfile("new.safetensors", "used.safetensors")
print("after another checkpoint was copied over the file:", means(weights))
assert means(weights) == {"torch load_file": 1, "safe_open": 1, "numpy load_file": 0, "torch load of bytes": 0}

shutil.copyfile("old.safetensors", "used.safetensors")
weights = loaded()
os.replace("new.safetensors", "used.safetensors")
print("after another file was renamed over it:", means(weights))
assert set(means(weights).values()) == {0.0}
PYTHON
