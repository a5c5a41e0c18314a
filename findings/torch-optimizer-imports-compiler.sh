#!/usr/bin/env bash
# torch 2.13.0: a plain training loop loads the compiler (torch._dynamo and sympy) as soon as it makes an optimizer.
#
# `import torch` loads neither, and nothing here calls torch.compile, so one would guess that a program that only trains
# never pays for them. But the decorator on Optimizer.add_param_group imports torch._dynamo, to mark the method as not
# to be compiled, and the wrapper around Optimizer.step imports it again for a graph break. Making one SGD loads
# about 800 modules and takes about as long as `import torch` itself: 1.5 s, on every start of every worker process.
# forward and backward do not load it, and neither does clip_grad_norm_; updating a parameter by hand never does.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import sys
import time

start = time.perf_counter()
import torch

imported = time.perf_counter() - start


def loaded():
    return {name for name in ("torch._dynamo", "sympy") if name in sys.modules}


seen = {"import torch": loaded()}
weight = torch.nn.Parameter(torch.ones(3))
weight.square().sum().backward()
torch.nn.utils.clip_grad_norm_([weight], 1.0)
with torch.no_grad():
    weight -= 0.1 * weight.grad
seen["backward, clipping, an update by hand"] = loaded()
before, start = len(sys.modules), time.perf_counter()
optimizer = torch.optim.SGD([weight], lr=0.1)
made, modules = time.perf_counter() - start, len(sys.modules) - before
seen["torch.optim.SGD(...)"] = loaded()
print("torch", torch.__version__)
for what, names in seen.items():
    print(f"after {what}: {sorted(names) or 'neither is loaded'}")
print(f"SGD loaded {modules} modules in {made:.1f} s; import torch took {imported:.1f} s")
assert list(seen.values()) == [set(), set(), {"torch._dynamo", "sympy"}], seen
assert modules > 400, modules
PYTHON
