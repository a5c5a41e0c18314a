"""The precision of matrix products, from the settings of torch when an op runs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def dot_precision(dtype: torch.dtype) -> str:
    """The precision of the operands of tl.dot for tensors of `dtype`. Sums are float32, or float64 for float64.

    - "bf16": operands are rounded to bfloat16 (8 bits), under ``torch.autocast("cuda", torch.bfloat16)`` or if `dtype`
      is bfloat16.
    - "tf32": operands are rounded to TF32 (11 bits), if ``torch.backends.cuda.matmul.fp32_precision`` is "tf32".
    - "tf32x3": each operand is the sum of two TF32 numbers, and three products are added. This has 21 bits, comparable
      to float32. Exact float32 products ("ieee") would use scalar fma. At these tile sizes, Triton 3.9 keeps their
      operands in local memory (thousands of bytes per thread), and even at best they are 2.5 times slower on an H100.
    - "ieee": float64.

    The backward pass reads the settings again when it runs. For bf16, it must be inside the same autocast context.
    """
    if dtype == torch.float64:
        return "ieee"
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    if autocast or dtype == torch.bfloat16:
        return "bf16"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, with operands of the given precision (see `dot_precision`)."""
    if PRECISION == "bf16":
        acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc
