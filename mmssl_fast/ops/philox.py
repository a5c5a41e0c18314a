"""Philox4x32-10: the counter-based generator behind Gumbel noise and sampling."""

from numbers import Integral

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast

_ops = torch.ops.mmssl_fast


def philox4x32(seed: int | Tensor, counter: Tensor) -> Tensor:
    """Equals ``reference.philox4x32(seed, counter)``: ten rounds of Philox4x32 (Salmon et al., SC 2011).

    Args:
        seed: the key, (seed low, seed high) as 32-bit words.
        counter: int64 [..., 4] holding 32-bit words.

    Returns:
        int64 [..., 4] holding 32-bit words.
    """
    return _ops.philox4x32(counter, seed_word("philox4x32", seed))


def philox_bits(seed: int | Tensor, offset: int | Tensor, rows: Tensor, columns: int, stream: int) -> Tensor:
    """Equals ``reference.philox_bits``: the 32-bit word of every (row, column), the same for any tiling of either.

    The word is lane ``column % 4`` of counter ``(column // 4, row, offset, stream)``.

    Args:
        seed, offset: integers, or 0-d int64 tensors.
        rows: int64 [B], global ids (32 bits count).
        columns: how many columns, from 0.
        stream: keeps uses of one (seed, offset) apart: ``reference.STREAM_*``.

    Returns:
        int64 [B, columns] holding 32-bit words.
    """
    return _ops.philox_bits(rows, columns, seed_offset("philox_bits", seed, offset, rows.device), stream)


def seed_word(op: str, seed: int | Tensor) -> int:
    """A 64-bit seed as the signed integer the ops take. Raises ValueError when it needs more than 64 bits, TypeError
    when it is no integer."""
    _check_integer(op, "seed", seed)
    seed = seed if isinstance(seed, torch.SymInt) else int(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{op}: seed must fit in 64 bits, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def seed_offset(op: str, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """int64 [2] on `device`: the seed's 64 bits and the offset, as the ops take them.

    Nothing is copied from the host and nothing waits for the device: with tensors on it, the call can be part of a
    captured CUDA graph, whose replays read them anew. Raises ValueError for a seed of more than 64 bits or an offset
    outside [0, 2³²), which could not be told apart from an earlier step's; of tensors a CPU op checks the latter.
    Raises TypeError for what is no integer, or a tensor of no integer type.
    """
    _check_integer(op, "seed", seed)
    _check_integer(op, "offset", offset)
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed_word(op, seed), dtype=torch.int64, device=device)
    if not isinstance(offset, Tensor):
        if not 0 <= offset < 2**32:
            raise ValueError(f"{op}: offset must be in [0, 2**32), got {offset}")
        offset = torch.full((), offset, dtype=torch.int64, device=device)
    return torch.stack([x.to(device, torch.int64).reshape(()) for x in (seed, offset)])


def _check_integer(op: str, name: str, value: int | Tensor) -> None:
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{op}: {name} must be an integer, got a tensor of {value.dtype}")
    elif not isinstance(value, (int, Integral, torch.SymInt)):
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}")


@torch.library.register_fake("mmssl_fast::philox4x32")
def _(counter: Tensor, seed: Tensor) -> Tensor:
    return counter.new_empty(counter.shape)


@torch.library.register_fake("mmssl_fast::philox_bits")
def _(rows: Tensor, columns: int, seed_offset: Tensor, stream: int) -> Tensor:
    return rows.new_empty(rows.shape[0], columns)
