"""Writing a configuration as TOML, and reading TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import InputError
from .sections import Config


def to_toml(config: Config) -> str:
    """The configuration as TOML, with the description of each key as a comment. `load` reads it back unchanged."""
    lines = ["# Complete configuration of this run. To repeat it: mmssl-fast train --config <this file>"]
    for name in Config.model_fields:
        section = getattr(config, name)
        lines += ["", f"[{name}]"]
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            lines += [f"# {field.description}", f"# {key} =" if value is None else f"{key} = {toml_value(value)}"]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A configuration value in TOML syntax."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


def read_toml(path: Path, what: str = "a configuration") -> dict[str, Any]:
    """The contents of a TOML file. Raises InputError if it cannot be read; `what` names the expected content."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {what} in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not valid TOML: {error}") from None
