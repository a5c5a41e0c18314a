"""mmssl-fast similar: the items that are most similar to an item."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .options import RunPath


def similar(
    run: RunPath,
    items: Annotated[list[str], typer.Argument(metavar="ITEM…", help="Ids of items.")],
    k: Annotated[int, typer.Option("--k", help="Similar items per item.")] = 20,
    by: Annotated[
        Literal["all", "features"],
        typer.Option(
            help="Embeddings to compare: all (those that score the items), or features (from the features alone)."
        ),
    ] = "all",
) -> None:
    """Print the items whose embeddings have the highest cosine with that of the item."""
    from .. import load
    from .. import similar as most_similar
    from ..console import output, tables

    found = most_similar(load(run), items, k, by)
    columns = zip(*(column.tolist() for column in found), strict=True)
    cells = [[str(item), rank, str(other), cosine] for item, rank, other, cosine in columns]
    output.OUT.print(tables.table("", found._fields, cells))
