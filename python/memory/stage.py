"""A stage of a run in the memory estimate: what it allocates, for how long, and what it computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

FLOAT, DOUBLE, INDEX, OFFSET = 4, 8, 4, 8

Blocks = dict[int, int]  # size of a tensor in bytes → number of tensors of that size


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    phase: name of the phase that the stage belongs to.
    persistent: bytes allocated for the rest of the run.
    kept: tensors that live until the end of the step, or until a stage that lists their phase in `freed`.
    working: tensors that live only during the stage.
    freed: phases whose `kept` tensors are released before the stage.
    moved: bytes read and written per step.
    operations: arithmetic operations per step, mostly of matrix products.
    loaded: whether the memory is already allocated when the data has been read.
    received: bytes received from other ranks per step.
    received_in_epoch: bytes received from other ranks at the start of an epoch.
    """

    name: str
    phase: str = "build"
    persistent: int = 0
    kept: Blocks = field(default_factory=dict)
    working: Blocks = field(default_factory=dict)
    freed: tuple[str, ...] = ()
    moved: int = 0
    operations: int = 0
    loaded: bool = False
    received: int = 0
    received_in_epoch: int = 0

    @property
    def temporary(self) -> int:
        """Bytes of the tensors that are not persistent."""
        return total(self.kept) + total(self.working)


def blocks(*tensors: tuple[int, int]) -> Blocks:
    """Blocks from (size in bytes, count) pairs. Equal sizes are added up and empty ones dropped."""
    counts: Counter[int] = Counter()
    for size, count in tensors:
        counts[size] += count
    return +counts


def total(tensors: Blocks) -> int:
    """The bytes of all tensors."""
    return sum(size * count for size, count in tensors.items())
