"""The arithmetic of the linear layer on relation rows: rows Wᵀ and its gradients, without forming rows (Eq. 3 and 4).

A part is a block of rows of one kind: generated, sparse, tiled or dense. With W = weight [H, I], A [B, I] with a 1 at
each seen pair, and the products s_ui = U_u·V_i of the seen pairs, the linear layer on generated rows is

    z = ((U Vᵀ) ∘ (1 − A)) Wᵀ = U (W V)ᵀ − Σ_{i seen by u} s_ui W[:, i]

which takes I·d·H + nnz·H operations instead of B·I·H. With y = ∂L/∂z, T = yᵀU, and G = (y W) at the seen pairs and 0
elsewhere, its gradients are

    dW = T Vᵀ − yᵀs,   dU = y (W V) − G V,   dV = Wᵀ T − Gᵀ U.

`forward` and `backward` below process any number of parts. W is by far the largest operand, so they compute the
products with W, namely W V and Wᵀ T, for all parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...ops.sampled_dot import sampled_dot
from ...ops.spmm import spmm, spmm_add_
from ...precision import work_dtype
from ...tiles import item_tiles
from .cancelled import CancelledBlock, cancelled_blocks, excluded_rows, zero_rows
from .pending_gradient import PendingGradient, pending_of
from .weight_columns import ItemEntries, WeightColumns
from .weight_gradient import DenseGradient
from .weight_products import project, project_back, times_weight


@dataclass(eq=False)
class PartValue:
    """The result of the forward pass of a part: z [B, H], and for a generated part also vw = (W V)ᵀ [d, H] and the
    products s_ui of the seen pairs [nnz]."""

    z: Tensor
    vw: Tensor | None = None
    products: Tensor | None = None


class WeightPass:
    """The values that the parts share during one pass over a weight: the columns of the weight, the transpose of every
    CSR block, and the products W V."""

    def __init__(self, weight: Tensor, gemm: torch.dtype) -> None:
        self.weight, self.gemm, self.columns = weight, gemm, WeightColumns(weight)
        self.work = work_dtype(weight.dtype)  # of results, and of products that are not rounded to gemm
        self.vw: dict[tuple[Any, ...], Tensor] = {}  # (W V)ᵀ [d, H] by `_key` of v
        self._entries: dict[tuple[Any, ...], ItemEntries] = {}

    def entries(self, crow: Tensor, col: Tensor) -> ItemEntries:
        key = (crow.data_ptr(), col.data_ptr(), col.shape[0])
        if key not in self._entries:
            self._entries[key] = ItemEntries(crow, col, self.weight.shape[1])
        return self._entries[key]


class Part:
    """A block of relation rows [B, I] of one kind. The defaults of the methods describe constant rows."""

    def inputs(self) -> list[Tensor]:
        """The tensors that may require a gradient, in the order of `input_gradients`."""
        return []

    def with_inputs(self, inputs: Sequence[Any]) -> Part:
        """The part with other inputs. They may be None, in a part that is not computed with."""
        return self

    def cast(self, dtype: torch.dtype) -> Part:
        """The part with its inputs converted to `dtype`."""
        return self.with_inputs([x.to(dtype) for x in self.inputs()])

    def detach(self) -> Part:
        """The part with its inputs detached from the autograd graph."""
        return self.with_inputs([x.detach() for x in self.inputs()])

    def key(self) -> tuple[Any, ...]:
        """A key that changes whenever the rows change."""
        return tuple((x.data_ptr(), version(x)) for x in self.inputs())

    def low_rank(self) -> tuple[Tensor, Tensor] | None:
        """(u [B, d], v [I, d]) if the rows are u vᵀ plus a sparse matrix, else None."""
        return None

    def forward(self, shared: WeightPass) -> PartValue:
        """Computes z = rows Wᵀ."""
        raise NotImplementedError

    def add_weight_gradient(
        self, sink: DenseGradient | PendingGradient, value: PartValue, grad: Tensor, shared: WeightPass
    ) -> None:
        """Adds dW to `sink`, without the contribution of `low_rank`, which is one product for all parts."""
        raise NotImplementedError

    def input_gradients(
        self, value: PartValue, grad: Tensor, needs: Sequence[bool], tw: Tensor | None, shared: WeightPass
    ) -> list[Tensor | None]:
        """The gradients of `inputs`; None for an input that needs none. tw is Wᵀ T [I, d] for the factors `low_rank`,
        if the gradient of v is needed."""
        return []


@dataclass(eq=False)
class GeneratedPart(Part):
    """The rows (u vᵀ) ∘ (1 − A).

    u: [B, d]. v: [I, d]. seen: the ones of A as (crow [B + 1], col [nnz]), or None. cancelled: bool [B] or None, the
    rows that are formed densely, a few at a time, because the subtraction would lose all digits (see cancelled.py).
    """

    u: Tensor
    v: Tensor
    seen: tuple[Tensor, Tensor] | None = None
    cancelled: Tensor | None = None

    def __post_init__(self) -> None:
        self.excluded = excluded_rows(self.seen, self.cancelled, self.v.shape[0])

    def inputs(self) -> list[Tensor]:
        return [self.u, self.v]

    def with_inputs(self, inputs: Sequence[Any]) -> GeneratedPart:
        part = copy(self)  # `excluded` is the same
        part.u, part.v = inputs
        return part

    def key(self) -> tuple[Any, ...]:
        return (*super().key(), None if self.cancelled is None else self.cancelled.data_ptr())

    def low_rank(self) -> tuple[Tensor, Tensor]:
        return zero_rows(self.u, self.excluded), self.v

    def forward(self, shared: WeightPass) -> PartValue:
        vw = shared.vw[_key(self.v)]
        u, _ = self.low_rank()
        z, products = u @ vw, None
        if self.seen is not None:
            seen = shared.entries(*self.seen)
            products = sampled_dot(seen.crow, seen.col, u, self.v)
            x, col = shared.columns.gather(seen)
            spmm_add_(z, seen.rows(), seen.crow, col, -products, x)
        # The cancelled rows are assigned, not added: their low-rank factor is zero in `u`.
        for block in self._cancelled_blocks():
            z[block.rows] = project([self._dense(block).mT], shared.weight, shared.work)
        return PartValue(z, vw, products)

    def add_weight_gradient(
        self, sink: DenseGradient | PendingGradient, value: PartValue, grad: Tensor, shared: WeightPass
    ) -> None:
        if self.seen is not None:
            sink.add_sparse(shared.entries(*self.seen), -cast(Tensor, value.products), grad)
        for block in self._cancelled_blocks():
            sink.add_rows(self._dense(block), grad[block.rows])

    def input_gradients(
        self, value: PartValue, grad: Tensor, needs: Sequence[bool], tw: Tensor | None, shared: WeightPass
    ) -> list[Tensor | None]:
        if not any(needs):
            return [None, None]
        du: Any = None
        dv: Any = None
        sampled = None
        low_rank_grad = zero_rows(grad, self.excluded)
        if self.seen is not None:
            seen = shared.entries(*self.seen)
            x, col = shared.columns.gather(seen)
            sampled = sampled_dot(seen.crow, col, low_rank_grad, x)
        if needs[0]:
            du = low_rank_grad @ cast(Tensor, value.vw).mT
            if self.seen is not None and sampled is not None:
                spmm_add_(du, torch.arange(du.shape[0], device=du.device), *self.seen, -sampled, self.v)
        if needs[1]:
            # tw is a slice of the columns of a shared product, but spmm_add_ needs contiguous rows.
            dv = cast(Tensor, tw).contiguous()
            if sampled is not None:
                seen.add_transposed_(dv, -sampled, self.low_rank()[0])
        for block in self._cancelled_blocks():
            d_rows = block.mask_(times_weight(grad[block.rows], shared.weight, shared.work))
            if needs[0]:
                du[block.rows] = d_rows @ self.v
            if needs[1]:
                dv.addmm_(d_rows.mT, self.u[block.rows])
        return [du, dv]

    def _cancelled_blocks(self) -> Iterator[CancelledBlock]:
        if self.seen is not None and self.cancelled is not None:
            yield from cancelled_blocks(self.seen, self.cancelled, self.v.shape[0])

    def _dense(self, block: CancelledBlock) -> Tensor:
        """The rows of a block as a matrix, [b, I]."""
        return block.mask_(self.u[block.rows] @ self.v.mT)


@dataclass(eq=False)
class SparsePart(Part):
    """Constant rows given as a CSR block: crow int64 [B + 1], col [nnz], value [nnz]."""

    crow: Tensor
    col: Tensor
    value: Tensor
    n_items: int

    def forward(self, shared: WeightPass) -> PartValue:
        x, col = shared.columns.gather(shared.entries(self.crow, self.col))
        return PartValue(spmm(self.crow, col, self.value, x))

    def add_weight_gradient(
        self, sink: DenseGradient | PendingGradient, value: PartValue, grad: Tensor, shared: WeightPass
    ) -> None:
        sink.add_sparse(shared.entries(self.crow, self.col), self.value, grad)


@dataclass(eq=False)
class TiledPart(Part):
    """Constant rows given by a function tile(begin, end) → [n_rows, end − begin], which generates the same tile in
    every call."""

    n_rows: int
    n_items: int
    tile: Callable[[int, int], Tensor]

    def forward(self, shared: WeightPass) -> PartValue:
        weight = shared.weight
        z = weight.new_zeros(self.n_rows, weight.shape[0], dtype=shared.work)
        for begin, end in item_tiles(self.n_rows, self.n_items):
            z.addmm_(self.tile(begin, end).to(z.dtype), weight[:, begin:end].mT.to(z.dtype))
        return PartValue(z)

    def add_weight_gradient(
        self, sink: DenseGradient | PendingGradient, value: PartValue, grad: Tensor, shared: WeightPass
    ) -> None:
        sink.add_tiles(self.tile, grad)


@dataclass(eq=False)
class DensePart(Part):
    """Rows that are given as a matrix x [B, I]."""

    x: Tensor

    def inputs(self) -> list[Tensor]:
        return [self.x]

    def with_inputs(self, inputs: Sequence[Any]) -> DensePart:
        return DensePart(*inputs)

    def forward(self, shared: WeightPass) -> PartValue:
        return PartValue(project([self.x.mT], shared.weight, shared.gemm))

    def add_weight_gradient(
        self, sink: DenseGradient | PendingGradient, value: PartValue, grad: Tensor, shared: WeightPass
    ) -> None:
        sink.add_rows(self.x, grad, shared.gemm)

    def input_gradients(
        self, value: PartValue, grad: Tensor, needs: Sequence[bool], tw: Tensor | None, shared: WeightPass
    ) -> list[Tensor | None]:
        return [times_weight(grad, shared.weight, shared.gemm) if needs[0] else None]


def check_generated(op: str, u: Tensor, v: Tensor, seen: tuple[Tensor, Tensor] | None, kind: str = "dot") -> None:
    """Raises ValueError unless (u [B, d], v [I, d], seen, kind) describe generated rows."""
    if kind not in ("cosine", "dot"):
        raise ValueError(f'{op}: kind must be "cosine" or "dot", got {kind!r}')
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1]:
        raise ValueError(f"{op}: u must be [B, d] and v [I, d], got {tuple(u.shape)} and {tuple(v.shape)}")
    if u.dtype != v.dtype or not u.is_floating_point():
        raise ValueError(f"{op}: u and v must have the same floating dtype, got {u.dtype} and {v.dtype}")
    if seen is not None and seen[0].numel() != u.shape[0] + 1:
        raise ValueError(
            f"{op}: seen.crow must have {u.shape[0] + 1} offsets for {u.shape[0]} rows, got {seen[0].numel()}"
        )


def version(x: Tensor) -> int:
    """x._version, or 0 for an inference tensor, which has no version."""
    return 0 if x.is_inference() else x._version


def forward(
    weight: Tensor, parts: Sequence[Part], values: Sequence[PartValue | None], gemm: torch.dtype
) -> list[PartValue]:
    """z = rows Wᵀ of every part, with one product over W for all distinct v. It is not recorded by autograd.

    Args:
        values: cached values of the same parts for the same weight, or None for a part that has to be computed.
        gemm: dtype of the operands of the products over W.
    """
    shared = WeightPass(weight, gemm)
    factors = [part.low_rank() for part, value in zip(parts, values, strict=True) if value is None]
    shared.vw = _project(weight, [factor[1] for factor in factors if factor is not None], gemm)
    return [part.forward(shared) if value is None else value for part, value in zip(parts, values, strict=True)]


def backward(
    weight: Tensor,
    parts: Sequence[Part],
    values: Sequence[PartValue],
    grads: Sequence[Tensor | None],
    need_weight: bool,
    need_inputs: Sequence[Sequence[bool]],
    gemm: torch.dtype,
) -> tuple[Tensor | None, list[list[Tensor | None]]]:
    """dW in the layout and dtype of weight, and the gradients of the inputs of every part, from ∂L/∂z of every part.

    A gradient of None is zero. If a PendingGradient is active for the weight, dW is added to it in pieces, and None is
    returned instead.
    """
    shared = WeightPass(weight, gemm)
    live = [k for k, grad in enumerate(grads) if grad is not None]
    d_weight = None
    if need_weight:
        pending = pending_of(weight)
        sink = DenseGradient(weight) if pending is None else pending
        _weight_gradient(
            sink, [parts[k] for k in live], [values[k] for k in live], [cast(Tensor, grads[k]) for k in live], shared
        )
        d_weight = sink.value.to(weight.dtype) if isinstance(sink, DenseGradient) else None
    tw = _products_with_weight(parts, grads, [k for k in live if any(need_inputs[k][1:])], shared)
    d_inputs: list[list[Tensor | None]] = [[None] * len(needs) for needs in need_inputs]
    for k in live:
        d_inputs[k] = parts[k].input_gradients(values[k], cast(Tensor, grads[k]), need_inputs[k], tw.get(k), shared)
    return d_weight, d_inputs


def _weight_gradient(
    sink: DenseGradient | PendingGradient,
    parts: Sequence[Part],
    values: Sequence[PartValue],
    grads: Sequence[Tensor],
    shared: WeightPass,
) -> None:
    """Adds dW of all parts to `sink`. The low-rank contributions come first, because DenseGradient.start assigns them
    instead of adding them."""
    factors: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}  # for every distinct v: (v, Tᵀ = Σ uᵀy [d, H])
    for part, grad in zip(parts, grads, strict=True):
        if (low_rank := part.low_rank()) is not None:
            u, v = low_rank
            t, key = u.mT @ grad, _key(v)
            factors[key] = (v, factors[key][1] + t if key in factors else t)
    sink.start(list(factors.values()), shared.gemm)
    for part, value, grad in zip(parts, values, grads, strict=True):
        part.add_weight_gradient(sink, value, grad, shared)


def _products_with_weight(
    parts: Sequence[Part], grads: Sequence[Tensor | None], which: Sequence[int], shared: WeightPass
) -> dict[int, Tensor]:
    """Wᵀ T [I, d] for the parts with the numbers `which`, by a single product over W: Wᵀ [T¹ | T² | …]."""
    if not which:
        return {}
    ts = [cast(Tensor, grads[k]).mT @ cast(tuple[Tensor, Tensor], parts[k].low_rank())[0] for k in which]
    return dict(zip(which, project_back(ts, shared.weight, shared.gemm, shared.work), strict=True))


def _key(v: Tensor) -> tuple[Any, ...]:
    return v.data_ptr(), version(v), v.shape, v.stride()


def _project(weight: Tensor, vs: Sequence[Tensor], gemm: torch.dtype) -> dict[tuple[Any, ...], Tensor]:
    """(W V)ᵀ [d, H] for every distinct v, by a single product over W."""
    distinct = {_key(v): v for v in vs}
    if not distinct:
        return {}
    together = project(list(distinct.values()), weight, gemm)
    return dict(zip(distinct, together.split([v.shape[1] for v in distinct.values()]), strict=True))
