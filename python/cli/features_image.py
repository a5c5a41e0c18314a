"""mmssl-fast features image: a feature file from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, shown
from .features_options import Batch, Device, Download, Dtype, ItemColumn, Out, Output, Query, Root, Sep, Source, make


def features_image(
    source: Source,
    out: Out,
    model: Annotated[str, typer.Option(help="Name or folder of a timm model, or a .onnx or .pt2 file.")],
    weights: Annotated[Path | None, typer.Option(help="File with the weights of the timm model.")] = None,
    column: Annotated[
        str | None, typer.Option(help="Column with paths of pictures. [default: SOURCE is a folder of pictures]")
    ] = None,
    item_column: ItemColumn = "item",
    root: Root = None,
    sep: Sep = "",
    query: Query = "",
    batch: Batch = 32,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    download: Download = False,
    size: Annotated[
        int | None, typer.Option(help=".onnx, .pt2: pixels of a side. [default: what the file says, or 224]")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help=".onnx, .pt2: mean of red, green, blue. [default: 0.485,0.456,0.406]")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help=".onnx, .pt2: deviation of red, green, blue. [default: 0.229,0.224,0.225]")
    ] = None,
    output: Output = "",
) -> None:
    """Make a feature file from the pictures of items. The same command continues after an interruption."""
    options = {"columns": [column] if column else [], "item_column": item_column, "root": root, "sep": sep}
    settings = {"batch": batch, "device": device, "download": download, "weights": weights, "size": size}
    settings["output"] = output
    colours = {"mean": _three("--mean", mean), "std": _three("--std", std)}
    make("image", source, out, model, **options, query=query, dtype=dtype, **settings, **colours)


def _three(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{name} {shown(text)}: give three numbers with commas between them")
    return numbers
