"""The contexts in which products are accelerated: `accelerated`, `enable` and `disable`."""

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
    """Context manager: accelerates the products of a sparse and a dense matrix in this thread.

    These are the products in torch.mm, torch.matmul, ``@``, torch.sparse.mm, torch.mv, torch.addmm, torch.sparse.addmm
    and F.linear, as functions or methods, with positional or keyword arguments, and with the sparse matrix on either
    side. The functions are replaced in torch, and in modules that have imported them (``from torch.sparse import mm``),
    until no thread is in the context. A function that was stored elsewhere before, for example as a default argument or
    in a list, is not replaced. All other functions of torch are unchanged. `report` shows what was accelerated.

    A __torch_function__ receives the original function of torch. Inside the context, ``torch.mm`` is another object, so
    compare with a reference that was stored before.

    The first use searches all imported modules, in 6 milliseconds for 1350 modules. Later uses search only new modules
    and take tens of microseconds. Therefore enter the context once, outside of the loop over steps.

    Args:
        always: also accelerate products for which torch would be faster, in this context and in contexts inside it.
            Results are then bit-identical for any number of threads.

    Example:
        >>> adjacency = torch.eye(300).to_sparse()
        >>> with accelerated():
        ...     product = torch.sparse.mm(adjacency, torch.ones(300, 8))
        >>> product.shape
        torch.Size([300, 8])
    """
    _begin(always)
    try:
        yield
    finally:
        _end(always)


def enable(*, always: bool = False) -> None:
    """Like `accelerated`, from now on in this thread, until `disable`. A second call has no effect.

    Example:
        >>> enable()
        >>> product = torch.sparse.mm(torch.eye(300).to_sparse(), torch.ones(300, 8))
        >>> disable()
    """
    if _enabled.always is None:
        _begin(always)
        _enabled.always = always


def disable() -> None:
    """Ends `enable` in this thread. Does nothing if it was not called.

    Example:
        >>> enable()
        >>> disable()
    """
    if _enabled.always is not None:
        _end(_enabled.always)
        _enabled.always = None


def _begin(always: bool) -> None:
    entries.enter()
    activate(always)


def _end(always: bool) -> None:
    deactivate(always)
    entries.leave()
