"""mmssl-fast similar: the items that are most similar to an item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError
from .options import RunPath, ShowOption, shown_columns


def similar(
    run: RunPath,
    ids: Annotated[list[str], typer.Argument(metavar="ITEM…", help="Ids of items.")],
    k: Annotated[int, typer.Option("--k", help="Similar items per item.")] = 20,
    by: Annotated[
        Literal["all", "features"],
        typer.Option(
            help="Embeddings to compare: all (those that score the items), or features (from the features alone)."
        ),
    ] = "all",
    items: Annotated[Path | None, typer.Option(help="Table with a column item, for --show.")] = None,
    show: ShowOption = None,
) -> None:
    """Print the items whose embeddings have the highest cosine with that of the item."""
    from .. import Similar, item_texts, load
    from .. import similar as most_similar
    from ..console import output, tables
    from ..runs.recommend import texts_of

    if items is not None and not show:
        raise InputError("--items is for --show; give both")
    shown = shown_columns(show, items, Similar._fields)
    model = load(run)
    texts = item_texts(items, shown, model.interactions.item_index) if items is not None else {}
    found = most_similar(model, ids, k, by)
    columns = zip(*(column.tolist() for column in found), *texts_of(found.similar, texts), strict=True)
    cells = [[str(item), rank, str(other), cosine, *more] for item, rank, other, cosine, *more in columns]
    output.OUT.print(tables.table("", [*found._fields, *texts], cells))
