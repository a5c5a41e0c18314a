"""Registers the Triton kernels for CUDA.

Triton is imported when the first of these ops runs on a GPU, so that the package also works where it is not installed.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast

# op: the module in mmssl_fast/kernels whose function of the same name implements it
KERNELS = {
    "cosine_block": "cosine_block",
    "cosine_block_bwd": "cosine_block",
    "cosine_topk": "cosine_topk",
    "infonce": "infonce",
    "infonce_bwd": "infonce",
    "modality_mix": "modality_attention",
    "modality_mix_bwd": "modality_attention",
}
# Kernels that are called by an op's own CUDA implementation and are therefore not registered here
CALLED_KERNELS = {"gumbel_linear": "gumbel_linear", "gumbel_linear_bwd": "gumbel_linear"}


def kernel(op: str) -> Callable[..., Any]:
    """Returns the Triton implementation of `op`. Raises ImportError if triton is not installed."""
    try:
        module = importlib.import_module(f"mmssl_fast.kernels.{(KERNELS | CALLED_KERNELS)[op]}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise ImportError(
            f"{op}: on CUDA this op is a Triton kernel, and triton is not installed; install it with "
            "`pip install triton`"
        ) from error
    return getattr(module, op)


def _register(op: str) -> None:
    torch.library.impl(f"mmssl_fast::{op}", "cuda", lambda *args: kernel(op)(*args))


for _op in KERNELS:
    _register(_op)
