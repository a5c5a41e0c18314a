"""Gumbel rows as a component: P = softmax((A + σ g)/τ) of Eq. 5, sparse from order statistics or in regenerated
tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import InteractionGraph, SeenRows
from ..ops.gumbel_rows import choose_method, entry_capacity, gumbel_lse, gumbel_order_statistics, gumbel_tile
from ..ops.gumbel_softmax import gumbel_softmax
from ..ops.row_sums import row_sums
from ..ops.sampled_dot import sampled_dot
from ..static_shapes import is_static
from ..tiles import item_tiles
from .algebra.parts import SparsePart, TiledPart
from .algebra.relation_linear import PartMemory
from .algebra.weight_columns import ItemEntries
from .components import Generated, seen_pairs, select_entries


class Gumbel:
    """Constant rows: noise is a pure function of (seed, offset, global user id), so every pass meets the same P.

    method "order_statistics" keeps the few entries that count (a CSR block, drawn when first asked for); "dense" keeps
    float64 [B] and makes tiles anew. Which one is decided by τ, σ and I alone.
    """

    requires_grad = False
    copy = None

    def __init__(
        self,
        graph: InteractionGraph,
        users: Tensor,
        tau: float,
        seed: int,
        offset: int = 0,
        noise_scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        max_repeats: int | None = None,
    ) -> None:
        self.method = choose_method("RelationRows.gumbel", "auto", tau, noise_scale, graph.n_items)
        self.graph, self.users, self.noise = graph, users, (tau, seed, offset, noise_scale)
        self.dtype, self.max_repeats, self.memory = dtype, max_repeats, PartMemory()
        self._block: tuple[Tensor, Tensor, Tensor] | None = None
        self._lse: Tensor | None = None
        self._square: Tensor | None = None

    @property
    def n_rows(self) -> int:
        return self.users.numel()

    @property
    def n_items(self) -> int:
        return self.graph.n_items

    @property
    def device(self) -> torch.device:
        return self.graph.device

    def block(self) -> tuple[Tensor, Tensor, Tensor]:
        """P as CSR (crow, col ascending, value float32); method "order_statistics" only."""
        if self._block is None:
            tau, _, _, noise_scale = self.noise
            capacity = entry_capacity(self.graph, self.users, tau, noise_scale, self.max_repeats)
            self._block = gumbel_order_statistics(self.graph, self.users, *self.noise, capacity)
        return self._block

    def part(self) -> SparsePart | TiledPart:
        if self.method == "order_statistics":
            return SparsePart(*self.block(), self.n_items)
        return TiledPart(self.n_rows, self.n_items, self._float_tile)

    def norm(self) -> Tensor:
        """Row lengths, float64 [B]."""
        if self._square is None:
            if self.method == "order_statistics":
                crow, _, value = self.block()
                self._square = row_sums(crow, value.double().square())
            else:
                self._square = sum(
                    torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64).square_() for _, _, tile in self._tiles()
                )
        return self._square.sqrt()

    def inner_generated(self, other: Generated) -> Tensor:
        """Row by row P·rows of generated rows, float64 [B], differentiable in them: U·(P V) less the seen entries'
        share."""
        if self.method == "order_statistics":
            crow, col, value = _without(self.block(), other.seen, self.n_items)
            entries = ItemEntries(crow, col, self.n_items)
            v = other.v[entries.by_item[0]].double()
            products = sampled_dot(crow, entries.compact_col, other.u.double(), v)
            return row_sums(crow, value.double() * products)
        if other.seen is None:
            return (_TilesTimes.apply(other.v, self, None)[0] * other.u).sum(1, dtype=torch.float64)
        pv, at_seen = _TilesTimes.apply(other.v, self, other.seen)
        products = sampled_dot(*other.seen, other.u, other.v)
        return (pv * other.u).sum(1, dtype=torch.float64) - row_sums(other.seen.crow, (at_seen * products).double())

    def tile(self, begin: int, end: int) -> Tensor:
        """Entries of the items [begin, end): [B, end − begin]."""
        if self.method == "dense":
            return self._float_tile(begin, end).to(self.dtype)
        if end - begin == self.n_items and is_static(self.device):
            tau, seed, offset, noise_scale = self.noise
            rows = gumbel_softmax(
                self.graph, self.users, tau, seed, offset, noise_scale=noise_scale, method=self.method
            )
            return rows.to(self.dtype)
        crow, col, value = self.block()
        row, item = seen_pairs(SeenRows(crow, col))
        inside = (item >= begin) & (item < end)
        tile = torch.zeros(self.n_rows, end - begin, dtype=self.dtype, device=self.device)
        return tile.index_put_((row[inside], item[inside] - begin), value[inside].to(self.dtype))

    def at(self, items: Tensor) -> Tensor:
        """Entries at items int64 [B, k]."""
        if self.method == "dense":
            values = torch.zeros(items.shape, dtype=self.dtype, device=self.device)
            for begin, end, tile in self._tiles():
                inside = (items >= begin) & (items < end)
                values = torch.where(
                    inside, tile.gather(1, (items - begin).clamp(0, end - begin - 1)).to(self.dtype), values
                )
            return values
        crow, col, value = self.block()
        row, item = seen_pairs(SeenRows(crow, col))
        keys = row * self.n_items + item
        wanted = items + torch.arange(self.n_rows, device=self.device)[:, None] * self.n_items
        place = torch.searchsorted(keys, wanted).clamp_max_(keys.numel() - 1)
        return torch.where(keys[place] == wanted, value[place], 0.0).to(self.dtype)

    def select(self, rows: Tensor) -> Gumbel:
        """The component made of the rows int64 [b]; entries already drawn are taken along on a CPU."""
        chosen = Gumbel(self.graph, self.users[rows], *self.noise, self.dtype)
        if self._block is not None and not is_static(self.device):
            crow, col, value = self._block
            chosen._block = (
                *select_entries(SeenRows(crow, col), rows),
                select_entries(SeenRows(crow, value), rows).col,
            )
        chosen._lse = None if self._lse is None else self._lse[rows]
        return chosen

    def detach(self) -> Gumbel:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Gumbel:
        if device == self.device and dtype == self.dtype:
            return self
        moved = Gumbel(self.graph.to(device), self.users.to(device), *self.noise, dtype, self.max_repeats)
        if self._block is not None:
            moved._block = tuple(x.to(device) for x in self._block)
        return moved

    def _float_tile(self, begin: int, end: int) -> Tensor:
        if self._lse is None:
            self._lse = gumbel_lse(self.graph, self.users, *self.noise)
        return gumbel_tile(self.graph, self.users, self._lse, begin, end, *self.noise)

    def _tiles(self):
        for begin, end in item_tiles(self.n_rows, self.n_items):
            yield begin, end, self._float_tile(begin, end)


class _TilesTimes(torch.autograd.Function):
    """(P v [B, d], P at the seen entries [nnz] or empty) in one pass over the tiles; linear in v."""

    @staticmethod
    def forward(ctx, v: Tensor, rows: Gumbel, seen: SeenRows | None) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.dtype = rows, v.dtype
        product, square = v.new_zeros(rows.n_rows, v.shape[1]), 0.0
        row, item = (None, None) if seen is None else seen_pairs(seen)
        at_seen = v.new_zeros(0 if seen is None else item.numel())
        for begin, end, tile in rows._tiles():
            product.addmm_(tile.to(v.dtype), v[begin:end])
            square = square + torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64).square_()
            if seen is not None:
                inside = ((item >= begin) & (item < end)).nonzero().flatten()
                at_seen[inside] = tile[row[inside], item[inside] - begin].to(v.dtype)
        rows._square = square
        ctx.mark_non_differentiable(at_seen)
        return product, at_seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _at_seen):
        dv = grad.new_zeros(ctx.rows.n_items, grad.shape[1])
        for begin, end, tile in ctx.rows._tiles():
            dv[begin:end].addmm_(tile.to(grad.dtype).mT, grad)
        return dv, None, None


def _without(
    block: tuple[Tensor, Tensor, Tensor], seen: SeenRows | None, n_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The block's entries that are not among the seen ones."""
    if seen is None:
        return block
    crow, col, value = block
    row, item = seen_pairs(SeenRows(crow, col))
    seen_row, seen_item = seen_pairs(seen)
    kept = (~torch.isin(row * n_items + item, seen_row * n_items + seen_item)).nonzero().flatten()
    offsets = torch.zeros_like(crow)
    torch.cumsum(torch.bincount(row[kept], minlength=crow.numel() - 1), 0, out=offsets[1:])
    return offsets, col[kept], value[kept]
