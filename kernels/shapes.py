"""Block sizes and argument checks that the launchers share."""

from __future__ import annotations

from torch import Tensor

# Programs that fill a GPU several times over. A constant, not the device's own number: how a sum is cut into parts, and
# with it the result's last bit, is then the same on every device.
PROGRAMS = 512


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int, least: int = 1) -> int:
    """The least power of two that is at least n and `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def parts_of(tiles: int, others: int) -> int:
    """Into how many parts to cut `tiles` of one axis when the other axes make `others` programs."""
    return max(1, min(tiles, PROGRAMS // max(others, 1)))


def require(rule: bool, op: str, message: str) -> None:
    """Raises ValueError "op: message" unless the rule holds. Of shapes and dtypes: values would take a sync."""
    if not rule:
        raise ValueError(f"{op}: {message}")


def short(dtype) -> str:
    """float32 of torch.float32."""
    return str(dtype).removeprefix("torch.")


def row_major(x: Tensor) -> Tensor:
    """x with its columns adjacent and rows that do not overlap: what kernels address as row · width + column."""
    return x if x.is_contiguous() else x.contiguous()
