"""Leaves products to torch where torch is faster, and remembers for which matrices, so that this costs next to nothing.

On a graph of 100 nodes, torch computes a product in 10 microseconds, and a whole training step in less than a
millisecond. So a product that is left must not be examined each time. csrc/cpu/sparse_products.cpp, which is asked
first, leaves it without a look at the entries:

- A matrix has too few entries: their number is compared with a limit for its layout, dtype and shape, and for the
  width of the dense factor.
- A matrix that is new in each step, and used for too few products to be worth preparing, is examined once in a while.
  After each such matrix of a shape, the next products of unknown matrices of this shape are left unseen: 1, 2, 4, and
  so on, up to 32. When such a matrix is prepared after all, this ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...library import _C
from . import cost
from .counts import MatrixReport

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
DTYPES = (torch.float32, torch.float64)


class Left:
    """What is known of products that are left to torch.

    products: decides in C++, and knows the prepared matrices. Its `too_small` and `too_brief` are the numbers of
    products that were left without a further look.
    """

    def __init__(self) -> None:
        self.products = _C.Products()
        self._pauses: dict[torch.Size, tuple[Any, MatrixReport]] = {}

    def clear(self) -> None:
        self.products.clear()
        self._pauses.clear()

    def leaves(self, matrix: Tensor, x: Tensor, from_right: bool = False, short: bool = False) -> bool:
        """Whether torch is to compute ``matrix @ x`` (from_right: ``x @ matrix``), as far as this is known at a glance.

        matrix, x: tensors without a __torch_function__ of their own; x is dense, matrix is not. short: as for
        `cost.gain`.
        """
        leaves = self.products.leaves(matrix, x, from_right, short)
        if leaves is None:
            width = 1 if x.ndim == 1 else x.shape[0 if from_right else 1]
            layout, shape, size = matrix.layout, matrix.shape, matrix.dtype.itemsize
            limits = (cost.most_left(layout, shape, width, size, way, short) for way in (False, True))
            self.products.set_limits(matrix, width, short, *limits)
            leaves = self.products.leaves(matrix, x, from_right, short)
        return bool(leaves)

    def collect(self) -> None:
        """Adds the products that were left in pauses to the reports of the kinds of matrices."""
        for pause, kind in self._pauses.values():
            kind.left += pause.take()

    def pause(self, shape: torch.Size, kind: MatrixReport) -> None:
        """A matrix that was not known was used too briefly."""
        before = self._pauses.get(shape)
        if before is not None and before[1] is not kind:
            self.resume(shape)
        self._pauses[shape] = self.products.pause(*shape), kind

    def resume(self, shape: torch.Size) -> None:
        """A matrix of this shape was prepared."""
        if shape in self._pauses:
            self.collect()
            del self._pauses[shape]
            self.products.resume(*shape)


left = Left()
