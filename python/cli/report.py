"""mmssl-fast report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="The page; the same as Markdown is written beside it.")] = Path(
        "report.html"
    ),
) -> None:
    """One self-contained HTML page, and Markdown, of finished runs: configuration, curves, metrics by group, some
    recommendations, time and memory, and what was left open."""
    from ..console.output import OUT
    from ..study.report import page

    for path in page.write(runs, out):
        OUT.print(f"written: {path}", markup=False)
