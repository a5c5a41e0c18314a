"""Search spaces: bundled or user-supplied TOML files that give a distribution for each key."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ...config.load import load
from ...config.sections import Config
from ...config.toml import read_toml
from ...errors import InputError, shown

NOT_TUNED = (
    *("data", "train.seed", "train.device", "train.threads", "train.memory", "train.compare", "train.start"),
    *("train.start_scale", "train.log_to"),
)
COMPARED_BY = ("train.select", "train.select_by")  # trials with other values could not be compared
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """A search space: {"section.key": distribution}, and the file that it was read from."""

    source: str
    keys: dict[str, Distribution]


def find_space(name: str | None, system: str) -> Path:
    """The path of a search space: a bundled one or a file. Without a name, the bundled space for the system.

    Raises InputError if there is none.
    """
    entries = (files(__package__) / "searches").iterdir()
    bundled = {Path(entry.name).stem: Path(str(entry)) for entry in entries if entry.name.endswith(".toml")}
    if (name or system) in bundled:
        return bundled[name or system]
    names = ", ".join(sorted(bundled))
    if name is None:
        raise InputError(
            f"tune: there is no bundled search space for {system}, only for {names}; give one with --space FILE"
        )
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"space {shown(name)}: no such file; the bundled spaces are {names}")


def read_space(path: Path, base: Config) -> Space:
    """Read a search space: a TOML file with the sections and keys of a configuration.

    The value of a key is a list of choices, or { low, high } with an optional log = true for a logarithmic scale.
    Raises InputError for an unknown key, or a choice or bound that is not valid in the configuration.
    """
    keys: dict[str, Distribution] = {}
    samples: dict[str, list[Any]] = {}  # values to validate: all choices, or both bounds
    for section, entries in read_toml(path, "a search space").items():
        if not isinstance(entries, dict):
            raise InputError(f"{path}: {section} must be a table, [{section}]")
        for key, entry in entries.items():
            name = f"{section}.{key}"
            if {name, section} & {*NOT_TUNED, *COMPARED_BY}:
                raise InputError(f"{path}: {name} cannot be searched over; set it with an option of the command")
            keys[name], samples[name] = _distribution(path, name, entry)
    # Keys with a single choice are the same in every trial, and may be what makes the values of other keys valid.
    fixed = {name: values[0] for name, values in samples.items() if len(values) == 1}
    for name, values in samples.items():
        for value in values:
            with_values(base, fixed | {name: value}, str(path))
    if not keys:
        raise InputError(
            f"{path}: contains no key; write for example optimiser.lr = {{ low = 1e-3, high = 1e-2, log = true }}"
        )
    return Space(str(path), keys)


def _distribution(path: Path, name: str, entry: Any) -> tuple[Distribution, list[Any]]:
    """The Optuna distribution of an entry, and the values to validate."""
    if isinstance(entry, list) and entry and all(isinstance(choice, (bool, int, float, str)) for choice in entry):
        return CategoricalDistribution(entry), entry
    if isinstance(entry, dict) and {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            whole = isinstance(low, int) and isinstance(high, int)
            return (IntDistribution if whole else FloatDistribution)(low, high, log=log), [low, high]
    raise InputError(
        f"{path}: {name} = {shown(entry)}: write a list of values, or {{ low = a, high = b }} with a < b, and "
        "log = true where a > 0"
    )


def with_values(base: Config, values: dict[str, Any], source: str) -> Config:
    """The base configuration with the values of a trial, validated."""
    return load(None, {name: (value, source) for name, value in (base.flat() | values).items()})


def values_in(space: Space, config: Config) -> dict[str, Any]:
    """The values of the searched keys in the configuration, except those outside the search space."""
    values = config.flat()
    return {name: values[name] for name, allowed in space.keys.items() if _contains(allowed, values[name])}


def _contains(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution.low <= value <= distribution.high
