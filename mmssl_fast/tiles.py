"""item_tiles: the item ranges in which a [B, I] block is met when it must be met at all."""

from collections.abc import Iterator
from contextlib import contextmanager

TILE_ELEMENTS = 1 << 20  # 4 MiB of float32: wide enough for a product at full speed, small beside everything else
MIN_WIDTH = 64


def item_tiles(n_rows: int, n_items: int, elements: int | None = None) -> list[tuple[int, int]]:
    """[(begin, end)] over n_items, such that n_rows x (end − begin) stays near `elements` (default TILE_ELEMENTS)."""
    width = max(MIN_WIDTH, (elements or TILE_ELEMENTS) // max(1, n_rows))
    return [(begin, min(begin + width, n_items)) for begin in range(0, n_items, width)]


def tile_elements() -> int:
    """The entries of a tile now."""
    return TILE_ELEMENTS


@contextmanager
def tiles_of(elements: int) -> Iterator[None]:
    """Inside, tiles have so many entries, in whatever thread they are met: memory against speed, never the mathematics.
    Sums over items may round differently, selections are the same to the bit."""
    global TILE_ELEMENTS
    if elements < 1:
        raise ValueError(f"tiles_of: a tile has at least one entry, got {elements}")
    before, TILE_ELEMENTS = TILE_ELEMENTS, elements
    try:
        yield
    finally:
        TILE_ELEMENTS = before
