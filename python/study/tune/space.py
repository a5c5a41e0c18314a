"""What is searched over: bundled and given TOML files, and where a configuration lies in them."""

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
    "data", "train.seed", "train.device", "train.threads", "train.memory", "train.compare", "train.start",
)  # fmt: skip
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """What is searched: {"section.key": distribution}, and the file that says so."""

    source: str
    keys: dict[str, Distribution]


def find_space(name: str | None, system: str) -> Path:
    """The TOML file of a bundled space, or the file of that name; without a name the space that has the system's.

    Raises InputError where there is none.
    """
    bundled = {Path(one.name).stem: Path(str(one)) for one in (files(__package__) / "searches").iterdir()
               if one.name.endswith(".toml")}  # fmt: skip
    if (name or system) in bundled:
        return bundled[name or system]
    known = ", ".join(sorted(bundled))
    if name is None:
        raise InputError(f"tune: no search space is bundled for {system}, only {known}; give --space")
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"space {shown(name)}: is no file, and the bundled ones are {known}")


def read_space(path: Path, base: Config) -> Space:
    """A TOML file laid out as a configuration, each key with a list of values, or with { low, high } and, where they
    lie orders apart, log = true.

    Raises InputError for an unknown key, or an end or value that the configuration refuses.
    """
    keys: dict[str, Distribution] = {}
    ends: dict[str, list[Any]] = {}
    for section, entries in read_toml(path, "a search space").items():
        if not isinstance(entries, dict):
            raise InputError(f"{path}: {section} must be a table, [{section}]")
        for key, entry in entries.items():
            name = f"{section}.{key}"
            if name in NOT_TUNED or section in NOT_TUNED:
                raise InputError(f"{path}: {name} is not searched over; give it as an option")
            keys[name], ends[name] = _distribution(path, name, entry)
    fixed = {name: values[0] for name, values in ends.items() if len(values) == 1}  # every trial has them
    for name, values in ends.items():
        for value in values:
            with_values(base, fixed | {name: value}, str(path))
    if not keys:
        raise InputError(f"{path}: names no key; write for example lr = {{ low = 1e-3, high = 1e-2, log = true }}")
    return Space(str(path), keys)


def _distribution(path: Path, name: str, entry: Any) -> tuple[Distribution, list[Any]]:
    """Optuna's distribution of an entry, and the values that must be good for all of it to be."""
    if isinstance(entry, list) and entry and all(isinstance(one, (bool, int, float, str)) for one in entry):
        return CategoricalDistribution(entry), entry
    if isinstance(entry, dict) and {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            whole = isinstance(low, int) and isinstance(high, int)
            return (IntDistribution if whole else FloatDistribution)(low, high, log=log), [low, high]
    raise InputError(
        f"{path}: {name} = {shown(entry)}: write a list of values, or {{ low = a, high = b }} with a < b, and "
        "log = true where a > 0"
    )


def with_values(base: Config, values: dict[str, Any], source: str) -> Config:
    """The base with a trial's values, checked together."""
    return load(None, {name: (value, source) for name, value in (base.flat() | values).items()})


def values_in(space: Space, config: Config) -> dict[str, Any]:
    """The configuration's values of the keys that are searched, as far as the space holds them."""
    values = config.flat()
    return {name: values[name] for name, one in space.keys.items() if _holds(one, values[name])}


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution.low <= value <= distribution.high
