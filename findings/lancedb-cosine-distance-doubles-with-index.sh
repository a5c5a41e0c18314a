#!/usr/bin/env bash
# LanceDB 0.40.0: an index with quantised vectors doubles the cosine distances, until a row is added to the table.
#
# One would guess that _distance is the cosine distance, 1 - cos, with and without an index, up to the error of the
# quantisation. That is so without one, and with IvfFlat and HnswFlat. With IvfSq, IvfPq, HnswSq and HnswPq it is twice
# as much, the squared distance of the unit vectors, and lies between 0 and 4 (lancedb issue 3530). What follows from it:
# * Once a row is added that is not in the index yet, all hits are measured exactly, and every distance is halved.
#   optimize() takes the new rows in and doubles them again. With refine_factor they are simple at all times.
# * distance_range always compares an indexed row by the double distance, also where the simple one is reported.
#   upper_bound=1 stands for cos > 0 without an index, and for cos > 0.5 with one. If the same vectors are added once
#   more, one search returns 8 of the old rows and 272 of the new, which are equal to them.
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
unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
query, true = vectors[0], 1 - unit @ unit[0]
database = lancedb.connect("database")


def rows(first: int, numbers: np.ndarray) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])
    return pa.table({"id": np.arange(first, first + len(numbers)), "vector": column})


def seen(table, refine: int | None = None) -> tuple[float, int, int]:
    """The median of _distance over the true one; how many old rows, and rows added later, are in the range below 1."""

    def search(upper: float | None):
        query_builder = table.search(query).distance_type("cosine").nprobes(2).limit(2000)
        query_builder = query_builder.distance_range(upper_bound=upper)
        found = (query_builder.refine_factor(refine) if refine else query_builder).to_arrow().to_pydict()
        return dict(zip(found["id"], found["_distance"], strict=True))

    every, below = search(None), search(1.0)
    ratio = float(np.median([every[i] / true[i] for i in range(600) if true[i] > 0.1]))
    return round(ratio, 1), sum(i < 600 for i in below), sum(i >= 600 for i in below)


positive, large = int((true < 1).sum()), int((true < 0.5).sum())
print("vectors with cos > 0:", positive, "with cos > 0.5:", large)
ivf, graph, codes = {"num_partitions": 2}, {"num_partitions": 1}, {"num_sub_vectors": 16}
indexes = {"no index": None}
for kind, options in (IvfFlat, ivf), (HnswFlat, graph), (IvfSq, ivf), (IvfPq, ivf | codes), (HnswSq, graph):
    indexes[kind.__name__] = kind(distance_type="cosine", **options)
indexes["HnswPq"] = HnswPq(distance_type="cosine", **graph, **codes)
for name, config in indexes.items():
    table = database.create_table(name.replace(" ", "_"), rows(0, vectors))
    if config:
        table.create_index("vector", config=config)
    states = {"at first": seen(table), "refined": seen(table, 2)}
    table.add(rows(600, vectors))
    states["added again"] = seen(table)
    table.optimize()
    states["optimized"] = seen(table)
    text = "; ".join(f"{state} {ratio} x, {old} + {new} rows" for state, (ratio, old, new) in states.items())
    print(f"{name}: {text}")
    ratios = [ratio for ratio, _, _ in states.values()]
    if name in ("no index", "IvfFlat", "HnswFlat"):
        assert ratios == [1, 1, 1, 1] and states["added again"] == states["optimized"] == (1, positive, positive)
    else:
        assert ratios == [2, 1, 1, 2]
        assert all(abs(old - large) < 10 for _, old, _ in states.values())
        assert states["added again"][2] == positive and abs(states["optimized"][2] - large) < 10
PYTHON
