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
        str, typer.Option(help="Kind of a faiss index, as for faiss.index_factory. Flat is exact.")
    ] = "Flat",
    neighbours: Annotated[int, typer.Option(help="Edges of an item in the graph of usearch and hnswlib.")] = 32,
    build: Annotated[int, typer.Option(help="Candidates that are kept while this graph is built.")] = 200,
    search: Annotated[int, typer.Option(help="Candidates that are kept while an index is searched.")] = 200,
    min_recall: Annotated[
        float, typer.Option(help="Smallest part of the best items that an index must find, 0 to 1.")
    ] = 0.9,
) -> None:
    """Write the embeddings of a trained model with the original ids, as tables or as an index of the items, or its
    towers, from histories to users and from features to items. An index and the towers are checked."""
    from ..api import export as export_model
    from ..api import load
    from ..console import output
    from ..exports.check import Settings
    from ..runs.folder import unfinished

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
