"""Loading a configuration from the defaults, TOML files and command-line options.

Later sources override earlier ones: defaults, preset, TOML file, command line (`--set section.key=value`). The result
is validated once, and an error names the source of the invalid value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import InputError, shown
from . import presets
from .sections import Config
from .toml import read_toml, toml_value


def configure(
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str | Path | None = None,
    file: str | Path | None = None,
    sources: Mapping[str, str] | None = None,
) -> Config:
    """A configuration: the defaults, overridden by a preset, a TOML file and settings, in this order.

    settings: {"section.key": value}, with the keys of docs/configuration.md; a value of None is left out. preset: name
    of a bundled preset, or a TOML file. sources: {"section.key": where the value comes from}, such as the name of an
    option, for error messages. Raises InputError that names the key; for an unknown key it suggests the closest
    existing one.

    >>> configure({"model.system": "lightgcn", "train.epochs": 5}).train.epochs
    5
    """
    origin = sources or {}
    overrides = {
        name: (value, origin.get(name, "settings")) for name, value in (settings or {}).items() if value is not None
    }
    return load(file, overrides, None if preset is None else presets.find(str(preset)))


def load(
    path: str | Path | None = None,
    overrides: dict[str, tuple[Any, str]] | None = None,
    preset: str | Path | None = None,
) -> Config:
    """The configuration that results from the defaults, a preset, a TOML file and overrides, in this order.

    path, preset: TOML files; overrides: {"section.key": (value, source)}, with the source that error messages name.
    Raises InputError with the source and the key; for an unknown key it suggests the closest existing one.
    """
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for file in (preset, path):
        if file is not None:
            _put_file(values, Path(file), sources)
    for name, (value, source) in (overrides or {}).items():
        _put(values, name, value, source, sources)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])
        value = _value_of(values, name)
        raise InputError(
            f"{sources.get(name, 'configuration')}: {name} = {shown(value)}: {_lower_first(first)}"
        ) from None
    _check_together(config, sources)
    return config


def _check_together(config: Config, sources: dict[str, str]) -> None:
    """Check rules that involve two keys. pydantic validates each key by itself."""
    values = config.flat()

    def refuse(key: str, second_key: str, rule: str) -> None:
        source = sources.get(key, sources.get(second_key, "configuration"))
        raise InputError(
            f"{source}: {key} = {toml_value(values[key])} with {second_key} = {toml_value(values[second_key])}: {rule}"
        )

    if config.model.dim % config.model.heads:
        refuse("model.heads", "model.dim", "model.dim must be a multiple of model.heads")
    if config.loss.autoencoder and config.loss.adversarial:
        refuse(
            "loss.autoencoder",
            "loss.adversarial",
            "the auto-encoder replaces the adversarial task, set one of the two to false",
        )
    if config.train.microbatches > 1 and config.model.system != "mmssl":
        refuse("train.microbatches", "model.system", "only MMSSL divides a batch; leave it out, or reduce train.batch")
    if config.loss.contrastive and not config.model.neighbours:
        refuse(
            "model.neighbours",
            "loss.contrastive",
            "the contrastive task needs at least one neighbour; increase it, or set loss.contrastive = false",
        )


def known_keys() -> list[str]:
    """All keys, as "section.key"."""
    return list(Config().flat())


def _put_file(values: dict[str, Any], path: Path, sources: dict[str, str]) -> None:
    for name, value in read_toml(path).items():
        if name not in Config.model_fields:
            raise InputError(f"{path}: {_unknown(name)}")
        if not isinstance(value, dict):
            raise InputError(f"{path}: {name} must be a table, [{name}]")
        for key, entry in value.items():
            _put(values, f"{name}.{key}", entry, str(path), sources)


def _put(values: dict[str, Any], name: str, value: Any, source: str, sources: dict[str, str]) -> None:
    if name not in known_keys():
        raise InputError(f"{source}: {_unknown(name)}")
    section, key = name.split(".")
    values.setdefault(section, {})[key] = value
    sources[name] = source


def _unknown(name: str) -> str:
    """The error message for an unknown key, with the closest existing key.

    A key of the same name in another section is preferred, then a similar full name, then a similar key in the section.
    """
    keys = known_keys()
    section, _, key = name.partition(".")
    if not key:
        closest = difflib.get_close_matches(name, list(Config.model_fields), 1, 0)
        same_key = [existing for existing in keys if existing.endswith(f".{name}")]
        return f"unknown section {shown(name)}; did you mean {(same_key or closest)[0]!r}?"
    same_key = [existing for existing in keys if existing.partition(".")[2] == key]
    closest = (
        same_key
        or difflib.get_close_matches(name, keys, 1, 0.6)
        or difflib.get_close_matches(key, [name for name in keys if name.startswith(f"{section}.")] or keys, 1, 0)
        or [keys[0]]
    )
    return f"unknown key {shown(name)}; did you mean {closest[0]!r}?"


def _value_of(values: dict[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return values.get(section, {}).get(key)


def _lower_first(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
