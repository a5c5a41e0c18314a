"""cosine_topk: the k best items of every relation row."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_seen, check_tensors
from ..graph import SeenRows
from .unit_rows import unit_rows

KINDS = ("cosine", "dot")


def cosine_topk(
    u: Tensor, v: Tensor, k: int, seen: SeenRows | None = None, kind: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Equals ``(unit_rows(u) @ unit_rows(v).T).masked_fill(seen, -inf).topk(k)``, without forming the B x I matrix.

    The semantic neighbours of equation 8, the ranking of evaluation and of recommendations. Memory is O(B k) beside
    copies of u and v; on CUDA with k > 128, 250 MB more, or what one row of I items needs. Items come best first, equal
    similarities by the lower item id; the same bits for any number of threads. Not differentiable: the
    values are detached.

    Args:
        u: [B, d] float32, float64 or bfloat16 (products are formed in float32).
        v: [I, d], dtype of u.
        k: how many items a row; any number from 0. On CUDA, where k > 128, the similarities of some rows at a time
            are formed and sorted whole.
        seen: CSR block of B rows whose items are EXCLUDED from their row (in `cosine_block` they count as 0). On CUDA
            they must ascend within a row, which is not checked there, nor is their range.
        kind: "cosine", or "dot" for the plain product u vᵀ.

    Returns:
        values [B, k], dtype of u, and items [B, k], int64. Where a row has fewer than k items left, item −1 and value
        −inf. A similarity that is NaN ranks last, with those of −inf: it is never returned.

    Raises:
        ValueError: for shapes or dtypes that do not match, a negative k, an unknown kind, a seen item outside [0, I).
    """
    if kind not in KINDS:
        raise ValueError(f"cosine_topk: kind must be one of {KINDS}, got {kind!r}")
    check_tensors("cosine_topk", u=u, v=v)
    check_seen("cosine_topk", seen)
    dtype = u.dtype
    u, v = u.detach(), v.detach()
    if kind == "cosine":
        if dtype == torch.bfloat16:  # unit rows rounded to bfloat16 would reorder close items
            u, v = u.float(), v.to(torch.float32 if v.dtype == dtype else v.dtype)
        u, v = unit_rows(u), unit_rows(v)
    crow, col = (None, None) if seen is None else (seen.crow, seen.col)
    values, items = torch.ops.mmssl_fast.cosine_topk(u, v, k, crow, col)
    return values.to(dtype), items


@torch.library.register_fake("mmssl_fast::cosine_topk")
def _(u, v, k, crow, col):
    return u.new_empty(u.shape[0], k), u.new_empty(u.shape[0], k, dtype=torch.int64)
