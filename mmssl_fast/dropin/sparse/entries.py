"""Replaces torch's matrix products by wrappers.

Between `enter` and `leave`, each function in `products.READERS` is replaced by its wrapper: as an attribute of torch,
torch.sparse, torch.linalg, torch.nn.functional and torch.Tensor, and in the modules that have imported it by name.
"""

from __future__ import annotations

import sys
import threading
import types
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import _builtins

from .products import READERS
from .wrappers import wrapper

_NAMESPACES = (torch, torch.sparse, torch.linalg, F, torch.functional)
_METHODS = {func.__name__: func for func in READERS if hasattr(func, "__objclass__")}  # of torch.Tensor, all inherited
_NOT_SEARCHED = sys.stdlib_module_names | {"torch"}

# Functions of torch that cache the functions in its namespaces at their first call.
_CACHES = (
    ("torch.overrides", "get_testing_overrides"),
    ("torch.overrides", "_get_overridable_functions"),
    ("torch.overrides", "_get_tensor_methods"),
    ("torch._dynamo.trace_rules", "get_tensor_method"),
)


class Entries:
    """The places where the functions were found, and the number of contexts that need wrappers there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._pairs: dict[int, tuple[Any, Any]] = {}  # id of either → torch's function, its wrapper
        self._names: dict[tuple[int, str], dict[str, Any]] = {}  # id of a namespace and name → namespace
        self._searched: dict[str, weakref.ref[types.ModuleType]] = {}
        self._last: tuple[int, str] | None = None
        self._unfilled: list[tuple[str, str]] = []

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            if not self._pairs:
                self._make_wrappers()
            self._unfilled = [cache for cache in _CACHES if not _is_filled(*cache)]
            self._search()
            self._put(0, 1)
            for name, func in _METHODS.items():
                if getattr(Tensor, name) is func:
                    setattr(Tensor, name, self._pairs[id(func)][1])

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._search()  # modules imported meanwhile may hold wrappers
            self._put(1, 0)
            for name, func in _METHODS.items():
                if vars(Tensor).get(name) is self._pairs[id(func)][1]:
                    delattr(Tensor, name)
            for module, name in self._unfilled:
                if _is_filled(module, name):
                    getattr(sys.modules[module], name).cache_clear()

    def _put(self, old: int, new: int) -> None:
        """Replace torch's functions by wrappers (0, 1) or the reverse (1, 0), unless something else is there."""
        for (_, name), namespace in self._names.items():
            value = namespace.get(name)
            pair = self._pairs.get(id(value))
            if pair is not None and value is pair[old]:
                namespace[name] = pair[new]

    def _make_wrappers(self) -> None:
        found = [(func, ("torch", f"Tensor.{name}")) for name, func in _METHODS.items()]
        for module in _NAMESPACES:
            for name, value in vars(module).items():
                # Aliases such as torch.spmm are equal to the function of which they are one.
                if isinstance(value, types.BuiltinFunctionType | types.FunctionType) and value in READERS:
                    self._names[id(vars(module)), name] = vars(module)
                    found.append((value, (module.__name__, name)))
        operators = _builtins._get_builtin_table()  # TorchScript's, which goes by ids
        for func, path in found:
            made = wrapper(func, path)
            self._pairs[id(func)] = self._pairs[id(made)] = (func, made)
            if id(func) in operators:
                operators[id(made)] = operators[id(func)]

    def _search(self) -> None:
        """Search the modules that are new, and __main__ every time, because it grows in a notebook."""
        self._add(sys.modules.get("__main__"))
        last = len(sys.modules), next(reversed(sys.modules))
        if last == self._last:
            return
        self._last = last
        for name, module in list(sys.modules.items()):
            known = self._searched.get(name)
            if not isinstance(module, types.ModuleType) or (known is not None and known() is module):
                continue
            if name.partition(".")[0] not in _NOT_SEARCHED:
                self._add(module)
            if getattr(module.__spec__, "_initializing", False):
                self._last = None  # it is being imported, and has to be searched again
            else:
                self._searched[name] = weakref.ref(module)

    def _add(self, module: types.ModuleType | None) -> None:
        if module is None:
            return
        namespace = vars(module)
        for name, value in list(namespace.items()):
            if id(value) in self._pairs:
                self._names[id(namespace), name] = namespace


def _is_filled(module: str, name: str) -> bool:
    cache = getattr(sys.modules.get(module), name, None)
    return cache is not None and cache.cache_info().currsize > 0


entries = Entries()
