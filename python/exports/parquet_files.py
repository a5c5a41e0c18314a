"""Parquet: users.parquet and items.parquet with ids, embeddings and numbers of training interactions."""

from __future__ import annotations

from pathlib import Path

from ..files import whole_folder
from .check import Settings, vectors_column
from .tables import Exported, Tables, arrow_ids


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the columns user or item (int64 or text), interactions (int64) and embedding (lists of d float32)."""
    import pyarrow as pa
    from pyarrow import parquet

    sides = (
        ("user", tables.user_ids, tables.user_interactions, tables.users),
        ("item", tables.item_ids, tables.item_interactions, tables.items),
    )
    with whole_folder(path) as folder:
        for name, ids, interactions, vectors in sides:
            columns = {name: arrow_ids(ids), "interactions": interactions, "embedding": vectors_column(vectors)}
            parquet.write_table(pa.table(columns), folder / f"{name}s.parquet")
    return Exported(sorted(path.iterdir()), tables.notes())
