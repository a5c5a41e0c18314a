"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A rich table. The first column is left-aligned, the others right-aligned; floats get four decimals."""
    grid = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(columns):
        grid.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell if isinstance(cell, str) else _number(cell)) for cell in row))
    return grid


def metrics_table(title: str, metrics: dict[str, float]) -> Table:
    """The metrics of one split, with a row per K."""
    ks = sorted({int(name.partition("@")[2]) for name in metrics if "@" in name})
    names = list(dict.fromkeys(name.partition("@")[0] for name in metrics if "@" in name))
    return table(title, ["K", *names], [[str(k), *(metrics[f"{name}@{k}"] for name in names)] for k in ks])


def intervals_table(metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Table:
    """The metrics that have a confidence interval (low, high), with a row per metric and a column per K."""
    ks = sorted({int(name.partition("@")[2]) for name in intervals})
    names = list(dict.fromkeys(name.partition("@")[0] for name in intervals))

    def cell(name: str) -> str:
        low, high = intervals[name]
        return f"{metrics[name]:.4f} ± {(high - low) / 2:.4f}"

    columns = ["", *(f"K = {k}" for k in ks)]
    return table("95% confidence intervals", columns, [[name, *(cell(f"{name}@{k}") for k in ks)] for name in names])


def breakdown_table(groups: dict[str, dict[str, float]]) -> Table:
    """ranking.breakdown as a table: each group's sizes, and its metrics at K = 20 or else the largest K."""
    ks = {int(name.partition("@")[2]) for name in next(iter(groups.values())) if "@" in name}
    k = 20 if 20 in ks else max(ks)
    rows = [
        [name, group["users"], group["pairs"], *(group[f"{metric}@{k}"] for metric in ("recall", "ndcg", "hit"))]
        for name, group in groups.items()
    ]
    title = "by training interactions (new users and cold items have none)"
    return table(title, ["held-out pairs of", "users", "pairs", f"recall@{k}", f"ndcg@{k}", f"hit@{k}"], rows)


def comparison_table(title: str, rows: Iterable[tuple[str, dict[str, float], float]]) -> Table:
    """A comparison of systems. rows: (name, test metrics, total seconds)."""
    cells = [[name, test["recall@20"], test["ndcg@20"], f"{seconds:.1f}"] for name, test, seconds in rows]
    return table(title, ["system", "Recall@20", "NDCG@20", "seconds"], cells)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if (math.isfinite(value) and 1e-4 <= abs(value) < 1e4) or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
