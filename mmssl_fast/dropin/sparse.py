"""torch.sparse.mm and torch.mm on a sparse adjacency, run on propagate: for any LightGCN-type model, unchanged.

    with mmssl_fast.dropin.sparse.accelerated():
        train(model)

or, for the rest of the program, ``mmssl_fast.dropin.sparse.enable()``; or `mm` in place of ``torch.sparse.mm``. What
cannot be taken goes to torch, which is said once a reason.
"""

from __future__ import annotations

import threading
import types
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..modes import is_tracing, is_transformed
from .adjacency import Adjacency, Snapshot

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
DTYPES = (torch.float32, torch.float64)
_PRODUCTS = frozenset({torch.mm, torch.matmul, torch.sparse.mm, Tensor.mm, Tensor.matmul, Tensor.__matmul__})


class _Prepared(NamedTuple):
    tensor: weakref.ref
    snapshot: Snapshot
    adjacency: Adjacency


_prepared: dict[int, _Prepared] = {}
_told: set[str] = set()
_here = threading.local()  # .mode: what `enable` has switched on in this thread


def mm(adjacency: Tensor, x: Tensor) -> Tensor:
    """Equals ``torch.sparse.mm(adjacency, x)``, by propagate in both directions.

    Args:
        adjacency: [R, C] sparse COO, CSR or CSC with any values, float32 or float64, without gradient. Sorted and
            transposed when it is first seen, and kept as long as the tensor lives. Its contents are compared at every
            product, so it is prepared anew whichever way it was written to.
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
    """The Adjacency of a sparse tensor: made when this tensor object, with these contents, is first asked for."""
    key = id(adjacency)
    known = _prepared.get(key)
    if known is None or known.tensor() is not adjacency or not known.snapshot.is_still(adjacency):
        forget = weakref.ref(adjacency, lambda ref: _prepared.pop(key, None) if _is(key, ref) else None)
        snapshot = Snapshot.of(adjacency)
        known = _prepared[key] = _Prepared(forget, snapshot, Adjacency.from_snapshot(snapshot))
    return known.adjacency


@contextmanager
def accelerated() -> Iterator[None]:
    """Inside, in this thread: torch.sparse.mm, torch.mm, torch.matmul and ``@`` of a sparse matrix and a dense one are
    `mm`; every other call is torch's own."""
    with _Products():
        yield


def enable() -> None:
    """As `accelerated`, from here on in this thread; `disable` ends it. Enabling twice is enabling once."""
    if getattr(_here, "mode", None) is None:
        _here.mode = _Products()
        _here.mode.__enter__()


def disable() -> None:
    """Ends `enable` in this thread; nothing happens where it was not called."""
    if getattr(_here, "mode", None) is not None:
        _here.mode.__exit__(None, None, None)
        _here.mode = None


class _Products(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _PRODUCTS and args and isinstance(args[0], Tensor) and args[0].layout != torch.strided:
            reason = "an option of the product" if kwargs or len(args) != 2 else _obstacle(*args)
            if reason is None:
                return prepared(args[0]).mm(args[1])
            _tell(reason)
        if func in _BACKWARD and all(kind in (Tensor, torch.nn.Parameter) for kind in types):
            with self:
                return _BACKWARD[func](*args, **kwargs)
        return func(*args, **kwargs)


def _under_modes(function: types.FunctionType) -> types.FunctionType:
    """`function`, an entry to backward that torch takes every mode off for, with the modes on.

    Activation checkpointing runs the forward again during backward. Without this mode torch would take the products
    then, and its use_reentrant=False refuses to go on, as other tensors are saved than the first time.
    """
    scope = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_backward = _under_modes(torch.autograd.backward)


def _tensor_backward(tensor, gradient=None, retain_graph=None, create_graph=False, inputs=None) -> None:
    _backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)


_BACKWARD = {
    Tensor.backward: _tensor_backward,
    torch.autograd.backward: _backward,
    torch.autograd.grad: _under_modes(torch.autograd.grad),
}


def _obstacle(adjacency: Tensor, x: Tensor) -> str | None:
    """Why torch has to take this product, or None."""
    if torch.compiler.is_compiling() or is_tracing():
        return "torch.compile or torch.export"
    if adjacency.layout not in LAYOUTS:
        return f"a matrix of layout {adjacency.layout}"
    if adjacency.dtype not in DTYPES:
        return f"a matrix of {adjacency.dtype}"
    if adjacency.requires_grad and torch.is_grad_enabled():
        return "a matrix that requires grad"
    if adjacency.ndim != 2 or (adjacency.layout == torch.sparse_coo and adjacency.dense_dim()):
        return "a matrix of dense blocks"
    if is_transformed(adjacency):
        return "a matrix that torch.func follows"
    if not all(isinstance(x, Tensor) and _has_data(x) for x in (adjacency, x)):
        return "a factor that is no tensor of torch's own"
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
    return key in _prepared and _prepared[key].tensor is ref


def _has_data(x: Tensor) -> bool:
    return not x.is_meta and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
