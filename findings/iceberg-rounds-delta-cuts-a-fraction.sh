#!/usr/bin/env bash
# pyiceberg 0.12.0 and deltalake 1.6.6: `rating = 3.5` deletes rows of an integer column, the fours in one and the threes in
# the other.
#
# Ratings are integers from 1 to 5. One would guess that `rating = 3.5` matches no row, that `rating > 3.5` matches 4
# and 5, and that delete() removes the rows that a scan with the same condition shows.
# * pyiceberg rounds the bound to an integer, halves to the even one: `rating > 3.5` becomes > 4 and loses the fours,
#   `rating <= 3.5` has them, `rating = 3.5` finds 4, `= 2.5` finds 2 and `= 3.4` finds 3. Scan and delete agree.
# * deltalake reads rightly, by to_pyarrow_table(filters) and in SQL (QueryBuilder), but delete() cuts the bound to an
#   integer: `rating = 3.5` removes the threes, `rating >= 3.5` removes them too, and `rating < 3.5` leaves them.
# polars, over either table (scan_iceberg, scan_delta), is right. So the rows that one system shows are not those that
# another deletes: with both formats as copies of one log they drift apart. `rating > 3` and `rating < 4` are right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyiceberg[sql-sqlite]==0.12.0' deltalake==1.6.6 polars==2.1.0 pyarrow==26.0.1
cd "$work"
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version
from operator import eq, ge, gt, le, lt

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

print(*(f"{name} {version(name)}" for name in ("pyiceberg", "deltalake", "polars", "pyarrow")))
LOG = pa.table({"rating": pa.array([1, 2, 3, 4, 5], pa.int32())})
COMPARE = {">": gt, ">=": ge, "<": lt, "<=": le, "=": eq}
catalog = SqlCatalog("catalog", uri="sqlite:///catalog.db", warehouse="iceberg")
catalog.create_namespace("log")


def iceberg(name: str):
    table = catalog.create_table(f"log.{name}", schema=LOG.schema)
    table.append(LOG)
    return table


def delta(name: str) -> DeltaTable:
    write_deltalake(f"delta/{name}", LOG)
    return DeltaTable(f"delta/{name}")


def ratings(table) -> list[int]:
    return sorted(table["rating"].to_pylist())


def lost(table) -> list[int]:
    """The ratings that a table has no longer."""
    return sorted(set(range(1, 6)) - set(ratings(table)))


# {condition: (rows that pyiceberg finds and deletes, rows that deltalake deletes)}; None: the right ones.
SEEN = {
    "rating > 3.5": ([5], None),
    "rating >= 3.5": (None, [3, 4, 5]),
    "rating < 3.5": (None, [1, 2]),
    "rating <= 3.5": ([1, 2, 3, 4], None),
    "rating = 3.5": ([4], [3]),
    "rating = 2.5": ([2], [2]),
    "rating = 3.4": ([3], [3]),
    "rating > 3": (None, None),
    "rating < 4": (None, None),
}
kept, other = iceberg("kept"), delta("kept")
for number, (condition, expected) in enumerate(SEEN.items()):
    _, operator, text = condition.split()
    bound = float(text)
    right = [rating for rating in range(1, 6) if COMPARE[operator](rating, bound)]
    rounded, cut = (right if rows is None else rows for rows in expected)

    found = ratings(kept.scan(row_filter=condition).to_arrow())
    smaller = iceberg(f"copy{number}")
    smaller.delete(condition)
    gone = lost(smaller.scan().to_arrow())
    copy = delta(f"copy{number}")
    copy.delete(condition)
    gone_delta = lost(copy.to_pyarrow_table())
    print(f"{condition}: pyiceberg finds {found}, deletes {gone}; deltalake finds {right}, deletes {gone_delta}")
    assert found == gone == rounded and gone_delta == cut

    assert ratings(other.to_pyarrow_table(filters=[("rating", operator, bound)])) == right
    query = QueryBuilder().register("log", other).execute(f"SELECT rating FROM log WHERE {condition}")
    assert ratings(pa.table(query.read_all())) == right
    predicate = COMPARE[operator](pl.col("rating"), bound)
    for frame in (pl.scan_iceberg(kept), pl.scan_delta("delta/kept")):
        assert frame.filter(predicate).collect()["rating"].sort().to_list() == right
PYTHON
