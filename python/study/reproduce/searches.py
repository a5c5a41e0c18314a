"""Equal search budgets: the settings of every row of a table by a search of the same number of trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from optuna.trial import TrialState

from ...data import Dataset
from ...errors import InputError
from ...systems import create
from ..tune import space as spaces
from ..tune.search import Search, refuse_what_cannot_run, trials_in
from .plan import SearchSpent, Settings, row_label, runs_of, system_of
from .runs import Estimates

FIRST_SEED = 1000  # of the trials, so that settings are not selected by the seeds of the results


def space_of(row: str, settings: Settings) -> Path | None:
    """The search space of a row: the given one, or the bundled one of its system. None: the system has no settings."""
    if row in settings.spaces:
        return spaces.find_space(settings.spaces[row], system_of(row))
    try:
        return spaces.find_space(None, system_of(row))
    except InputError:
        return None


def check(settings: Settings, dataset: Dataset) -> None:
    """Raise InputError for a row that no search can be run for, and for one whose search has had more trials than the
    budget, because the rows would not be compared at equal budgets."""
    for row, config in settings.base.items():
        if (path := space_of(row, settings)) is None:
            continue
        refuse_what_cannot_run(dataset, config, spaces.read_space(path, config))
        place = folder_of(row, settings)
        if (ended := trials_in(place)) > settings.budget:
            raise InputError(
                f"{place}: contains a search with {ended} trials, more than the budget of {settings.budget}; give "
                f"--budget {ended}, or choose another --out"
            )


def search(settings: Settings, dataset: Dataset, note: Callable[[str], None]) -> Settings:
    """Complete the searches, and return the settings with the best configuration of every row.

    Only validation interactions are used. note: called with a line about each trial. Raises Interrupted after a signal;
    the same call then continues.
    """
    base, spent = dict(settings.base), {}
    for row, config in settings.base.items():
        if (path := space_of(row, settings)) is None:
            note(f"{row_label(row)}: has no settings to search for")
            continue
        first = config.changed("train", seed=FIRST_SEED)
        chosen = spaces.read_space(path, first)
        seeds = settings.search_seeds if create(system_of(row)).trains else 1
        run = Search(folder_of(row, settings), dataset, first, chosen, seeds, prune=True)
        run.run(settings.budget, partial(_tell, note, row_label(row)), settings.jobs)
        best, *_ = ended = run.ended()
        if best.state != TrialState.COMPLETE:
            raise InputError(
                f"{run.folder}: none of {len(ended)} trials of {row_label(row)} is complete; raise --budget"
            )
        found = spaces.with_values(first, best.params, chosen.source)
        base[row] = found.changed("train", seed=config.train.seed)
        seconds = sum(trial.duration.total_seconds() for trial in ended if trial.duration is not None)
        spent[row_label(row)] = SearchSpent(len(ended), seconds / 60)
    return replace(settings, base=base, searches=spent)


def _tell(note: Callable[[str], None], label: str, line: str) -> None:
    note(f"{label}, {line}")


def folder_of(row: str, settings: Settings) -> Path:
    """The folder of the search of a row."""
    system, _, preset = row.partition(":")
    return settings.out / "searches" / (f"{system}-{Path(preset).stem}" if preset else system)


def estimate(settings: Settings, estimates: Estimates) -> list[tuple[str, int, str, str, float]]:
    """(label, first seed, progress, folder name, maximum seconds) of every search, for --dry-run. A trial is taken to
    last as long as a run with the settings before the search."""
    found = []
    for run in runs_of(replace(settings, seeds=1)):
        row = next(row for row in settings.base if row_label(row) == run.label)
        if space_of(row, settings) is not None:
            place = folder_of(row, settings)
            ended = trials_in(place)
            left = max(0, settings.budget - ended) * settings.search_seeds
            progress = f"{ended} of {settings.budget} trials"
            seconds = estimates.whole_run(run) * left
            found.append((f"search for {run.label}", FIRST_SEED, progress, f"searches/{place.name}", seconds))
    return found
