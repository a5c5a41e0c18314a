"""relation_linear: the first linear layer of the discriminator on relation rows, without forming them (Eq. 3 and 4).

`relation_linear` is the op for one block of generated rows, and supports torch.compile. `linear_of_parts` processes any
number of parts in one pass over the weight; RelationRows calls it. The arithmetic of both is in parts.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...arguments import check_tensors
from ...ops.derivatives import differentiable, undifferentiable
from ...ops.unit_rows import unit_rows
from ...precision import gemm_dtype, work_dtype
from ...python_op import python_op
from . import parts as core
from .parts import GeneratedPart, Part, PartValue, check_generated, version
from .relation_row_norm import row_norm_and_cancelled


def relation_linear(
    u: Tensor,
    v: Tensor,
    weight: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
    kind: str = "dot",
    row_l2: bool = False,
) -> Tensor:
    """Equals ``F.linear(cosine_block(u, v, seen, kind, row_l2), weight)``, without forming the [B, I] block.

    The first layer of the discriminator (equation 4 of MMSSL, WWW 2023) on the generated rows of equation 3. It takes
    I·d·H + nnz·H operations instead of B·I·H, where nnz is the number of seen pairs. Differentiable once in u, v and
    weight.

    Args:
        u: [B, d] float32, float64 or bfloat16 (computed in float32), features of the users.
        v: [I, d], dtype of u, features of the items.
        weight: [H, I], dtype of u. It is fastest if it is item-major (``weight.mT`` contiguous). Its gradient has the
            same layout.
        seen: SeenRows(crow [B + 1], col [nnz]), whose entries have value 0 and are distinct within a row, or None.
        kind: "cosine" (equation 3) or "dot" (the released code).
        row_l2: divide every row by its length. A zero row stays zero and has gradient 0.

    Returns:
        [B, H], dtype of weight.

    Raises:
        ValueError: shapes or dtypes do not match, or kind is unknown.

    Example:
        >>> u, v, weight = torch.randn(2, 8), torch.randn(5, 8), torch.randn(4, 5)
        >>> seen = SeenRows(crow=torch.tensor([0, 1, 3]), col=torch.tensor([4, 0, 2]))
        >>> z = relation_linear(u, v, weight, seen, kind="cosine", row_l2=True)
        >>> torch.allclose(z, F.linear(cosine_block(u, v, seen, row_l2=True), weight), atol=1e-5)
        True
    """
    check_tensors("relation_linear", u=u, v=v, weight=weight)
    check_generated("relation_linear", u, v, seen, kind)
    if weight.ndim != 2 or weight.shape[1] != v.shape[0]:
        raise ValueError(
            f"relation_linear: weight must be [H, {v.shape[0]}] for {v.shape[0]} items, got {tuple(weight.shape)}"
        )
    if weight.dtype != u.dtype:
        raise ValueError(f"relation_linear: weight must have the dtype of u, {u.dtype}, got {weight.dtype}")
    dtype, work = weight.dtype, work_dtype(weight.dtype)
    u, v, weight = u.to(work), v.to(work), weight.to(work)
    if kind == "cosine":
        u, v = unit_rows(u), unit_rows(v)
    crow, col = (None, None) if seen is None else seen
    if not row_l2:
        return relation_linear_op(u, v, weight, crow, col, None)[0].to(dtype)
    norm, cancelled = row_norm_and_cancelled(u, v, seen)
    z = relation_linear_op(u, v, weight, crow, col, None if seen is None else cancelled)[0]
    return (z * inverse_or_zero(norm)[:, None].to(work)).to(dtype)


def inverse_or_zero(norm: Tensor, eps: float = 0.0) -> Tensor:
    """1 / max(norm, eps), or 0 with gradient 0 where norm is 0."""
    positive = ~(norm <= 0)  # also true for NaN, so that NaN is not replaced
    return positive / torch.where(positive, norm, 1.0).clamp_min(eps)


class PartMemory:
    """A cache of the last value of one part, so that W V and z are not computed again for the same rows and weight.

    The cache is valid as long as the weight is the same object with the same version, the dtypes are the same, and the
    tensors of the part have the same versions. Inference tensors have no version and are not cached. A write through
    ``weight.data`` does not change the version and is not noticed.

    For a constant part, z is cached together with its autograd node. The gradients of several calls are then added at
    this node, and dW takes a single product. The node saves no tensors that autograd would free, so that several
    backward passes can use it.
    """

    def __init__(self) -> None:
        # (weak reference to the weight, key, value, z) in one tuple, which another thread replaces as a whole
        self._entry: tuple[Any, ...] = (lambda: None, (), None, None)

    def get(self, weight: Tensor, key: tuple[Any, ...]) -> PartValue | None:
        cached_weight, cached_key, value, _ = self._entry
        return value if cached_weight() is weight and cached_key == key else None

    def node(self, weight: Tensor, key: tuple[Any, ...]) -> Tensor | None:
        """z [B, H] with the autograd node of an earlier call, if there is one and this call needs a gradient."""
        cached_weight, cached_key, _, z = self._entry
        usable = z is not None and z.requires_grad and torch.is_grad_enabled() and weight.requires_grad
        return z if usable and cached_weight() is weight and cached_key == key else None

    def put(self, weight: Tensor, key: tuple[Any, ...], value: PartValue, z: Tensor | None) -> None:
        self._entry = weakref.ref(weight), key, value, z


def linear_of_parts(
    parts: Sequence[Part], weight: Tensor, memories: Sequence[PartMemory | None] | None = None
) -> list[Tensor]:
    """rows Wᵀ [B_k, H] of every part, in one pass over W. Differentiable once in the weight and the parts.

    Under autocast, the operands of the products over W have autocast's dtype, and everything else is float32. Without
    autocast, float16 and bfloat16 are computed in float32. The results are float32 or float64. A weight in float16 or
    bfloat16 is converted in tiles of items, and its gradient is rounded to its dtype once.

    Args:
        parts: any number of parts over the same items.
        weight: [H, I].
        memories: for every part its PartMemory, or None.
    """
    memories = [None] * len(parts) if memories is None else memories
    work = work_dtype(weight.dtype)
    gemm = gemm_dtype(weight.device, work)
    keys = [(version(weight), work, gemm, torch.is_inference_mode_enabled(), *part.key()) for part in parts]
    constant = not any(x.requires_grad for part in parts for x in part.inputs())
    outputs: list[Any] = [
        constant and memory and memory.node(weight, key) for memory, key in zip(memories, keys, strict=True)
    ]
    missing = [k for k, z in enumerate(outputs) if not isinstance(z, Tensor)]
    if not missing:
        return outputs
    fresh = [parts[k].cast(work) for k in missing]
    values = [None if (memory := memories[k]) is None else memory.get(weight, keys[k]) for k in missing]
    call = _Call([part.detach() for part in fresh], values, gemm)
    zs = _LinearOfParts.apply(call, weight, *(x for part in fresh for x in part.inputs()))
    for k, value, z in zip(missing, call.values, zs, strict=True):
        outputs[k] = z
        memory = memories[k]
        if memory is not None and not any(x.is_inference() for x in (weight, *parts[k].inputs())):
            memory.put(weight, keys[k], cast(PartValue, value), z if constant else None)
    return outputs


class _Call:
    """The arguments of `_LinearOfParts` that are not tensors. Forward replaces the values that are None."""

    def __init__(self, parts: list[Part], values: Sequence[PartValue | None], gemm: torch.dtype) -> None:
        self.parts, self.values, self.gemm = parts, values, gemm


class _LinearOfParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(weight.device.type, enabled=False):
            call.values = values = core.forward(weight.detach(), call.parts, call.values, call.gemm)
        ctx.call, ctx.versions = call, None
        if any(ctx.needs_input_grad[2:]):
            # The inputs are saved so that autograd raises an error if they are changed before the backward pass, and
            # frees them after it.
            ctx.save_for_backward(weight, *inputs)
            call.parts = [part.with_inputs([None] * len(part.inputs())) for part in call.parts]
        else:
            # PartMemory reuses the node of constant parts, so it must not save tensors that a backward pass frees.
            # `_unchanged` does the check that autograd would do.
            ctx.weight, ctx.versions = weight, [version(x) for x in (weight, *inputs)]
        ctx.set_materialize_grads(False)
        return tuple(value.z.detach() for value in values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = ctx.call.parts
        needs, needs_per_part = list(ctx.needs_input_grad[2:]), []
        for part in parts:
            count = len(part.inputs())
            needs_per_part.append(needs[:count])
            needs = needs[count:]
        if ctx.versions:
            weight = _unchanged(ctx)
        else:
            weight, *inputs = ctx.saved_tensors
            saved = iter([x.detach() for x in inputs])
            parts = [part.with_inputs([next(saved) for _ in part.inputs()]) for part in parts]
        with torch.autocast(weight.device.type, enabled=False):
            d_weight, d_inputs = core.backward(
                weight.detach(), parts, ctx.call.values, grads, ctx.needs_input_grad[1], needs_per_part, ctx.call.gemm
            )
        return None, d_weight, *(d for per_part in d_inputs for d in per_part)


def _unchanged(ctx: Any) -> Tensor:
    now = [version(x) for x in (ctx.weight, *(x for part in ctx.call.parts for x in part.inputs()))]
    if now != ctx.versions:
        raise RuntimeError(
            "relation_linear: the weight or the rows were modified by an inplace operation between the forward and the "
            "backward pass"
        )
    return ctx.weight


def _fake_linear(
    u: Tensor, v: Tensor, weight: Tensor, crow: Tensor | None, col: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    h = weight.shape[0]
    return u.new_empty(u.shape[0], h), u.new_empty(u.shape[1], h), u.new_empty(0 if col is None else col.shape[0])


@python_op("relation_linear", _fake_linear)
def _linear_op(
    u: Tensor, v: Tensor, weight: Tensor, crow: Tensor | None, col: Tensor | None, cancelled: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    part = GeneratedPart(u, v, None if crow is None or col is None else (crow, col), cancelled)
    (value,) = core.forward(weight, [part], [None], weight.dtype)
    return value.z, cast(Tensor, value.vw), u.new_empty(0) if value.products is None else value.products


def _fake_linear_bwd(grad: Tensor, u: Tensor, v: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    need_u, need_v, need_weight = rest[-3:]
    d_weight = torch.empty_like(weight, memory_format=torch.preserve_format) if need_weight else grad.new_empty(0)
    return u.new_empty(u.shape if need_u else 0), v.new_empty(v.shape if need_v else 0), d_weight


@python_op("relation_linear_bwd", _fake_linear_bwd)
def _linear_bwd_op(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    weight: Tensor,
    crow: Tensor | None,
    col: Tensor | None,
    cancelled: Tensor | None,
    vw: Tensor,
    products: Tensor,
    need_u: bool,
    need_v: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    part = GeneratedPart(u, v, None if crow is None or col is None else (crow, col), cancelled)
    value = PartValue(grad, vw, None if crow is None else products)
    d_weight, [[du, dv]] = core.backward(weight, [part], [value], [grad], need_weight, [[need_u, need_v]], weight.dtype)
    d_u, d_v, d_w = (grad.new_empty(0) if d is None else d for d in (du, dv, d_weight))
    return d_u, d_v, d_w


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _grad(ctx: Any, grad: Tensor | None, _vw: Tensor | None, _products: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    u, v, weight, crow, col, cancelled, vw, products = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    grads = relation_linear_bwd(grad, u, v, weight, crow, col, cancelled, vw, products, *needs)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None


relation_linear_op = differentiable("relation_linear", _grad, _save)
relation_linear_bwd = undifferentiable(
    "relation_linear_bwd", "relation_linear has no second derivative; use mmssl_fast.reference.relation_linear"
)
