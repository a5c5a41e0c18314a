"""Benchmark results from the JSON of pytest-benchmark: a table, a comparison with an earlier run, a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from ..errors import InputError, shown
from ..runs.curves import GRID, INK, LOSS, MUTED, NDCG, RECALL

SAME_MACHINE = ("device", "machine", "processor", "isa", "threads", "torch")
FIELDS: dict[str, type | tuple[type, ...]] = {
    "ratio": (int, float),
    "name": str,
    "median_s": (int, float),
    "peak_bytes": (int, float),
    "peer_peak_bytes": (int, float),
    "peer_name": str,
}
NOTABLE = 1.1  # repeated runs on an idle machine differ by less than this factor


def read(path: Path) -> list[dict[str, Any]]:
    """The benchmarks in a file that were compared with a peer: name, median, and the keys of extra_info.

    Raises InputError if the file is not JSON from pytest-benchmark.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        rows = [e["extra_info"] | {"name": e["name"], "median_s": e["stats"]["median"]} for e in entries]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not a file written by pytest --benchmark-json") from None
    rows = [row for row in rows if "ratio" in row or "scale" in row]
    for key, kind in FIELDS.items():
        for row in rows:
            if "ratio" in row and not (isinstance(row.get(key), kind) and row["ratio"]):
                raise InputError(f"{path}: {key} of a benchmark is {shown(row.get(key))}; run the benchmarks again")
    return rows


def table(rows: list[dict[str, Any]], earlier: list[dict[str, Any]] | None = None) -> Table:
    """A row per benchmark: median time, speedup over the peer, memory of both, and the speedup of an earlier run."""
    grid = Table(title="compared with the peer, in the same process", title_justify="left")
    grid.add_column("benchmark")
    for heading in ("ms", "speedup", "peak MiB", "peer's MiB"):
        grid.add_column(heading, justify="right")
    grid.add_column("peer")
    before = {row["name"]: row for row in earlier or ()}
    if earlier is not None:
        grid.add_column("before", justify="right")
    for row in rows:
        if "ratio" not in row:
            continue
        cells = [
            escape(row["name"]),
            f"{row['median_s'] * 1e3:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_bytes'] / 2**20:.1f}",
            f"{row['peer_peak_bytes'] / 2**20:.1f}",
            escape(row["peer_name"]),
        ]
        if earlier is not None:
            cells.append(_change(row, before.get(row["name"])))
        grid.add_row(*cells)
    return grid


def _change(row: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None or "ratio" not in before:
        return "new"
    change = row["ratio"] / before["ratio"]
    word = " slower" if change < 1 / NOTABLE else " faster" if change > NOTABLE else ""
    return f"{before['ratio']:.2f}{word}"


def check_same_machine(rows: list[dict[str, Any]], earlier: list[dict[str, Any]], path: Path) -> None:
    """Raise InputError if the two runs are from different machines or torch versions, whose times are not
    comparable."""
    for key in SAME_MACHINE:
        current, previous = ({row.get(key) for row in run if key in row} for run in (rows, earlier))
        if current and previous and current != previous:
            raise InputError(
                f"{path}: was measured with {key} {_listed(previous)}, this run with {_listed(current)}; "
                "only runs on the same machine can be compared"
            )


def _listed(values: set[Any]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG: time and memory by catalogue size if the run measured it, otherwise a bar per benchmark."""
    scales = [row["scale"] for row in rows if "scale" in row]
    if scales:
        figure = _against_size(scales)
    elif rows:
        figure = _bars(rows)
    else:
        raise InputError(f"{path}: nothing was measured, so there is nothing to plot")
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def _against_size(scales: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained", facecolor="white")
    panels = ("seconds", "seconds per step", 1), ("bytes", "peak MiB per step", 2**-20)
    for position, (key, label, factor) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 2, position)
        for side, colour in (("dense", NDCG), ("ours", RECALL)):
            points = sorted((size["items"], size[side][key] * factor) for size in scales if size.get(side))
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=side)
                last = f"{points[-1][1]:,.0f}" if points[-1][1] >= 100 else f"{points[-1][1]:.3g}"
                axes.annotate(last, points[-1], textcoords="offset points", xytext=(0, 6), color=colour, ha="center")
        axes.set(xscale="log", yscale="log", xlabel="items in the catalogue", title=label)
        sizes = sorted({size["items"] for size in scales})
        axes.set_xticks(sizes, [f"{count:,}" for count in sizes])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.12, y=0.15)
        axes.grid(True, which="both", color=GRID)
        axes.legend(frameon=False)
    return figure


def _bars(rows: list[dict[str, Any]]) -> Figure:
    rows = sorted(rows, key=lambda row: row["ratio"])
    figure = Figure(figsize=(10, 1.5 + 0.24 * len(rows)), dpi=130, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.barh(
        [row["name"].removeprefix("test_") for row in rows],
        [row["ratio"] for row in rows],
        color=[RECALL if row["ratio"] >= 1 else NDCG for row in rows],
        height=0.7,
    )
    axes.axvline(1, color=LOSS, linewidth=1)
    axes.set_xscale("log")
    axes.set_title("speedup over the peer", loc="left", color=INK)
    axes.tick_params(labelsize=7, colors=MUTED)
    axes.grid(True, axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.margins(y=0.01)
    return figure
