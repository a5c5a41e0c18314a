"""Which runs a target needs: a configuration and a seed each, in a folder named after both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
STRUCTURAL_ABLATIONS: dict[str, dict[str, Any]] = {  # of a configuration with loss.structural, which the paper has not
    "w/o-SC": {"loss.structural": False},
    "w/o-SSL-SC": ABLATIONS["w/o-SSL"] | {"loss.structural": False},
}


@dataclass(frozen=True)
class Run:
    """label: what it is called in the tables; config: all of it, the seed too; folder: where it lies."""

    label: str
    config: Config
    folder: Path

    @property
    def seed(self) -> int:
        return self.config.train.seed


@dataclass(frozen=True)
class Settings:
    """What is asked for. base: the configuration of each system before seeds and variants; out: where runs and results
    go; variants: those of `ablations` that Table 3 has; none: all of them."""

    target: Target
    out: Path
    fingerprint: str
    base: dict[str, Config]
    seeds: int
    quick: bool
    variants: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()


def systems_of(target: Target, asked: list[str], quick: bool) -> list[str]:
    """The systems a target compares, in the order of its table."""
    if target not in DEFAULT_SYSTEMS:
        return ["mmssl"]
    return asked or (QUICK_SYSTEMS if quick else DEFAULT_SYSTEMS[target])


def runs_of(settings: Settings) -> list[Run]:
    """Every run of the target, label by label and seed by seed."""
    return [
        _run(settings, label, config, seed)
        for label, config in _configurations(settings)
        for seed in range(1 if settings.target == "figure5" else settings.seeds)
    ]


def _configurations(settings: Settings) -> list[tuple[str, Config]]:
    if settings.target == "table3":
        return [(label, with_values(settings.base["mmssl"], changes)) for label, changes in _chosen(settings)]
    if settings.target == "figure4":
        return [
            (sweep_label(key, value), with_values(settings.base["mmssl"], {key: value}))
            for key, values in SWEEPS.items()
            if not settings.sweeps or key in settings.sweeps
            for value in (values[:: len(values) - 1][:QUICK_POINTS] if settings.quick else values)
        ]
    return [(title(name), config) for name, config in settings.base.items()]


def _chosen(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    every = ablations(settings.base["mmssl"])
    return [(label, changes) for label, changes in every.items() if not settings.variants or label in settings.variants]


def ablations(base: Config) -> dict[str, dict[str, Any]]:
    """What can be left out of a configuration: label → the keys that change."""
    return ABLATIONS | STRUCTURAL_ABLATIONS if base.loss.structural else ABLATIONS


def sweep_label(key: str, value: float) -> str:
    return f"{key}={value:g}"


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values, {"section.key": value}."""
    for name, value in values.items():
        section, key = name.split(".")
        config = config.changed(section, **{key: value})
    return config


def _run(settings: Settings, label: str, config: Config, seed: int) -> Run:
    config = config.changed("train", seed=seed)
    name = f"{config.model.system}-{identity(config, settings.fingerprint)[:8]}-s{seed}"
    return Run(label, config, settings.out / "runs" / name)


def identity(config: Config, fingerprint: str) -> str:
    """A name (hex) for a configuration on a split, whatever its seed and what cannot change its result. Made of the
    keys that differ from the defaults: a key that a later version adds leaves the names of earlier runs as they are."""
    held = config.model_dump(exclude_defaults=True)
    for name in (*MAY_DIFFER, "train.seed"):
        section, key = name.split(".")
        held.get(section, {}).pop(key, None)
    changed_keys = {section: values for section, values in held.items() if values}
    return hashlib.sha256(json.dumps([changed_keys, fingerprint], sort_keys=True).encode()).hexdigest()
