"""modality_attention: attention between the modalities of a node, averaged over them."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_tensors
from .derivatives import differentiable, no_context


def modality_attention(
    e: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wo: torch.Tensor, heads: int
) -> torch.Tensor:
    """Equals ``(mixed @ wo).mean(0)``, where ``mixed[m, n]`` holds, for every head h side by side,
    ``Σ_m' softmax_m'((e[m] @ wq_h)·(e[m'] @ wk_h) / sqrt(d / heads)) e[m']``.

    Equation 9 with an output projection. The mean over m is taken of the attention weights, before anything is mixed or
    projected: three products with the weights, and one pass over the nodes in which the weights live. Differentiable
    once; the same bits for any number of threads.

    Args:
        e: [M, N, d] float32, float64 or bfloat16, an embedding of every node in each of M ≥ 1 modalities.
        wq, wk: [d, d], dtype of e; head h has columns [h·d/heads, (h+1)·d/heads).
        wo: [heads·d, d], dtype of e.
        heads: H, divides d.

    Returns:
        [N, d], dtype of e.

    Raises:
        ValueError: for shapes or dtypes that do not match, or heads that do not divide d.
        RuntimeError: when a second derivative is asked for.
    """
    check_tensors("modality_attention", e=e, wq=wq, wk=wk, wo=wo)
    if e.ndim != 3 or e.shape[0] < 1 or e.shape[2] < 1:
        raise ValueError(f"modality_attention: e must be [M, N, d] with M and d of 1 or more, got {tuple(e.shape)}")
    d = e.shape[2]
    if heads < 1 or d % heads:
        raise ValueError(f"modality_attention: d = {d} is not a multiple of heads = {heads}")
    for name, weight, rows in (("wq", wq, d), ("wk", wk, d), ("wo", wo, heads * d)):
        if weight.shape != (rows, d):
            raise ValueError(f"modality_attention: {name} must be [{rows}, {d}], got {tuple(weight.shape)}")
        if weight.dtype != e.dtype and not torch.is_autocast_enabled(e.device.type):
            raise ValueError(f"modality_attention: {name} is {weight.dtype}, e is {e.dtype}")
    # Under autocast the products come in another dtype than e.
    q, k = (e @ wq).to(e.dtype), (e @ wk).to(e.dtype)
    return modality_mix(q, k, e, heads) @ wo


@torch.library.register_fake("mmssl_fast::modality_mix")
def _(q, k, e, heads):
    return e.new_empty(e.shape[1], heads * e.shape[2])


@torch.library.register_fake("mmssl_fast::modality_mix_bwd")
def _(grad, q, k, e, heads):
    return e.new_empty(e.shape), e.new_empty(e.shape), e.new_empty(e.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.heads = inputs[3]


def _grad(ctx, grad):
    return *modality_mix_bwd(grad, *ctx.saved_tensors, ctx.heads), None


def _no_second(ctx, *grads):
    raise RuntimeError("modality_attention: has no second derivative; use mmssl_fast.reference.modality_attention")


modality_mix = differentiable("modality_mix", _grad, _save, public="modality_attention")
modality_mix_bwd = differentiable("modality_mix_bwd", _no_second, no_context, public="modality_attention")
