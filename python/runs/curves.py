"""curves.png: validation metrics and loss terms against epochs. Also the colours and axes of the other figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..training.selection import SELECTED, selection

INK, MUTED, GRID = "#1f2933", "#66727f", "#e3e7eb"
RECALL, NDCG, LOSS = "#2563ae", "#c2571a", "#4b5b6b"
COLUMNS = 5
# In inches. A layout that matplotlib computes from the labels ("constrained") takes twice as long to draw: longer than
# training a short run.
WIDTH, LEFT, RIGHT, GAP = 11, 0.75, 0.95, 0.65
TOP, MARGIN, TALL, LOW, BETWEEN = 0.45, 0.35, 2.6, 1.35, 0.6


def draw(epochs: list[dict[str, Any]], path: Path | BinaryIO, title: str = "", by: str = "recall@20") -> None:
    """Draw the curves of a run as PNG: Recall@20, NDCG@20 and the metric `by` that selects the best epoch at the top,
    and a small panel for each loss term below.

    epochs: the lines of metrics.jsonl, at least one. path: file or binary stream.
    """
    terms = list(epochs[0]["losses"])
    rows = -(-len(terms) // COLUMNS)
    columns = -(-len(terms) // rows)
    height = TOP + TALL + rows * (BETWEEN + LOW) + MARGIN
    figure = Figure(figsize=(WIDTH, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    # The label at the end of a line needs room to its right, below which no panel has one.
    top = figure.add_axes(_place(LEFT, TOP, WIDTH - LEFT - RIGHT, TALL, height))
    validated = [record for record in epochs if record.get("val", {}).get("users")]
    lines = [("recall@20", "Recall@20", RECALL), ("ndcg@20", "NDCG@20", NDCG)]
    if validated and "cold_recall@20" in validated[0]["val"]:
        lines = [("cold_recall@20", "Recall@20 of cold items", RECALL), ("cold_ndcg@20", "NDCG@20 of them", NDCG)]
    if validated and by not in ("recall@20", "ndcg@20"):
        lines.append((SELECTED, by, LOSS))
    for name, label, colour in lines:
        _line(
            top, [record["epoch"] for record in validated], [record["val"][name] for record in validated], colour, label
        )
    if validated:
        _mark_best(top, validated)
        top.set_ylim(bottom=0)
    else:
        top.text(0.5, 0.5, "no validation interactions", ha="center", va="center", color=MUTED, transform=top.transAxes)
    top.set_title(f"{title}: validation" if title else "validation", loc="left", fontsize=12, color=INK)
    top.set_xlabel("epoch", color=MUTED)
    wide = (WIDTH - LEFT - MARGIN - (columns - 1) * GAP) / columns
    for index, term in enumerate(terms):
        row, column = divmod(index, columns)
        down = TOP + TALL + BETWEEN + row * (LOW + BETWEEN)
        panel = figure.add_axes(_place(LEFT + column * (wide + GAP), down, wide, LOW, height))
        _line(panel, [record["epoch"] for record in epochs], [record["losses"][term] for record in epochs], LOSS)
        panel.set_title(f"loss: {term}", loc="left", fontsize=9, color=INK)
    for axes in figure.axes:
        _by_epoch(axes, epochs[0]["epoch"], epochs[-1]["epoch"])
    figure.savefig(path, format="png")


def _place(left: float, down: float, wide: float, high: float, height: float) -> tuple[float, float, float, float]:
    """What add_axes takes, from inches: to the left and above the axes, and their size."""
    return left / WIDTH, 1 - (down + high) / height, wide / WIDTH, high / height


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str | None = None) -> None:
    axes.plot(x, y, color=colour, linewidth=1.8, label=label, marker="o" if len(x) < 3 else None, markersize=4)
    if label and x:
        axes.annotate(
            label,
            (x[-1], y[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


def _mark_best(axes: Axes, validated: list[dict[str, Any]]) -> None:
    best = max(validated, key=lambda record: selection(record["val"]))
    x, y = best["epoch"], selection(best["val"])
    axes.plot([x], [y], "o", color=RECALL, markersize=6, zorder=3)
    axes.annotate(
        f"best {y:.4f}, epoch {x}",
        (x, y),
        xytext=(0, 8),
        textcoords="offset points",
        color=RECALL,
        ha="right" if x > validated[-1]["epoch"] / 2 else "left",
        fontsize=9,
    )
    axes.margins(y=0.15)


def plain(axes: Axes, title: str = "") -> None:
    """Apply the style of all figures: horizontal grid lines, no frame, small labels."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK)


def _by_epoch(axes: Axes, first: int, last: int) -> None:
    plain(axes)
    axes.yaxis.get_offset_text().set(color=MUTED, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    pad = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - pad, last + pad)
