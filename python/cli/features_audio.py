"""mmssl-fast features audio: a feature file from recordings."""

from __future__ import annotations

from typing import Annotated

import typer

from .features_options import Batch, Device, Dtype, ItemColumn, Out, Output, Query, Root, Sep, Source, make


def features_audio(
    source: Source,
    out: Out,
    model: Annotated[
        str, typer.Option(help="logmel: mean and deviation of the mel spectrum; or a .onnx or .pt2 file.")
    ] = "logmel",
    column: Annotated[
        str | None, typer.Option(help="Column with paths of recordings. [default: SOURCE is a folder of recordings]")
    ] = None,
    item_column: ItemColumn = "item",
    root: Root = None,
    sep: Sep = "",
    query: Query = "",
    batch: Batch = 8,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    rate: Annotated[int, typer.Option(help="Samples a second that the model gets.")] = 16000,
    seconds: Annotated[float, typer.Option(help="Seconds of each recording that are used, from its start.")] = 30.0,
    output: Output = "",
) -> None:
    """Make a feature file from the recordings of items. The same command continues after an interruption."""
    options = {"columns": [column] if column else [], "item_column": item_column, "root": root, "sep": sep}
    settings = {"batch": batch, "device": device, "rate": rate, "seconds": seconds, "output": output}
    make("audio", source, out, model, **options, query=query, dtype=dtype, **settings)
