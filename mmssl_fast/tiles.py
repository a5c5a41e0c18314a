"""Tiles: ranges of items. If entries of a [B, I] block have to be formed, one tile is in memory at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

TILE_ELEMENTS = 1 << 20  # 4 MiB of float32: large enough for a matrix product at full speed, small in comparison to W
MIN_WIDTH = 64


def item_tiles(n_rows: int, n_items: int, elements: int | None = None) -> list[tuple[int, int]]:
    """The tiles [(begin, end), ...] of n_items items, such that n_rows x (end − begin) is at most `elements` (default:
    TILE_ELEMENTS), but at least MIN_WIDTH items wide.

    Example:
        >>> item_tiles(1000, 250, elements=100_000)
        [(0, 100), (100, 200), (200, 250)]
    """
    width = max(MIN_WIDTH, (elements or TILE_ELEMENTS) // max(1, n_rows))
    return [(begin, min(begin + width, n_items)) for begin in range(0, n_items, width)]


def tile_elements() -> int:
    """The current maximum number of entries in a tile."""
    return TILE_ELEMENTS


@contextmanager
def tiles_of(elements: int) -> Iterator[None]:
    """A context in which tiles have at most `elements` entries, in all threads. Smaller tiles need less memory and more
    matrix products.

    Sums over items may round differently. Selections have the same bits.
    """
    global TILE_ELEMENTS
    if elements < 1:
        raise ValueError(f"tiles_of: elements must be at least 1, got {elements}")
    before, TILE_ELEMENTS = TILE_ELEMENTS, elements
    try:
        yield
    finally:
        TILE_ELEMENTS = before
