"""What a benchmark run found, from pytest-benchmark's JSON: a table, a comparison with an earlier run, a picture."""

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
HOLDS = {"ratio": (int, float), "name": str, "median_s": (int, float), "peak_bytes": (int, float),
         "peer_peak_bytes": (int, float), "peer_name": str}  # fmt: skip
NOTABLE = 1.1  # a change of a ratio that two runs on a quiet machine do not show by themselves


def read(path: Path) -> list[dict[str, Any]]:
    """The benchmarks of a file that compared themselves with a peer: name, median and extra_info's keys.

    Raises InputError where it is not pytest-benchmark's JSON.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        rows = [each["extra_info"] | {"name": each["name"], "median_s": each["stats"]["median"]} for each in found]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not what pytest-benchmark writes with --benchmark-json") from None
    rows = [row for row in rows if "ratio" in row or "scale" in row]
    for key, kind in HOLDS.items():
        for row in rows:
            if "ratio" in row and not (isinstance(row.get(key), kind) and row["ratio"]):
                raise InputError(f"{path}: {key} of a benchmark is {shown(row.get(key))}; measure again")
    return rows


def table(rows: list[dict[str, Any]], earlier: list[dict[str, Any]] | None = None) -> Table:
    """A line a benchmark: median time, times faster than the peer, memory of both, and the earlier ratio."""
    shown = Table(title="against the peer, in one process", title_justify="left")
    for heading, side in (("benchmark", "left"), ("ms", "right"), ("times faster", "right"), ("peak MiB", "right"),
                          ("peer's MiB", "right"), ("peer", "left")):  # fmt: skip
        shown.add_column(heading, justify=side)
    before = {row["name"]: row for row in earlier or ()}
    if earlier is not None:
        shown.add_column("before", justify="right")
    for row in rows:
        if "ratio" not in row:
            continue
        cells = [
            escape(row["name"]), f"{row['median_s'] * 1e3:.2f}", f"{row['ratio']:.2f}",
            f"{row['peak_bytes'] / 2**20:.1f}", f"{row['peer_peak_bytes'] / 2**20:.1f}", escape(row["peer_name"]),
        ]  # fmt: skip
        if earlier is not None:
            cells.append(_change(row, before.get(row["name"])))
        shown.add_row(*cells)
    return shown


def _change(row: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None or "ratio" not in before:
        return "new"
    change = row["ratio"] / before["ratio"]
    word = " slower" if change < 1 / NOTABLE else " faster" if change > NOTABLE else ""
    return f"{before['ratio']:.2f}{word}"


def check_same_machine(rows: list[dict[str, Any]], earlier: list[dict[str, Any]], path: Path) -> None:
    """Raises InputError when the two runs are of different machines or torch versions: their times say nothing of each
    other."""
    for key in SAME_MACHINE:
        now, then = ({row.get(key) for row in run if key in row} for run in (rows, earlier))
        if now and then and now != then:
            raise InputError(
                f"{path}: was measured with {key} {_words(then)}, this run with {_words(now)}; compare runs of one "
                "machine only"
            )


def _words(values: set) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A PNG: time and memory against catalogue size where the run measured that, else a bar a benchmark."""
    scales = [row["scale"] for row in rows if "scale" in row]
    if scales:
        figure = _against_size(scales)
    elif rows:
        figure = _bars(rows)
    else:
        raise InputError(f"{path}: nothing was measured, there is nothing to draw")
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def _against_size(scales: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained", facecolor="white")
    panels = ("seconds", "seconds a step", 1), ("bytes", "peak MiB a step", 2**-20)
    for place, (key, label, factor) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        for side, colour in (("dense", NDCG), ("ours", RECALL)):
            points = sorted((one["items"], one[side][key] * factor) for one in scales if one.get(side))
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=side)
                last = f"{points[-1][1]:,.0f}" if points[-1][1] >= 100 else f"{points[-1][1]:.3g}"
                axes.annotate(last, points[-1], textcoords="offset points", xytext=(0, 6), color=colour, ha="center")
        axes.set(xscale="log", yscale="log", xlabel="items in the catalogue", title=label)
        sizes = sorted({one["items"] for one in scales})
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
    axes.barh([row["name"].removeprefix("test_") for row in rows], [row["ratio"] for row in rows],
              color=[RECALL if row["ratio"] >= 1 else NDCG for row in rows], height=0.7)  # fmt: skip
    axes.axvline(1, color=LOSS, linewidth=1)
    axes.set_xscale("log")
    axes.set_title("times faster than the peer", loc="left", color=INK)
    axes.tick_params(labelsize=7, colors=MUTED)
    axes.grid(True, axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.margins(y=0.01)
    return figure
