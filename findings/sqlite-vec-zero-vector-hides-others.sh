#!/usr/bin/env bash
# sqlite-vec 0.1.9: under cosine, one zero vector hides a thousand other items from every search, if it was added first.
#
# The cosine distance of a zero vector (a padding item, an item without text or pictures) is undefined, and vec0 gives it
# as NULL. One would guess that such a row comes last, or nowhere, and that the others are found as before. So it is if
# the row stands anywhere but at the head of one of the blocks of 1024 rows in which vec0 keeps vectors. With 3000 rows:
# * The zero vector in row 1, the place of a padding item: none of the rows 2 to 1024 is in a list of ten any more,
#   whatever the query, while the nearest are among them. In row 1025: none of the rows 1 to 2048.
# * In row 2049, the head of the last block: it is the first of every list, with the distance NULL.
# * k = 1 with all three: the only hit is row 2049, for every query.
# In row 2, 500 or 1024, and with 1000 zero vectors in rows 2 to 1001, every list is right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import apsw
import numpy as np
import sqlite_vec

ROWS, BLOCK, WIDTH = 3000, 1024, 16
database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())
print("sqlite-vec", *database.execute("SELECT vec_version()").fetchone(), "SQLite", apsw.sqlite_lib_version())
random = np.random.default_rng(0)
vectors = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
queries = random.normal(size=(30, WIDTH)).astype(np.float32)


def searched(zero_rows, k: int = 10) -> tuple[float, list[int], set]:
    """The share of the true best k that is found; which blocks the hits are in; and the first hits, (row, distance)."""
    items = vectors.copy()
    items[[row - 1 for row in zero_rows]] = 0
    database.execute("DROP TABLE IF EXISTS items")
    database.execute(f"CREATE VIRTUAL TABLE items USING vec0(vector float[{WIDTH}] distance_metric=cosine)")
    rows = ((row, item.tobytes()) for row, item in enumerate(items, 1))
    database.executemany("INSERT INTO items(rowid, vector) VALUES (?, ?)", rows)
    lengths = np.linalg.norm(items, axis=1)
    cosines = np.where(lengths > 0, queries @ items.T / np.maximum(lengths, 1e-9), -2)
    shares, blocks, first = [], set(), set()
    for query, cosine in zip(queries, cosines, strict=True):
        sql = "SELECT rowid, distance FROM items WHERE vector MATCH ? AND k = ?"
        hits = database.execute(sql, (query.tobytes(), k)).fetchall()
        found = {row for row, distance in hits if distance is not None}
        shares.append(len(found & set((np.argsort(-cosine)[:k] + 1).tolist())) / k)
        blocks |= {(row - 1) // BLOCK + 1 for row in found}
        first.add(hits[0])
    return float(np.mean(shares)), sorted(blocks), first


def show(title: str, share: float, blocks: list[int], first: set) -> None:
    leader = f"; always first: {first}" if len(first) == 1 else ""
    print(f"{title}: {share:.2f} of the nearest are found, in blocks {blocks}{leader}")


for zero_rows in (), (2,), (500,), (1024,), range(2, 1002):
    share, blocks, first = searched(zero_rows)
    show(f"{len(zero_rows)} zero vectors, from row {min(zero_rows, default='-')}", share, blocks, first)
    assert share == 1 and blocks == [1, 2, 3]
for zero_rows, wanted in ((1,), [2, 3]), ((1025,), [3]), ((2049,), [1, 2, 3]):
    share, blocks, first = searched(zero_rows)
    show(f"a zero vector in row {zero_rows[0]}", share, blocks, first)
    assert blocks == wanted and (first == {(2049, None)}) == (zero_rows == (2049,))
    assert share < {1: 0.8, 1025: 0.5, 2049: 0.95}[zero_rows[0]]
share, blocks, first = searched((1, 1025, 2049), k=1)
show("all three, k = 1", share, blocks, first)
assert share == 0 and first == {(2049, None)}
PYTHON
