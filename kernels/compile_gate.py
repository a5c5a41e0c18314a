"""Compiles every Triton kernel to machine code without a GPU, for the arguments that its launcher uses at the shapes
below.

    python -m mmssl_fast.kernels.compile_gate [--arch 80 90 100] [--only NAME] [--once] [--jobs N] [--json FILE]

prints the registers, spills and shared memory of every kernel, and fails if a kernel spills registers. The launchers
run on "meta" tensors, so a launcher that reads a value from the device fails, too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import cosine_block, cosine_topk, gumbel_linear, infonce, modality_attention
from .launch import Launch, recording

ARCHS = (80, 90, 100)
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


class Report(NamedTuple):
    """The resources of one kernel on one architecture. `stack` (spilled registers) and `shared` are in bytes."""

    case: str
    kernel: str
    arch: int
    warps: int
    registers: int
    stack: int
    shared: int


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _mix(dtype: torch.dtype) -> None:
    q = meta(3, 16_384, 64, dtype=dtype)
    modality_attention.modality_mix(q, q, q, 4)
    modality_attention.modality_mix_bwd(meta(16_384, 256, dtype=dtype), q, q, q, 4)


def _infonce(users: int, anchors: int, d: int, dtype: torch.dtype = torch.float32, tau: float = 0.2) -> None:
    h, e, ids = meta(users, d, dtype=dtype), meta(users, d, dtype=dtype), meta(anchors, dtype=torch.int64)
    term, lse = infonce.infonce(h, e, ids, tau, True)
    infonce.infonce_bwd(term, lse, h, e, ids, lse, tau, True)


def _seen(rows: int, entries: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    return meta(rows + 1, dtype=torch.int64), meta(entries, dtype=torch.int32)


def _topk(d: int = 64, k: int = 20, dtype: torch.dtype = torch.float32) -> None:
    cosine_topk.cosine_topk(meta(1024, d, dtype=dtype), meta(100_000, d, dtype=dtype), k, *_seen(1024))


def _gumbel(columns: int = 64, dtype: torch.dtype = torch.float32) -> None:
    crow, col = _seen(1_000_000)
    users, lse = meta(1024, dtype=torch.int64), meta(1024, dtype=torch.float64)
    noise = 0.3, meta(2, dtype=torch.int64), 1.0
    weight, grad = meta(100_000, columns, dtype=dtype).mT, meta(1024, columns, dtype=dtype)
    gumbel_linear.gumbel_linear(weight, crow, col, users, lse, *noise)
    gumbel_linear.gumbel_linear_bwd(grad, crow, col, users, lse, 100_000, *noise)


@contextlib.contextmanager
def switched(to: str) -> Iterator[None]:
    """A context with the settings of torch for which `precision.dot_precision` returns the given precision."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision, torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    matmul.fp32_precision = "tf32" if to == "tf32" else "ieee"
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", to == "bf16")
    try:
        yield
    finally:
        matmul.fp32_precision = before[0]
        torch.set_autocast_dtype("cuda", before[1])
        torch.set_autocast_enabled("cuda", before[2])


def _block(d: int = 64, dtype: torch.dtype = torch.float32, row_l2: bool = True) -> None:
    u, v, grad = (meta(n, m, dtype=dtype) for n, m in ((1024, d), (100_000, d), (1024, 100_000)))
    block, inverse = cosine_block.cosine_block(u, v, *_seen(1024), row_l2)
    saved_block, saved_inverse = (block, inverse) if row_l2 else (None, None)
    cosine_block.cosine_block_bwd(grad, u, v, *_seen(1024), saved_block, saved_inverse, True, True)


PRODUCTS: dict[str, Callable[..., None]] = {
    "cosine_block": _block,
    "cosine_block wide": partial(_block, d=256),
    "cosine_topk": _topk,
    "cosine_topk k 128": partial(_topk, k=128),
    "cosine_topk k 1000": partial(_topk, k=1000),
    "cosine_topk k 1000 wide": partial(_topk, d=256, k=1000),
    "cosine_topk wide": partial(_topk, d=256),
    "gumbel_linear": _gumbel,
    "gumbel_linear wide": partial(_gumbel, columns=128),
    "infonce": partial(_infonce, 100_000, 1024, 64),
    "infonce wide": partial(_infonce, 100_000, 1024, 256),
}


def _in(precision: str, case: Callable[..., None]) -> None:
    with switched(precision):
        case()


CASES: dict[str, Callable[[], None]] = {
    f"{name} {precision}": partial(_in, precision, case)
    for precision in ("float32", "tf32", "bf16")
    for name, case in PRODUCTS.items()
} | {
    "modality_mix float32": lambda: _mix(torch.float32),
    "modality_mix float64": lambda: _mix(torch.float64),
    "modality_mix bfloat16": lambda: _mix(torch.bfloat16),
    "infonce float32 small tau": lambda: _infonce(100_000, 1024, 64, tau=0.005),
    "infonce float64": lambda: _infonce(100_000, 1024, 64, torch.float64),
    "cosine_block float32 unscaled": lambda: _block(row_l2=False),
    "cosine_block float64": lambda: _block(dtype=torch.float64),
    "cosine_block bfloat16": lambda: _block(dtype=torch.bfloat16),
    "gumbel_linear bfloat16": lambda: _gumbel(dtype=torch.bfloat16),
    "cosine_topk float64": lambda: _topk(dtype=torch.float64),
    "cosine_topk k 128 float64": lambda: _topk(k=128, dtype=torch.float64),
    "cosine_topk k 1000 float64": lambda: _topk(k=1000, dtype=torch.float64),
    "cosine_topk k 1000 bfloat16": lambda: _topk(k=1000, dtype=torch.bfloat16),
    "cosine_topk bfloat16": lambda: _topk(dtype=torch.bfloat16),
}


def launches(case: str, arch: int) -> list[Launch]:
    """The kernel launches of a case on an architecture."""
    with recording(arch) as recorded:
        CASES[case]()
    return recorded


def _source(launch: Launch) -> ASTSource:
    """The source of a launch, specialized as Triton does: by the types of arguments and their divisibility by 16."""
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
    """Compiles one launch for one architecture and reads the resources from the machine code."""
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
        case,
        launch.kernel.fn.__name__,
        arch,
        launch.options["num_warps"],
        used["REG"],
        used["STACK"],
        binary.metadata.shared,
    )


def gate(cases: list[str], archs: tuple[int, ...] = ARCHS, jobs: int = 1, once: bool = False) -> list[Report]:
    """Compiles every distinct launch of the cases for every architecture. With `once`, only the first launch of each
    kernel."""
    work: dict[Any, Any] = {}
    for arch, case in itertools.product(archs, cases):
        for launch in launches(case, arch):
            key = (arch, launch.kernel) if once else (arch, launch.kernel, case, str(launch.constants))
            work.setdefault(key, (case, launch, arch))
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda item: compile_launch(*item), work.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHS)
    parser.add_argument("--only", default="", help="only cases whose name contains this text")
    parser.add_argument("--once", action="store_true", help="only the first launch of every kernel")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stack", type=int, default=0, help="bytes of the stack that a kernel may use (default: 0)")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        print("compile_gate: TRITON_INTERPRET is set, so nothing would be compiled; unset it", file=sys.stderr)
        return 2
    reports = gate([case for case in CASES if options.only in case], tuple(options.arch), options.jobs, options.once)
    print(f"{'case':32} {'kernel':32} {'sm':>4} {'warps':>5} {'registers':>9} {'stack B':>8} {'shared B':>9}")
    for r in reports:
        print(f"{r.case:32} {r.kernel:32} {r.arch:4} {r.warps:5} {r.registers:9} {r.stack:8} {r.shared:9}")
    if options.json:
        options.json.write_text(json.dumps([r._asdict() for r in reports], indent=1))
    spilled = [r for r in reports if r.stack > options.stack]
    if spilled:
        print(
            f"compile_gate: {len(spilled)} kernels spill registers or have an array in local memory, more than "
            f"{options.stack} bytes: {', '.join(sorted({f'{r.kernel} for sm_{r.arch}' for r in spilled}))}",
            file=sys.stderr,
        )
    return bool(spilled)


if __name__ == "__main__":
    sys.exit(main())
