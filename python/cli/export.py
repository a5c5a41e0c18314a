"""mmssl-fast export: the embeddings of a trained model for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import RunPath


def export(
    run: RunPath,
    to: Annotated[str, typer.Option(help="safetensors, parquet, npy, faiss, usearch, hnswlib, torch-export or onnx.")],
    out: Annotated[Path, typer.Option(help="File to write for safetensors, otherwise a new folder.")],
    faiss_index: Annotated[
        str, typer.Option(help="faiss: description of the index for faiss.index_factory. Flat is exact.")
    ] = "Flat",
    neighbours: Annotated[int, typer.Option(help="usearch, hnswlib: edges of an item in the graph.")] = 32,
    build: Annotated[
        int, typer.Option(help="usearch, hnswlib: candidates that are kept while the graph is built.")
    ] = 200,
    search: Annotated[
        int, typer.Option(help="usearch, hnswlib, faiss: candidates that are kept during a search.")
    ] = 200,
    min_recall: Annotated[
        float, typer.Option(help="Lowest recall of an index against the exact lists. Below it, nothing is written.")
    ] = 0.9,
) -> None:
    """Write a trained model for other software. The result has the original ids. It contains the embeddings as tables,
    an index of the items, or the towers, which embed users from histories and items from features. An index and the
    towers are compared with the model."""
    from .. import export as export_model
    from .. import load, unfinished
    from ..console import output
    from ..exports.check import Settings

    settings = Settings(faiss_index, neighbours, build, search, min_recall)
    exported = export_model(load(run), out, to, settings)
    if note := unfinished(run):
        output.ERR.print(f"note: {note}", markup=False)
    for note in exported.notes:
        output.ERR.print(f"note: {note}", markup=False)
    for file in exported.files:
        output.OUT.print(f"{file}: {file.stat().st_size:,} bytes", markup=False)
    for k, recall in exported.recall.items():
        output.OUT.print(f"recall@{k} of the index against the exact lists: {recall:.4f}", markup=False)
