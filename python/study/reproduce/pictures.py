"""Figures 3, 4 and 5 as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...runs.curves import INK, LOSS, MUTED, NDCG, RECALL, plain
from .gradients import Measured, phi
from .paper import SWEEPS
from .runs import FinishedRun, by_label
from .statistics import TESTED, Difference, spread

COLOURS = (RECALL, NDCG, "#3f8f4f", "#8a4fa3", LOSS, "#b08a1e", "#1f8a8a", "#a33f5c", "#6b6b2f")
NAMES = {"recall@20": "Recall@20", "ndcg@20": "NDCG@20"}
SYMBOLS = {
    "model.layers": "layers L",
    "loss.zeta": "ζ",
    "loss.lambda_penalty": "λ1",
    "loss.contrastive_tau": "τ'",
    "model.dim": "d",
}


def _canvas(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def differences(found: list[tuple[str, str, Difference]], reference: str, path: Path) -> None:
    """Plot the differences of `tables.differences` with their 95% intervals: one panel for each metric, one line for
    each row."""
    labels = list(dict.fromkeys(label for label, _, _ in found))
    places = np.arange(len(labels))[::-1]
    figure, grid = _canvas(1, len(TESTED), 11, 1.1 + 0.32 * len(labels))
    for axes, colour, (metric, name) in zip(grid[0], COLOURS, TESTED.items(), strict=False):
        each = [difference for _, of, difference in found if of == metric]
        means = [d.mean for d in each]
        errors = [[d.mean - d.low for d in each], [d.high - d.mean for d in each]]
        axes.errorbar(means, places, xerr=errors, fmt="o", color=colour, markersize=4, linewidth=1.6, capsize=3)
        axes.axvline(0, color=MUTED, linewidth=1)
        plain(axes, f"{name}: {reference} minus the row")
        axes.set_yticks(places, labels, fontsize=9, color=INK)
        axes.set_ylim(-0.6, len(labels) - 0.4)
    figure.savefig(path, format="png")


def figure3(finished: list[FinishedRun], path: Path) -> None:
    """Plot validation Recall@20 and NDCG@20 against epochs (left) and training seconds (right), one line per system.

    A line is the mean over seeds, up to the last epoch that all seeds have reached.
    """
    figure, grid = _canvas(2, 2, 11, 6.4)
    for colour, (label, runs) in zip(_cycled(len(finished)), by_label(finished).items(), strict=False):
        validated = [[record for record in run.epochs if record.get("val", {}).get("users")] for run in runs]
        length = min(map(len, validated))
        if not length:
            continue
        epochs = [record["epoch"] for record in validated[0][:length]]
        elapsed = [np.cumsum([record["seconds"] for record in run.epochs]) for run in runs]
        seconds = np.mean([[times[epoch - 1] for epoch in epochs] for times in elapsed], 0)
        for row, name in enumerate(NAMES):
            values = np.mean([[record["val"][name] for record in records[:length]] for records in validated], 0)
            marker = "o" if length < 3 else None
            grid[row, 0].plot(epochs, values, color=colour, linewidth=1.8, label=label, marker=marker, markersize=4)
            grid[row, 1].plot(seconds, values, color=colour, linewidth=1.8, label=label, marker=marker, markersize=4)
    for row, name in enumerate(NAMES.values()):
        for column, by in enumerate(("epoch", "training seconds")):
            plain(grid[row, column], f"validation {name} by {by}")
            grid[row, column].set_xlabel(by, color=MUTED, fontsize=9)
        grid[row, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[row, 1].set_xscale("log")
    grid[0, 0].legend(frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path, format="png")


def figure4(finished: list[FinishedRun], path: Path) -> None:
    """Plot test Recall@20 along each sweep, with error bars of one standard deviation over seeds."""
    grouped = by_label(finished)
    swept = [key for key in SWEEPS if any(label.startswith(f"{key}=") for label in grouped)]
    figure, grid = _canvas(1, len(swept), 2.6 * len(swept), 2.9)
    for axes, key in zip(grid[0], swept, strict=True):
        points = [
            (float(label.partition("=")[2]), runs) for label, runs in grouped.items() if label.startswith(f"{key}=")
        ]
        means, deviations = zip(
            *(spread([run.result["test"]["recall@20"] for run in runs]) for _, runs in points), strict=True
        )
        axes.errorbar(
            range(len(points)), means, yerr=np.nan_to_num(deviations), color=RECALL, marker="o", markersize=4, capsize=3
        )
        axes.set_xticks(range(len(points)), [f"{value:g}" for value, _ in points])
        plain(axes, SYMBOLS[key])
    grid[0, 0].set_ylabel("test Recall@20", color=MUTED, fontsize=9)
    figure.savefig(path, format="png")


def figure5(measured: list[Measured], path: Path, shown: int = 4000) -> None:
    """Plot φ(x) relative to its maximum at each temperature, from theory (line) and measured (at most `shown` points);
    below, a histogram of the similarities of the negatives."""
    figure, grid = _canvas(2, len(measured), 3.4 * len(measured), 4.6)
    line = torch.linspace(-1, 1, 801, dtype=torch.float64)
    for column, m in enumerate(measured):
        axes, below = grid[:, column]
        top = phi(line, m.tau).max()
        axes.plot(line, phi(line, m.tau) / top, color=NDCG, linewidth=1.6, label="φ(x), Eq. 17")
        every = max(1, len(m.x) // shown)
        axes.plot(
            m.x[::every], (m.weight / top)[::every], ".", color=RECALL, markersize=2.5, alpha=0.5, label="measured"
        )
        below.hist(m.x.numpy(), bins=60, range=(-1, 1), color=LOSS)
        plain(axes, f"τ' = {m.tau:g}")
        plain(below, "negatives by similarity x" if column == 0 else "")
        axes.set_xlim(-1, 1)
        below.set_xlim(-1, 1)
    grid[0, 0].legend(frameon=False, fontsize=8, loc="upper left", labelcolor=INK)
    figure.savefig(path, format="png")


def _cycled(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
