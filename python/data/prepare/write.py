"""Writing the files of the prepared layout, array by array and block by block."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset import SPLITS, fingerprint
from ..layouts.prepared import MANIFEST, VERSION, WEIGHTED, assembled, mapped

_BLOCK = 1 << 16


class Npy:
    """Context manager: a .npy file that grows by blocks of rows. width: columns; None for one dimension."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int | None = None) -> None:
        self.count, self._dtype, self._tail = 0, np.dtype(dtype), () if width is None else (width,)
        self._file = path.open("wb")
        self._header()

    def _header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count, *self._tail)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, values: np.ndarray) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.count += len(values)

    def __enter__(self) -> Npy:
        return self

    def __exit__(self, *_: object) -> None:
        # NumPy pads the header, so that the number of rows can change without moving the values.
        self._file.seek(0)
        self._header()
        self._file.close()


def write_ids(path: Path, values: Any) -> None:
    """Write ids, an Arrow array of int64 or text, or None for 0..n-1, which needs no file."""
    import pyarrow.compute as pc

    if values is None:
        return
    if not str(values.type).endswith("string"):
        np.save(path, values.to_numpy())
        return
    longest = pc.max(pc.utf8_length(values)).as_py() or 1
    with Npy(path, f"<U{longest}") as file:
        for begin in range(0, len(values), _BLOCK):
            file.add(np.array(values.slice(begin, _BLOCK).to_pylist(), dtype=f"<U{longest}"))


def write_manifest(folder: Path, shape: tuple[int, int], modalities: Iterable[str], notes: list[str]) -> None:
    """Write prepared.json, last of all. The fingerprint is computed from the arrays in the folder."""
    features = {modality: mapped(folder / f"{modality}_feat.npy") for modality in modalities}
    data = assembled(folder, shape, features, notes)
    content = {
        "format": VERSION if data.weights is None else WEIGHTED,
        "users": shape[0],
        "items": shape[1],
        "interactions": {split: int(getattr(data, split).nnz) for split in SPLITS},
        "features": {m: {"shape": list(values.shape), "dtype": values.dtype.name} for m, values in features.items()},
        "notes": notes,
        "fingerprint": fingerprint(data),
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
