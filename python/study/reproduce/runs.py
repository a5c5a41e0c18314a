"""Bringing a plan's runs to their end, and reading what they found."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_fast import InteractionGraph

from ...config.sections import Config
from ...data import Dataset
from ...errors import InputError, Interrupted
from ...ranking import item_popularity, user_metrics
from ...runs import folder as run_folder
from ...runs import saved_model
from ...runs.complete import complete, refuse_other_data, refuse_other_run
from ...training import loop
from ...training.checkpoints import FOLDER
from ...training.progress import SELECTION_METRIC, NullObserver
from ...training.state_file import newest
from .. import processes
from .plan import Run, identity

K = 20


@dataclass(frozen=True)
class Found:
    """A finished run: result: what its result.json holds; epochs: the lines of its metrics.jsonl."""

    run: Run
    result: dict[str, Any]
    epochs: list[dict[str, Any]]


def finish(runs: list[Run], dataset: Dataset, say: Callable[[str], None], jobs: int = 1) -> list[Found]:
    """Every run brought to its end, in order, or `jobs` at a time; a folder that serves two labels is run once. say:
    told a line for each.

    Raises Interrupted after a signal: the same call then goes on from there.
    """
    if jobs > 1:
        _in_parallel(runs, dataset, say, jobs)
    else:
        _in_turn(runs, dataset, say)
    found = [read(run) for run in runs]
    refuse_other_data({str(one.run.folder): one.result for one in found})
    return found


def _in_turn(runs: list[Run], dataset: Dataset, say: Callable[[str], None]) -> None:
    for at, run in enumerate(runs, 1):
        try:
            done = complete(dataset, run.config, run.folder)
        except Interrupted as error:
            raise Interrupted(
                f"interrupted in run {at} of {len(runs)}, {run.folder.name}; repeat the command to go on", error.signal
            ) from None
        say(_line(at, len(runs), run, "done" if done else "was there"))


def _in_parallel(runs: list[Run], dataset: Dataset, say: Callable[[str], None], jobs: int) -> None:
    todo: dict[Path, Run] = {}
    for run in runs:
        if run.folder not in todo and standing(run, dataset) != "done":
            todo[run.folder] = run
    there = [run for run in runs if todo.get(run.folder) is not run]
    for at, run in enumerate(there, 1):
        say(_line(at, len(runs), run, "is the same as another" if run.folder in todo else "was there"))
    begun = list(todo.values())
    number = itertools.count(len(there) + 1)
    processes.run_parallel(
        [_part(run) for run in begun], dataset, jobs, "runs",
        lambda at: say(_line(next(number), len(runs), begun[at], "done")),
    )  # fmt: skip


def _part(run: Run) -> processes.Part:
    return processes.Part(
        f"{run.label}, seed {run.seed}", f"{__name__}:complete_in", run.config, {"folder": str(run.folder)},
        lambda: _progress(run),
    )  # fmt: skip


def complete_in(dataset: Dataset, config: Config, folder: str) -> None:
    """What a process of its own does for a run."""
    complete(dataset, config, Path(folder))


def _progress(run: Run) -> tuple[int, int, float]:
    epochs = _epochs(run)
    best = max((one.get("val", {}).get(SELECTION_METRIC) or 0.0 for one in epochs), default=0.0)
    return len(epochs), run.config.train.epochs, best


def _line(at: int, among: int, run: Run, state: str) -> str:
    return f"{at}/{among}  {run.label}, seed {run.seed}: {state}, {run.folder}"


def read(run: Run) -> Found:
    """What a finished run's folder holds."""
    return Found(run, run_folder.read_result(run.folder), run_folder.read_epochs(run.folder))


def by_label(found: list[Found]) -> dict[str, list[Found]]:
    """The runs of each label, seed by seed."""
    grouped: dict[str, list[Found]] = {}
    for one in found:
        grouped.setdefault(one.run.label, []).append(one)
    return grouped


def per_user(found: list[Found], dataset: Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The test users, and each metric at K of each of them as a mean over the runs' seeds."""
    parts = []
    for one in found:
        model, masked = saved_model.load(one.run.folder), dataset.train
        if one.run.config.evaluate.mask_validation:
            masked = masked.maximum(dataset.val)
        seen = InteractionGraph.from_scipy(masked)
        who, values = user_metrics(
            model.users, model.items, dataset.test, K, seen, popularity=item_popularity(dataset)
        )
        parts.append(values)
    return who, {name: np.mean([values[name] for values in parts], 0) for name in parts[0]}


def standing(run: Run, dataset: Dataset) -> str:
    """How far a run is: done, interrupted after some epoch, or to do. Raises InputError where its folder holds
    another run."""
    if not (run.folder / run_folder.CONFIG).exists():
        return "to do"
    refuse_other_run(run.folder, dataset, run.config)
    if (run.folder / run_folder.RESULT).exists():
        return "done"
    epochs = len(_epochs(run))
    has_state = newest(run.folder / FOLDER) is not None
    return f"after epoch {epochs}" if has_state else "to do"


def _epochs(run: Run) -> list[dict[str, Any]]:
    """The epochs behind a run; none where it has not begun, or the file was not written to its end."""
    try:
        return run_folder.read_epochs(run.folder)
    except InputError:
        return []


class Estimates:
    """Seconds that runs will take at most: of an epoch as in a run of the same configuration that has one, else of a
    few steps timed on the spot; all epochs counted, as if nothing stopped early."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.known = dataset, {}

    def seconds(self, run: Run) -> float:
        if standing(run, self.dataset) == "done":
            return 0.0
        key = identity(run.config, self.dataset.fingerprint)
        if key not in self.known:
            measured = [record["seconds"] for record in _epochs(run)]
            self.known[key] = float(np.mean(measured)) if measured else _seconds_per_epoch(self.dataset, run)
        return self.known[key] * run.config.train.epochs


def _seconds_per_epoch(dataset: Dataset, run: Run, steps: int = 2) -> float:
    begun = loop.Run(dataset, run.config, NullObserver())
    if not begun.trains:
        return 0.0
    begun.system.start_epoch(1)
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            started = time.perf_counter()
        losses = begun.system.step(begun.next_batch())
        float(next(iter(losses.values())).detach())
        begun.fit.step += 1
    return (time.perf_counter() - started) / steps * begun.steps
