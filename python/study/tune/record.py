"""The output of a search: a table of its trials, and the best trial as a preset."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ...config.sections import Config
from ...config.toml import toml_value
from ...console.markdown import markdown
from ...data import Dataset
from .space import NOT_TUNED

RECORD, BEST = "trials.md", "best.toml"


def table(trials: list[FrozenTrial], names: list[str], dataset: Dataset, base: Config, seeds: int) -> str:
    """The contents of trials.md: all trials, in the given order, with the values of the keys `names`."""
    rows = [_row(trial, names) for trial in trials]
    columns = ["trial", f"val. {base.train.select_by}", "state", *names, "best epoch", "seconds"]
    lines = [
        f"# Search for {base.model.system} on {dataset.name}",
        "",
        f"{len(trials)} trials, {sum(trial.state == TrialState.PRUNED for trial in trials)} of them pruned; {seeds} "
        f"seed{'s' * (seeds > 1)} from {base.train.seed}, at most {base.train.epochs} epochs; "
        f"split {dataset.fingerprint[:16]}. Optuna {optuna.__version__}, TPE sampler. The value of a "
        "pruned trial is its best validation so far.",
        "",
        markdown(columns, rows),
        "",
    ]
    return "\n".join(lines)


def line(trial: FrozenTrial) -> str:
    """A one-line summary of a trial."""
    values = ", ".join(f"{name} {_text(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}: {_text(value_of(trial))} {_state(trial)}  {values}"


def preset(config: Config, title: str) -> str:
    """The keys that differ from the defaults, as TOML, without those that depend on the machine or the data."""
    lines = [f"# {title}"]
    for name, value in config.changes().items():
        section, key = name.split(".")
        if section in NOT_TUNED or name in NOT_TUNED:
            continue
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def value_of(trial: FrozenTrial) -> float | None:
    """The objective value of a trial. For a pruned trial, the best validation before it was pruned."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return max(trial.intermediate_values.values(), default=None)


def _row(trial: FrozenTrial, names: list[str]) -> list[str]:
    duration = trial.duration
    assert duration is not None  # only a trial that has not ended lacks it
    return [
        str(trial.number),
        _text(value_of(trial)),
        _state(trial),
        *(_text(trial.params[name]) for name in names),
        ", ".join(map(str, trial.user_attrs.get("best_epoch", []))),
        f"{duration.total_seconds():.0f}",
    ]


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return "complete"
    return "refused" if "note" in trial.user_attrs else f"pruned at epoch {max(trial.intermediate_values, default=0)}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
