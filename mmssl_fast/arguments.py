"""Checks of the argument types that all public functions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ID_TYPES = (torch.int64, torch.int32)


def check_tensors(op: str, **arguments: object) -> None:
    """Raises TypeError if an argument is not a torch.Tensor. The error names the first such argument."""
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {_type_and_hint(x)}")


def check_seen(op: str, seen: Any) -> None:
    """Raises TypeError unless `seen` is None or a pair of tensors."""
    if seen is not None:
        check_tensors(op, **{"seen.crow": seen[0], "seen.col": seen[1]})


def as_ids(op: str, name: str, ids: Tensor) -> Tensor:
    """Returns ids as int64, the dtype that the kernels read. Raises TypeError if ids is not a tensor, and ValueError if
    its dtype is neither int64 nor int32 or it is not one-dimensional."""
    if isinstance(ids, Tensor) and ids.dtype == torch.int64 and ids.ndim == 1:
        return ids
    if not isinstance(ids, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor of int64 or int32, got {_type_and_hint(ids)}")
    if ids.dtype not in ID_TYPES:
        raise ValueError(f"{op}: {name} must be int64 or int32 [B], got {str(ids.dtype).removeprefix('torch.')}")
    if ids.ndim != 1:
        raise ValueError(f"{op}: {name} must be int64 [B], got {list(ids.shape)}")
    return ids.long()


def _type_and_hint(x: object) -> str:
    """The type of x for an error message, and how to convert x to a tensor."""
    cls = type(x)
    if cls.__module__ == "numpy":
        return f"a NumPy {cls.__name__}; use torch.from_numpy"
    return f"a {cls.__name__}; use torch.tensor" if cls in (list, tuple) else f"{cls.__name__}"
