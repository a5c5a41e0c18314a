"""Row blocks: sums of scaled components over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor

from .gumbel import Component
from .norms import block_norm

Scale = float | Tensor  # a number, or one number per row [B]


class Block:
    """The rows Σ scale · component. Terms with the same component are merged."""

    def __init__(self, terms: Iterable[tuple[Scale, Component]]) -> None:
        merged: dict[int, tuple[Scale, Component]] = {}
        for scale, component in terms:
            earlier = merged.get(id(component))
            merged[id(component)] = (scale if earlier is None else earlier[0] + scale, component)
        self.terms = list(merged.values())

    @property
    def n_rows(self) -> int:
        return self.terms[0][1].n_rows

    @property
    def requires_grad(self) -> bool:
        return any(
            component.requires_grad or (isinstance(scale, Tensor) and scale.requires_grad)
            for scale, component in self.terms
        )

    def scaled(self, factor: Scale) -> Block:
        return Block((_times(scale, factor), component) for scale, component in self.terms)

    def tile(self, begin: int, end: int) -> Tensor:
        total = None
        for scale, component in self.terms:
            tile = _column(scale) * component.tile(begin, end)
            total = tile if total is None else total + tile
        return cast(Tensor, total)

    def gather(self, items: Tensor) -> Tensor:
        return cast(Tensor, sum(_column(scale) * component.gather(items) for scale, component in self.terms))

    def select(self, rows: Tensor) -> Block:
        return Block(
            (scale[rows] if isinstance(scale, Tensor) else scale, component.select(rows))
            for scale, component in self.terms
        )

    def norm(self) -> Tensor:
        n_items = self.terms[0][1].n_items
        return block_norm(self.terms, lambda rows: self.select(rows).tile(0, n_items))

    def map(self, scale_map: Callable[[Tensor], Tensor], component_map: Callable[[Component], Component]) -> Block:
        return Block(
            (scale_map(scale) if isinstance(scale, Tensor) else scale, component_map(component))
            for scale, component in self.terms
        )


def _times(scale: Scale, factor: Scale) -> Scale:
    return factor if isinstance(scale, float) and scale == 1.0 else scale * factor


def _column(scale: Scale) -> Scale:
    return scale[:, None] if isinstance(scale, Tensor) else scale


def combined(block: Block, values: dict[int, Tensor], bias: Tensor | None) -> Tensor:
    """Σ scale · z over the components of a block, plus bias. The result is a new tensor, because z may be cached."""
    total = bias
    for scale, component in block.terms:
        z = values[id(component)]
        if total is None:
            total = z * _column(scale)
        elif isinstance(scale, Tensor):
            total = torch.addcmul(total.to(z.dtype), z, scale[:, None].to(z.dtype))
        else:
            total = torch.add(total.to(z.dtype), z, alpha=scale)
    return cast(Tensor, total)


def aligned(a: list[Block], b: list[Block]) -> tuple[list[Block], list[Block]]:
    """Splits the blocks of a and b at the same rows. If they already are, they are returned unchanged."""
    if [x.n_rows for x in a] == [x.n_rows for x in b]:
        return a, b
    cuts = sorted({end for blocks in (a, b) for end in _ends(blocks)})
    return _cut(a, cuts), _cut(b, cuts)


def _ends(blocks: list[Block]) -> list[int]:
    return torch.tensor([block.n_rows for block in blocks]).cumsum(0).tolist()


def _cut(blocks: list[Block], cuts: list[int]) -> list[Block]:
    pieces, begin = [], 0
    for block, end in zip(blocks, _ends(blocks), strict=True):
        start = end - block.n_rows
        for cut in (c for c in cuts if begin < c <= end):
            is_whole = begin == start and cut == end
            device = block.terms[0][1].device
            pieces.append(block if is_whole else block.select(torch.arange(begin - start, cut - start, device=device)))
            begin = cut
    return pieces
