"""mmssl-fast report: a page about finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="HTML file to write. The Markdown version is written next to it.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a self-contained HTML page about finished runs. A Markdown file has the same content: configuration,
    curves, metrics by group, example recommendations, time and memory, and limitations."""
    from .. import write_report
    from ..console.output import OUT

    for path in write_report(runs, out):
        OUT.print(f"written: {path}", markup=False)
