"""Block sizes and argument checks that the launchers share."""

from __future__ import annotations

import torch
from torch import Tensor

# A number of programs that fills a GPU several times. It is a constant instead of a property of the device, so that
# sums are divided into the same parts, and have the same bits, on every device.
PROGRAMS = 512


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least n and `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def parts_of(tiles: int, others: int) -> int:
    """The number of parts into which `tiles` of one axis are divided, if the other axes have `others` programs."""
    return max(1, min(tiles, PROGRAMS // max(others, 1)))


def split(tiles: int, others: int) -> tuple[int, int]:
    """The number of tiles per part, and the number of parts (0 if there are no tiles)."""
    tiles_a_part = max(1, cdiv(tiles, parts_of(tiles, others)))
    return tiles_a_part, cdiv(tiles, tiles_a_part)


def product_blocks(precision: str, d: int, arch: int) -> tuple[int, int, int]:
    """Rows, items and columns of a tile of u vᵀ: the largest that compile without spilled registers (compile_gate)."""
    if precision == "ieee":
        return 32, 16, 32
    if arch // 10 == 9:
        return 64, 64, 64 if d <= 64 else 32
    return (64, 32, 32) if arch >= 90 else (32, 64, 32)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which products of `dtype` are accumulated."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def require(rule: bool, op: str, message: str) -> None:
    """Raises ValueError "op: message" unless the rule holds. It checks shapes and dtypes only, because checking values
    would need a synchronisation."""
    if not rule:
        raise ValueError(f"{op}: {message}")


def short(dtype: torch.dtype) -> str:
    """The name of a dtype without "torch."."""
    return str(dtype).removeprefix("torch.")


def row_major(x: Tensor) -> Tensor:
    """x as a contiguous tensor, which kernels address as row · width + column."""
    return x if x.is_contiguous() else x.contiguous()


def check_factors(op: str, u: Tensor, v: Tensor) -> None:
    """Checks the factors u [B, d] and v [I, d] of relation rows."""
    require(u.ndim == 2, op, f"u must be [B, d], got {tuple(u.shape)}")
    require(v.ndim == 2, op, f"v must be [I, d], got {tuple(v.shape)}")
    require(u.shape[1] == v.shape[1], op, f"u and v must have the same width, got {u.shape[1]} and {v.shape[1]}")
    require(u.dtype == v.dtype, op, f"u and v must have the same dtype, got {short(u.dtype)} and {short(v.dtype)}")
    require(
        u.dtype in (torch.float32, torch.float64, torch.bfloat16),
        op,
        f"values must be float32, float64 or bfloat16, got {short(u.dtype)}",
    )


def check_seen(op: str, crow: Tensor | None, col: Tensor | None, rows: int) -> None:
    """Checks the CSR block of seen items: crow int64 [B + 1] and col [nnz], or neither."""
    if crow is None and col is None:
        return
    if crow is None or col is None:
        raise ValueError(f"{op}: pass both or neither of crow and col, got only {'col' if crow is None else 'crow'}")
    require(
        crow.ndim == 1 and crow.dtype == torch.int64 and crow.is_contiguous(),
        op,
        f"crow must be contiguous int64 [B + 1], got {short(crow.dtype)} {tuple(crow.shape)}",
    )
    require(crow.shape[0] == rows + 1, op, f"crow must have {rows + 1} offsets for {rows} rows, got {crow.shape[0]}")
    require(
        col.ndim == 1 and col.dtype in (torch.int32, torch.int64) and col.is_contiguous(),
        op,
        f"col must be contiguous int32 or int64 [nnz], got {short(col.dtype)} {tuple(col.shape)}",
    )
