"""relation_linear: the discriminator's first Linear on relation rows that are never formed (Eq. 3 and 4).

`relation_linear` is the op on one generated block and compiles; `linear_of_parts` takes any number of parts at once,
reads the weight once for all of them and is what RelationRows runs on. The arithmetic of both is relation_parts.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...ops.unit_rows import unit_rows
from ...precision import gemm_dtype
from . import parts as core
from .parts import DensePart, GeneratedPart, Part, PartValue, check_generated, version
from .relation_row_norm import row_norm_and_carried


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
        return torch.ops.mmssl_fast.relation_linear(u, v, weight, crow, col, None)[0].to(dtype)
    norm, carried = row_norm_and_carried(u, v, seen)
    z = torch.ops.mmssl_fast.relation_linear(u, v, weight, crow, col, None if seen is None else carried)[0]
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
    versions they had. A write through ``weight.data`` leaves no version and is not noticed.
    """

    def __init__(self) -> None:
        self._weight = lambda: None
        self._key: tuple = ()
        self._value: PartValue | None = None
        self._z: Tensor | None = None

    def get(self, weight: Tensor, key: tuple) -> PartValue | None:
        return self._value if self._weight() is weight and self._key == key else None

    def node(self, weight: Tensor, key: tuple) -> Tensor | None:
        """z [B, H] with the graph node of an earlier call, where that call had one and this one needs it."""
        kept = self._z is not None and self._z.requires_grad and torch.is_grad_enabled() and weight.requires_grad
        return self._z if kept and self.get(weight, key) else None

    def put(self, weight: Tensor, key: tuple, value: PartValue, z: Tensor | None) -> None:
        self._weight, self._key, self._value, self._z = weakref.ref(weight), key, value, z


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
    keys = [(version(weight), work, gemm, torch.is_inference_mode_enabled(), *_part_key(part)) for part in parts]
    shared = work == weight.dtype and not any(x.requires_grad for part in parts for x in _inputs(part))
    outputs = [shared and memory and memory.node(weight, key) for memory, key in zip(memories, keys, strict=True)]
    missing = [k for k, z in enumerate(outputs) if not isinstance(z, Tensor)]
    if not missing:
        return outputs
    fresh = [_cast(parts[k], work) for k in missing]
    known = [memories[k] and memories[k].get(weight, keys[k]) for k in missing]
    call = _Call([_detached(part) for part in fresh], known, gemm)
    found = _LinearOfParts.apply(call, weight.to(work), *(x for part in fresh for x in _inputs(part)))
    for k, value, z in zip(missing, call.values, found, strict=True):
        outputs[k] = z
        if memories[k] is not None:
            memories[k].put(weight, keys[k], value, z if shared else None)
    return outputs


class _Call:
    def __init__(self, parts: list[Part], known: list[PartValue | None], gemm: torch.dtype) -> None:
        self.parts, self.known, self.gemm = parts, known, gemm
        self.values: list[PartValue] = []


class _LinearOfParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _Call, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(weight.device.type, enabled=False):
            call.values = core.forward(weight.detach(), call.parts, call.known, call.gemm)
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
            count = len(_inputs(part))
            needs_per_part.append(needs[:count])
            needs = needs[count:]
        with torch.autocast(weight.device.type, enabled=False):
            d_weight, d_inputs = core.backward(
                weight.detach(), parts, ctx.call.values, grads, ctx.needs_input_grad[1], needs_per_part, ctx.call.gemm
            )
        return None, d_weight, *(d for per_part in d_inputs for d in per_part)


def _unchanged(ctx) -> Tensor:
    now = [version(x) for x in (ctx.weight, *(x for part in ctx.call.parts for x in _inputs(part)))]
    if now != ctx.versions:
        raise RuntimeError(
            "relation_linear: the weight or the rows were modified by an inplace operation between forward and backward"
        )
    return ctx.weight


def _inputs(part: Part) -> list[Tensor]:
    if isinstance(part, GeneratedPart):
        return [part.u, part.v]
    return [part.x] if isinstance(part, DensePart) else []


def _part_key(part: Part) -> tuple:
    carried = getattr(part, "carried", None)
    return (*((x.data_ptr(), version(x)) for x in _inputs(part)), None if carried is None else carried.data_ptr())


def _cast(part: Part, dtype: torch.dtype) -> Part:
    if isinstance(part, GeneratedPart):
        return GeneratedPart(part.u.to(dtype), part.v.to(dtype), part.seen, part.carried)
    return DensePart(part.x.to(dtype)) if isinstance(part, DensePart) else part


def _detached(part: Part) -> Part:
    if isinstance(part, GeneratedPart):
        return GeneratedPart(part.u.detach(), part.v.detach(), part.seen, part.carried)
    return DensePart(part.x.detach()) if isinstance(part, DensePart) else part


@torch.library.custom_op("mmssl_fast::relation_linear", mutates_args=())
def _linear_op(
    u: Tensor, v: Tensor, weight: Tensor, crow: Tensor | None, col: Tensor | None, carried: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    part = GeneratedPart(u, v, None if crow is None else (crow, col), carried)
    (value,) = core.forward(weight, [part], [None], weight.dtype)
    return value.z, value.vw, u.new_empty(0) if value.products is None else value.products


@_linear_op.register_fake
def _(u, v, weight, crow, col, carried):
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
    carried: Tensor | None,
    vw: Tensor,
    products: Tensor,
    need_u: bool,
    need_v: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    part = GeneratedPart(u, v, None if crow is None else (crow, col), carried)
    value = PartValue(grad, vw, None if crow is None else products)
    d_weight, [[du, dv]] = core.backward(weight, [part], [value], [grad], need_weight, [[need_u, need_v]], weight.dtype)
    return tuple(grad.new_empty(0) if d is None else d for d in (du, dv, d_weight))


@_linear_bwd_op.register_fake
def _(grad, u, v, weight, crow, col, carried, vw, products, need_u, need_v, need_weight):
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
    u, v, weight, crow, col, carried, vw, products = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    grads = torch.ops.mmssl_fast.relation_linear_bwd(grad, u, v, weight, crow, col, carried, vw, products, *needs)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None


_linear_op.register_autograd(_grad, setup_context=_save)
