"""torch.sparse.mm and torch.mm on a sparse adjacency, run on propagate: for any LightGCN-type model, unchanged.

    with mmssl_fast.dropin.sparse.accelerated():
        train(model)

or, for the rest of the program, ``mmssl_fast.dropin.sparse.enable()``; or `mm` in place of ``torch.sparse.mm``. What
cannot be taken goes to torch, which is said once a reason.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .adjacency import Adjacency

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
DTYPES = (torch.float32, torch.float64)
_PRODUCTS = frozenset({torch.mm, torch.matmul, torch.sparse.mm, Tensor.mm, Tensor.matmul, Tensor.__matmul__})

_prepared: dict[int, tuple[weakref.ref, int, Adjacency]] = {}
_told: set[str] = set()


def mm(adjacency: Tensor, x: Tensor) -> Tensor:
    """Equals ``torch.sparse.mm(adjacency, x)``, by propagate in both directions.

    Args:
        adjacency: [R, C] sparse COO, CSR or CSC with any values, float32 or float64, without gradient. Sorted and
            transposed when it is first seen, and kept as long as the tensor lives and is not written to.
        x: [C, d] dense, dtype and device of adjacency.

    Returns:
        [R, d], differentiable in x any number of times; the same bits for any number of threads. Whatever else
        torch.sparse.mm takes goes there, with a UserWarning the first time for each reason.
    """
    if isinstance(adjacency, Adjacency):
        return adjacency.mm(x)
    reason = _obstacle(adjacency, x)
    if reason is None:
        return prepared(adjacency).mm(x)
    _tell(reason)
    return torch.sparse.mm(adjacency, x)


def prepared(adjacency: Tensor) -> Adjacency:
    """The Adjacency of a sparse tensor: made when this tensor object, at this version, is first asked for."""
    key = id(adjacency)
    found = _prepared.get(key)
    if found is None or found[0]() is not adjacency or found[1] != adjacency._version:
        forget = weakref.ref(adjacency, lambda ref: _prepared.pop(key) if _is(key, ref) else None)
        found = _prepared[key] = (forget, adjacency._version, Adjacency.from_torch(adjacency))
    return found[2]


@contextmanager
def accelerated() -> Iterator[None]:
    """Inside, in this thread: torch.sparse.mm, torch.mm, torch.matmul and ``@`` of a sparse matrix and a dense one are
    `mm`; every other call is torch's own."""
    with _Products():
        yield


def enable() -> None:
    """As `accelerated`, from here on in this thread; `disable` ends it. Enabling twice is enabling once."""
    global _enabled
    if _enabled is None:
        _enabled = _Products()
        _enabled.__enter__()


def disable() -> None:
    """Ends `enable`; nothing happens where it was not called."""
    global _enabled
    if _enabled is not None:
        _enabled.__exit__(None, None, None)
        _enabled = None


class _Products(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _PRODUCTS and args and isinstance(args[0], Tensor) and args[0].layout != torch.strided:
            reason = "an option of the product" if kwargs or len(args) != 2 else _obstacle(*args)
            if reason is None:
                return prepared(args[0]).mm(args[1])
            _tell(reason)
        return func(*args, **kwargs)


_enabled: _Products | None = None


def _obstacle(adjacency: Tensor, x: Tensor) -> str | None:
    """Why torch has to take this product, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile"
    if adjacency.layout not in LAYOUTS:
        return f"a matrix of layout {adjacency.layout}"
    if adjacency.dtype not in DTYPES:
        return f"a matrix of {adjacency.dtype}"
    if adjacency.requires_grad and torch.is_grad_enabled():
        return "a matrix that requires grad"
    if adjacency.dense_dim() if adjacency.layout == torch.sparse_coo else adjacency.ndim != 2:
        return "a matrix of dense blocks"
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.ndim != 2:
        return "a second factor that is no dense matrix"
    if x.dtype != adjacency.dtype or x.device != adjacency.device or x.shape[0] != adjacency.shape[1]:
        return "factors of different dtypes, devices or sizes"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("mmssl_fast::propagate", x.device.type.upper()):
        return f"the device {x.device.type}"
    return None


def _tell(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"mmssl_fast.dropin.sparse: {reason} is left to torch (said once)", stacklevel=4)


def _is(key: int, ref: weakref.ref) -> bool:
    return key in _prepared and _prepared[key][0] is ref
