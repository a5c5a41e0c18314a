"""A configuration as a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import InputError
from .sections import Config


def to_toml(config: Config) -> str:
    """The configuration as TOML, each key under its description. `load` of it gives an equal configuration."""
    lines = ["# Resolved configuration of this run; mmssl-fast train --config <this file> repeats it."]
    for name in Config.model_fields:
        section = getattr(config, name)
        lines += ["", f"[{name}]"]
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            lines += [f"# {field.description}", f"# {key} =" if value is None else f"{key} = {toml_value(value)}"]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value of the configuration as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


def read_toml(path: Path, what: str = "a configuration") -> dict[str, Any]:
    """What a TOML file holds. Raises InputError, which asks for `what`, where it cannot be read."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {what} in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None
