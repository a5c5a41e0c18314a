"""mmssl-fast data check."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..runs.complete import load_data
from .options import configuration


def data_check(
    path: Annotated[str, typer.Argument(metavar="DATA", help="Folder with the data, or synthetic.")],
    layout: Annotated[str, typer.Option(help="auto, diffmm, hkuds, mmrec or plain.")] = "auto",
    modality: Annotated[list[str] | None, typer.Option(help="A modality to read; may be repeated. [default: all]",
                                                       show_default=False)] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the split made where the data has none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """Read the data as train would and say what is in it, or what is wrong with it."""
    from ..console import output
    from ..data import summarise

    given = {"data.path": (path, "DATA"), "data.layout": (layout, "--layout"),
             "data.modalities": (modality, "--modality"), "data.split_seed": (split_seed, "--split-seed")}  # fmt: skip
    summary = summarise(load_data(configuration(None, given, []).data))
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for one in output.data_tables(summary):
        output.OUT.print(one)
    for note in summary["notes"]:
        output.OUT.print(f"note: {note}", markup=False)
