"""mmssl-fast data check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_options import Interactions, MinRating, MissingFeatures, SplitColumn, SplitRule, data_flags
from .options import LayoutOption, configuration

if TYPE_CHECKING:
    from rich.table import Table


def data_check(
    path: Annotated[str, typer.Argument(metavar="DATA", help="Folder with the data, or synthetic.")],
    layout: LayoutOption = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="A modality to read; may be repeated. [default: all]", show_default=False)
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the split made where the data has none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    interactions: Interactions = None,
    split_column: SplitColumn = None,
    split: SplitRule = None,
    min_rating: MinRating = None,
    missing_features: MissingFeatures = None,
) -> None:
    """Read the data as train would and say what is in it, or what is wrong with it."""
    from ..console import output
    from ..data import summarise
    from ..runs.complete import load_data
    from ..systems import SYSTEMS, without_features

    given = {
        "data.path": (path, "DATA"),
        "data.layout": (layout, "--layout"),
        "data.modalities": (modality, "--modality"),
        "data.split_seed": (split_seed, "--split-seed"),
        **data_flags(interactions, split_column, split, min_rating, missing_features),
    }
    summary = summarise(load_data(**configuration(None, given, []).data.model_dump()))
    summary["systems"] = list(SYSTEMS) if summary["modalities"] else without_features()
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for one in _tables(summary):
        output.OUT.print(one)
    for note in summary["notes"]:
        output.OUT.print(f"note: {note}", markup=False)
    if not summary["modalities"]:
        remaining = ", ".join(summary["systems"])
        output.OUT.print(f"note: no features; these systems train without: {remaining}", markup=False)


def _tables(summary: dict[str, Any]) -> list[Table]:
    from ..console.tables import table

    counts = [["users", summary["users"]], ["items", summary["items"]]]
    counts += [[f"{split} interactions", count] for split, count in summary["interactions"].items()]
    counts += [[f"{side} without history", count] for side, count in summary["without_history"].items()]
    counts += [
        ["density", f"{summary['density']:.3g}"],
        ["layout", summary["layout"]],
        ["fingerprint", summary["fingerprint"][:16]],
    ]
    degrees = [(side, summary[f"{side}_degree"]) for side in ("user", "item")]
    names = list(degrees[0][1])
    modalities = summary["modalities"]
    tables = [
        table(summary["name"], ["", ""], counts),
        table(
            "training interactions", ["of a", *names], [[side, *(one[name] for name in names)] for side, one in degrees]
        ),
    ]
    held = summary["held_out"]
    rows = [[split, *counts.values()] for split, counts in held.items() if counts["pairs"]]
    if rows:
        columns = [name.replace("_", " ") for name in next(iter(held.values()))]
        tables.append(table("held out", ["split", *columns], rows))
    if modalities:
        columns = list(modalities[0])
        tables.append(
            table(
                "features",
                ["modality", *(name.replace("_", " ") for name in columns[1:])],
                [[one[name] for name in columns] for one in modalities],
            )
        )
    return tables
