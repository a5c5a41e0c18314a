"""Writing a feature file with ids. The same vectors result in the same bytes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.arrow import numbers_or_texts, pyarrow
from ..errors import InputError, shown
from ..files import replacing, write_tensors

ENDS = (".parquet", ".safetensors")
DTYPES = ("float32", "float16")
ABOUT = "mmssl_fast.features"  # key of the description in the metadata of a Parquet file


def check_out(out: Path, dtype: str) -> None:
    """Raise InputError for an extension or dtype that cannot be written, and if the file exists."""
    if out.suffix not in ENDS:
        raise InputError(f"{out}: must end in {' or '.join(ENDS)}, such as text_feat.parquet")
    if dtype not in DTYPES:
        raise InputError(f"dtype = {shown(dtype)}: must be one of {', '.join(DTYPES)}")
    if out.exists():
        raise InputError(f"{out}: exists; remove it, or choose another --out")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.absolute().parent}: no such folder; create it, or choose another --out")


def write_features(
    out: Path, ids: Sequence[str], blocks: Iterable[np.ndarray], width: int, dtype: str, about: Mapping[str, Any]
) -> None:
    """Write ids and vectors, of which a row of NaN is a missing one: null in Parquet, NaN in safetensors.

    blocks: vectors float32 [n, width], in the order of the ids. about: how they were made, kept in the metadata.
    """
    values = numbers_or_texts(list(ids))
    write = _parquet if out.suffix == ".parquet" else _safetensors
    write(out, values, blocks, width, np.dtype(dtype), json.dumps(about, sort_keys=True))


def _parquet(out: Path, ids: np.ndarray, blocks: Iterable[np.ndarray], width: int, dtype: np.dtype, about: str) -> None:
    pa = pyarrow()
    from pyarrow import parquet

    kind = pa.int64() if ids.dtype.kind == "i" else pa.string()
    vector = pa.list_(pa.float32() if dtype == np.float32 else pa.float16())
    schema = pa.schema([("item", kind), ("features", vector)], metadata={ABOUT: about})
    first = 0
    with replacing(out, advice="choose another --out") as temporary:
        # Vectors repeat nowhere: a dictionary would only take time.
        with parquet.ParquetWriter(temporary, schema, use_dictionary=False) as writer:
            for block in blocks:
                rows = pa.array(ids[first : first + len(block)].tolist(), kind)
                missing = np.isnan(block).any(1)
                offsets = np.concatenate([[0], np.cumsum(np.where(missing, 0, width))]).astype(np.int32)
                flat = pa.array(block[~missing].astype(dtype).reshape(-1))
                mask = pa.array(missing)
                lists = pa.ListArray.from_arrays(pa.array(offsets), flat, type=vector, mask=mask)
                writer.write_table(pa.Table.from_arrays([rows, lists], schema=schema))
                first += len(block)


def _safetensors(
    out: Path, ids: np.ndarray, blocks: Iterable[np.ndarray], width: int, dtype: np.dtype, about: str
) -> None:
    import torch

    vectors, first = np.empty((len(ids), width), dtype), 0
    for block in blocks:
        vectors[first : first + len(block)] = block
        first += len(block)
    if ids.dtype.kind != "i":
        raw = np.char.encode(ids, "utf-8")
        ids = raw.view("u1").reshape(len(raw), -1)
    tensors = {"ids": torch.from_numpy(np.ascontiguousarray(ids)), "features": torch.from_numpy(vectors)}
    write_tensors(out, tensors, {ABOUT: about}, advice="choose another --out")


def write_skipped(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write (item, content, reason) of what was skipped as CSV."""
    with replacing(path, advice="choose another --out") as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item", "content", "reason"])
            writer.writerows(rows)
