"""What a matrix product is computed in: torch's own switches, read when an op runs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def dot_precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies operands of `dtype`, sums always in float32 (float64 for float64).

    "bf16": operands rounded to bfloat16 (8 bits), under ``torch.autocast("cuda", torch.bfloat16)`` or for bfloat16.
    "tf32": to TF32 (11 bits), where ``torch.backends.cuda.matmul.fp32_precision`` (or allow_tf32) says so.
    "tf32x3": each operand as two TF32 numbers, three products: 21 bits, float32-accurate on the matrix units. Exact
    float32 products ("ieee") would go through scalar fma: at these tile sizes Triton 3.9 keeps their operands in local
    memory (thousands of bytes a thread), and at their best they are 2.5 times slower than three TF32 ones on an H100.
    "ieee": float64. Backward reads the switches again when it runs: keep it inside the same autocast to have bf16.
    """
    if dtype == torch.float64:
        return "ieee"
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    if autocast or dtype == torch.bfloat16:
        return "bf16"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, with the operands rounded as `dot_precision` says."""
    if PRECISION == "bf16":
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc
