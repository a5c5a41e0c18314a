"""The bundled presets: tuned settings as TOML files in this folder, for `mmssl-fast train --preset NAME`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ...errors import InputError, did_you_mean, shown


def names() -> list[str]:
    """The names of the bundled presets."""
    return sorted(Path(file.name).stem for file in files(__name__).iterdir() if file.name.endswith(".toml"))


def find(name: str) -> Path:
    """The TOML file of a bundled preset, or the file with this path. Raises InputError if there is neither."""
    if name in names():
        return Path(str(files(__name__) / f"{name}.toml"))
    if Path(name).is_file():
        return Path(name)
    raise InputError(
        f"preset {shown(name)}: no such preset or file; the bundled presets are {', '.join(names())}"
        f"{did_you_mean(name, names())}"
    )
