"""load: a data folder of any layout, as a Dataset."""

from ..errors import InputError
from .files import existing_folder
from .layouts import choose


def load(path, layout="auto", seed=0, modalities=None):
    """The Dataset in a folder.

    path: the folder. layout: "auto" (by the files that are there), "diffmm", "hkuds", "mmrec" or "plain"; each is
    described in mmssl_trainer.data.layouts. seed: of the 8:1:1 split where the data gives none. modalities: names to
    read, in this order (None: every <modality>_feat.npy there is).

    Raises InputError, one line that names the file and the row or key, for whatever is wrong with the data.
    """
    folder = existing_folder(path)
    try:
        return choose(folder, layout).read(folder, modalities, seed)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from None
