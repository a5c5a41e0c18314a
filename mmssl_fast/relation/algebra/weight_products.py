"""Products with the weight of a first layer. It may be stored in bfloat16, in half the memory, and multiplied in
float32: then it is converted a few items at a time, never as a whole.

`gemm` is the dtype of the operands of a product, as in precision.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...precision import addmm_, mm, rounded
from ...tiles import item_tiles


def is_narrow(weight: Tensor, gemm: torch.dtype) -> bool:
    """Whether the weight is stored in fewer bits than it is multiplied in."""
    return weight.dtype.itemsize < gemm.itemsize


def weight_tiles(weight: Tensor, gemm: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(begin, end, ``weight.mT[begin:end]`` [end − begin, H] in the dtype gemm) of all tiles of items."""
    for begin, end in item_tiles(*weight.shape):
        yield begin, end, weight.mT[begin:end].to(gemm)


def project(vs: Sequence[Tensor], weight: Tensor, gemm: torch.dtype) -> Tensor:
    """Equals ``torch.cat(vs, 1).mT @ weight.mT``, [Σ d, H] in the dtype of the matrices vs, each [I, d]."""
    if not is_narrow(weight, gemm):
        v = vs[0] if len(vs) == 1 else torch.cat(list(vs), 1)
        return mm(v.mT, rounded(weight, gemm).mT, gemm)
    out = vs[0].new_zeros(sum(v.shape[1] for v in vs), weight.shape[0])
    for begin, end, tile in weight_tiles(weight, gemm):
        addmm_(out, torch.cat([v[begin:end] for v in vs], 1).mT, tile, gemm)
    return out


def project_back(ts: Sequence[Tensor], weight: Tensor, gemm: torch.dtype, dtype: torch.dtype) -> Sequence[Tensor]:
    """Equals ``[(weight.mT @ t).to(dtype) for t in ts]``, [I, k] each, for matrices t [H, k]."""
    widths, together = [t.shape[1] for t in ts], torch.cat(list(ts), 1)
    if not is_narrow(weight, gemm):
        return mm(rounded(weight, gemm).mT, together, gemm, dtype).split(widths, 1)
    outs = [together.new_empty(weight.shape[1], width, dtype=dtype) for width in widths]
    for begin, end, tile in weight_tiles(weight, gemm):
        for out, part in zip(outs, mm(tile, together, gemm).split(widths, 1), strict=True):
            out[begin:end] = part
    return outs


def times_weight(y: Tensor, weight: Tensor, gemm: torch.dtype) -> Tensor:
    """Equals ``y @ weight``, [b, I] in the dtype of y, for y [b, H]."""
    if not is_narrow(weight, gemm):
        return mm(y, rounded(weight, gemm), gemm)
    out = y.new_empty(y.shape[0], weight.shape[1])
    for begin, end, tile in weight_tiles(weight, gemm):
        out[:, begin:end] = mm(y, tile.mT, gemm)
    return out
