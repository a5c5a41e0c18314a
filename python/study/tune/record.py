"""What a search leaves for people: the record of its trials, and the best one as a preset."""

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
    """trials.md: every trial with the values of `names`, in the order given."""
    rows = [
        [
            str(one.number),
            _text(value_of(one)),
            _state(one),
            *(_text(one.params[name]) for name in names),
            ", ".join(map(str, one.user_attrs.get("best_epoch", []))),
            f"{one.duration.total_seconds():.0f}",
        ]
        for one in trials
    ]
    columns = ["trial", "val. Recall@20", "state", *names, "best epoch", "seconds"]
    lines = [
        f"# Search for {base.model.system} on {dataset.name}",
        "",
        f"{len(trials)} trials, {sum(one.state == TrialState.PRUNED for one in trials)} of them pruned; {seeds} "
        f"seed{'s' * (seeds > 1)} from {base.train.seed}, at most {base.train.epochs} epochs; "
        f"split {dataset.fingerprint[:16]}. Optuna {optuna.__version__}, TPE. A pruned trial shows its best.",
        "",
        markdown(columns, rows),
        "",
    ]
    return "\n".join(lines)


def line(one: FrozenTrial) -> str:
    """A trial in one line."""
    values = ", ".join(f"{name} {_text(value)}" for name, value in one.params.items())
    return f"trial {one.number}: {_text(value_of(one))} {_state(one)}  {values}"


def preset(config: Config, title: str) -> str:
    """TOML of the keys that differ from the defaults, apart from what says where and on what a run is made."""
    lines = [f"# {title}"]
    for name, value in config.changes().items():
        section, key = name.split(".")
        if section in NOT_TUNED or name in NOT_TUNED:
            continue
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def value_of(one: FrozenTrial) -> float | None:
    """A trial's value; of a pruned one the best it had come to."""
    return one.value if one.state == TrialState.COMPLETE else max(one.intermediate_values.values(), default=None)


def _state(one: FrozenTrial) -> str:
    if one.state == TrialState.COMPLETE:
        return "complete"
    return "refused" if "note" in one.user_attrs else f"pruned at epoch {max(one.intermediate_values, default=0)}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
