"""The layouts of other projects, which `data convert` converts to the plain layout.

A module has NAME, TITLE (a description for messages), fits(folder) → bool and read(folder) → Source. `tables` accepts
any table with columns for users and items, so it is tried last; it also reads single files.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from . import chaorec, lightgcn, recbole, sslrec, tables

FORMATS = (recbole, lightgcn, chaorec, sslrec, tables)


def recognised(folder: Path) -> ModuleType | None:
    """The module of the layout that a folder has, or None."""
    return next((module for module in FORMATS if module.fits(folder)), None)
