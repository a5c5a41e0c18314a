"""Philox4x32-10, the counter-based random number generator of the Gumbel noise, dropout and sampling."""

from numbers import Integral

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast

_ops = torch.ops.mmssl_fast


def philox4x32(seed: int | Tensor, counter: Tensor) -> Tensor:
    """Equals ``reference.philox4x32(seed, counter)``: ten rounds of Philox4x32 (Salmon et al., SC 2011).

    Args:
        seed: 64-bit integer. The key consists of its low and its high 32-bit word.
        counter: int64 [..., 4], four 32-bit words per call of the generator.

    Returns:
        int64 [..., 4], four random 32-bit words per counter.

    Example:
        >>> [f"{word:08x}" for word in philox4x32(0, torch.zeros(4, dtype=torch.int64)).tolist()]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    return _ops.philox4x32(counter, seed_word("philox4x32", seed))


def philox_bits(seed: int | Tensor, offset: int | Tensor, rows: Tensor, columns: int, stream: int) -> Tensor:
    """Equals ``reference.philox_bits(seed, offset, rows, columns, stream)``: a random 32-bit word per (row, column).

    The word is lane ``column % 4`` of the counter ``(column // 4, row, offset, stream)``. It does not depend on how
    rows and columns are tiled.

    Args:
        seed, offset: integers, or 0-d int64 tensors.
        rows: int64 [B], global row ids. Their low 32 bits are used.
        columns: number of columns, at least 0.
        stream: number of the use (``reference.STREAM_*``), so that two uses of the same seed and offset differ.

    Returns:
        int64 [B, columns], 32-bit words.

    Example:
        >>> words = philox_bits(1, 0, torch.tensor([5, 9]), columns=6, stream=0)
        >>> torch.equal(words[1:, :4], philox_bits(1, 0, torch.tensor([9]), columns=4, stream=0))
        True
    """
    return _ops.philox_bits(rows, columns, seed_offset("philox_bits", seed, offset, rows.device), stream)


def seed_word(op: str, seed: int | Tensor) -> int:
    """The seed as a signed 64-bit integer, which the ops expect. Raises ValueError if it does not fit in 64 bits, and
    TypeError if it is not an integer."""
    _check_integer(op, "seed", seed)
    seed = seed if isinstance(seed, torch.SymInt) else int(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{op}: seed must fit in 64 bits, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def seed_offset(op: str, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """Seed and offset as an int64 tensor [2] on `device`, which the ops expect.

    There is no copy from the host and no synchronisation. If seed and offset are tensors on the device, the call can be
    captured in a CUDA graph, whose replays read their current values.

    Raises:
        ValueError: the seed does not fit in 64 bits, or the offset lies outside [0, 2³²), where it would repeat the
            noise of another step. The offset in a tensor is checked by the CPU ops.
        TypeError: seed or offset is neither an integer nor a tensor of an integer dtype.
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
