"""Gumbel rows P = softmax((A + σ g)/τ) of Eq. 5 as a component of relation rows."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..graph import InteractionGraph, SeenRows, offsets_of
from ..modes import lasting
from ..ops.gumbel_rows import GumbelRows, tile_square
from ..ops.row_sums import row_sums
from ..ops.sampled_dot import sampled_dot
from ..static_shapes import is_static
from .algebra.parts import SparsePart, TiledPart
from .algebra.relation_linear import PartMemory
from .algebra.weight_columns import ItemEntries
from .components import Dense, Generated, seen_pairs, select_entries


class Gumbel:
    """Constant rows: a GumbelRows object, which chooses the method of evaluation, and the dtype in which it is used."""

    requires_grad = False
    conversion: tuple[Any, Any] | None = None

    def __init__(self, rows: GumbelRows, dtype: torch.dtype = torch.float32) -> None:
        self.rows, self.dtype, self.memory = rows, dtype, PartMemory()

    @property
    def _graph(self) -> InteractionGraph:
        return cast(InteractionGraph, self.rows.graph)

    @property
    def method(self) -> str:
        return self.rows.method

    @property
    def n_rows(self) -> int:
        return self.rows.shape[0]

    @property
    def n_items(self) -> int:
        return self.rows.n_items

    @property
    def device(self) -> torch.device:
        return self._graph.device

    def part(self) -> SparsePart | TiledPart:
        if self.method == "order_statistics":
            return SparsePart(*self.rows.block(), self.n_items)
        return TiledPart(self.n_rows, self.n_items, self.rows.tile)

    def norm(self) -> Tensor:
        """Row lengths, float64 [B]."""
        return self.rows.square().sqrt()

    def inner_generated(self, other: Generated) -> Tensor:
        """The inner product of every row with the same row of `other`, float64 [B]: U·(P V) minus the contribution of
        the seen entries. Differentiable in `other`."""
        if self.method == "order_statistics":
            crow, col, value = _without(self.rows.block(), other.seen, self.n_items)
            entries = ItemEntries(crow, col, self.n_items)
            v = other.v[entries.by_item[0]].double()
            products = sampled_dot(crow, entries.compact_col, other.u.double(), v)
            return row_sums(crow, value.double() * products)
        if other.seen is None:
            return (_TilesTimes.apply(other.v, self.rows, None)[0] * other.u).sum(1, dtype=torch.float64)
        pv, at_seen = _TilesTimes.apply(other.v, self.rows, other.seen)
        products = sampled_dot(*other.seen, other.u, other.v)
        return (pv * other.u).sum(1, dtype=torch.float64) - row_sums(other.seen.crow, (at_seen * products).double())

    def tile(self, begin: int, end: int) -> Tensor:
        """The entries of the items [begin, end), [B, end − begin]."""
        if self.method == "dense":
            return self.rows.tile(begin, end).to(self.dtype)
        if end - begin == self.n_items and is_static(self.device):
            return self.rows.dense().to(self.dtype)
        crow, col, value = self.rows.block()
        row, item = seen_pairs(SeenRows(crow, col))
        inside = (item >= begin) & (item < end)
        tile = torch.zeros(self.n_rows, end - begin, dtype=self.dtype, device=self.device)
        return tile.index_put_((row[inside], item[inside] - begin), value[inside].to(self.dtype))

    def gather(self, items: Tensor) -> Tensor:
        """The entries at `items`, int64 [B, k]."""
        if self.method == "dense":
            values = torch.zeros(items.shape, dtype=self.dtype, device=self.device)
            for begin, end, tile in self.rows.tiles():
                inside = (items >= begin) & (items < end)
                values = torch.where(
                    inside, tile.gather(1, (items - begin).clamp(0, end - begin - 1)).to(self.dtype), values
                )
            return values
        crow, col, value = self.rows.block()
        row, item = seen_pairs(SeenRows(crow, col))
        keys = row * self.n_items + item
        wanted = items + torch.arange(self.n_rows, device=self.device)[:, None] * self.n_items
        place = torch.searchsorted(keys, wanted).clamp_max_(keys.numel() - 1)
        return torch.where(keys[place] == wanted, value[place], 0.0).to(self.dtype)

    def select(self, rows: Tensor) -> Gumbel:
        """The component of the given rows, int64 [b]. On a CPU it reuses entries that were already drawn."""
        graph, block, lse = self.rows.graph, self.rows.cached_block, self.rows.cached_lse
        if block is not None and not is_static(self.device):
            crow, col, value = block
            block = *select_entries(SeenRows(crow, col), rows), select_entries(SeenRows(crow, value), rows).col
        else:
            block = None
        lse = None if lse is None else lse[rows]
        users = self.rows.users[rows]
        own = GumbelRows(graph, users, *self.rows.noise, self.method, block=block, lse=lse, items=self.rows.items)
        return Gumbel(own, self.dtype)

    def detach(self) -> Gumbel:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Gumbel:
        if device == self.device and dtype == self.dtype:
            return self
        graph, users, block = self._graph.to(device), self.rows.users.to(device), self.rows.cached_block
        if block is not None:
            crow, col, value = block
            block = lasting(crow.to(device)), lasting(col.to(device)), lasting(value.to(device))
        options: dict[str, Any] = {"max_repeats": self.rows.max_repeats, "block": block, "items": self.rows.items}
        rows = GumbelRows(graph, users, *self.rows.noise, self.method, **options)
        return Gumbel(rows, dtype)


Component = Dense | Generated | Gumbel


class _TilesTimes(torch.autograd.Function):
    """P v [B, d], and the values of P at the seen entries ([nnz], or empty), in one pass over the tiles."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, rows: GumbelRows, seen: SeenRows | None) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.dtype = rows, v.dtype
        product = v.new_zeros(rows.shape[0], v.shape[1])
        square = v.new_zeros(rows.shape[0], dtype=torch.float64)
        row, item = cast(Any, (None, None)) if seen is None else seen_pairs(seen)
        at_seen = v.new_zeros(0 if seen is None else item.numel())
        for begin, end, tile in rows.tiles():
            product.addmm_(tile.to(v.dtype), v[begin:end])
            square = square + tile_square(tile)
            if seen is not None:
                inside = ((item >= begin) & (item < end)).nonzero().flatten()
                at_seen[inside] = tile[row[inside], item[inside] - begin].to(v.dtype)
        rows.set_square(square)
        ctx.mark_non_differentiable(at_seen)
        return product, at_seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _at_seen: Tensor | None) -> tuple[Tensor | None, ...]:
        dv = grad.new_zeros(ctx.rows.n_items, grad.shape[1])
        ctx.rows.backward([grad], [dv])
        return dv, None, None


def _without(
    block: tuple[Tensor, Tensor, Tensor], seen: SeenRows | None, n_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of the block that are not seen."""
    if seen is None:
        return block
    crow, col, value = block
    row, item = seen_pairs(SeenRows(crow, col))
    seen_row, seen_item = seen_pairs(seen)
    unseen = (~torch.isin(row * n_items + item, seen_row * n_items + seen_item)).nonzero().flatten()
    return offsets_of(torch.bincount(row[unseen], minlength=crow.numel() - 1)), col[unseen], value[unseen]
