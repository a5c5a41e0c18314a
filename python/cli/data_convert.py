"""mmssl-fast data convert: convert data from the layouts of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .options import written


def data_convert(
    source: Annotated[Path, typer.Argument(help="Folder with the data, or an interaction table.")],
    destination: Annotated[Path, typer.Argument(help="Folder to create.")],
    user: Annotated[
        str | None, typer.Option(help="Column with the user ids. [default: detected by its name]", show_default=False)
    ] = None,
    item: Annotated[
        str | None, typer.Option(help="Column with the item ids. [default: detected by its name]", show_default=False)
    ] = None,
    table: Annotated[str, typer.Option(help="Format of the tables to write: parquet or csv.")] = "parquet",
) -> None:
    """Convert data from the layout of another project. The result is a folder that train can read. Ids, features and
    splits are kept. Supported: atomic files of RecBole, text files of LightGCN, .npy files of MMGCN and ChaoRec,
    pickles of SSLRec, ratings of MovieLens and Amazon, and Parquet with one list of items per row."""
    from .. import convert_data
    from ..console import output

    try:
        data = convert_data(source, destination, user, item, table)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}); check its permissions") from None
    written(destination, data)
    output.OUT.print(f"for details: mmssl-fast data check {destination}", markup=False)
