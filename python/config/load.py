"""A configuration from its defaults, TOML files and the command line.

Values come from the defaults, then a TOML file, then the command line (`--set section.key=value`), and are checked
once, with the source of a wrong one named.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import InputError, shown
from .sections import Config
from .toml import read_toml, toml_value

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def load(
    path: str | Path | None = None,
    overrides: dict[str, tuple[Any, str]] | None = None,
    preset: str | Path | None = None,
) -> Config:
    """The defaults, changed by a preset (TOML too), by a TOML file, by overrides {"section.key": (value, where it was
    given)}.

    Raises InputError naming the file or option, the key, and for an unknown key the nearest known one.
    """
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for file in (preset, path):
        if file is not None:
            _put_file(values, Path(file), sources)
    for name, (value, where) in (overrides or {}).items():
        _put(values, name, value, where, sources)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])
        given = _at(values, name)
        raise InputError(f"{sources.get(name, 'configuration')}: {name} = {shown(given)}: {_sentence(first)}") from None
    _check_together(config, sources)
    return config


def _check_together(config: Config, sources: dict[str, str]) -> None:
    """What no key can be wrong about alone."""
    values = config.flat()

    def refuse(key: str, other: str, rule: str) -> None:
        where = sources.get(key, sources.get(other, "configuration"))
        raise InputError(
            f"{where}: {key} = {toml_value(values[key])} with {other} = {toml_value(values[other])}: {rule}"
        )

    if config.model.dim % config.model.heads:
        refuse("model.heads", "model.dim", "the first must divide the second")
    if config.loss.autoencoder and config.loss.adversarial:
        refuse("loss.autoencoder", "loss.adversarial", "the one replaces the other, set one of them to false")
    if config.loss.contrastive and not config.model.neighbours:
        refuse("model.neighbours", "loss.contrastive", "the contrastive part needs neighbours, or set it to false")


def parse_set(assignment: str) -> tuple[str, Any]:
    """("section.key", value) of "section.key=value". The value is read as TOML; what is not TOML is a string."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {shown(assignment)}: write --set section.key=value")
    try:
        table = tomllib.loads(f"value = {text.strip()}")
        value = table["value"] if list(table) == ["value"] else text
    except tomllib.TOMLDecodeError:
        value = text
    return name.strip(), value


def known_keys() -> list[str]:
    """Every "section.key"."""
    return list(Config().flat())


def _put_file(values: dict[str, Any], path: Path, sources: dict[str, str]) -> None:
    for name, value in read_toml(path).items():
        if name not in Config.model_fields:
            raise InputError(f"{path}: {_unknown(name)}")
        if not isinstance(value, dict):
            raise InputError(f"{path}: {name} must be a table, [{name}]")
        for key, one in value.items():
            _put(values, f"{name}.{key}", one, str(path), sources)


def _put(values: dict[str, Any], name: str, value: Any, where: str, sources: dict[str, str]) -> None:
    if name not in known_keys():
        raise InputError(f"{where}: {_unknown(name)}")
    section, key = name.split(".")
    values.setdefault(section, {})[key] = value
    sources[name] = where


def _unknown(name: str) -> str:
    """What to say of a key nobody knows: nearest by the key alone when the section is right or the key is elsewhere."""
    known = known_keys()
    section, _, key = name.partition(".")
    if not key:
        near = difflib.get_close_matches(name, list(Config.model_fields), 1, 0)
        elsewhere = [one for one in known if one.endswith(f".{name}")]
        return f"unknown section {shown(name)}; the nearest known name is {(elsewhere or near)[0]!r}"
    same_key = [one for one in known if one.partition(".")[2] == key]
    near = (
        same_key
        or difflib.get_close_matches(name, known, 1, 0.6)
        or difflib.get_close_matches(key, [one for one in known if one.startswith(f"{section}.")] or known, 1, 0)
        or [known[0]]
    )
    return f"unknown key {shown(name)}; the nearest known name is {near[0]!r}"


def _at(values: dict[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return values.get(section, {}).get(key)


def _sentence(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
