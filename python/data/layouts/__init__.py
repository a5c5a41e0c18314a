"""The layouts a data folder may have, one module each, and which of them a folder fits.

A layout module has NAME, NEEDS (the files that make the layout, in words), fits(folder) → bool and
read(folder, modalities, seed) → Dataset.
"""

from ...errors import InputError, shown
from . import diffmm, hkuds, mmrec, plain

LAYOUTS = {module.NAME: module for module in (diffmm, hkuds, mmrec, plain)}


def choose(folder, layout="auto"):
    """The module of the named layout, or with "auto" of the one layout the folder fits.

    Raises InputError for an unknown name and where no layout or several fit.
    """
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    if layout != "auto":
        raise InputError(f"layout {shown(layout)} is unknown; choose one of auto, {', '.join(LAYOUTS)}")
    fitting = [name for name, module in LAYOUTS.items() if module.fits(folder)]
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if fitting:
        raise InputError(f"{folder}: fits the layouts {' and '.join(fitting)}; say which one with layout")
    inside = sorted(
        path for path in folder.iterdir() if path.is_dir() and any(module.fits(path) for module in LAYOUTS.values())
    )
    if inside:
        raise InputError(f"{folder}: holds no data itself, but {inside[0]} does; give that folder")
    needs = "; ".join(f"{name}: {module.NEEDS}" for name, module in LAYOUTS.items())
    raise InputError(f"{folder}: fits no layout; put one of these there: {needs}")
