"""What can be trained: one file a system, all behind `base.System`. Other packages add systems of their own under the
entry point group `mmssl_fast.systems`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.names import SYSTEMS, system_class, title

if TYPE_CHECKING:
    from .base import System

__all__ = ["SYSTEMS", "create", "title"]


def create(name: str) -> System:
    """A new, unbuilt system. Raises KeyError for a name not in SYSTEMS."""
    return system_class(name)()
