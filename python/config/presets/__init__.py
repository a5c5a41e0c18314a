"""Settings that were found to work, as TOML files beside this module; `mmssl-fast train --preset NAME`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ...errors import InputError, shown


def names() -> list[str]:
    """The bundled presets."""
    return sorted(Path(one.name).stem for one in files(__name__).iterdir() if one.name.endswith(".toml"))


def find(name: str) -> Path:
    """The TOML file of a bundled preset, or the file of that name. Raises InputError where there is neither."""
    if name in names():
        return Path(str(files(__name__) / f"{name}.toml"))
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"preset {shown(name)}: is no file, and the bundled ones are {', '.join(names())}")
