"""Comparison of two configurations: which keys may differ when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .sections import Config

# A run may be resumed with other values of these keys. They do not change the computation, except train.threads and
# distributed.wire: they change the rounding, which adversarial training amplifies (docs/determinism.md). They may
# differ nevertheless, so that a run can continue on other machines. A note reports other threads.
MAY_DIFFER = (
    "data.path",
    "data.layout",
    "distributed.check_every",
    "distributed.groups",
    "distributed.timeout_minutes",
    "distributed.wire",
    "train.balance",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.log_to",
    "train.memory",
    "train.threads",
)

# Values that continue a run that is older than the key, where this is not the default.
CONTINUED = {"model.neighbours_method": "exact"}


def refuse_other(run: Path, old: dict[str, Any], new: dict[str, Any], more_epochs: bool = False) -> None:
    """Raise InputError if two configurations, as returned by model_dump, differ in a key outside MAY_DIFFER.

    more_epochs: whether train.epochs may be higher in the new one.
    """
    before = old.get("train", {}).get("epochs")
    if more_epochs and isinstance(before, int) and before < new["train"]["epochs"]:
        old = {**old, "train": {**old["train"], "epochs": new["train"]["epochs"]}}
    differences = list(_differences(old, new))
    if differences:
        key, before, after = differences[0]
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise InputError(
            f"{run}: {key} was {before} when the run was started, but is {after} now{more}; resume without the change, "
            "or start a new run"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(section.key, old value, new value) of every key that differs and is not in MAY_DIFFER."""
    defaults = Config().flat()
    for section in sorted({*old, *new}):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted({*before, *after}):
            name = f"{section}.{key}"
            was = before[key] if key in before else CONTINUED.get(name, defaults.get(name))
            if name not in MAY_DIFFER and was != after.get(key):
                yield _key(name), _short(was), _short(after.get(key))


def _key(name: str) -> str:
    """The key, quoted and shortened if it came from a damaged file and cannot be printed as it is."""
    return name if name.isascii() and name.isprintable() and len(name) < 60 else shown(name)


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else shown(value)
