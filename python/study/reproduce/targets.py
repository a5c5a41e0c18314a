"""From a target's name to its files: <target>.md, <target>.png where the paper has a figure, and the runs' folders."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path

from ...data import Dataset
from ...files import replacing, write_text
from . import gradients, pictures, tables
from .plan import Settings, runs_of
from .runs import Estimates, Found, finish, standing

TITLES = {
    "table2": "Table 2: systems", "table3": "Table 3: ablations", "table4": "Table 4: by training interactions",
    "figure3": "Figure 3: training curves", "figure4": "Figure 4: sweeps",
    "figure5": "Figure 5: gradient of negatives",
}  # fmt: skip
ANCHORS, QUICK_ANCHORS = 64, 8


def foresee(settings: Settings, dataset: Dataset) -> list[tuple[str, int, str, str, float]]:
    """(label, seed, standing, folder's name, seconds at most) of every run."""
    estimates = Estimates(dataset)
    return [
        (run.label, run.seed, standing(run, dataset), run.folder.name, estimates.seconds(run))
        for run in runs_of(settings)
    ]


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Seconds until all have ended, where the next begins as soon as one of `jobs` at once ends."""
    ends: list[float] = []
    for one in seconds:
        begun = heapq.heappop(ends) if len(ends) == jobs else 0.0
        heapq.heappush(ends, begun + one)
    return max(ends, default=0.0)


def produce(settings: Settings, dataset: Dataset, say: Callable[[str], None], jobs: int = 1) -> Path:
    """Run what is left to run, `jobs` runs at a time, and write the target's files; returns the Markdown's path."""
    found = finish(runs_of(settings), dataset, say, jobs)
    settings.out.mkdir(parents=True, exist_ok=True)
    body = _body(settings, dataset, found)
    folders = "\n".join(f"- {one.run.label}, seed {one.run.seed}: `runs/{one.run.folder.name}`" for one in found)
    text = "\n\n".join([
        tables.preamble(settings, dataset, found, TITLES[settings.target]), body, f"Runs:\n\n{folders}"
    ])  # fmt: skip
    path = settings.out / f"{settings.target}.md"
    write_text(path, text + "\n")
    return path


def _body(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    if settings.target == "figure5":
        measured = gradients.measure_run(found[0], dataset, QUICK_ANCHORS if settings.quick else ANCHORS)
        with replacing(settings.out / "figure5.png") as temporary:
            pictures.figure5(measured, temporary)
        return gradients.report(measured, dataset.modalities[0])
    if settings.target in ("figure3", "figure4"):
        with replacing(settings.out / f"{settings.target}.png") as temporary:
            getattr(pictures, settings.target)(found, temporary)
    return getattr(tables, settings.target)(settings, dataset, found)
