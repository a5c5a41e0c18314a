"""Where products are taken: `accelerated`, `enable` and `disable`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .entries import entries
from .wrappers import activate, deactivate


class _Enabled(threading.local):
    always: bool | None = None  # of `enable`, in this thread


_enabled = _Enabled()


@contextmanager
def accelerated(*, always: bool = False) -> Iterator[None]:
    """Inside, in this thread, products of a sparse matrix and a dense one run on propagate.

    Taken are torch.mm, torch.matmul, ``@``, torch.sparse.mm, torch.mv, torch.addmm, torch.sparse.addmm and F.linear,
    the sparse matrix on either side, by position or by keyword, as functions or methods. These names are replaced, in
    torch and in modules that have imported them (``from torch.sparse import mm``), until no thread is inside any more.
    Every other call is torch's own; so is a product by a function that was kept elsewhere before, as the default of an
    argument or in a list. A __torch_function__ is handed torch's own function, which ``torch.mm`` is not while the name
    is replaced: compare with what was kept before. `report` has what was taken and what was not.

    Entering for the first time searches the modules that are imported, 6 milliseconds for 1350 modules, and later only
    new ones; entering and leaving then takes 25 microseconds. Enter once, outside of the loop over steps.

    Args:
        always: whether products are taken where torch would be faster too, here and in whatever is nested in it.
            Results then have the same bits for any number of threads.
    """
    _begin(always)
    try:
        yield
    finally:
        _end(always)


def enable(*, always: bool = False) -> None:
    """As `accelerated`, from here on in this thread; `disable` ends it. Enabling twice is enabling once."""
    if _enabled.always is None:
        _begin(always)
        _enabled.always = always


def disable() -> None:
    """Ends `enable` in this thread; nothing happens where it was not called."""
    if _enabled.always is not None:
        _end(_enabled.always)
        _enabled.always = None


def _begin(always: bool) -> None:
    entries.enter()
    activate(always)


def _end(always: bool) -> None:
    deactivate(always)
    entries.leave()
