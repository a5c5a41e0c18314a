#!/usr/bin/env bash
# LanceDB 0.40.0: under cosine an item whose vector is zero is never found, and a zero query finds nothing or everything,
# depending on the index.
#
# The cosine of a zero vector (an item without text or pictures, a user without history) is undefined. One would guess a
# distance of 1, the last place in the list, or an error. Rows with a zero vector are left out, with a limit above the
# number of rows too: of 600 rows, 6 of them zero, 594 are returned, and no warning. For a zero query the answer is
# * empty without an index, and with IvfFlat and IvfPq;
# * all 594 rows with IvfSq and HnswSq, at distances of 7 and more, where a cosine distance ends at 2;
# * all 594 rows with HnswFlat and HnswPq, all at NaN;
# * empty with each of them, as soon as the table has one row that is not in the index yet.
# By "dot" all 600 rows are found.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lancedb==0.40.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - 2>lance.log <<'PYTHON' || { cat lance.log >&2; exit 1; }
from importlib.metadata import version

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswFlat, HnswPq, HnswSq, IvfFlat, IvfPq, IvfSq

print("lancedb", version("lancedb"), "pyarrow", pa.__version__)
vectors = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)
vectors[::100] = 0
database = lancedb.connect("database")


def rows(first: int, numbers: np.ndarray) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])
    return pa.table({"id": np.arange(first, first + len(numbers)), "vector": column})


def found(table, query: np.ndarray, metric: str = "cosine") -> tuple[list[int], np.ndarray]:
    hits = table.search(query).distance_type(metric).nprobes(2).limit(1000).to_arrow()
    return hits["id"].to_pylist(), hits["_distance"].to_numpy()


ivf, graph, codes = {"num_partitions": 2}, {"num_partitions": 1}, {"num_sub_vectors": 16}
indexes = {"no index": None}
for kind, options in (IvfFlat, ivf), (IvfPq, ivf | codes), (IvfSq, ivf), (HnswSq, graph), (HnswFlat, graph):
    indexes[kind.__name__] = kind(distance_type="cosine", **options)
indexes["HnswPq"] = HnswPq(distance_type="cosine", **graph, **codes)
others = [i for i in range(600) if i % 100]
for name, config in indexes.items():
    table = database.create_table(name.replace(" ", "_"), rows(0, vectors))
    if config:
        table.create_index("vector", config=config)
    else:
        assert len(found(table, vectors[1], "dot")[0]) == 600
    ids, _ = found(table, vectors[1])
    of_zero, distances = found(table, np.zeros(16, np.float32))
    table.add(rows(1000, -vectors[1:2]))
    after = len(found(table, np.zeros(16, np.float32))[0])
    span = f"at {distances[0]:.2f} to {distances[-1]:.2f}" if len(distances) else ""
    print(f"{name}: a query finds {len(ids)}, a zero query {len(of_zero)} {span}, and {after} after a row was added")
    assert sorted(ids) == others and after == 0
    assert sorted(of_zero) == ([] if name in ("no index", "IvfFlat", "IvfPq") else others)
    if name in ("IvfSq", "HnswSq"):
        assert distances.min() > 2
    elif name in ("HnswFlat", "HnswPq"):
        assert np.isnan(distances).all()
PYTHON
