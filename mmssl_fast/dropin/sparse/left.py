"""Leaves products to torch where torch is faster, and remembers for which matrices, so that this costs next to nothing.

On a graph of 100 nodes, torch computes a product in 10 microseconds, and a whole training step in less than a
millisecond. So a product that is left must not be examined each time:

- A matrix with too few entries is remembered by its identity, together with the widest dense factor for which it was
  left. If it grows in place, torch goes on computing its products, which is right as well.
- A matrix that is new in each step, and used for too few products to be worth preparing, is examined once in a while.
  After each such matrix of a shape, the next products of unknown matrices of this shape are left unseen: 1, 2, 4, and
  so on, up to 32. When such a matrix is prepared after all, this ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import Tensor

from . import cost
from .counts import MatrixReport

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
DTYPES = (torch.float32, torch.float64)
_LONGEST = 32  # products left unseen in a row
_LIMITS = 1024  # kept at most
_transforms = torch._C._functorch.peek_interpreter_stack


@dataclass(eq=False)
class _Pause:
    """After a matrix that was used too briefly: how many products of unknown matrices of its shape are left unseen.

    count: such matrices in a row. rest: products still to be left. last: the matrix of the last of them. It would not
    be seen from its first product on, so further products of it, up to `patience`, are left, too.
    """

    kind: MatrixReport
    count: int = 0
    rest: int = 0
    patience: int = 0
    last: weakref.ref[Tensor] | None = None

    def begin(self) -> None:
        self.count += 1
        # Odd and even lengths in turn: products that come in a cycle are then all examined at some time.
        self.rest = min(2 ** (self.count - 1), _LONGEST) + (self.count % 2 if self.count > 1 else 0)
        self.patience = self.rest

    def leaves(self, matrix: Tensor) -> bool:
        if self.rest:
            self.rest -= 1
            if not self.rest:
                self.last = weakref.ref(matrix)
            return True
        if self.patience and self.last is not None and self.last() is matrix:
            self.patience -= 1
            return True
        return False


class Left:
    """What is remembered of products that are left to torch.

    too_small, too_brief: how many were left without a further look. known: ids of matrices that are to be looked at.
    """

    def __init__(self, known: Container[int] = ()) -> None:
        self.known = known
        self._widest: dict[int, int] = {}  # by id of a matrix
        self._refs: dict[int, weakref.ref[Tensor]] = {}
        self._limits: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._pauses: dict[torch.Size, _Pause] = {}
        self.clear()

    def __len__(self) -> int:
        """The number of matrices that are remembered."""
        return len(self._widest)

    def clear(self) -> None:
        self.too_small = self.too_brief = 0
        for memory in (self._widest, self._refs, self._limits, self._pauses):
            memory.clear()

    def leaves(self, matrix: Tensor, x: Tensor, from_right: bool = False) -> bool:
        """Whether torch is to compute ``matrix @ x`` (from_right: ``x @ matrix``), as far as this is known at a glance.

        matrix, x: tensors without a __torch_function__ of their own; x is dense, matrix is not.
        """
        shape = x.shape
        width = 1
        if len(shape) != 1:
            if len(shape) != 2:
                return False
            width = shape[0 if from_right else 1]
        if width <= self._widest.get(id(matrix), -1):
            self.too_small += 1
            return True
        if self._pauses:
            pause = self._pauses.get(matrix.shape)
            if pause is not None and id(matrix) not in self.known:
                if pause.rest > 1:
                    pause.rest -= 1
                elif not pause.leaves(matrix):
                    return self._looks(matrix, width, x.requires_grad and torch.is_grad_enabled())
                pause.kind.left += 1
                self.too_brief += 1
                return True
        return self._looks(matrix, width, x.requires_grad and torch.is_grad_enabled())

    def _looks(self, matrix: Tensor, width: int, backward: bool) -> bool:
        layout, dtype, shape = matrix.layout, matrix.dtype, matrix.shape
        if layout not in LAYOUTS or dtype not in DTYPES or len(shape) != 2 or matrix.requires_grad:
            return False
        if _transforms() is not None:  # torch.func would wrap what is counted
            return False
        limits = self._limits.get((layout, dtype, shape, width))
        if limits is None:
            if len(self._limits) >= _LIMITS:
                self._limits.clear()
            limits = tuple(cost.most_left(layout, shape, width, dtype.itemsize, way) for way in (False, True))
            self._limits[layout, dtype, shape, width] = limits
        entries = matrix._nnz()
        if entries <= limits[backward]:
            if entries <= limits[not backward]:
                self._remember(matrix, width)
            self.too_small += 1
            return True
        return False

    def _remember(self, matrix: Tensor, width: int) -> None:
        key = id(matrix)
        if key not in self._widest:

            def forget(_: object) -> None:
                self._widest.pop(key, None)
                self._refs.pop(key, None)

            self._refs[key] = weakref.ref(matrix, forget)
        self._widest[key] = width

    def pause(self, shape: torch.Size, kind: MatrixReport) -> None:
        """A matrix that was not known was used too briefly."""
        pause = self._pauses.get(shape)
        if pause is None or pause.kind is not kind:
            pause = self._pauses[shape] = _Pause(kind)
        pause.begin()

    def resume(self, shape: torch.Size) -> None:
        """A matrix of this shape was prepared."""
        self._pauses.pop(shape, None)


left = Left()
