#!/usr/bin/env bash
# sqlite-vec 0.1.9: `item IN (...)` chooses before the best k are taken, `item NOT IN (...)` after, and empties the list.
#
# A search is `vector MATCH ? AND k = 4`, and further conditions narrow it. One would guess that all of them are applied
# before the best four are taken, or all after, or that what cannot be applied before is refused, as a condition on an
# auxiliary column is. `item IN (...)` on the key is applied before; so is any comparison with a metadata column. But
# =, NOT IN, <>, > and BETWEEN on the key, and NOT IN, NOT and arithmetic on a metadata column, are left to SQLite, which
# strikes rows from the best four. The usual question of a recommender, the nearest items that a user has not had yet,
# gives an empty list where the user has had the four nearest, with no error. With distance > 4, which is applied
# before, `item > 4` looks right. Keeping a copy of the key as a metadata column helps for <> and >, not for NOT IN.
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

database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())
print("sqlite-vec", *database.execute("SELECT vec_version()").fetchone(), "SQLite", apsw.sqlite_lib_version())
columns = "item INTEGER PRIMARY KEY, vector float[2], copy INTEGER, odd INTEGER, +note TEXT"
database.execute(f"CREATE VIRTUAL TABLE items USING vec0({columns})")
for item in range(1, 21):  # item 1 is the nearest to the query, item 20 the farthest
    row = item, np.array([item, 0], np.float32).tobytes(), item, item % 2, "x"
    database.execute("INSERT INTO items(item, vector, copy, odd, note) VALUES (?, ?, ?, ?, ?)", row)
database.execute("CREATE TABLE seen (item INTEGER)")
database.execute("INSERT INTO seen VALUES (1), (2), (3), (4)")
query = np.zeros(2, np.float32).tobytes()


def found(condition: str) -> list[int]:
    sql = f"SELECT item FROM items WHERE vector MATCH ? AND k = 4 AND {condition}"
    items = [row[0] for row in database.execute(sql, (query,))]
    print(f"{condition}: {items}")
    return items


BEFORE = {
    "item IN (5, 6, 7, 8)": [5, 6, 7, 8],
    "item IN (SELECT item FROM items WHERE item NOT IN (SELECT item FROM seen))": [5, 6, 7, 8],
    "copy > 4": [5, 6, 7, 8],
    "copy <> 1": [2, 3, 4, 5],
    "odd = 1": [1, 3, 5, 7],
    "distance > 4": [5, 6, 7, 8],
    "item > 4 AND distance > 4": [5, 6, 7, 8],
}
AFTER = {
    "item NOT IN (1, 2, 3, 4)": [],
    "item NOT IN (SELECT item FROM seen)": [],
    "NOT EXISTS (SELECT 1 FROM seen WHERE seen.item = items.item)": [],
    "copy NOT IN (1, 2, 3, 4)": [],
    "item > 4": [],
    "item BETWEEN 4 AND 9": [4],
    "item <> 1": [2, 3, 4],
    "item = 7": [],
    "odd NOT IN (0)": [1, 3],
    "NOT odd = 0": [1, 3],
    "odd + 0 = 1": [1, 3],
}
print("applied before the best four are taken:")
for condition, items in BEFORE.items():
    assert found(condition) == items, condition
print("applied after:")
for condition, items in AFTER.items():
    assert found(condition) == items, condition
try:
    found("note = 'x'")
except apsw.SQLError as error:
    print("note = 'x':", error)
else:
    raise AssertionError("a condition on an auxiliary column is accepted")
PYTHON
