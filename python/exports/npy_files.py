"""NumPy: users.npy, items.npy, user_ids.npy and item_ids.npy. None needs pickle to be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from ..files import whole_folder
from .check import Settings
from .tables import Exported, Tables

MOST_BYTES = 1 << 32


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the embeddings as float32 [n, d], and the ids as int64 [n] or fixed-width Unicode [n]."""
    arrays = {"users": tables.users, "items": tables.items}
    for side, ids in (("user", tables.user_ids), ("item", tables.item_ids)):
        arrays[f"{side}_ids"] = _without_pickle(ids, path, side)
    with whole_folder(path) as folder:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    return Exported(sorted(path.iterdir()), tables.notes())


def _without_pickle(ids: np.ndarray, path: Path, side: str) -> np.ndarray:
    """Ids in a dtype that numpy.load reads without pickle. A fixed-width text loses NUL characters at its end."""
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    texts = ids.tolist()
    for text in texts:
        if text.endswith("\0"):
            raise InputError(f"{path}: the {side} id {shown(text)} ends with NUL, which npy cannot hold; use parquet")
    longest = max(texts, key=len, default="")
    if 4 * len(longest) * len(texts) > MOST_BYTES:
        raise InputError(
            f"{path}: npy needs {len(longest)} characters for every {side} id, because {shown(longest)} is that long; "
            "use parquet"
        )
    return np.array(texts, dtype=np.str_)
