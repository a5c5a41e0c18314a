"""load: a data folder of any layout, as a Dataset."""

from ..errors import InputError
from .files import existing_folder
from .layouts import choose
from .options import LoadOptions


def load(path, layout="auto", seed=0, modalities=None, **options):
    """The Dataset in a folder.

    path: the folder. layout: "auto" (by the files that are there), "diffmm", "hkuds", "mmrec" or "plain"; each is
    described in mmssl_trainer.data.layouts. seed: of the 8:1:1 split where the data gives none. modalities: names to
    read, in this order (None: all there are). options: the other fields of options.LoadOptions, such as
    split="time", min_rating=4 or interactions="interactions_cold.parquet".

    Raises InputError, one line that names the file and the row or key, for whatever is wrong with the data.
    """
    folder = existing_folder(path)
    options = LoadOptions(seed=seed, modalities=modalities, **options)
    try:
        return choose(folder, layout, options.interactions).read(folder, options)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from None
