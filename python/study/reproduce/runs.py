"""Completing the runs of a plan and reading their results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...config.sections import Config
from ...data import Dataset
from ...errors import InputError, Interrupted
from ...ranking import user_metrics_on_test
from ...runs import folder as run_folder
from ...runs import saved_model
from ...runs.complete import complete, refuse_other_data, refuse_other_run
from ...training import loop
from ...training.checkpoints import FOLDER
from ...training.progress import NullObserver
from ...training.selection import selection
from ...training.state_file import newest
from .. import processes
from .plan import Run, identity

K = 20


@dataclass(frozen=True)
class FinishedRun:
    """A finished run. result: contents of result.json; epochs: the lines of metrics.jsonl."""

    run: Run
    result: dict[str, Any]
    epochs: list[dict[str, Any]]


def finish(runs: list[Run], dataset: Dataset, report: Callable[[str], None], jobs: int = 1) -> list[FinishedRun]:
    """Complete all runs, `jobs` at a time, and return their results. Runs that share a folder are executed once.

    report: called with a line of text for each run. Raises Interrupted after a signal; the same call then continues.
    """
    if jobs > 1:
        _run_parallel(runs, dataset, report, jobs)
    else:
        _run_sequentially(runs, dataset, report)
    finished = [read(run) for run in runs]
    refuse_other_data({str(each.run.folder): each.result for each in finished})
    return finished


def _run_sequentially(runs: list[Run], dataset: Dataset, report: Callable[[str], None]) -> None:
    for number, run in enumerate(runs, 1):
        try:
            executed = complete(dataset, run.config, run.folder)
        except Interrupted as error:
            raise Interrupted(
                f"interrupted in run {number} of {len(runs)}, {run.folder.name}; repeat the command to continue",
                error.signal,
            ) from None
        report(_line(number, len(runs), run, "done" if executed else "already done"))


def _run_parallel(runs: list[Run], dataset: Dataset, report: Callable[[str], None], jobs: int) -> None:
    todo: dict[Path, Run] = {}
    for run in runs:
        if run.folder not in todo and progress_of(run, dataset) != "done":
            todo[run.folder] = run
    skipped = [run for run in runs if todo.get(run.folder) is not run]
    for number, run in enumerate(skipped, 1):
        report(_line(number, len(runs), run, "same as another run" if run.folder in todo else "already done"))
    executed = list(todo.values())
    numbers = itertools.count(len(skipped) + 1)
    processes.run_parallel(
        [_part(run) for run in executed],
        dataset,
        jobs,
        "runs",
        lambda index: report(_line(next(numbers), len(runs), executed[index], "done")),
    )


def _part(run: Run) -> processes.Part:
    return processes.Part(
        f"{run.label}, seed {run.seed}",
        f"{__name__}:complete_in",
        run.config,
        {"folder": str(run.folder)},
        lambda: _progress(run),
    )


def complete_in(dataset: Dataset, config: Config, folder: str) -> None:
    """Complete a run in a worker process."""
    complete(dataset, config, Path(folder))


def _progress(run: Run) -> tuple[int, int, float]:
    epochs = _epochs(run)
    best = max((selection(record["val"]) for record in epochs if "val" in record), default=0.0)
    return len(epochs), run.config.train.epochs, best


def _line(number: int, total: int, run: Run, state: str) -> str:
    return f"{number}/{total}  {run.label}, seed {run.seed}: {state}, {run.folder}"


def read(run: Run) -> FinishedRun:
    """Read the results of a finished run from its folder."""
    return FinishedRun(run, run_folder.read_result(run.folder), run_folder.read_epochs(run.folder))


def by_label(finished: list[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """The runs grouped by label; within a label, one run per seed."""
    grouped: dict[str, list[FinishedRun]] = {}
    for each in finished:
        grouped.setdefault(each.run.label, []).append(each)
    return grouped


def per_user(finished: list[FinishedRun], dataset: Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The test users [n], and their metrics at K: for each metric [runs, n], a row per given run."""
    parts = []
    for each in finished:
        model, mask_validation = saved_model.load(each.run.folder), each.run.config.evaluate.mask_validation
        users, values = user_metrics_on_test(model.users, model.items, dataset, K, mask_validation)
        parts.append(values)
    return users, {name: np.stack([values[name] for values in parts]) for name in parts[0]}


def progress_of(run: Run, dataset: Dataset) -> str:
    """How far a run is: "done", "after epoch N" (resumable) or "to do".

    Raises InputError if its folder contains another run.
    """
    if not (run.folder / run_folder.CONFIG).exists():
        return "to do"
    refuse_other_run(run.folder, dataset, run.config)
    if (run.folder / run_folder.RESULT).exists():
        return "done"
    epochs = len(_epochs(run))
    has_state = newest(run.folder / FOLDER) is not None
    return f"after epoch {epochs}" if has_state else "to do"


def _epochs(run: Run) -> list[dict[str, Any]]:
    """The finished epochs of a run; empty if it has not started, or if its metrics file is incomplete."""
    try:
        return run_folder.read_epochs(run.folder)
    except InputError:
        return []


class Estimates:
    """Upper bounds on the time of runs, in seconds: seconds per epoch times the maximum number of epochs.

    The time of an epoch comes from a run with the same configuration, if there is one, or else from timing a few steps.
    Early stopping makes a run shorter than its estimate.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.seconds_per_epoch: dict[str, float] = {}

    def seconds(self, run: Run) -> float:
        """What is left of a run."""
        return 0.0 if progress_of(run, self.dataset) == "done" else self.whole_run(run)

    def whole_run(self, run: Run) -> float:
        key = identity(run.config, self.dataset.fingerprint)
        if key not in self.seconds_per_epoch:
            measured = [record["seconds"] for record in _epochs(run)]
            seconds = float(np.mean(measured)) if measured else _time_epoch(self.dataset, run)
            self.seconds_per_epoch[key] = seconds
        return self.seconds_per_epoch[key] * run.config.train.epochs


def _time_epoch(dataset: Dataset, run: Run, steps: int = 2) -> float:
    """Seconds per epoch, extrapolated from a few steps."""
    trial = loop.Run(dataset, run.config, NullObserver())
    if not trial.trains:
        return 0.0
    trial.system.start_epoch(1)
    for step in range(steps + 1):
        if step == 1:  # the first step is a warm-up
            started = time.perf_counter()
        losses = trial.system.step(trial.next_batch())
        float(next(iter(losses.values())).detach())  # waits for the device
        trial.fit.step += 1
    return (time.perf_counter() - started) / steps * trial.steps
