"""Faster products of a sparse adjacency and a dense matrix, for any LightGCN-type model without changing it::

    with mmssl_fast.dropin.sparse.accelerated():
        train(model)
    print(mmssl_fast.dropin.sparse.report())

``mmssl_fast.dropin.sparse.enable()`` does the same for the rest of the program, and `mm` replaces a single
``torch.sparse.mm``. torch computes the products that are not supported, with one warning for each reason. It also
computes products that would be slower here, without a warning. The report counts them, and
`mmssl_fast.dropin.sparse_cost` documents the rule.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..modes import is_tracing, is_transformed
from ..ops.derivatives import is_transforming
from . import products
from .adjacency import Adjacency
from .backward_modes import BACKWARD
from .products import Product
from .sparse_matrices import Matrices
from .sparse_report import TIMED, Report

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
DTYPES = (torch.float32, torch.float64)

_WATCHED = frozenset((*products.READERS, *BACKWARD))

_matrices = Matrices()
_told: set[str] = set()
_here = threading.local()  # .mode: what `enable` has switched on in this thread


def mm(adjacency: Tensor, x: Tensor, *, always: bool = False) -> Tensor:
    """Equals ``torch.sparse.mm(adjacency, x)``, with the kernels of `propagate` in forward and backward.

    Args:
        adjacency: [R, C] sparse COO, CSR or CSC with any values, float32 or float64, without gradient. It is sorted and
            transposed at its first use, and the result is stored as long as the tensor exists. Its contents are
            compared at every product, so that every kind of write is detected. If only values have changed, it is not
            sorted again.
        x: [C, d] dense, dtype and device of adjacency.
        always: as in `accelerated`.

    Returns:
        [R, d], differentiable in x any number of times, and bit-identical for any number of threads. Other arguments
        are passed to torch.sparse.mm, with one UserWarning for each reason.

    >>> adjacency = torch.tensor([[0.0, 2.0], [1.0, 0.0]]).to_sparse()
    >>> mm(adjacency, torch.tensor([[1.0], [10.0]]), always=True)
    tensor([[20.],
            [ 1.]])
    """
    if isinstance(adjacency, Adjacency):
        return adjacency.mm(x)
    return _run(Product(adjacency, x), torch.sparse.mm, (adjacency, x), {}, always)


def prepared(adjacency: Tensor) -> Adjacency:
    """The Adjacency of a sparse tensor. It is created at the first call for this tensor object with these contents."""
    found = _matrices.adjacency(adjacency, always=True)
    assert not isinstance(found, str)
    return found[0]


def report() -> Report:
    """What was done so far in this process, in all threads. The report is a copy, which later products do not change.

    >>> reset_report()
    >>> y = mm(torch.eye(3).to_sparse(), torch.ones(3, 2), always=True)
    >>> report().taken
    1
    """
    return _matrices.report.copy()


def reset_report() -> None:
    """Resets the report, and discards the prepared matrices."""
    global _matrices
    _matrices = Matrices()


@contextmanager
def accelerated(*, always: bool = False) -> Iterator[None]:
    """Context manager: accelerates the products of a sparse and a dense matrix in this thread.

    These are the products in torch.mm, torch.matmul, ``@``, torch.sparse.mm, torch.mv, torch.addmm, torch.sparse.addmm
    and F.linear, as functions or methods, with positional or keyword arguments, and with the sparse matrix on either
    side. All other calls are those of torch. `report` shows what was accelerated.

    Args:
        always: also accelerate products for which torch would be faster. Results are then bit-identical for any number
            of threads.
    """
    with _Products(always):
        yield


def enable(*, always: bool = False) -> None:
    """Like `accelerated`, from now on in this thread, until `disable`. A second call has no effect."""
    if getattr(_here, "mode", None) is None:
        _here.mode = _Products(always)
        _here.mode.__enter__()


def disable() -> None:
    """Ends `enable` in this thread. Does nothing if it was not called."""
    if getattr(_here, "mode", None) is not None:
        _here.mode.__exit__(None, None, None)
        _here.mode = None


class _Products(TorchFunctionMode):
    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _WATCHED:  # nearly every call that torch makes
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if func not in BACKWARD:
            product = products.read(func, args, kwargs)
            return func(*args, **kwargs) if product is None else _run(product, func, args, kwargs, self.always)
        if all(kind in (Tensor, torch.nn.Parameter) for kind in types):
            with self:
                return BACKWARD[func](*args, **kwargs)
        return func(*args, **kwargs)


def _run(
    product: Product | str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], always: bool
) -> Any:
    """The accelerated product, or that of `func`."""
    if not isinstance(product, str) and isinstance(product.matrix, Adjacency):
        return func(*args, **kwargs)
    done = _matrices.report
    reason = product if isinstance(product, str) else _obstacle_of(product)
    if reason is not None:
        _tell(reason)
        done.left[reason] += 1
        return func(*args, **kwargs)
    assert isinstance(product, Product)
    start, preparing = time.perf_counter(), done.prepare_seconds
    matrix, x = product.matrix, product.x
    width = 1 if x.ndim == 1 else x.shape[0 if product.from_right else 1]
    backward = is_transforming() or (x.requires_grad and torch.is_grad_enabled())
    found = _matrices.adjacency(matrix, width, backward, product.from_right and x.ndim == 2, always)
    if isinstance(found, str):
        done.left[found] += 1
        return func(*args, **kwargs)
    adjacency, kind = found
    result = product.of(adjacency)
    seconds = time.perf_counter() - start - (done.prepare_seconds - preparing)
    done.seconds += seconds
    done.taken += 1
    kind.products += 1
    if kind.products in TIMED and matrix.device.type == "cpu" and not is_transforming():
        _time_torch(done, seconds, func, args, kwargs)
    return result


def _time_torch(
    done: Report, seconds: float, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Measures torch's own product for comparison. The time is shown in the report only and does not influence any
    decision, because runs with the same seed should accelerate the same products."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        start = time.perf_counter()
        try:
            func(*args, **kwargs)
        except RuntimeError:  # a layout that torch does not multiply
            return
        done.ratios.append((time.perf_counter() - start) / seconds)


def _obstacle(adjacency: Tensor, x: Tensor) -> str | None:
    """The reason why torch must compute ``adjacency @ x``, or None."""
    return _obstacle_of(Product(adjacency, x))


def _obstacle_of(product: Product) -> str | None:
    """The reason why torch must compute this product, or None."""
    adjacency, x = product.matrix, product.x
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
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.ndim not in (1, 2):
        return "a second factor that is no dense matrix or vector"
    columns = adjacency.shape[0 if product.transpose else 1]
    if x.dtype != adjacency.dtype or x.device != adjacency.device or product.factor.shape[0] != columns:
        return "factors of different dtypes, devices or sizes"
    if not _has_kernel(x.device.type):
        return f"the device {x.device.type}"
    return None


@lru_cache
def _has_kernel(device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("mmssl_fast::propagate", device.upper())


def _tell(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"mmssl_fast.dropin.sparse: {reason} is left to torch (said once)", stacklevel=4)


def _has_data(x: Tensor) -> bool:
    return not x.is_meta and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
