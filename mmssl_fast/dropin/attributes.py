"""The attributes of an object before a function is compared: which of them the function sets, and how to undo it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor


class Attributes:
    """What the attributes of `owner` are. For a module of torch.nn, those of its submodules and its buffers as well.

    An attribute has changed if it is another object, a list, dict or set with other elements, or a tensor that was
    written to.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(losses=[])
        >>> before = Attributes("trainer", trainer)
        >>> trainer.losses.append(0.5)
        >>> before.changed()
        {'trainer.losses'}
        >>> before.restore()
        >>> trainer
        namespace(losses=[])
    """

    def __init__(self, name: str, owner: Any) -> None:
        is_module = isinstance(owner, nn.Module) and "_modules" in vars(owner)
        modules = owner.named_modules(prefix=name) if is_module else [(name, owner)]
        found = ((f"{path}.", getattr(part, "__dict__", None)) for path, part in modules)
        self._namespaces = [(path, names) for path, names in found if isinstance(names, dict)]
        self._before = [
            {key: _Value(x) for key, x in namespace.items() if not key.startswith("__")}
            for _, namespace in self._namespaces
        ]
        buffers = owner.buffers() if is_module else ()
        self._buffers = [(x, x.detach().clone(), x._version) for x in buffers if not x.is_inference()]

    def changed(self) -> set[str]:
        """The names of the attributes that were set since."""
        found = set()
        for (path, namespace), before in zip(self._namespaces, self._before, strict=True):
            for key, x in namespace.items():
                if not key.startswith("__") and (key not in before or before[key].is_changed(x)):
                    found.add(path + key)
        if any(_is_written(*buffer) for buffer in self._buffers):
            found.add(f"{self._namespaces[0][0]}buffers")
        return found

    def restore(self) -> None:
        """Sets all attributes to what they were. Of tensors that were written to, only buffers are restored."""
        for (_, namespace), before in zip(self._namespaces, self._before, strict=True):
            for key in [key for key in namespace if not key.startswith("__") and key not in before]:
                del namespace[key]
            for key, value in before.items():
                namespace[key] = value.restored()
        for x, kept, version in self._buffers:
            if _is_written(x, kept, version):
                x.detach().copy_(kept)


def _is_written(x: Tensor, kept: Tensor, version: int) -> bool:
    """Whether the buffer x was written to. BatchNorm does not count what it writes to its running statistics."""
    if x._version != version or x.layout != torch.strided or x.is_meta:
        return x._version != version
    return not torch.allclose(x, kept, rtol=0, atol=0, equal_nan=True)


class _Value:
    """A value, and what it contained."""

    def __init__(self, x: Any) -> None:
        self._x = x
        self._contents = x.copy() if type(x) in (list, dict, set) else None
        self._version = x._version if isinstance(x, Tensor) and not x.is_inference() else None

    def is_changed(self, x: Any) -> bool:
        if x is not self._x:
            return True
        if self._version is not None:
            return bool(x._version != self._version)
        if self._contents is None or isinstance(x, set):
            return self._contents is not None and bool(x != self._contents)
        now, before = (_elements(values) for values in (x, self._contents))
        return len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True))

    def restored(self) -> Any:
        if isinstance(self._contents, list):
            self._x[:] = self._contents
        elif self._contents is not None and self.is_changed(self._x):
            self._x.clear()
            self._x.update(self._contents)
        return self._x


def _elements(values: list[Any] | dict[Any, Any]) -> list[Any]:
    return [*values, *values.values()] if isinstance(values, dict) else values
