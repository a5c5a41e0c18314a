"""What the public ops say about arguments that are no tensors, or ids of another type than theirs."""

from __future__ import annotations

import torch
from torch import Tensor

ID_TYPES = (torch.int64, torch.int32)


def check_tensors(op: str, **arguments) -> None:
    """Raises TypeError naming the first argument that is not a torch.Tensor."""
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {_kind(x)}")


def check_seen(op: str, seen) -> None:
    """Raises TypeError unless `seen` is None or a pair of tensors."""
    if seen is not None:
        check_tensors(op, **{"seen.crow": seen[0], "seen.col": seen[1]})


def as_ids(op: str, name: str, ids: Tensor) -> Tensor:
    """ids as int64, which is what the kernels read; int32 is widened. Raises TypeError for what is no tensor and
    ValueError for a tensor of another type or shape."""
    if isinstance(ids, Tensor) and ids.dtype == torch.int64 and ids.ndim == 1:
        return ids
    if not isinstance(ids, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor of int64 or int32, got {_kind(ids)}")
    if ids.dtype not in ID_TYPES:
        raise ValueError(f"{op}: {name} must be int64 or int32 [B], got {str(ids.dtype).removeprefix('torch.')}")
    if ids.ndim != 1:
        raise ValueError(f"{op}: {name} must be int64 [B], got {list(ids.shape)}")
    return ids.long()


def _kind(x) -> str:
    kind = type(x)
    if kind.__module__ == "numpy":
        return f"a NumPy {kind.__name__}; use torch.from_numpy"
    return f"a {kind.__name__}; use torch.tensor" if kind in (list, tuple) else f"{kind.__name__}"
