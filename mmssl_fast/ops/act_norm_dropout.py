"""act_norm_dropout: what follows a Linear in the discriminator's hidden layers (Eq. 4), with its two derivatives."""

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
    """Equals ``F.dropout(F.batch_norm(F.leaky_relu(z, slope), None, None, weight, bias, True, eps=eps), rate)``, with a
    mask of its own: Γ of Eq. 4 without its Linear, in training.

    The entry (row, column) is dropped where its Philox word ``philox_bits(*seed_offset, row, …, STREAM_DROPOUT)`` is
    below rate · 2³²: neither threads nor the device change a mask, and none is stored. Differentiable twice, as the
    gradient penalty needs, in z, weight and bias. One pass of C++ on the CPU; on CUDA composed of torch's operations.

    Args:
        z: [B, H] of at least 2 rows, float32 or float64; the half-width types are computed in float32.
        weight, bias: [H], BatchNorm's.
        rate: of dropout, in [0, 1).
        seed_offset: int64 [2], as `philox.seed_offset` makes it, on z's device.
        slope: of LeakyReLU, not negative.
        eps: added to the variance, positive.

    Returns:
        [B, H], dtype of weight; and of leaky_relu(z), without gradient, mean and (biased) variance [H].

    Raises:
        ValueError: for a single row, shapes or dtypes that do not match, or a number out of range.
    """
    check_tensors("act_norm_dropout", z=z, weight=weight, bias=bias, seed_offset=seed_offset)
    work = torch.float32 if weight.dtype in (torch.bfloat16, torch.float16) else weight.dtype
    y, mean, variance = act_norm_dropout_op(z.to(work), weight.to(work), bias.to(work), seed_offset, slope, eps, rate)
    return y.to(weight.dtype), mean, variance


def _factors(z: Tensor, seed_offset: Tensor, rate: float) -> Tensor | float:
    if dropped_below(rate) == 0:
        return 1 / (1 - rate)
    rows = torch.arange(z.shape[0], device=z.device)
    words = _ops.philox_bits(rows, z.shape[1], seed_offset, STREAM_DROPOUT)
    return (words >= dropped_below(rate)).to(z.dtype) / (1 - rate)


def _check_rows(op: str, z: Tensor) -> None:
    if z.ndim != 2 or z.shape[0] < 2:
        raise ValueError(f"{op}: z must be [rows, H] of at least 2 rows, got {tuple(z.shape)}")


def forward_by_torch(z, weight, bias, seed_offset, slope, eps, rate):
    _check_rows("act_norm_dropout", z)
    variance, mean = torch.var_mean(a := F.leaky_relu(z, slope), 0, correction=0)
    y = (a - mean) * (weight * (variance + eps).rsqrt()) + bias
    return y * _factors(z, seed_offset, rate), mean, variance


def _unit_and_bend(z, mean, variance, slope, eps):
    """x̂, leaky_relu'(z) and 1 / sqrt(variance + eps)."""
    inverse = (variance + eps).rsqrt()
    return (F.leaky_relu(z, slope) - mean) * inverse, torch.full_like(z, slope).masked_fill_(z > 0, 1), inverse


def _project(q: Tensor, unit: Tensor) -> Tensor:
    return q - q.mean(0) - unit * (q * unit).mean(0)


def backward_by_torch(grad, z, mean, variance, weight, seed_offset, slope, eps, rate):
    _check_rows("act_norm_dropout_bwd", z)
    unit, bend, inverse = _unit_and_bend(z, mean, variance, slope, eps)
    e = grad * _factors(z, seed_offset, rate)
    return bend * weight * inverse * _project(e, unit), (e * unit).sum(0), e.sum(0)


def double_backward_by_torch(gg_z, gg_weight, gg_bias, grad, z, mean, variance, weight, seed_offset, slope, eps, rate):
    """The formulas above act_norm_dropout_bwd_bwd in csrc/cpu/isa/act_norm_dropout.cpp."""
    _check_rows("act_norm_dropout_bwd_bwd", z)
    unit, bend, inverse = _unit_and_bend(z, mean, variance, slope, eps)
    factors, gain = _factors(z, seed_offset, rate), weight * inverse
    e, k = grad * factors, bend * gg_z
    k_projected = _project(k, unit)
    overlap = (k_projected * e).mean(0)
    d_unit = gg_weight * e - gain * (k * (e * unit).mean(0) + e * (k * unit).mean(0))
    d_z = bend * inverse * (_project(d_unit, unit) - gain * unit * overlap)
    d_grad = factors * (gain * k_projected + gg_bias + gg_weight * unit)
    return d_grad, d_z, inverse * overlap * z.shape[0]


# As calls: `impl` used as a decorator returns None.
torch.library.impl("mmssl_fast::act_norm_dropout", "cuda", forward_by_torch)
torch.library.impl("mmssl_fast::act_norm_dropout_bwd", "cuda", backward_by_torch)
torch.library.impl("mmssl_fast::act_norm_dropout_bwd_bwd", "cuda", double_backward_by_torch)


@torch.library.register_fake("mmssl_fast::act_norm_dropout")
def _(z, weight, bias, seed_offset, slope, eps, rate):
    return z.new_empty(z.shape), z.new_empty(z.shape[1]), z.new_empty(z.shape[1])


@torch.library.register_fake("mmssl_fast::act_norm_dropout_bwd")
def _(grad, z, mean, variance, weight, seed_offset, slope, eps, rate):
    return z.new_empty(z.shape), z.new_empty(z.shape[1]), z.new_empty(z.shape[1])


@torch.library.register_fake("mmssl_fast::act_norm_dropout_bwd_bwd")
def _(gg_z, gg_weight, gg_bias, grad, z, mean, variance, weight, seed_offset, slope, eps, rate):
    return z.new_empty(z.shape), z.new_empty(z.shape), z.new_empty(z.shape[1])


def _save(ctx, inputs, output):
    z, weight, _, seed_offset, *ctx.how = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(z, mean, variance, weight, seed_offset)


def _grad(ctx, grad, _mean, _variance):
    return *act_norm_dropout_bwd(grad, *ctx.saved_tensors, *ctx.how), None, None, None, None


def _save_bwd(ctx, inputs, output):
    *tensors, slope, eps, rate = inputs
    ctx.how = slope, eps, rate
    ctx.save_for_backward(*tensors)


def _grad_bwd(ctx, gg_z, gg_weight, gg_bias):
    d_grad, d_z, d_weight = act_norm_dropout_bwd_bwd(gg_z, gg_weight, gg_bias, *ctx.saved_tensors, *ctx.how)
    return d_grad, d_z, None, None, d_weight, None, None, None, None


act_norm_dropout_op = differentiable("act_norm_dropout", _grad, _save)
act_norm_dropout_bwd = differentiable("act_norm_dropout_bwd", _grad_bwd, _save_bwd, once=True)
act_norm_dropout_bwd_bwd = undifferentiable(
    "act_norm_dropout_bwd_bwd", "act_norm_dropout: has no third derivative; use mmssl_fast.reference.act_norm_dropout"
)
