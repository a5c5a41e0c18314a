"""mmssl-fast data convert: other projects' layouts, as a folder that train reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError


def data_convert(
    source: Annotated[Path, typer.Argument(help="A folder, or a table of interactions.")],
    destination: Annotated[Path, typer.Argument(help="The new folder.")],
    user: Annotated[
        str | None, typer.Option(help="The table's column of users. [default: known by its name]", show_default=False)
    ] = None,
    item: Annotated[
        str | None, typer.Option(help="The table's column of items. [default: known by its name]", show_default=False)
    ] = None,
    table: Annotated[str, typer.Option(help="parquet or csv.")] = "parquet",
) -> None:
    """Write data in another project's layout as a folder that train reads, ids, features and splits kept: RecBole's
    atomic files, LightGCN's text, MMGCN's and ChaoRec's .npy, SSLRec's pickles, MovieLens' and Amazon's ratings, and
    Parquet with a list of items a row."""
    from ..console import output
    from ..data.convert import convert

    try:
        data = convert(source, destination, user, item, table)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}); check its permissions") from None
    pairs = data.train.nnz + data.val.nnz + data.test.nnz
    output.OUT.print(
        f"{destination}: {data.n_users:,} users, {data.n_items:,} items, {pairs:,} interactions, features: "
        f"{', '.join(data.modalities) or 'none'}",
        markup=False,
    )
    for note in data.notes:
        output.OUT.print(f"note: {note}", markup=False)
    output.OUT.print(f"mmssl-fast data check {destination} says more", markup=False)
