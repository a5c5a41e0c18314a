"""mmssl-fast data check: read data as train would, and describe it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import READ_OPTIONS, Flags, JsonOption, config_key_options, configuration

if TYPE_CHECKING:
    from rich.table import Table


@config_key_options(*READ_OPTIONS)
def data_check(
    path: Annotated[str, typer.Argument(metavar="DATA", help="Folder with the data, or synthetic.")],
    flags: Flags,
    as_json: JsonOption = False,
) -> None:
    """Read the data as train would, and describe it. If the data cannot be used, the first error is printed."""
    from .. import describe, load_data
    from ..console import output

    flags["data.path"] = path, "DATA"
    summary = describe(load_data(**configuration(None, flags).data.model_dump()))
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for table in _tables(summary):
        output.OUT.print(table)
    for note in summary["notes"]:
        output.OUT.print(f"note: {note}", markup=False)
    if not summary["modalities"]:
        remaining = ", ".join(summary["systems"])
        output.OUT.print(f"note: the data has no features; systems that need none: {remaining}", markup=False)


def _tables(summary: dict[str, Any]) -> list[Table]:
    from ..console.tables import table

    counts = [["users", summary["users"]], ["items", summary["items"]]]
    counts += [[f"{split} interactions", count] for split, count in summary["interactions"].items()]
    counts += [[f"{side} without training interactions", count] for side, count in summary["without_history"].items()]
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
            "training interactions per user and per item",
            ["", *names],
            [[side, *(degree[name] for name in names)] for side, degree in degrees],
        ),
    ]
    if weights := summary["weights"]:
        title = "weights of the training interactions, divided by their mean"
        tables.append(table(title, list(weights), [[f"{value:.3g}" for value in weights.values()]]))
    held_out = summary["held_out"]
    rows = [[split, *counts.values()] for split, counts in held_out.items() if counts["pairs"]]
    if rows:
        columns = [name.replace("_", " ") for name in next(iter(held_out.values()))]
        tables.append(table("held-out interactions", ["split", *columns], rows))
    if modalities:
        columns = list(modalities[0])
        tables.append(
            table(
                "features",
                ["modality", *(name.replace("_", "\n") for name in columns[1:])],  # narrow enough for 80 columns
                [[modality[name] for name in columns] for modality in modalities],
            )
        )
    return tables
