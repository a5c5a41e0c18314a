"""Producing a target: <target>.md, <target>.png if it is a figure, and the run folders."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path

from ...data import Dataset
from ...files import replacing, write_text
from . import gradients, pictures, searches, tables
from .plan import Settings, reference_label, runs_of
from .runs import Estimates, FinishedRun, finish, progress_of

TITLES = {
    "table2": "Table 2: systems",
    "table3": "Table 3: ablations",
    "table4": "Table 4: users by training interactions",
    "figure3": "Figure 3: training curves",
    "figure4": "Figure 4: sweeps",
    "figure5": "Figure 5: gradient weights of negatives",
}
ANCHORS, QUICK_ANCHORS = 64, 8


def estimate(settings: Settings, dataset: Dataset) -> list[tuple[str, int, str, str, float]]:
    """(label, seed, progress, folder name, maximum seconds) of every search and run, for --dry-run."""
    estimates = Estimates(dataset)
    rows = searches.estimate(settings, estimates) if settings.budget else []
    return rows + [
        (run.label, run.seed, progress_of(run, dataset), run.folder.name, estimates.seconds(run))
        for run in runs_of(settings)
    ]


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Total time of runs that start in order, at most `jobs` at a time, the next one as soon as one ends."""
    ends: list[float] = []
    for duration in seconds:
        start = heapq.heappop(ends) if len(ends) == jobs else 0.0
        heapq.heappush(ends, start + duration)
    return max(ends, default=0.0)


def produce(settings: Settings, dataset: Dataset, report: Callable[[str], None], jobs: int = 1) -> Path:
    """Complete the runs, `jobs` at a time, and write the files of the target. Returns the path of the Markdown file.

    report: called with a line of text for each run.
    """
    finished = finish(runs_of(settings), dataset, report, jobs)
    settings.out.mkdir(parents=True, exist_ok=True)
    body = _body(settings, dataset, finished)
    folders = "\n".join(f"- {each.run.label}, seed {each.run.seed}: `runs/{each.run.folder.name}`" for each in finished)
    text = "\n\n".join(
        [tables.preamble(settings, dataset, finished, TITLES[settings.target]), body, f"Runs:\n\n{folders}"]
    )
    path = settings.out / f"{settings.target}.md"
    write_text(path, text + "\n")
    return path


def _body(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    if settings.target == "figure5":
        measured = gradients.measure_run(finished[0], dataset, QUICK_ANCHORS if settings.quick else ANCHORS)
        with replacing(settings.out / "figure5.png") as temporary:
            pictures.figure5(measured, temporary)
        return gradients.report(measured, dataset.modalities[0])
    if settings.target in ("figure3", "figure4"):
        with replacing(settings.out / f"{settings.target}.png") as temporary:
            getattr(pictures, settings.target)(finished, temporary)
    body = getattr(tables, settings.target)(settings, dataset, finished)
    if settings.target not in ("table2", "table3"):
        return body
    parts, found = [body], tables.differences(settings, dataset, finished)
    if found:
        with replacing(settings.out / f"{settings.target}.png") as temporary:
            pictures.differences(found, reference_label(settings), temporary)
        parts.append(tables.tests(settings, found))
    return "\n\n".join([*parts, *tables.papers(settings.target, dataset)])
