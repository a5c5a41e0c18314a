"""A column [B, 1] expanded to the shape of relation rows, which remains a column under arithmetic with numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .registry import call

_ELEMENTWISE = {
    *(torch.neg, torch.add, torch.sub, torch.rsub, torch.mul, torch.div, torch.clone, torch.detach),
    *(Tensor.neg, Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.clone, Tensor.detach),
    *(Tensor.__neg__, Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__, Tensor.__mul__),
    *(Tensor.__rmul__, Tensor.__truediv__, Tensor.__rtruediv__),
}


class ExpandedColumn(Tensor):
    """Equals ``column.expand(B, I)``, with one number per row in memory.

    ``1 - alpha`` of an ordinary expanded tensor writes B x I numbers. Here, the elementwise functions that a gradient
    penalty uses act on the column and expand the result. Every other function gets the expanded tensor and returns
    ordinary tensors.
    """

    @staticmethod
    def of(tensor: Tensor) -> Tensor:
        """tensor [B, I] as an ExpandedColumn, or unchanged if its stride along the rows is not 0."""
        return tensor.as_subclass(ExpandedColumn) if tensor.stride(1) == 0 else tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        plain = [x.as_subclass(Tensor) if isinstance(x, cls) else x for x in args]
        if any(not issubclass(kind, Tensor) for kind in types):
            return call(func, tuple(plain), kwargs or {})
        columns = [x for x in args if isinstance(x, cls)]
        if func in _ELEMENTWISE and not kwargs and all(_constant(x, columns[0].shape) for x in args):
            shape = columns[0].shape
            narrow = [x[:, :1] if isinstance(arg, cls) else x for x, arg in zip(plain, args, strict=True)]
            return cls.of(func(*narrow).expand(shape))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _constant(x: object, shape: torch.Size) -> bool:
    """Whether x is a single number, or an ExpandedColumn of shape `shape`."""
    if isinstance(x, ExpandedColumn):
        return torch.Tensor.size(x) == shape
    return isinstance(x, Real) or (isinstance(x, Tensor) and x.ndim == 0)
