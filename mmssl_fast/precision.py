"""Matrix products with operands rounded to a narrower dtype, as under torch.autocast.

`gemm` denotes the dtype of the operands in all functions of this module.
"""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .modes import is_traced

MAX_CACHED_BYTES = 1 << 28  # a larger rounded weight is not cached
_cached: tuple[tuple[Any, ...], StorageWeakRef, Tensor] | None = None


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a computation with inputs of this dtype: float32 for float16 and bfloat16, else `dtype`."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def gemm_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype to which the operands of a product in `dtype` are rounded: autocast's dtype for float32 under autocast,
    otherwise `dtype`."""
    narrow = dtype == torch.float32 and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if narrow else dtype


def rounded(weight: Tensor, gemm: torch.dtype) -> Tensor:
    """Equals ``weight.to(gemm)``. The result for the last weight is cached until the weight changes, because a training
    step multiplies by the same weight eight times.

    The cache key consists of the storage, its version and the view; a transposed view uses the same entry. A write
    through ``weight.data`` does not change the version and is therefore not noticed. Nothing is cached while a CUDA
    graph is captured, because the graph must contain the rounding, under torch.inference_mode, and for tensors without
    data.
    """
    global _cached
    if weight.dtype == gemm:
        return weight
    if not weight.is_contiguous() and weight.mT.is_contiguous():
        return rounded(weight.mT, gemm).mT
    recording = weight.is_cuda and torch.cuda.is_current_stream_capturing()
    if recording or weight.is_inference() or is_traced(weight) or weight.numel() * gemm.itemsize > MAX_CACHED_BYTES:
        return weight.to(gemm)
    storage = StorageWeakRef(weight.untyped_storage())  # while this reference exists, no other storage has this cdata
    key = storage.cdata, weight._version, weight.storage_offset(), weight.shape, weight.stride(), weight.dtype, gemm
    entry = _cached  # read once, because another thread may replace it
    if entry is None or entry[0] != key:
        entry = key, storage, weight.detach().to(gemm)
        if not entry[2].is_inference():
            _cached = entry
    return entry[2]


def mm(a: Tensor, b: Tensor, gemm: torch.dtype, dtype: torch.dtype | None = None) -> Tensor:
    """a @ b with the operands rounded to `gemm`. The result has `dtype`, by default the dtype of a.

    Sums are accumulated in float32 or wider. If `gemm` is narrower than the dtype of a, torch rounds the product to
    `gemm`, too.
    """
    return (a.to(gemm) @ b.to(gemm)).to(dtype or a.dtype)


def mm_out(a: Tensor, b: Tensor, out: Tensor, gemm: torch.dtype) -> None:
    """out = mm(a, b, gemm), in place."""
    if out.dtype == gemm:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a.to(gemm) @ b.to(gemm))


def addmm_(out: Tensor, a: Tensor, b: Tensor, gemm: torch.dtype) -> None:
    """out += mm(a, b, gemm), in place."""
    if out.dtype == gemm:
        out.addmm_(a.to(gemm), b.to(gemm))
    else:
        out.add_(a.to(gemm) @ b.to(gemm))
