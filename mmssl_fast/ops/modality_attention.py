"""modality_attention: multi-head attention between the modalities of a node (Eq. 9)."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_tensors
from .derivatives import differentiable, no_context


def modality_attention(
    e: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wo: torch.Tensor, heads: int
) -> torch.Tensor:
    """Equals ``(mixed @ wo).mean(0)`` with ``mixed = torch.einsum("nhab,bnd->anhd", weights, e).flatten(2)`` and
    ``weights = torch.einsum("anhc,bnhc->nhab", q, k).div((d / heads) ** 0.5).softmax(-1)``, where q and k are
    ``e @ wq`` and ``e @ wk`` split into heads, without forming `mixed`.

    Equation 9 of MMSSL (WWW 2023) with an output projection. The attention weights are averaged over the modalities m
    before the embeddings are mixed and projected, which gives the same result with three matrix products and one pass
    over the nodes. Differentiable once. The result has the same bits for any number of threads.

    Args:
        e: [M, N, d] float32, float64 or bfloat16, the embeddings of N nodes in M ≥ 1 modalities.
        wq, wk: [d, d], dtype of e. Head h uses the columns [h·d/heads, (h+1)·d/heads).
        wo: [heads·d, d], dtype of e.
        heads: number of attention heads, a divisor of d.

    Returns:
        [N, d], dtype of e.

    Raises:
        ValueError: shapes or dtypes do not match, or d is not a multiple of heads.
        RuntimeError: a second derivative is requested.

    Example:
        >>> e = torch.randn(2, 5, 8)  # 2 modalities, 5 nodes
        >>> wq, wk, wo = torch.randn(8, 8), torch.randn(8, 8), torch.randn(32, 8)
        >>> modality_attention(e, wq, wk, wo, heads=4).shape
        torch.Size([5, 8])
        >>> single = e[:1]  # with one modality, every attention weight is 1
        >>> torch.allclose(modality_attention(single, wq, wk, wo, heads=4), single[0].repeat(1, 4) @ wo, atol=1e-4)
        True
    """
    check_tensors("modality_attention", e=e, wq=wq, wk=wk, wo=wo)
    if e.ndim != 3 or e.shape[0] < 1 or e.shape[2] < 1:
        raise ValueError(f"modality_attention: e must be [M, N, d] with M, d ≥ 1, got {tuple(e.shape)}")
    d = e.shape[2]
    if heads < 1 or d % heads:
        raise ValueError(f"modality_attention: d = {d} is not a multiple of heads = {heads}")
    for name, weight, rows in (("wq", wq, d), ("wk", wk, d), ("wo", wo, heads * d)):
        if weight.shape != (rows, d):
            raise ValueError(f"modality_attention: {name} must be [{rows}, {d}], got {tuple(weight.shape)}")
        if weight.dtype != e.dtype and not torch.is_autocast_enabled(e.device.type):
            raise ValueError(f"modality_attention: {name} must have the dtype of e, {e.dtype}, got {weight.dtype}")
    # Under autocast, the products have autocast's dtype.
    q, k = (e @ wq).to(e.dtype), (e @ wk).to(e.dtype)
    return modality_mix(q, k, e, heads) @ wo


@torch.library.register_fake("mmssl_fast::modality_mix")
def _(q: Tensor, k: int, e: Tensor, heads: int) -> Tensor:
    return e.new_empty(e.shape[1], heads * e.shape[2])


@torch.library.register_fake("mmssl_fast::modality_mix_bwd")
def _(grad: Tensor, q: Tensor, k: int, e: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    return e.new_empty(e.shape), e.new_empty(e.shape), e.new_empty(e.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.heads = inputs[3]


def _grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *modality_mix_bwd(grad, *ctx.saved_tensors, ctx.heads), None


def _no_second(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError("modality_attention has no second derivative; use mmssl_fast.reference.modality_attention")


modality_mix = differentiable("modality_mix", _grad, _save, public="modality_attention")
modality_mix_bwd = differentiable("modality_mix_bwd", _no_second, no_context, public="modality_attention")
