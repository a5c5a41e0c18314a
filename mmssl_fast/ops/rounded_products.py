"""Matrix products whose operands are rounded to a narrower dtype, as torch.autocast has them."""

import torch
from torch import Tensor


def gemm_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What the operands of a product in `dtype` are rounded to: under autocast its dtype for float32, else `dtype`."""
    narrow = dtype == torch.float32 and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if narrow else dtype


def mm(a: Tensor, b: Tensor, gemm: torch.dtype) -> Tensor:
    """a @ b with the operands rounded to `gemm`, in the dtype of a. Sums are float32 or wider; where `gemm` is narrower
    than a, torch rounds the product to it as well."""
    return a @ b if a.dtype == gemm else (a.to(gemm) @ b.to(gemm)).to(a.dtype)


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
