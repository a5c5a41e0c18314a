"""The arithmetic of relation_linear: rows Wᵀ and its gradients, part by part, without forming rows (Eq. 3 and 4).

With W = weight [H, I] and s_ui = U_u·V_i for the seen pairs, Linear on generated rows is

    ((U Vᵀ) ∘ (1 − S)) Wᵀ = U (W V)ᵀ − Σ_{i seen by u} s_ui W[:, i]

at I·d·H + nnz·H operations instead of B·I·H. Its gradients, with y = ∂L/∂z, T = yᵀU and A = (y W) at the seen pairs:

    dW = T Vᵀ − yᵀs,   dU = y (W V) − A V,   dV = Wᵀ T − Aᵀ U.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ops.sampled_dot import sampled_dot
from ...ops.spmm import spmm, spmm_add_
from ...precision import addmm_, rounded
from ...precision import mm as _mm
from ...precision import mm_out as _mm_out
from ...tiles import item_tiles
from .cancelled import carried_blocks, formed_apart, without
from .pending_gradient import PendingGradient, pending_of
from .weight_columns import ItemEntries, WeightColumns


@dataclass(eq=False)
class GeneratedPart:
    """Rows (u vᵀ) ∘ (1 − S): u [B, d], v [I, d], S the entries of seen (crow [B + 1], col [nnz]) or None.

    carried: bool [B] or None. Rows whose seen items make up nearly all of u vᵀ, where the subtraction would leave no
    digits: they alone are formed densely, a few at a time (see relation_row_norm).
    """

    u: Tensor
    v: Tensor
    seen: tuple[Tensor, Tensor] | None = None
    carried: Tensor | None = None

    def __post_init__(self) -> None:
        self.apart = formed_apart(self.seen, self.carried, self.v.shape[0])


@dataclass(eq=False)
class SparsePart:
    """Constant rows given as a CSR block: crow int64 [B + 1], col [nnz], value [nnz], over n_items columns."""

    crow: Tensor
    col: Tensor
    value: Tensor
    n_items: int


@dataclass(eq=False)
class TiledPart:
    """Constant rows given in tiles: tile(begin, end) → [n_rows, end − begin], the same whenever it is called."""

    n_rows: int
    n_items: int
    tile: Callable[[int, int], Tensor]


@dataclass(eq=False)
class DensePart:
    """Rows that exist as a matrix x [B, I]."""

    x: Tensor


Part = GeneratedPart | SparsePart | TiledPart | DensePart


@dataclass(eq=False)
class PartValue:
    """What one part's forward leaves: z [B, H]; for a generated part also vw = (W V)ᵀ [d, H] and the seen products
    [nnz]."""

    z: Tensor
    vw: Tensor | None = None
    products: Tensor | None = None


def check_generated(op: str, u: Tensor, v: Tensor, seen, kind: str = "dot") -> None:
    """Raises ValueError unless (u [B, d], v [I, d], seen, kind) describe generated rows."""
    if kind not in ("cosine", "dot"):
        raise ValueError(f'{op}: kind must be "cosine" or "dot", got {kind!r}')
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1]:
        raise ValueError(f"{op}: u [B, d] and v [I, d] are needed, got {tuple(u.shape)} and {tuple(v.shape)}")
    if u.dtype != v.dtype or not u.is_floating_point():
        raise ValueError(f"{op}: u and v must have one floating dtype, got {u.dtype} and {v.dtype}")
    if seen is not None and seen[0].numel() != u.shape[0] + 1:
        raise ValueError(f"{op}: seen.crow has {seen[0].numel()} offsets, {u.shape[0]} rows need {u.shape[0] + 1}")


def version(x: Tensor) -> int:
    """x._version, and 0 for tensors of inference mode, which have none."""
    return 0 if x.is_inference() else x._version


def forward(
    weight: Tensor, parts: Sequence[Part], known: Sequence[PartValue | None], gemm: torch.dtype
) -> list[PartValue]:
    """z = rows Wᵀ of every part, with one product over W for all distinct v. Plain tensors in, plain tensors out.

    known: values of the same parts at the same weight, where they are at hand. gemm: dtype of the products over W.
    """
    columns = WeightColumns(weight)
    missing = [p for p, k in zip(parts, known, strict=True) if isinstance(p, GeneratedPart) and k is None]
    vw = _project(weight, [p.v for p in missing], gemm)
    entries = _EntriesByIdentity(weight.shape[1])
    values = []
    for part, value in zip(parts, known, strict=True):
        if value is None:
            value = _part_forward(part, weight, columns, entries, vw, gemm)
        values.append(value)
    return values


def _part_forward(
    part: Part, weight: Tensor, columns: WeightColumns, entries: _EntriesByIdentity, vw: dict, gemm: torch.dtype
) -> PartValue:
    if isinstance(part, DensePart):
        return PartValue(_mm(part.x, rounded(weight, gemm).mT, gemm))
    if isinstance(part, SparsePart):
        x, col = columns.at(entries.of(part.crow, part.col))
        return PartValue(spmm(part.crow, col, part.value, x))
    if isinstance(part, TiledPart):
        z = weight.new_zeros(part.n_rows, weight.shape[0])
        for begin, end in item_tiles(part.n_rows, part.n_items):
            z.addmm_(part.tile(begin, end).to(z.dtype), weight[:, begin:end].mT)
        return PartValue(z)
    vw_part = vw[_key(part.v)]
    u = without(part.u, part.apart)
    z, products = u @ vw_part, None
    if part.seen is not None:
        seen = entries.of(*part.seen)
        products = sampled_dot(seen.crow, seen.col, u, part.v)
        x, col = columns.at(seen)
        spmm_add_(z, seen.rows(), seen.crow, col, -products, x)
        if part.carried is not None:
            for block in carried_blocks(part.seen, part.carried, part.v.shape[0]):
                z[block.rows] = block.mask_(part.u[block.rows] @ part.v.mT) @ weight.mT
    return PartValue(z, vw_part, products)


def backward(
    weight: Tensor,
    parts: Sequence[Part],
    values: Sequence[PartValue],
    grads: Sequence[Tensor | None],
    need_weight: bool,
    need_inputs: Sequence[Sequence[bool]],
    gemm: torch.dtype,
) -> tuple[Tensor | None, list[list[Tensor | None]]]:
    """(dW in the layout of weight, per part its inputs' gradients) from ∂L/∂z of every part; a None among grads is a
    zero. Where the weight's gradient is pending, its pieces go there and dW is None."""
    live = [k for k, grad in enumerate(grads) if grad is not None]
    entries = _EntriesByIdentity(weight.shape[1])
    pending, d_weight = pending_of(weight) if need_weight else None, None
    if pending is not None:
        _put_off(pending, parts, values, grads, live, entries, gemm)
    elif need_weight:
        d_weight = _weight_gradient(weight, parts, values, grads, live, entries, gemm)
    d_inputs: list[list[Tensor | None]] = [[None] * len(needs) for needs in need_inputs]
    columns = WeightColumns(weight)
    want_v = []
    for k in live:
        part, grad, needs = parts[k], grads[k], need_inputs[k]
        if isinstance(part, DensePart) and needs[0]:
            d_inputs[k][0] = _mm(grad, rounded(weight, gemm), gemm)
        elif isinstance(part, GeneratedPart) and any(needs):
            sampled = None
            if part.seen is not None:
                seen = entries.of(*part.seen)
                x, col = columns.at(seen)
                sampled = sampled_dot(seen.crow, col, without(grad, part.apart), x)
            if needs[0]:
                d_inputs[k][0] = _u_gradient(part, values[k], grad, sampled)
            if needs[1]:
                want_v.append((k, sampled))
    if want_v:
        _v_gradients(weight, parts, grads, want_v, entries, d_inputs, gemm)
    _add_carried(weight, parts, grads, live, need_inputs, d_inputs)
    return d_weight, d_inputs


def _weight_gradient(
    weight: Tensor,
    parts: Sequence[Part],
    values: Sequence[PartValue],
    grads: Sequence[Tensor | None],
    live: Sequence[int],
    entries: _EntriesByIdentity,
    gemm: torch.dtype,
) -> Tensor:
    """dW: the low-rank part written by one product, everything else added in place."""
    d_weight = torch.empty_like(weight)  # keeps the layout, so that it can become weight.grad as it is
    factors = _low_rank_factors(parts, grads, live)
    if factors:
        v = _concatenate([v for v, _ in factors], 1)
        _mm_out(v, torch.cat([t for _, t in factors]), d_weight.mT, gemm)
    else:
        d_weight.zero_()
    for k in live:
        part, grad = parts[k], grads[k]
        if isinstance(part, DensePart):
            addmm_(d_weight.mT, part.x.mT, grad, gemm)
        elif isinstance(part, SparsePart):
            WeightColumns.add_(d_weight, entries.of(part.crow, part.col), part.value, grad)
        elif isinstance(part, TiledPart):
            for begin, end in item_tiles(part.n_rows, part.n_items):
                d_weight[:, begin:end].mT.addmm_(part.tile(begin, end).to(grad.dtype).mT, grad)
        elif part.seen is not None:
            WeightColumns.add_(d_weight, entries.of(*part.seen), -values[k].products, grad)
            if part.carried is not None:
                for block in carried_blocks(part.seen, part.carried, part.v.shape[0]):
                    rows = block.mask_(part.u[block.rows] @ part.v.mT)
                    d_weight.mT.addmm_(rows.mT, grad[block.rows])
    return d_weight


def _put_off(
    pending: PendingGradient,
    parts: Sequence[Part],
    values: Sequence[PartValue],
    grads: Sequence[Tensor | None],
    live: Sequence[int],
    entries: _EntriesByIdentity,
    gemm: torch.dtype,
) -> None:
    """As `_weight_gradient`, in pieces."""
    for v, t in _low_rank_factors(parts, grads, live):
        pending.add_low_rank(v, t, gemm)
    for k in live:
        part, grad = parts[k], grads[k]
        if isinstance(part, DensePart):
            pending.add_rows(lambda begin, end, x=part.x: x[:, begin:end], grad, gemm)
        elif isinstance(part, SparsePart):
            pending.add_sparse(entries.of(part.crow, part.col), part.value, grad)
        elif isinstance(part, TiledPart):
            pending.add_rows(part.tile, grad)
        elif part.seen is not None:
            pending.add_sparse(entries.of(*part.seen), -values[k].products, grad)
            if part.carried is not None:
                for block in carried_blocks(part.seen, part.carried, part.v.shape[0]):
                    rows = block.mask_(part.u[block.rows] @ part.v.mT)
                    pending.add_rows(lambda begin, end, rows=rows: rows[:, begin:end], grad[block.rows])


def _low_rank_factors(
    parts: Sequence[Part], grads: Sequence[Tensor | None], live: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """(v [I, d], Tᵀ = uᵀy [d, H] summed over the parts that share v) of every distinct v."""
    factors: dict[tuple, tuple[Tensor, Tensor]] = {}
    for k in live:
        if isinstance(part := parts[k], GeneratedPart):
            t = without(part.u, part.apart).mT @ grads[k]
            key = _key(part.v)
            factors[key] = (part.v, factors[key][1] + t if key in factors else t)
    return list(factors.values())


def _u_gradient(part: GeneratedPart, value: PartValue, grad: Tensor, sampled: Tensor | None) -> Tensor:
    grad = without(grad, part.apart)
    du = grad @ value.vw.mT
    if sampled is not None:
        spmm_add_(du, torch.arange(du.shape[0], device=du.device), *part.seen, -sampled, part.v)
    return du


def _v_gradients(
    weight: Tensor,
    parts: Sequence[Part],
    grads: Sequence[Tensor | None],
    want: Sequence[tuple[int, Tensor]],
    entries: _EntriesByIdentity,
    d_inputs: list[list[Tensor | None]],
    gemm: torch.dtype,
) -> None:
    """dV of every part that wants one, with one product over W: Wᵀ [T¹ | T² | …]."""
    t = [grads[k].mT @ without(parts[k].u, parts[k].apart) for k, _ in want]
    together = _mm(rounded(weight, gemm).mT, torch.cat(t, 1), gemm, weight.dtype)
    for (k, sampled), dv in zip(want, together.split([x.shape[1] for x in t], 1), strict=True):
        dv = dv.contiguous()
        if sampled is not None:
            part = parts[k]
            entries.of(*part.seen).add_transposed_(dv, -sampled, without(part.u, part.apart))
        d_inputs[k][1] = dv


def _add_carried(
    weight: Tensor,
    parts: Sequence[Part],
    grads: Sequence[Tensor | None],
    live: Sequence[int],
    need_inputs: Sequence[Sequence[bool]],
    d_inputs: list[list[Tensor | None]],
) -> None:
    """The carried rows' share of dU and dV, from their dense form."""
    for k in live:
        part = parts[k]
        if not isinstance(part, GeneratedPart) or part.carried is None or part.seen is None or not any(need_inputs[k]):
            continue
        for block in carried_blocks(part.seen, part.carried, part.v.shape[0]):
            d_rows = block.mask_(grads[k][block.rows] @ weight)
            if need_inputs[k][0]:
                d_inputs[k][0][block.rows] = d_rows @ part.v
            if need_inputs[k][1]:
                d_inputs[k][1].addmm_(d_rows.mT, part.u[block.rows])


class _EntriesByIdentity:
    """One ItemEntries, and so one transpose, for every CSR block that occurs."""

    def __init__(self, n_items: int) -> None:
        self.n_items, self.found = n_items, {}

    def of(self, crow: Tensor, col: Tensor) -> ItemEntries:
        key = (crow.data_ptr(), col.data_ptr(), col.shape[0])
        if key not in self.found:
            self.found[key] = ItemEntries(crow, col, self.n_items)
        return self.found[key]


def _key(v: Tensor) -> tuple:
    return v.data_ptr(), version(v), v.shape, v.stride()


def _concatenate(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def _project(weight: Tensor, vs: Sequence[Tensor], gemm: torch.dtype) -> dict[tuple, Tensor]:
    """(W V)ᵀ [d, H] of every distinct v, by one product."""
    distinct = {_key(v): v for v in vs}
    if not distinct:
        return {}
    together = _mm(_concatenate(list(distinct.values()), 1).mT, rounded(weight, gemm).mT, gemm)
    return dict(zip(distinct, together.split([v.shape[1] for v in distinct.values()]), strict=True))
