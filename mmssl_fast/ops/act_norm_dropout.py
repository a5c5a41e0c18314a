"""act_norm_dropout: LeakyReLU, batch normalisation and dropout in one pass, twice differentiable (Eq. 4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_tensors
from ..reference import STREAM_DROPOUT, dropped_below
from .derivatives import differentiable, undifferentiable

_ops = torch.ops.mmssl_fast


def act_norm_dropout(
    z: Tensor, weight: Tensor, bias: Tensor, rate: float, seed_offset: Tensor, slope: float = 0.2, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Equals ``F.dropout(F.batch_norm(F.leaky_relu(z, slope), None, None, weight, bias, True, eps=eps), rate)`` with
    its own dropout mask.

    Equation 4 of MMSSL (WWW 2023): the layer Γ of the discriminator in training mode, without its Linear. An entry is
    dropped if its Philox word, ``philox_bits(*seed_offset, row, column, STREAM_DROPOUT)``, is below rate · 2³². The
    mask therefore depends neither on the number of threads nor on the device, and it is not stored. Twice
    differentiable in z, weight and bias, as the gradient penalty requires. On the CPU it is one C++ kernel. On CUDA it
    is composed of PyTorch operations.

    Args:
        z: [B, H] with B ≥ 2, float32 or float64. float16 and bfloat16 are computed in float32.
        weight, bias: [H], parameters of the batch normalisation.
        rate: dropout rate, in [0, 1).
        seed_offset: int64 [2], seed and offset of the generator, on z's device.
        slope: negative slope of LeakyReLU, at least 0.
        eps: added to the variance, positive.

    Returns:
        The output [B, H] in the dtype of weight, and the mean [H] and biased variance [H] of leaky_relu(z), which have
        no gradient.

    Raises:
        ValueError: z has one row, shapes or dtypes do not match, or a number is out of range.

    Example:
        >>> z, weight, bias = torch.randn(4, 3), torch.ones(3), torch.zeros(3)
        >>> y, mean, variance = act_norm_dropout(z, weight, bias, rate=0.0, seed_offset=torch.tensor([0, 0]))
        >>> expected = F.batch_norm(F.leaky_relu(z, 0.2), None, None, weight, bias, training=True)
        >>> torch.allclose(y, expected, atol=1e-5)
        True
    """
    check_tensors("act_norm_dropout", z=z, weight=weight, bias=bias, seed_offset=seed_offset)
    work = torch.float32 if weight.dtype in (torch.bfloat16, torch.float16) else weight.dtype
    y, mean, variance = act_norm_dropout_op(z.to(work), weight.to(work), bias.to(work), seed_offset, slope, eps, rate)
    return y.to(weight.dtype), mean, variance


def _dropout_factors(z: Tensor, seed_offset: Tensor, rate: float) -> Tensor | float:
    """0 for the dropped entries and 1 / (1 − rate) for the others."""
    if dropped_below(rate) == 0:
        return 1 / (1 - rate)
    rows = torch.arange(z.shape[0], device=z.device)
    words = _ops.philox_bits(rows, z.shape[1], seed_offset, STREAM_DROPOUT)
    return (words >= dropped_below(rate)).to(z.dtype) / (1 - rate)


def _check_rows(op: str, z: Tensor) -> None:
    if z.ndim != 2 or z.shape[0] < 2:
        raise ValueError(f"{op}: z must be [rows, H] with at least 2 rows, got {tuple(z.shape)}")


def forward_by_torch(
    z: Tensor, weight: Tensor, bias: Tensor, seed_offset: Tensor, slope: float, eps: float, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check_rows("act_norm_dropout", z)
    variance, mean = torch.var_mean(a := F.leaky_relu(z, slope), 0, correction=0)
    y = (a - mean) * (weight * (variance + eps).rsqrt()) + bias
    return y * _dropout_factors(z, seed_offset, rate), mean, variance


def _normalized_and_slopes(
    z: Tensor, mean: Tensor, variance: Tensor, slope: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised activations x̂, leaky_relu'(z) and 1 / sqrt(variance + eps)."""
    inverse = (variance + eps).rsqrt()
    return (F.leaky_relu(z, slope) - mean) * inverse, torch.full_like(z, slope).masked_fill_(z > 0, 1), inverse


def _project(q: Tensor, normalized: Tensor) -> Tensor:
    """q without its components along 1 and x̂: the derivative of batch normalisation, up to a factor per column."""
    return q - q.mean(0) - normalized * (q * normalized).mean(0)


def backward_by_torch(
    grad: Tensor,
    z: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    seed_offset: Tensor,
    slope: float,
    eps: float,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_rows("act_norm_dropout_bwd", z)
    normalized, slopes, inverse = _normalized_and_slopes(z, mean, variance, slope, eps)
    e = grad * _dropout_factors(z, seed_offset, rate)
    return slopes * weight * inverse * _project(e, normalized), (e * normalized).sum(0), e.sum(0)


def double_backward_by_torch(
    gg_z: Tensor,
    gg_weight: Tensor,
    gg_bias: Tensor,
    grad: Tensor,
    z: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    seed_offset: Tensor,
    slope: float,
    eps: float,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivative of `backward_by_torch`. csrc/cpu/isa/act_norm_dropout.cpp derives the formulas."""
    _check_rows("act_norm_dropout_bwd_bwd", z)
    normalized, slopes, inverse = _normalized_and_slopes(z, mean, variance, slope, eps)
    factors, gain = _dropout_factors(z, seed_offset, rate), weight * inverse
    e, k = grad * factors, slopes * gg_z
    k_projected = _project(k, normalized)
    overlap = (k_projected * e).mean(0)
    d_normalized = gg_weight * e - gain * (k * (e * normalized).mean(0) + e * (k * normalized).mean(0))
    d_z = slopes * inverse * (_project(d_normalized, normalized) - gain * normalized * overlap)
    d_grad = factors * (gain * k_projected + gg_bias + gg_weight * normalized)
    return d_grad, d_z, inverse * overlap * z.shape[0]


# Called directly, because `impl` used as a decorator would replace the function by None.
torch.library.impl("mmssl_fast::act_norm_dropout", "cuda", forward_by_torch)
torch.library.impl("mmssl_fast::act_norm_dropout_bwd", "cuda", backward_by_torch)
torch.library.impl("mmssl_fast::act_norm_dropout_bwd_bwd", "cuda", double_backward_by_torch)


@torch.library.register_fake("mmssl_fast::act_norm_dropout")
def _(z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(z.shape[1]), z.new_empty(z.shape[1])


@torch.library.register_fake("mmssl_fast::act_norm_dropout_bwd")
def _(grad: Tensor, z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(z.shape[1]), z.new_empty(z.shape[1])


@torch.library.register_fake("mmssl_fast::act_norm_dropout_bwd_bwd")
def _(gg_z: Tensor, gg_weight: Tensor, gg_bias: Tensor, grad: Tensor, z: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return z.new_empty(z.shape), z.new_empty(z.shape), z.new_empty(z.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, weight, _, seed_offset, *ctx.constants = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(z, mean, variance, weight, seed_offset)


def _grad(ctx: Any, grad: Tensor, _mean: Tensor | None, _variance: Tensor | None) -> tuple[Tensor | None, ...]:
    return *act_norm_dropout_bwd(grad, *ctx.saved_tensors, *ctx.constants), None, None, None, None


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, slope, eps, rate = inputs
    ctx.constants = slope, eps, rate
    ctx.save_for_backward(*tensors)


def _grad_bwd(ctx: Any, gg_z: Tensor, gg_weight: Tensor, gg_bias: Tensor) -> tuple[Tensor | None, ...]:
    d_grad, d_z, d_weight = act_norm_dropout_bwd_bwd(gg_z, gg_weight, gg_bias, *ctx.saved_tensors, *ctx.constants)
    return d_grad, d_z, None, None, d_weight, None, None, None, None


act_norm_dropout_op = differentiable("act_norm_dropout", _grad, _save)
act_norm_dropout_bwd = differentiable("act_norm_dropout_bwd", _grad_bwd, _save_bwd, once=True)
act_norm_dropout_bwd_bwd = undifferentiable(
    "act_norm_dropout_bwd_bwd", "act_norm_dropout has no third derivative; use mmssl_fast.reference.act_norm_dropout"
)
