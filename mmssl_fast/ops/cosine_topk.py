"""cosine_topk: the k most similar items of every user."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_seen, check_tensors
from ..graph import SeenRows
from .cosine_block import KINDS
from .unit_rows import unit_rows


def cosine_topk(
    u: Tensor, v: Tensor, k: int, seen: SeenRows | None = None, kind: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Equals ``(F.normalize(u) @ F.normalize(v).T).masked_fill(seen_mask, -torch.inf).topk(k)``, without forming the
    B x I matrix.

    Finds the semantic neighbours of equation 8 of MMSSL (WWW 2023), and ranks items for evaluation and
    recommendations. The items of a row are sorted by similarity, best first. Equal similarities are ordered by item id.
    The result has the same bits for any number of threads. It is not differentiable: the values are detached.

    Memory is O(B k) besides copies of u and v. On CUDA with k > 128, the similarities of a few rows at a time are
    formed and sorted, which takes up to 250 MB, or one row of I items if that is more.

    Args:
        u: [B, d] float32, float64 or bfloat16 (products are computed in float32).
        v: [I, d], dtype of u.
        k: number of items per row, at least 0.
        seen: CSR block of B rows whose items are EXCLUDED from their row (in `cosine_block` they have value 0). On CUDA
            the items of a row must be in ascending order and in [0, I), which is not checked there.
        kind: "cosine", or "dot" for the plain product u vᵀ.

    Returns:
        values [B, k] in the dtype of u, and items [B, k] int64. If a row has fewer than k items left, the rest has item
        −1 and value −inf. A NaN similarity is never returned; it ranks last, together with −inf.

    Raises:
        ValueError: shapes or dtypes do not match, k is negative, kind is unknown, or a seen item lies outside [0, I).

    Example:
        >>> u, v = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
        >>> values, items = cosine_topk(u, v, k=2)
        >>> items.tolist()
        [[0, 1], [2, 1]]
        >>> seen = SeenRows(crow=torch.tensor([0, 1, 1]), col=torch.tensor([0]))  # user 0 has seen item 0
        >>> cosine_topk(u, v, k=2, seen=seen)[1].tolist()
        [[1, 2], [2, 1]]
    """
    if kind not in KINDS:
        raise ValueError(f"cosine_topk: kind must be one of {KINDS}, got {kind!r}")
    check_tensors("cosine_topk", u=u, v=v)
    check_seen("cosine_topk", seen)
    dtype = u.dtype
    u, v = u.detach(), v.detach()
    if kind == "cosine":
        if dtype == torch.bfloat16:  # rounding the unit rows to bfloat16 would change the order of close items
            u, v = u.float(), v.to(torch.float32 if v.dtype == dtype else v.dtype)
        u, v = unit_rows(u), unit_rows(v)
    crow, col = (None, None) if seen is None else (seen.crow, seen.col)
    values, items = torch.ops.mmssl_fast.cosine_topk(u, v, k, crow, col)
    return values.to(dtype), items


@torch.library.register_fake("mmssl_fast::cosine_topk")
def _(u: Tensor, v: Tensor, k: int, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape[0], k), u.new_empty(u.shape[0], k, dtype=torch.int64)
