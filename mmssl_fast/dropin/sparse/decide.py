"""Decides which products are accelerated, computes them, and counts both."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...modes import is_tracing, is_transformed
from ...ops.derivatives import is_transforming
from . import products
from .adjacency import Adjacency
from .counts import TIMED, Report
from .left import DTYPES, LAYOUTS, left
from .matrices import TOO_BRIEF, TOO_SMALL, Matrices
from .pattern import stored_indices
from .products import Product
from .warn import warn

_KINDS = (Tensor, torch.nn.Parameter)

_matrices = Matrices()
_told: set[str] = set()
is_mode_enabled = torch._C._is_torch_function_mode_enabled
_torch_function = vars(Tensor)["__torch_function__"].__func__
_sparse_mm = torch.sparse.mm  # the original, also while it is replaced


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
    if type(adjacency) in _KINDS and type(x) in _KINDS and not is_mode_enabled():
        if x.layout is torch.strided is not adjacency.layout:
            found = left.products.multiply(adjacency, x, always)
            if found is not None:
                return _sparse_mm(adjacency, x) if found is True else found
    return multiply(_sparse_mm, _sparse_mm, (adjacency, x), {}, always)


def prepared(adjacency: Tensor) -> Adjacency:
    """The Adjacency of a sparse tensor. It is created at the first call for this tensor object with these contents.

    Example:
        >>> import torch
        >>> adjacency = prepared(torch.eye(3).to_sparse())
        >>> adjacency @ torch.ones(3, 1)
        tensor([[1.],
                [1.],
                [1.]])
    """
    stored_indices(adjacency)  # or an error
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
    _matrices.collect()
    found = _matrices.report.copy()
    unseen = ((TOO_SMALL, left.products.too_small), (TOO_BRIEF, left.products.too_brief))
    found.left.update({reason: n for reason, n in unseen if n})
    return found


def reset_report() -> None:
    """Resets the report, and discards the prepared matrices.

    Example:
        >>> reset_report()
        >>> report().taken
        0
    """
    global _matrices
    _matrices = Matrices()


def multiply(
    func: Callable[..., Any], plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], always: bool
) -> Any:
    """A call of `func` with a sparse factor, computed here or by torch.

    plain: what to call if torch computes it: `func`, or a function that calls it.
    """
    if is_mode_enabled() and all(type(x) in _KINDS for x in args if isinstance(x, Tensor)):
        with torch._C.DisableTorchFunction():  # with torch.set_default_device, reading a shape takes microseconds
            result = _result(func, args, kwargs, always)
    else:
        result = _result(func, args, kwargs, always)
    if result is not None:
        return result
    return plain(*args, **kwargs) if kwargs else plain(*args)


def _result(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], always: bool) -> Tensor | None:
    """The accelerated product. None if torch must compute it."""
    if len(args) == 2 and not kwargs and func in products.PLAIN and _is_plain(*args):
        if not always and left.leaves(*args, short=True):
            return None
        return _run(Product(*args), func, args, kwargs, always, short=True)
    if any(map(_decides, (*args, *kwargs.values()))):
        return None
    product = products.read(func, args, kwargs)
    if product is None:
        return None
    reason = product if isinstance(product, str) else _obstacle_of(product)
    if reason is not None:
        _tell(reason)
        _matrices.report.left[reason] += 1
        return None
    assert isinstance(product, Product)
    if not always and left.leaves(product.matrix, product.x, product.from_right):
        return None
    return _run(product, func, args, kwargs, always)


def _is_plain(matrix: Any, x: Any) -> bool:
    """Whether this is ``matrix @ x`` for two ordinary tensors on the CPU that fit together.

    Nearly all products are of this kind. `products.read` and `_obstacle_of` would find the same, but cost more than a
    product of small matrices.
    """
    if type(x) not in _KINDS or type(matrix) not in _KINDS or matrix.layout not in LAYOUTS or is_transforming():
        return False
    shape, x_shape, dtype = matrix.shape, x.shape, matrix.dtype
    return (
        len(shape) == 2 == len(x_shape)
        and shape[1] == x_shape[0]
        and x.layout is torch.strided
        and dtype is x.dtype
        and dtype in DTYPES
        and matrix.device == x.device
        and not matrix.requires_grad
        and not matrix.dense_dim()
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not is_tracing()
    )


def holds_sparse(values: tuple[Any, ...]) -> bool:
    """Whether `has_sparse` of any value, while a TorchFunctionMode is active."""
    with torch._C.DisableTorchFunction():
        return any(map(has_sparse, values))


def has_sparse(x: Any) -> bool:
    """Whether x is or contains a sparse tensor without a __torch_function__ of its own."""
    if type(x) in _KINDS:
        return x.layout is not torch.strided
    if isinstance(x, list | tuple):
        return any(map(has_sparse, x))
    return isinstance(x, Tensor) and _follows_torch(type(x)) and x.layout is not torch.strided


def _decides(x: Any) -> bool:
    """Whether x is or contains an object with its own __torch_function__, which then receives torch's function."""
    if isinstance(x, list | tuple):
        return any(map(_decides, x))
    kind = type(x)
    return not _follows_torch(kind) if isinstance(x, Tensor) else hasattr(kind, "__torch_function__")


def _follows_torch(kind: Any) -> bool:
    """Whether a subclass of Tensor has the __torch_function__ of Tensor, or a disabled one."""
    own = kind.__torch_function__
    return own is torch._C._disabled_torch_function_impl or own.__func__ is _torch_function


def _run(
    product: Product,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    always: bool,
    short: bool = False,
) -> Tensor | None:
    """The accelerated product. None if torch is faster; the report counts the reason.

    short: whether further products of the matrix in such calls are computed without Python.
    """
    done = _matrices.report
    start, preparing = time.perf_counter(), done.prepare_seconds
    matrix, x = product.matrix, product.x
    width = 1 if x.ndim == 1 else x.shape[0 if product.from_right else 1]
    found = _matrices.adjacency(matrix, width, _wants_backward(x), product.from_right and x.ndim == 2, always, short)
    if isinstance(found, str):
        done.left[found] += 1
        return None
    adjacency, kind = found
    result = product.of(adjacency)
    seconds = time.perf_counter() - start - (done.prepare_seconds - preparing)
    if _matrices.count(kind, seconds) in TIMED and matrix.device.type == "cpu" and not is_transforming():
        _time_torch(done, seconds, func, args, kwargs)
    return result


def _wants_backward(x: Tensor) -> bool:
    return is_transforming() or (x.requires_grad and torch.is_grad_enabled())


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


def obstacle(adjacency: Tensor, x: Tensor) -> str | None:
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
    if not _has_data(adjacency) or not isinstance(x, Tensor) or not _has_data(x):
        return "a factor that is no tensor of torch's own"
    if x.layout != torch.strided or x.ndim not in (1, 2):
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
        warn(f"mmssl_fast.dropin.sparse: {reason} is left to torch (said once)")


def _has_data(x: Tensor) -> bool:
    return not x.is_meta and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
