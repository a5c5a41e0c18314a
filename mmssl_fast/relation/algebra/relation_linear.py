"""relation_linear: the discriminator's first Linear on relation rows that are never formed (Eq. 3 and 4).

`relation_linear` is the op on one generated block and compiles; `linear_of_parts` takes any number of parts at once,
reads the weight once for all of them and is what RelationRows runs on. The arithmetic of both is in parts.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...arguments import check_tensors
from ...ops.derivatives import differentiable, undifferentiable
from ...ops.unit_rows import unit_rows
from ...precision import gemm_dtype
from . import parts as core
from .parts import GeneratedPart, Part, PartValue, check_generated, version
from .relation_row_norm import row_norm_and_cancelled


def relation_linear(u: Tensor, v: Tensor, weight: Tensor, seen=None, kind: str = "dot", row_l2: bool = False) -> Tensor:
    """Equals ``F.linear(cosine_block(u, v, seen, kind, row_l2), weight)``, without forming the [B, I] block (Eq. 3, 4).

    Costs I·d·H + nnz·H instead of B·I·H, where nnz counts the seen pairs of the block. Gradients reach u, v and
    weight, through the row scale and the cosine as well; they cannot be differentiated again.

    Args:
        u: [B, d] float32, float64 or bfloat16 (computed in float32), features of the users of the block.
        v: [I, d], dtype of u, features of all items.
        weight: [H, I], dtype of u. Fastest item-major (``weight.mT`` contiguous); then its gradient is item-major too.
        seen: SeenRows(crow [B + 1], col [nnz]) whose entries have value 0, distinct within a row; or None.
        kind: "cosine" (Eq. 3) or "dot" (the released code).
        row_l2: scale every row to length 1; a zero row stays zero, with gradient 0.

    Returns:
        [B, H], dtype of weight.

    Raises:
        ValueError: for shapes or dtypes that do not match, or another kind.
    """
    check_tensors("relation_linear", u=u, v=v, weight=weight)
    check_generated("relation_linear", u, v, seen, kind)
    if weight.ndim != 2 or weight.shape[1] != v.shape[0]:
        raise ValueError(
            f"relation_linear: weight is {tuple(weight.shape)}, v has {v.shape[0]} items: [H, I] is needed"
        )
    if weight.dtype != u.dtype:
        raise ValueError(f"relation_linear: weight is {weight.dtype}, u is {u.dtype}")
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
    """1 / max(norm, eps), and 0 with gradient 0 where norm is 0."""
    positive = ~(norm <= 0)  # true for NaN, which stays NaN
    return positive / torch.where(positive, norm, 1.0).clamp_min(eps)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half-width types, else the type itself."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class PartMemory:
    """The last value of one part, kept between calls: W V and z of the same rows at the same weight are not computed
    twice.

    Of constant parts also z with its graph node, so that the gradients of several calls meet there and dW takes one
    product; that node saves nothing autograd would free, and separate backwards may each go through it. Valid while
    the weight is the same object at the same version, in the same dtypes, and the part's own tensors are at the
    versions they had; tensors of inference mode have no version, so nothing of theirs is kept. A write through
    ``weight.data`` leaves no version and is not noticed.
    """

    def __init__(self) -> None:
        # (weight, key, value, z): one object, so that a second thread never meets the parts of two calls
        self._kept: tuple = (lambda: None, (), None, None)

    def get(self, weight: Tensor, key: tuple) -> PartValue | None:
        of, its_key, value, _ = self._kept
        return value if of() is weight and its_key == key else None

    def node(self, weight: Tensor, key: tuple) -> Tensor | None:
        """z [B, H] with the graph node of an earlier call, where that call had one and this one needs it."""
        of, its_key, _, z = self._kept
        kept = z is not None and z.requires_grad and torch.is_grad_enabled() and weight.requires_grad
        return z if kept and of() is weight and its_key == key else None

    def put(self, weight: Tensor, key: tuple, value: PartValue, z: Tensor | None) -> None:
        self._kept = weakref.ref(weight), key, value, z


def linear_of_parts(
    parts: Sequence[Part], weight: Tensor, memories: Sequence[PartMemory | None] | None = None
) -> list[Tensor]:
    """rows Wᵀ [B_k, H] of every part, in one pass over W for all distinct v; differentiable once, in weight and parts.

    Under autocast the products over W run in autocast's dtype, the rest in float32; otherwise float16 and bfloat16 are
    computed in float32. The results are float32 or float64.
    """
    memories = [None] * len(parts) if memories is None else memories
    work = work_dtype(weight.dtype)
    gemm = gemm_dtype(weight.device, work)
    keys = [(version(weight), work, gemm, torch.is_inference_mode_enabled(), *part.key()) for part in parts]
    shared = work == weight.dtype and not any(x.requires_grad for part in parts for x in part.inputs())
    outputs = [shared and memory and memory.node(weight, key) for memory, key in zip(memories, keys, strict=True)]
    missing = [k for k, z in enumerate(outputs) if not isinstance(z, Tensor)]
    if not missing:
        return outputs
    fresh = [parts[k].cast(work) for k in missing]
    values = [memories[k] and memories[k].get(weight, keys[k]) for k in missing]
    call = _Call([part.detach() for part in fresh], values, gemm)
    zs = _LinearOfParts.apply(call, weight.to(work), *(x for part in fresh for x in part.inputs()))
    for k, value, z in zip(missing, call.values, zs, strict=True):
        outputs[k] = z
        if memories[k] is not None and not any(x.is_inference() for x in (weight, *parts[k].inputs())):
            memories[k].put(weight, keys[k], value, z if shared else None)
    return outputs


class _Call:
    """What forward hands to backward besides tensors; values: None where forward has yet to compute them."""

    def __init__(self, parts: list[Part], values: list[PartValue | None], gemm: torch.dtype) -> None:
        self.parts, self.values, self.gemm = parts, values, gemm


class _LinearOfParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _Call, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(weight.device.type, enabled=False):
            call.values = core.forward(weight.detach(), call.parts, call.values, call.gemm)
        ctx.call, ctx.versions = call, None
        if any(ctx.needs_input_grad[2:]):
            ctx.save_for_backward(weight, *inputs)  # the inputs so that a change in place before backward is an error
        else:  # of constant parts, whose node PartMemory shares: nothing that a backward frees
            ctx.weight, ctx.versions = weight, [version(x) for x in (weight, *inputs)]
        ctx.set_materialize_grads(False)
        return tuple(value.z.detach() for value in call.values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        parts = ctx.call.parts
        weight = _unchanged(ctx) if ctx.versions else ctx.saved_tensors[0]
        needs, needs_per_part = list(ctx.needs_input_grad[2:]), []
        for part in parts:
            count = len(part.inputs())
            needs_per_part.append(needs[:count])
            needs = needs[count:]
        with torch.autocast(weight.device.type, enabled=False):
            d_weight, d_inputs = core.backward(
                weight.detach(), parts, ctx.call.values, grads, ctx.needs_input_grad[1], needs_per_part, ctx.call.gemm
            )
        return None, d_weight, *(d for per_part in d_inputs for d in per_part)


def _unchanged(ctx) -> Tensor:
    now = [version(x) for x in (ctx.weight, *(x for part in ctx.call.parts for x in part.inputs()))]
    if now != ctx.versions:
        raise RuntimeError(
            "relation_linear: the weight or the rows were modified by an inplace operation between forward and backward"
        )
    return ctx.weight


@torch.library.custom_op("mmssl_fast::relation_linear", mutates_args=())
def _linear_op(
    u: Tensor, v: Tensor, weight: Tensor, crow: Tensor | None, col: Tensor | None, cancelled: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    part = GeneratedPart(u, v, None if crow is None else (crow, col), cancelled)
    (value,) = core.forward(weight, [part], [None], weight.dtype)
    return value.z, value.vw, u.new_empty(0) if value.products is None else value.products


@_linear_op.register_fake
def _(u, v, weight, crow, col, cancelled):
    h = weight.shape[0]
    return u.new_empty(u.shape[0], h), u.new_empty(u.shape[1], h), u.new_empty(0 if col is None else col.shape[0])


@torch.library.custom_op("mmssl_fast::relation_linear_bwd", mutates_args=())
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
    part = GeneratedPart(u, v, None if crow is None else (crow, col), cancelled)
    value = PartValue(grad, vw, None if crow is None else products)
    d_weight, [[du, dv]] = core.backward(weight, [part], [value], [grad], need_weight, [[need_u, need_v]], weight.dtype)
    return tuple(grad.new_empty(0) if d is None else d for d in (du, dv, d_weight))


@_linear_bwd_op.register_fake
def _(grad, u, v, weight, crow, col, cancelled, vw, products, need_u, need_v, need_weight):
    def like(x, needed):
        return torch.empty_like(x, memory_format=torch.preserve_format) if needed else grad.new_empty(0)

    return (
        u.new_empty(u.shape) if need_u else grad.new_empty(0),
        (v.new_empty(v.shape) if need_v else grad.new_empty(0)),
        like(weight, need_weight),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.set_materialize_grads(False)


def _grad(ctx, grad, _vw, _products):
    if grad is None:
        return (None,) * 6
    u, v, weight, crow, col, cancelled, vw, products = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    grads = relation_linear_bwd(grad, u, v, weight, crow, col, cancelled, vw, products, *needs)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None


relation_linear_op = differentiable("relation_linear", _grad, _save)
relation_linear_bwd = undifferentiable(
    "relation_linear_bwd", "relation_linear: has no second derivative; use mmssl_fast.reference.relation_linear"
)
