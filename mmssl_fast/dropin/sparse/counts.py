"""The report of the sparse drop-in: counts of products and preparations, by matrix and by reason."""

from __future__ import annotations

import copy
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Numbers of the products that torch computes as well, without gradient, to compare the times.
TIMED = frozenset(2**n for n in range(4, 32))
_ENOUGH = 3  # timed products, of which the median is taken


def next_timed(products: int) -> int:
    """The number of the next product that is timed after so many.

    Example:
        >>> [next_timed(n) for n in (0, 15, 16, 31, 32)]
        [16, 16, 32, 32, 64]
    """
    return max(1 << products.bit_length(), min(TIMED))


@dataclass
class MatrixReport:
    """Matrices of one layout, dtype, shape and device.

    entries: stored entries of the last one.
    prepared: how often one was sorted and transposed. revalued: how often only values changed on a known pattern.
    products: forward products taken; left: those that torch kept, prepared or not.
    """

    layout: torch.layout
    dtype: torch.dtype
    shape: tuple[int, ...]
    device: str
    entries: int = 0
    prepared: int = 0
    revalued: int = 0
    products: int = 0
    left: int = 0
    lifetimes: deque[int] = field(default_factory=lambda: deque(maxlen=8), repr=False)

    @classmethod
    def of(cls, matrix: Tensor) -> MatrixReport:
        return cls(matrix.layout, matrix.dtype, tuple(matrix.shape), str(matrix.device))

    @property
    def products_each(self) -> float | None:
        """Products that the last few matrices of this kind took part in before they died or changed; None: none did."""
        return sum(self.lifetimes) / len(self.lifetimes) if self.lifetimes else None

    def __str__(self) -> str:
        name = f"{self.shape[0]} x {self.shape[1]}, {self.entries} entries, {_short(self.layout)}, {_short(self.dtype)}"
        text = (
            f"{name}: prepared {self.prepared} times, new values {self.revalued} times, {self.products} products taken"
        )
        return text + (f", {self.left} left to torch" if self.left else "")


@dataclass
class Report:
    """What `sparse.accelerated` has done so far in this process.

    taken: products run on this library. left: products left to torch, number by reason.
    matrices: one MatrixReport for each layout, dtype, shape and device.
    seconds: of forward products taken, comparison included. prepare_seconds: of preparing. Both are wall-clock time;
        on CUDA they leave out what the device does.
    ratios: torch's time by ours of the forward products that were timed side by side; none where the device is no CPU.
    """

    taken: int = 0
    left: Counter[str] = field(default_factory=Counter)
    matrices: list[MatrixReport] = field(default_factory=list)
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    ratios: list[float] = field(default_factory=list)

    @property
    def speedup(self) -> float | None:
        """The median of `ratios`, or None before the third. Backward products are not timed."""
        return statistics.median(self.ratios) if len(self.ratios) >= _ENOUGH else None

    @property
    def saved_seconds(self) -> float | None:
        """Forward time that torch would have taken beyond ours, preparing subtracted, at the speedup of those timed."""
        return None if self.speedup is None else self.seconds * (self.speedup - 1) - self.prepare_seconds

    def copy(self) -> Report:
        return copy.deepcopy(self)

    def __str__(self) -> str:
        lines = [f"{self.taken} sparse products taken, {self.left.total()} left to torch"]
        lines += [f"  left to torch: {reason}: {n}" for reason, n in self.left.most_common()]
        lines += [f"  {matrix}" for matrix in self.matrices]
        lines.append(f"  forward products {self.seconds:.3f} s, preparing {self.prepare_seconds:.3f} s")
        if self.speedup is None or self.saved_seconds is None:
            lines.append("  time saved: not known; it is measured on a CPU from the 64th product of a matrix on")
        else:
            lines.append(
                f"  time saved: about {self.saved_seconds:.3f} s of forward products ({self.speedup:.1f}x in the "
                f"{len(self.ratios)} timed against torch's own; backward is not timed)"
            )
        return "\n".join(lines)


def _short(value: object) -> str:
    return (
        str(value).removeprefix("torch.").removeprefix("sparse_").upper()
        if isinstance(value, torch.layout)
        else (str(value).removeprefix("torch."))
    )
