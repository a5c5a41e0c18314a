"""load: reading a data folder in any layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .dataset import Dataset
from .files import existing_folder
from .layouts import choose
from .options import LoadOptions


def load(
    path: str | Path, layout: str = "auto", seed: int = 0, modalities: Sequence[str] | None = None, **options: Any
) -> Dataset:
    """Read a data folder as a Dataset.

    path: the folder. layout: "diffmm", "hkuds", "mmrec", "plain" or "prepared", or "auto" to detect it from the files;
    the modules of mmssl_trainer.data.layouts describe the layouts. seed: seed of the random split, if the data has no
    split. modalities: names of the modalities to read, in this order; None: all. options: other fields of
    options.LoadOptions, such as split="time", min_rating=4 or interactions="interactions_cold.parquet".

    Raises InputError if the data is invalid: one line that names the file and the row or key.
    """
    folder = existing_folder(path)
    chosen = LoadOptions(seed, None if modalities is None else list(modalities), **options)
    try:
        return choose(folder, layout, chosen.interactions).read(folder, chosen)
    except OSError as error:
        path = error.filename or folder
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
