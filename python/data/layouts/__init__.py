"""The layouts of data folders, one module for each, and the detection of the layout of a folder.

A layout module has NAME, NEEDS (a description of its files), fits(folder) → bool and
read(folder, options: LoadOptions) → Dataset.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType

from ...errors import InputError, shown
from ..files import TABLE_ENDS, other_format
from ..foreign import recognised
from . import diffmm, hkuds, mmrec, plain, prepared

LAYOUTS = {module.NAME: module for module in (diffmm, hkuds, mmrec, plain, prepared)}


def choose(folder: Path, layout: str = "auto", interactions: str = "") -> ModuleType:
    """The module of a layout, or with "auto" the one that the folder fits.

    interactions: name of the interaction table, if the user has given one. It determines the layout: .inter files are
    those of MMRec. Raises InputError for an unknown name, and if no layout or several fit.
    """
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    if layout != "auto":
        raise InputError(f"layout {shown(layout)}: must be one of auto, {', '.join(LAYOUTS)}")
    if interactions:
        return mmrec if interactions.endswith(".inter") else plain
    fitting = [name for name, module in LAYOUTS.items() if module.fits(folder)]
    if fitting == [mmrec.NAME] and (foreign := _foreign(folder)) is not None:
        raise InputError(f"{folder}: {_convertible(folder, foreign)}")
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if fitting:
        raise InputError(f"{folder}: fits the layouts {' and '.join(fitting)}; choose one with --layout")
    raise InputError(f"{folder}: {_unknown(folder)}")


def _unknown(folder: Path) -> str:
    """The message for a folder that fits no layout: its content, and the closest layout."""
    entries = _entries(folder)
    if not entries:
        needs = "; ".join(f"{name}: {module.NEEDS}" for name, module in LAYOUTS.items())
        return f"is empty; a data folder contains one of these: {needs}"
    subfolders = sorted(
        path for path in folder.iterdir() if path.is_dir() and any(module.fits(path) for module in LAYOUTS.values())
    )
    if subfolders:
        return f"contains no data itself, but {subfolders[0]} does; give that folder"
    if (foreign := _foreign(folder)) is not None:
        return _convertible(folder, foreign)
    for name in entries:
        if (what := other_format(name)) is not None and "_feat." not in name:
            return f"contains no table that can be read, but {name}, which is {what}"
    closest = max(LAYOUTS.values(), key=lambda module: max(_similarity(name, module.NEEDS) for name in entries))
    message = f"contains {_listed(entries)}, which fits no layout; the closest is {closest.NAME}: {closest.NEEDS}"
    table = next((name for name in entries if name.endswith(TABLE_ENDS) and "_feat." not in name), None)
    if table is not None:
        command = f"mmssl-fast data convert {folder / table} NEW --user COLUMN --item COLUMN"
        message += f"; if {table} contains interactions: {command}"
    return message


def _foreign(folder: Path) -> ModuleType | None:
    """The layout of another project that the folder has, or None."""
    foreign = recognised(folder)
    return None if foreign is not None and foreign.NAME == "tables" and mmrec.fits(folder) else foreign


def _convertible(folder: Path, foreign: ModuleType) -> str:
    return (
        f"contains {_listed(_entries(folder))}, which is {foreign.TITLE}; to convert it: mmssl-fast data convert "
        f"{folder} NEW"
    )


def _entries(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [f"{path.name}/" if path.is_dir() else path.name for path in paths]


def _listed(entries: list[str]) -> str:
    return shown(", ".join(entries[:8]) + (", …" if len(entries) > 8 else ""), 160)[1:-1]


def _similarity(file: str, needs: str) -> float:
    """The similarity of a file name to the most similar file name in a description of a layout, from 0 to 1."""
    names = [word.strip(",;") for word in needs.split() if "." in word]
    return max(difflib.SequenceMatcher(None, file.lower(), name.lower()).ratio() for name in names)
