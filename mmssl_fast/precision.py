"""Matrix products whose operands are rounded to a narrower dtype, as torch.autocast has them."""

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .modes import is_traced

KEPT_BYTES = 1 << 28  # of a rounded weight that is kept between products
_kept: tuple[tuple, StorageWeakRef, Tensor] | None = None


def gemm_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What the operands of a product in `dtype` are rounded to: under autocast its dtype for float32, else `dtype`."""
    narrow = dtype == torch.float32 and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if narrow else dtype


def rounded(weight: Tensor, gemm: torch.dtype) -> Tensor:
    """weight.to(gemm), of the last weight kept until it is written to: a step multiplies by the same one eight times.

    Keyed on the storage, its version and the view, whose transpose finds it too. A write through ``weight.data`` leaves
    no version and is not noticed. Nothing is kept while a CUDA graph is recorded, which must hold the rounding itself,
    nor under torch.inference_mode and of a tensor without data, whose rounding would be of no use afterwards.
    """
    global _kept
    if weight.dtype == gemm:
        return weight
    if not weight.is_contiguous() and weight.mT.is_contiguous():
        return rounded(weight.mT, gemm).mT
    recording = weight.is_cuda and torch.cuda.is_current_stream_capturing()
    if recording or weight.is_inference() or is_traced(weight) or weight.numel() * gemm.itemsize > KEPT_BYTES:
        return weight.to(gemm)
    storage = StorageWeakRef(weight.untyped_storage())  # while it is kept, no other storage has this cdata
    key = storage.cdata, weight._version, weight.storage_offset(), weight.shape, weight.stride(), weight.dtype, gemm
    kept = _kept  # read once: another thread may replace it
    if kept is None or kept[0] != key:
        kept = key, storage, weight.detach().to(gemm)
        if not kept[2].is_inference():
            _kept = kept
    return kept[2]


def mm(a: Tensor, b: Tensor, gemm: torch.dtype, dtype: torch.dtype | None = None) -> Tensor:
    """a @ b with the operands rounded to `gemm`, in `dtype`, by default that of a. Sums are float32 or wider; where
    `gemm` is narrower than a, torch rounds the product to it as well."""
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
        out.addmm_(a, b)
    else:
        out.add_(a.to(gemm) @ b.to(gemm))
