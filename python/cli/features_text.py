"""mmssl-fast features text: a feature file from texts."""

from __future__ import annotations

from typing import Annotated

import typer

from .features_options import Batch, Device, Download, Dtype, ItemColumn, Out, Query, Sep, Source, make


def features_text(
    source: Source,
    out: Out,
    model: Annotated[str, typer.Option(help="Folder or name of a sentence-transformers model.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column with texts. Several are joined. [default: SOURCE is a folder of text files]"),
    ] = None,
    item_column: ItemColumn = "item",
    sep: Sep = "",
    query: Query = "",
    batch: Batch = 32,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    download: Download = False,
) -> None:
    """Make a feature file from the titles or descriptions of items. The same command continues after an
    interruption."""
    options = {"columns": column or [], "item_column": item_column, "sep": sep, "query": query, "dtype": dtype}
    make("text", source, out, model, **options, batch=batch, device=device, download=download)
