"""mmssl-fast data prepare: write data as arrays that processes can memory-map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DATA_OPTIONS, Flags, config_key_options, configuration


@config_key_options(*DATA_OPTIONS[1:])
def data_prepare(
    source: Annotated[Path, typer.Argument(help="Folder with the data, or with Parquet files.")],
    destination: Annotated[Path, typer.Argument(help="Folder to create.")],
    flags: Flags,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Modality to write. May be given several times. [default: all]", show_default=False),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the random split.")] = 0,
) -> None:
    """Write the data as train would read it, as arrays that the processes of a machine share in memory. Interactions in
    Parquet are read in batches and need not fit into memory. train, data check and other commands read the new folder
    like any other, and the results are the same."""
    from .. import prepare_data
    from ..console import output

    flags |= {
        "data.path": (str(source), "SOURCE"),
        "data.modalities": (modality, "--modality"),
        "data.split_seed": (split_seed, "--split-seed"),
    }
    options = configuration(None, flags).data.model_dump()
    data = prepare_data(options.pop("path"), destination, **options)
    pairs = data.train.nnz + data.val.nnz + data.test.nnz
    output.OUT.print(
        f"{destination}: {data.n_users:,} users, {data.n_items:,} items, {pairs:,} interactions, features: "
        f"{', '.join(data.modalities) or 'none'}",
        markup=False,
    )
    for note in data.notes:
        output.OUT.print(f"note: {note}", markup=False)
