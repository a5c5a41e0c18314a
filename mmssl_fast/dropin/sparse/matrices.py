"""The sparse matrices that were used as factors: which are prepared, and whether to prepare a new one."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...library import _C
from ...modes import outside_modes
from . import cost
from .adjacency import Adjacency
from .counts import MatrixReport, Report, next_timed
from .left import left
from .pattern import Pattern, Snapshot, stored_entries
from .warn import warn

TOO_SMALL = "torch's own product is faster for matrices this small or dense factors this narrow"
TOO_BRIEF = "preparing costs more than the few products that such a matrix is used for would gain"

# Number of patterns that are kept after their matrices are deleted, for matrices with the same pattern.
_PATTERNS = 4
# A matrix prepared this often, for fewer products each time, gets a warning.
_OFTEN, _FEW = 10, 32


@dataclass(eq=False)
class _Known:
    """A sparse tensor, by weak reference.

    uses: products since its contents were last seen to change. missed: nanoseconds that products left to torch would
        have gained. patience: how many times the cost of preparing `missed` has to be before it is prepared.
    short: the prepared matrix as csrc/cpu/sparse_products.cpp knows it, which computes products without Python.
    """

    tensor: weakref.ref[Tensor]
    report: MatrixReport
    uses: int = 0
    missed: float = 0.0
    patience: int = 1
    prepared: tuple[Snapshot, Adjacency] | None = None
    short: Any = None

    def collect(self) -> None:
        """Adds to `uses` the products that were computed without Python."""
        if self.short is not None:
            self.uses += self.short.take()

    def end(self) -> None:
        """Called when the tensor is deleted or its contents have changed."""
        self.collect()
        if self.short is not None:
            left.products.remove(self.short)
            self.short = None
        if self.uses:
            self.report.lifetimes.append(self.uses)
        if self.missed and self.prepared is not None:
            self.patience *= 2
        self.uses, self.missed, self.prepared = 0, 0.0, None


class Matrices:
    """The known sparse tensors, by identity, as long as they exist, and the report about them."""

    def __init__(self) -> None:
        self.report = Report()
        self._known: dict[int, _Known] = {}
        self._kinds: dict[tuple[object, ...], MatrixReport] = {}
        self._tallies: dict[int, tuple[MatrixReport, Any]] = {}  # by id of the report
        self._patterns: list[Pattern] = []
        self._warned = False
        left.clear()

    def __len__(self) -> int:
        return sum(known.prepared is not None for known in self._known.values())

    def collect(self) -> None:
        """Adds to the report the products that were computed or left without Python."""
        left.collect()
        for kind, tally in self._tallies.values():
            products, seconds = tally.take()
            kind.products += products
            self.report.taken += products
            self.report.seconds += seconds

    def count(self, kind: MatrixReport, seconds: float) -> int:
        """Adds a product to the report, and returns its number among those of its kind."""
        self.collect()
        kind.products += 1
        self.report.taken += 1
        self.report.seconds += seconds
        if id(kind) in self._tallies:
            self._tallies[id(kind)][1].until = next_timed(kind.products) - kind.products - 1
        return kind.products

    def adjacency(
        self,
        matrix: Tensor,
        width: int = 1,
        backward: bool = False,
        from_right: bool = False,
        always: bool = False,
        short: bool = False,
    ) -> tuple[Adjacency, MatrixReport] | str:
        """The prepared form of a COO, CSR or CSC matrix, or the reason why torch's own product is better.

        width, from_right, short: as for `cost.gain`. backward: whether a gradient of the dense factor is wanted.
        always: never returns a reason.
        """
        entries, shape = stored_entries(matrix), matrix.shape
        gain = cost.gain(matrix.layout, entries, shape, width, matrix.dtype.itemsize, backward, from_right, short)
        if gain <= 0 and not always:
            return TOO_SMALL
        kind = self._kind(matrix, entries)
        known = self._find(matrix, kind)
        known.collect()
        if known.prepared is not None:
            snapshot, adjacency = known.prepared
            if snapshot.is_still(matrix):
                known.uses += 1
                return adjacency, kind
            known.end()
        expected = kind.products_each
        worth = float("inf") if always or expected is None else gain * (expected - known.uses)
        known.uses += 1
        is_worth_a_look = worth >= cost.prepare_cost(entries, shape, True, short)
        pattern = self._pattern(matrix, entries) if is_worth_a_look else None
        price = cost.prepare_cost(entries, shape, pattern is not None, short)
        if worth >= price:
            known.missed = 0.0
        elif known.missed < price * known.patience:
            known.missed += gain
            kind.left += 1
            if known.uses == 1:
                left.pause(shape, kind)
            return TOO_BRIEF
        else:
            known.uses = 1  # whether the products left to torch were of these contents is not known
        return self._prepare(matrix, known, pattern), kind

    def _prepare(self, matrix: Tensor, known: _Known, pattern: Pattern | None) -> Adjacency:
        start = time.perf_counter()
        kind = known.report
        left.resume(matrix.shape)
        if pattern is None:
            kind.prepared += 1
            self._warn_of_preparing_anew(kind)
        else:
            kind.revalued += 1
        with outside_modes():
            snapshot = Snapshot.of(matrix, pattern)
            adjacency = Adjacency.from_snapshot(snapshot)
        known.prepared = (snapshot, adjacency)
        if matrix.is_cpu:
            sides = [*adjacency._forward, *adjacency._backward]
            tally = self._tallies.setdefault(id(kind), (kind, _C.Tally()))[1]
            known.short = left.products.add(matrix, list(snapshot.pattern.indices), snapshot.value, sides, tally)
        if pattern is None:
            self._patterns = [snapshot.pattern, *self._patterns[: _PATTERNS - 1]]
        self.report.prepare_seconds += time.perf_counter() - start
        return adjacency

    def _pattern(self, matrix: Tensor, entries: int) -> Pattern | None:
        """The known pattern that the matrix has."""
        for pattern in self._patterns:
            if pattern.entries == entries and pattern.matches(matrix):
                return pattern
        return None

    def _find(self, matrix: Tensor, kind: MatrixReport) -> _Known:
        key = id(matrix)
        known = self._known.get(key)
        if known is None or known.tensor() is not matrix:
            token = left.products.know(matrix)
            known = _Known(weakref.ref(matrix, lambda ref: self._forget(key, ref, token)), kind)
            self._known[key] = known
        known.report = kind
        return known

    def _forget(self, key: int, ref: weakref.ref[Tensor], token: int) -> None:
        left.products.forget(token)
        known = self._known.get(key)
        if known is not None and known.tensor is ref:
            known.end()
            del self._known[key]

    def _kind(self, matrix: Tensor, entries: int) -> MatrixReport:
        key = (matrix.layout, matrix.dtype, matrix.shape, matrix.device)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = MatrixReport.of(matrix)
            self.report.matrices.append(kind)
        kind.entries = entries
        return kind

    def _warn_of_preparing_anew(self, kind: MatrixReport) -> None:
        each = kind.products_each
        if self._warned or kind.prepared < _OFTEN or each is None or each > _FEW:
            return
        self._warned = True
        warn(
            f"mmssl_fast.dropin.sparse: a {kind.shape[0]} x {kind.shape[1]} matrix was sorted {kind.prepared} times, "
            f"each time for about {each:.0f} products. Build it once if it does not change. Where only its values "
            "change, give every new matrix the same indices, as torch.sparse_coo_tensor(a.indices(), values, a.shape) "
            "does: those are sorted once. Where edges are dropped, nothing is to be done. sparse.report() has the "
            "counts (said once)"
        )
