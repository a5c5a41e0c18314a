"""The layouts a data folder may have, one module each, and which of them a folder fits.

A layout module has NAME, NEEDS (the files that make the layout, in words), fits(folder) → bool and
read(folder, options: LoadOptions) → Dataset.
"""

import difflib

from ...errors import InputError, shown
from ..files import TABLE_ENDS
from ..foreign import recognised
from . import diffmm, hkuds, mmrec, plain

LAYOUTS = {module.NAME: module for module in (diffmm, hkuds, mmrec, plain)}


def choose(folder, layout="auto", interactions=""):
    """The module of the named layout, or with "auto" of the one layout the folder fits; a table of interactions that is
    named decides too, .inter files being MMRec's.

    Raises InputError for an unknown name and where no layout or several fit.
    """
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    if layout != "auto":
        raise InputError(f"layout {shown(layout)} is unknown; choose one of auto, {', '.join(LAYOUTS)}")
    if interactions:
        return mmrec if interactions.endswith(".inter") else plain
    fitting = [name for name, module in LAYOUTS.items() if module.fits(folder)]
    if fitting == [mmrec.NAME] and (known := _other(folder)) is not None:
        raise InputError(f"{folder}: {_convertible(folder, known)}")
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if fitting:
        raise InputError(f"{folder}: fits the layouts {' and '.join(fitting)}; say which one with layout")
    raise InputError(f"{folder}: {_unknown(folder)}")


def _unknown(folder):
    """What to say of a folder that fits no layout: what it holds, and what comes nearest."""
    there = _entries(folder)
    if not there:
        needs = "; ".join(f"{name}: {module.NEEDS}" for name, module in LAYOUTS.items())
        return f"is empty; put one of these there: {needs}"
    inside = sorted(
        path for path in folder.iterdir() if path.is_dir() and any(module.fits(path) for module in LAYOUTS.values())
    )
    if inside:
        return f"holds no data itself, but {inside[0]} does; give that folder"
    if (known := _other(folder)) is not None:
        return _convertible(folder, known)
    near = max(LAYOUTS.values(), key=lambda module: max(_likeness(one, module.NEEDS) for one in there))
    said = f"holds {_listed(there)}, which fits no layout; the nearest is {near.NAME}, which needs {near.NEEDS}"
    table = next((name for name in there if name.endswith(TABLE_ENDS) and "_feat." not in name), None)
    if table is not None:
        said += (
            f"; if {table} holds interactions: mmssl-fast data convert {folder / table} NEW --user COLUMN --item COLUMN"
        )
    return said


def _other(folder):
    """The layout of another project that the folder has, None without one."""
    known = recognised(folder)
    return None if known is not None and known.NAME == "tables" and mmrec.fits(folder) else known


def _convertible(folder, known):
    return (
        f"holds {_listed(_entries(folder))}; this is {known.TITLE}, which mmssl-fast data convert {folder} NEW turns "
        "into a folder that train reads"
    )


def _entries(folder):
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [f"{path.name}/" if path.is_dir() else path.name for path in paths]


def _listed(there):
    return shown(", ".join(there[:8]) + (", …" if len(there) > 8 else ""), 160)[1:-1]


def _likeness(file, needs):
    """How much a file's name is like the most similar of the names that a layout needs."""
    names = [word.strip(",;") for word in needs.split() if "." in word]
    return max(difflib.SequenceMatcher(None, file.lower(), name.lower()).ratio() for name in names)
