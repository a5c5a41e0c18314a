"""Compiles every Triton kernel to machine code without a GPU, as its launchers would start it at the shapes below.

    python -m mmssl_fast.kernels.compile_gate [--arch 80 90 100] [--only NAME] [--jobs N] [--json FILE]

prints registers, spills and shared memory, and fails on a spill. The launchers run on "meta" tensors, so a launcher
that reads a value from the device fails too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import infonce, modality_attention
from .launch import Launch, recording

ARCHS = (80, 90, 100)
TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16",
    torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1",
}  # fmt: skip


class Report(NamedTuple):
    """What one kernel needs on one architecture; spills in bytes of stores and loads, shared memory in bytes."""

    case: str
    kernel: str
    arch: int
    warps: int
    registers: int
    stack: int
    shared: int


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _mix(dtype):
    q = meta(3, 16_384, 64, dtype=dtype)
    modality_attention.modality_mix(q, q, q, 4)
    modality_attention.modality_mix_bwd(meta(16_384, 256, dtype=dtype), q, q, q, 4)


def _infonce(users, anchors, d, dtype=torch.float32, tau=0.2, precision="tf32x3"):
    chosen, infonce.dot_precision = infonce.dot_precision, lambda dtype: precision
    try:
        h, e, ids = meta(users, d, dtype=dtype), meta(users, d, dtype=dtype), meta(anchors, dtype=torch.int64)
        term, lse = infonce.infonce(h, e, ids, tau, True)
        infonce.infonce_bwd(term, lse, h, e, ids, lse, tau, True)
    finally:
        infonce.dot_precision = chosen


CASES: dict[str, Callable[[], None]] = {
    "modality_mix float32": lambda: _mix(torch.float32),
    "modality_mix float64": lambda: _mix(torch.float64),
    "modality_mix bfloat16": lambda: _mix(torch.bfloat16),
    "infonce float32": lambda: _infonce(100_000, 1024, 64),
    "infonce float32 small tau": lambda: _infonce(100_000, 1024, 64, tau=0.005),
    "infonce float32 wide": lambda: _infonce(100_000, 1024, 256),
    "infonce tf32": lambda: _infonce(100_000, 1024, 64, precision="tf32"),
    "infonce tf32 wide": lambda: _infonce(100_000, 1024, 256, precision="tf32"),
    "infonce bf16 wide": lambda: _infonce(100_000, 1024, 256, precision="bf16"),
    "infonce bf16": lambda: _infonce(100_000, 1024, 64, precision="bf16"),
    "infonce float64": lambda: _infonce(100_000, 1024, 64, torch.float64),
}


def launches(case: str, arch: int) -> list[Launch]:
    """What the launchers of a case would start on an architecture."""
    with recording(arch) as found:
        CASES[case]()
    return found


def _source(launch: Launch) -> ASTSource:
    """A launch as Triton would specialise it: pointers and numbers by type and by divisibility by 16."""
    names = launch.kernel.arg_names
    signature, attrs = {}, {}
    for place, (name, value) in enumerate(zip(names, launch.args, strict=False)):
        if value is None:
            signature[name] = "constexpr"
            continue
        if isinstance(value, torch.Tensor):
            signature[name], aligned = TYPES[value.dtype], True
        elif isinstance(value, float):
            signature[name], aligned = "fp32", False
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0 and name not in launch.kernel.do_not_specialize
        if aligned:
            attrs[(place,)] = [["tt.divisibility", 16]]
    constants = {name: None for name, value in zip(names, launch.args, strict=False) if value is None}
    signature |= dict.fromkeys(launch.constants, "constexpr")
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants | launch.constants, attrs=attrs)


def compile_launch(case: str, launch: Launch, arch: int) -> Report:
    """Compiles one launch for one architecture and reads what it needs from the machine code."""
    binary = triton.compile(_source(launch), target=GPUTarget("cuda", arch, 32), options=launch.options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", text)}
    return Report(
        case, launch.kernel.fn.__name__, arch, launch.options["num_warps"],
        used["REG"], used["STACK"], binary.metadata.shared,
    )  # fmt: skip


def gate(cases: list[str], archs: tuple[int, ...] = ARCHS, jobs: int = 1) -> list[Report]:
    """Every distinct launch of the cases, compiled for every architecture."""
    work = []
    for case, arch in itertools.product(cases, archs):
        distinct = {(launch.kernel, str(launch.constants)): launch for launch in launches(case, arch)}
        work += [(case, launch, arch) for launch in distinct.values()]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda item: compile_launch(*item), work))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        print("compile_gate: TRITON_INTERPRET is set, which leaves nothing to compile; unset it", file=sys.stderr)
        return 2
    reports = gate([case for case in CASES if options.only in case], tuple(options.arch), options.jobs)
    print(f"{'case':32} {'kernel':32} {'sm':>4} {'warps':>5} {'registers':>9} {'stack B':>8} {'shared B':>9}")
    for r in reports:
        print(f"{r.case:32} {r.kernel:32} {r.arch:4} {r.warps:5} {r.registers:9} {r.stack:8} {r.shared:9}")
    if options.json:
        options.json.write_text(json.dumps([r._asdict() for r in reports], indent=1))
    spilled = [r for r in reports if r.stack]
    if spilled:
        print(f"compile_gate: {len(spilled)} kernels spill registers or keep an array in memory", file=sys.stderr)
    return bool(spilled)


if __name__ == "__main__":
    sys.exit(main())
