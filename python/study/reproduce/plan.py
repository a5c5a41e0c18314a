"""The runs that a target needs. Each has a configuration, a seed, and a folder named after both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...config.compare import MAY_DIFFER
from ...config.sections import Config
from ...systems import SYSTEMS, title
from .paper import SWEEPS

Target = Literal["table2", "table3", "table4", "figure3", "figure4", "figure5"]
DEFAULT_SYSTEMS = {
    "table2": [name for name in SYSTEMS if name != "mmssl"] + ["mmssl"],
    "table4": ["vbpr", "mmgcn", "lattice", "slmrec", "lightgcn", "mmssl"],
    "figure3": ["lightgcn", "mmgcn", "lattice", "mmssl"],
}
QUICK_SYSTEMS = ["popularity", "mf", "lightgcn", "mmssl"]
QUICK_EPOCHS, QUICK_POINTS = 2, 2

ABLATIONS: dict[str, dict[str, Any]] = {
    "MMSSL": {},
    "w/o-ASL": {"loss.adversarial": False},
    "w/o-CL": {"loss.contrastive": False},
    "w/o-GT": {"loss.gumbel": False},
    "r/p-GAE": {"loss.adversarial": False, "loss.autoencoder": True},
    "w/o-SSL": {"loss.adversarial": False, "loss.contrastive": False},  # not in the paper
}
STRUCTURAL_ABLATIONS: dict[str, dict[str, Any]] = {  # only with loss.structural, which is not in the paper
    "w/o-SC": {"loss.structural": False},
    "w/o-SSL-SC": ABLATIONS["w/o-SSL"] | {"loss.structural": False},
}


@dataclass(frozen=True)
class Run:
    """label: name in the tables; config: complete configuration, including the seed; folder: the run folder."""

    label: str
    config: Config
    folder: Path

    @property
    def seed(self) -> int:
        return self.config.train.seed


class SearchSpent(NamedTuple):
    """What a finished search for the settings of a row has cost."""

    trials: int
    minutes: float


@dataclass(frozen=True)
class Settings:
    """The request. base: configuration of each row (`row_label`) before seeds and variants are applied; out: folder for
    runs and results; variants: rows of Table 3, a subset of `ablations`; empty: all of them; sweeps: likewise for
    Figure 4; reference: the row that the others are compared with; budget: trials of the search for the settings of
    each row; 0: none; search_seeds: seeds of a trial; spaces: search spaces by row; searches: what the finished
    searches have cost, by label; jobs: trials and runs at the same time."""

    target: Target
    out: Path
    fingerprint: str
    base: dict[str, Config]
    seeds: int
    quick: bool
    variants: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    reference: str = "mmssl"
    budget: int = 0
    search_seeds: int = 2
    spaces: dict[str, str] = field(default_factory=dict)
    searches: dict[str, SearchSpent] = field(default_factory=dict)
    jobs: int = 1


def system_of(row: str) -> str:
    """The system of a row: a row is SYSTEM, or SYSTEM:PRESET with the name or path of a preset."""
    return row.partition(":")[0]


def row_label(row: str) -> str:
    """The name of a row in tables.

    >>> row_label("mmssl"), row_label("lightgcn:lightgcn-goodbooks")
    ('MMSSL', 'LightGCN, lightgcn-goodbooks')
    """
    system, _, preset = row.partition(":")
    return f"{title(system)}, {Path(preset).stem}" if preset else title(system)


def reference_label(settings: Settings) -> str:
    """The label of the row that the others are compared with. In Table 3, that is the model with all its parts."""
    return "MMSSL" if settings.target == "table3" else row_label(settings.reference)


def systems_of(target: Target, requested: list[str], quick: bool) -> list[str]:
    """The rows that a target compares, in the order of its table."""
    if target not in DEFAULT_SYSTEMS:
        return ["mmssl"]
    return requested or (QUICK_SYSTEMS if quick else DEFAULT_SYSTEMS[target])


def runs_of(settings: Settings) -> list[Run]:
    """All runs of a target, ordered by label and then by seed."""
    return [
        _run(settings, label, config, seed)
        for label, config in _configurations(settings)
        for seed in range(1 if settings.target == "figure5" else settings.seeds)
    ]


def _configurations(settings: Settings) -> list[tuple[str, Config]]:
    if settings.target == "table3":
        return [(label, with_values(settings.base["mmssl"], changes)) for label, changes in _variants(settings)]
    if settings.target == "figure4":
        return [
            (sweep_label(key, value), with_values(settings.base["mmssl"], {key: value}))
            for key, values in SWEEPS.items()
            if not settings.sweeps or key in settings.sweeps
            for value in (values[:: len(values) - 1][:QUICK_POINTS] if settings.quick else values)
        ]
    return [(row_label(row), config) for row, config in settings.base.items()]


def _variants(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    variants = ablations(settings.base["mmssl"]).items()
    return [(label, changes) for label, changes in variants if not settings.variants or label in settings.variants]


def ablations(base: Config) -> dict[str, dict[str, Any]]:
    """The ablations of a configuration: {label: the keys that it changes}."""
    return ABLATIONS | STRUCTURAL_ABLATIONS if base.loss.structural else ABLATIONS


def sweep_label(key: str, value: float) -> str:
    return f"{key}={value:g}"


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with the values {"section.key": value} replaced."""
    for name, value in values.items():
        section, key = name.split(".")
        config = config.changed(section, **{key: value})
    return config


def _run(settings: Settings, label: str, config: Config, seed: int) -> Run:
    config = config.changed("train", seed=seed)
    name = f"{config.model.system}-{identity(config, settings.fingerprint)[:8]}-s{seed}"
    return Run(label, config, settings.out / "runs" / name)


def identity(config: Config, fingerprint: str) -> str:
    """A hash (hex) of a configuration and a split, without the seed and the keys that do not affect the result.

    Only keys that differ from their defaults enter the hash, so that a new key in a later version does not change the
    folder names of existing runs.
    """
    sections = config.model_dump(exclude_defaults=True)
    for name in (*MAY_DIFFER, "train.seed"):
        section, key = name.split(".")
        sections.get(section, {}).pop(key, None)
    changed_keys = {section: values for section, values in sections.items() if values}
    return hashlib.sha256(json.dumps([changed_keys, fingerprint], sort_keys=True).encode()).hexdigest()
