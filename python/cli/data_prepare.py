"""mmssl-fast data prepare: write data as arrays that processes can memory-map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import READ_OPTIONS, Flags, config_key_options, configuration, written


@config_key_options(*READ_OPTIONS)
def data_prepare(
    source: Annotated[Path, typer.Argument(help="Folder with the data, or with Parquet files.")],
    destination: Annotated[Path, typer.Argument(help="Folder to create.")],
    flags: Flags,
    renumber: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="none, or degree: users and items get other positions in the arrays, with which groups of ranks "
            "(distributed.groups) have equal shares of the interactions. Their ids stay the same; the fingerprint of "
            "the data changes.",
        ),
    ] = "none",
) -> None:
    """Write the data as train would read it, as arrays that the processes of a machine share in memory. Interactions in
    Parquet are read in batches and need not fit into memory. train, data check and other commands read the new folder
    like any other, and the results are the same, unless users and items are renumbered."""
    from .. import prepare_data

    flags["data.path"] = str(source), "SOURCE"
    options = configuration(None, flags).data.model_dump()
    data = prepare_data(options.pop("path"), destination, renumber=renumber, **options)
    written(destination, data)
