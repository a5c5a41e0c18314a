"""The components of relation rows: generated rows and dense rows (Gumbel rows are in gumbel.py).

A component provides its part for relation_linear, its row norms, its entries in a tile of items or at given items, and
a selection of its rows. It never forms [B, I], unless it is a matrix already.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..graph import SeenRows, entries_of_rows
from ..modes import lasting
from ..ops.sampled_dot import sampled_dot
from ..tiles import tile_elements
from .algebra.parts import DensePart, GeneratedPart, check_generated, version
from .algebra.relation_linear import PartMemory
from .algebra.relation_row_norm import row_norm_and_cancelled

GATHER_COST = 16  # computing a single entry costs about as much as this many entries of a matrix product


class Generated:
    """The rows (u vᵀ) ∘ (1 − A) of Eq. 3, where A has a 1 at each seen pair.

    For cosines, u and v are already normalised.

    Args:
        u: [B, d] floating. v: [I, d], dtype of u.
        seen: the seen pairs, or None: A is 0.
        memory: cached values of the linear layer, shared with another object for the same rows.
        cancelled: bool [B], the rows that must be formed densely, if already known (see algebra/cancelled.py).
    """

    # Every component has this attribute. It caches the last result of `converted`, together with its key.
    conversion: tuple[Any, Any] | None = None

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        seen: SeenRows | None = None,
        memory: PartMemory | None = None,
        cancelled: Tensor | None = None,
    ) -> None:
        check_generated("RelationRows.generated", u, v, seen)
        self.u, self.v, self.seen = u, v, seen and SeenRows(*seen)
        self.memory = memory or PartMemory()
        self.cancelled = cancelled

    @property
    def n_rows(self) -> int:
        return self.u.shape[0]

    @property
    def n_items(self) -> int:
        return self.v.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.u.dtype

    @property
    def device(self) -> torch.device:
        return self.u.device

    @property
    def requires_grad(self) -> bool:
        return self.u.requires_grad or self.v.requires_grad

    def part(self) -> GeneratedPart:
        return GeneratedPart(self.u, self.v, self.seen, self.cancelled)

    def norm(self) -> Tensor:
        """Row lengths, float64 [B]. It also finds the rows that cancel, which `part` then marks to be formed
        densely."""
        norm, cancelled = row_norm_and_cancelled(self.u, self.v, self.seen)
        if self.seen is not None and self.cancelled is None:
            self.cancelled = lasting(cancelled)
        return norm

    def tile(self, begin: int, end: int) -> Tensor:
        """The entries of the items [begin, end), [B, end − begin]."""
        tile = self.u @ self.v[begin:end].mT
        if self.seen is None:
            return tile
        row, item = seen_pairs(self.seen)
        inside = (item >= begin) & (item < end)
        return tile.index_put((row[inside], item[inside] - begin), tile.new_zeros(()))

    def gather(self, items: Tensor) -> Tensor:
        """The entries at `items`, int64 [B, k], in any order and number per row: [B, k]."""
        if items.shape[1] > self.n_items // GATHER_COST:
            rows_at_once = max(1, tile_elements() // self.n_items)
            return torch.cat(
                [
                    self.select(rows).tile(0, self.n_items).gather(1, items[rows])
                    for rows in torch.arange(self.n_rows, device=items.device).split(rows_at_once)
                ]
            )
        crow = torch.arange(self.n_rows + 1, device=items.device) * items.shape[1]
        values = sampled_dot(crow, items.flatten(), self.u, self.v).view(items.shape)
        if self.seen is None:
            return values
        row, item = seen_pairs(self.seen)
        keys = torch.sort(row * self.n_items + item).values
        wanted = items + torch.arange(self.n_rows, device=items.device)[:, None] * self.n_items
        place = torch.searchsorted(keys, wanted).clamp_max_(max(0, keys.numel() - 1))
        return values.masked_fill(keys[place] == wanted, 0) if keys.numel() else values

    def select(self, rows: Tensor) -> Generated:
        """The component of the given rows, int64 [b]."""
        return Generated(
            self.u[rows],
            self.v,
            self.seen and select_entries(self.seen, rows),
            None,
            None if self.cancelled is None else self.cancelled[rows],
        )

    def detach(self) -> Generated:
        """The same rows detached from the autograd graph. Cached values are shared."""
        return (
            Generated(self.u.detach(), self.v.detach(), self.seen, self.memory, self.cancelled)
            if self.requires_grad
            else self
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Generated:
        if device == self.device and dtype == self.dtype:
            return self
        seen = self.seen and SeenRows(*(x.to(device) for x in self.seen))
        return Generated(self.u.to(device, dtype), self.v.to(device, dtype), seen)


class Dense:
    """Rows that are given as a matrix x [B, I]."""

    conversion: tuple[Any, Any] | None = None

    def __init__(self, x: Tensor, memory: PartMemory | None = None) -> None:
        self.x, self.memory = x, memory or PartMemory()

    @property
    def n_rows(self) -> int:
        return self.x.shape[0]

    @property
    def n_items(self) -> int:
        return self.x.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def requires_grad(self) -> bool:
        return self.x.requires_grad

    def part(self) -> DensePart:
        return DensePart(self.x)

    def norm(self) -> Tensor:
        """Row lengths, float64 [B]. A zero row has gradient 0."""
        return torch.linalg.vector_norm(self.x, dim=1, dtype=torch.float64)

    def tile(self, begin: int, end: int) -> Tensor:
        return self.x[:, begin:end]

    def gather(self, items: Tensor) -> Tensor:
        return self.x.gather(1, items)

    def select(self, rows: Tensor) -> Dense:
        return Dense(self.x[rows])

    def detach(self) -> Dense:
        return Dense(self.x.detach(), self.memory) if self.requires_grad else self

    def to(self, device: torch.device, dtype: torch.dtype) -> Dense:
        return self if device == self.device and dtype == self.dtype else Dense(self.x.to(device, dtype))


class _Convertible(Protocol):
    conversion: tuple[Any, Any] | None

    @property
    def requires_grad(self) -> bool: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Any: ...


_Component = TypeVar("_Component", bound=_Convertible)


def converted(component: _Component, device: torch.device, dtype: torch.dtype) -> _Component:
    """Equals ``component.to(device, dtype)``. For a constant component, repeated calls return the same object, so that
    its cached values are reused."""
    tensors = [x for x in (getattr(component, name, None) for name in ("u", "v", "x")) if x is not None]
    if component.requires_grad or any(x.is_inference() for x in tensors):
        return component.to(device, dtype)
    key = (device, dtype, torch.is_inference_mode_enabled(), *(version(x) for x in tensors))
    if component.conversion is None or component.conversion[0] != key:
        component.conversion = key, component.to(device, dtype)
    return component.conversion[1]


def seen_pairs(seen: SeenRows) -> tuple[Tensor, Tensor]:
    """The row and the item of every entry, int64 [nnz] each."""
    crow, col = seen
    return torch.repeat_interleave(torch.arange(crow.numel() - 1, device=crow.device), crow.diff()), col.long()


def select_entries(seen: SeenRows, rows: Tensor) -> SeenRows:
    """The CSR block of the given rows, int64 [b]."""
    crow, col = seen
    entry, offsets = entries_of_rows(crow, rows)
    return SeenRows(offsets, col[entry])
