"""The wrappers of torch's matrix products, and the threads in which they are active."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import _get_overloaded_args, _pop_mode_temporarily, has_torch_function

from ...library import _C
from ...ops.propagate import propagate_csr
from .decide import has_sparse, holds_sparse, is_mode_enabled, multiply
from .left import left
from .products import PLAIN, READERS

_strided = torch.strided
_is_compiling = torch.compiler.is_compiling
_C.set_transformed_product(propagate_csr)
# torch gives objects under such keys to the threads of autograd, in which checkpoints are recomputed on CUDA.
_KEY = "mmssl_fast.dropin.sparse"
_is_key_in_tls, _get_obj_in_tls = torch._C._is_key_in_tls, torch._C._get_obj_in_tls


class _Here(threading.local):
    """users: the `always` of each `activate` of this thread. always: whether any is True; None without users."""

    always: bool | None = None

    def __init__(self) -> None:
        self.users: list[bool] = []


_here = _Here()


def activate(always: bool) -> None:
    """Make the wrappers active in this thread. always: as in `context.accelerated`."""
    _here.users.append(always)
    _update()


def deactivate(always: bool) -> None:
    """Ends one `activate` of this thread."""
    _here.users.remove(always)
    _update()


def _update() -> None:
    _here.always = any(_here.users) if _here.users else None
    _C.set_sparse_products(_here.always)
    if _is_key_in_tls(_KEY):
        torch._C._stash_obj_in_tls(_KEY, _here.always)


def _tell(always: bool) -> None:
    """From now on, the threads of autograd that run a backward pass of this thread do as it does.

    There are such threads for CUDA, and for backward passes within each other. For others it is not done, because torch
    copies what it gives to its threads at every node of every later backward pass, also in a step of 700 microseconds.
    """
    if _here.always is always and (torch.cuda.is_initialized() or torch._C._current_graph_task_id() >= 0):
        if not (_is_key_in_tls(_KEY) and _get_obj_in_tls(_KEY) is always):
            torch._C._stash_obj_in_tls(_KEY, always)


def wrapper(func: Callable[..., Any], path: tuple[str, str]) -> Callable[..., Any]:
    """Equals `func`, a function in `products.READERS`, except for products of sparse tensors in active threads.

    path: the module and the qualified name under which callers find it.
    """
    multiplies_two = func in PLAIN or READERS[func] is READERS[torch.mv]
    plain = _method(func) if path[1].startswith("Tensor.") else func

    def slow(*args: Any, **kwargs: Any) -> Any:
        always, call = _here.always, plain
        if always is None and _is_key_in_tls(_KEY):  # a thread of autograd: as in the thread that called backward
            always = _get_obj_in_tls(_KEY)
        if always is not None and is_mode_enabled():
            if _is_compiling():
                return func(*args, **kwargs)
            if holds_sparse((*args, *kwargs.values())):
                _tell(always)
                return multiply(func, plain, args, kwargs, always)
        elif always is not None:
            call = func  # if all arguments are tensors of torch itself, no __torch_function__ has to be asked
            for x in (*args, *kwargs.values()) if kwargs else args:
                kind = type(x)
                if kind is Tensor or kind is Parameter:
                    if x.layout is _strided:
                        continue
                else:
                    call = plain
                    if x is None or not has_sparse(x):
                        continue
                if _is_compiling():
                    return func(*args, **kwargs)
                _tell(always)
                return multiply(func, plain, args, kwargs, always)
        return call(*args, **kwargs) if kwargs else call(*args)

    # Nearly all calls are decided in C++; `slow` has the rest.
    fast = _C.sparse_product(left.products, func, plain, slow, multiplies_two, func in PLAIN)

    def product(*args: Any, **kwargs: Any) -> Any:
        return fast(*args, **kwargs) if kwargs else fast(*args)

    functools.update_wrapper(product, func)
    product.__module__, product.__qualname__ = path  # under which pickle finds it
    product._torchdynamo_inline = func  # type: ignore[attr-defined]  # torch.compile sees torch's own function
    return product


def _method(func: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch.Tensor that passes the original method to __torch_function__.

    torch's C++ code looks the method up in torch.Tensor, and would pass the wrapper.
    """
    is_operator = func is Tensor.__matmul__
    handed = Tensor.matmul if is_operator else func

    def method(*args: Any, **kwargs: Any) -> Any:
        relevant = (*args, *kwargs.values()) if kwargs else args
        if not has_torch_function(relevant):
            return func(*args, **kwargs)
        try:
            return _hand_over(handed, relevant, args, kwargs)
        except TypeError:
            if is_operator:  # so that Python asks the other operand
                return NotImplemented
            raise

    return method


def _hand_over(
    func: Callable[..., Any], relevant: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Equals torch.overrides.handle_torch_function, which fails on methods that no argument implements."""
    asked = _get_overloaded_args(relevant)
    kinds = tuple(map(type, asked))
    given = (args, kwargs) if kwargs else (args,)
    result = NotImplemented
    if is_mode_enabled():
        with _pop_mode_temporarily() as mode:
            result = mode.__torch_function__(func, kinds, *given)
    for x in asked:
        if result is NotImplemented:
            result = x.__torch_function__(func, kinds, *given)
    if result is NotImplemented:
        name = f"torch.Tensor.{func.__name__}"
        raise TypeError(
            f"Multiple dispatch failed for '{name}'; all __torch_function__ handlers returned NotImplemented"
        )
    return result
