#!/usr/bin/env bash
# duckdb 2.0.0 and datafusion 55.0.0: filters lose the NaN of a Parquet file that pyarrow 26.0.1 or polars 2.1.0 wrote.
#
# Both engines hold NaN for greater than every number. One would guess that a condition keeps the same rows whether a
# table is in memory or was written to Parquet. But the writers leave NaN out of a column chunk's minimum and maximum,
# and the engines decide by these two whether a row group can match at all.
# * WHERE x > 10 and x = 'nan' keep the NaN of a table in memory, and lose that of the file, unless a number above 10
#   happens to lie in the NaN's row group. count(*) FILTER (WHERE x > 10) over the same file counts it.
# * x <> 1 loses it where all other values of the row group are 1.
# * duckdb goes further: count_if(isnan(x)), the usual check before training, is 0 for the file and 1 for the same table
#   in memory, and WHERE isnan(x) finds none. ORDER BY x DESC still puts the NaN first. A file that duckdb itself wrote
#   is read correctly. datafusion's isnan(x) is right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet duckdb==2.0.0 datafusion==55.0.0 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import datafusion
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

print("duckdb", duckdb.__version__, "datafusion", datafusion.__version__)
print("pyarrow", pa.__version__, "polars", pl.__version__)
scores = pa.table({"id": [1, 2, 3, 4], "x": [1.0, float("nan"), 5.0, 20.0]})
pq.write_table(scores, "pyarrow.parquet", row_group_size=2)
pl.from_arrow(scores).write_parquet("polars.parquet", row_group_size=2)
duckdb.execute("COPY (FROM scores) TO 'duckdb.parquet' (ROW_GROUP_SIZE 2)")
pq.write_table(scores, "one_group.parquet")


CONDITIONS = ("x > 10", "x = 'nan'::double", "x <> 1", "isnan(x)")
FILES = ("pyarrow.parquet", "polars.parquet", "one_group.parquet", "duckdb.parquet")


def in_duckdb(source: str) -> list[list[int]]:
    queries = (f"SELECT id FROM {source} WHERE {condition} ORDER BY id" for condition in CONDITIONS)
    return [[row[0] for row in duckdb.execute(query).fetchall()] for query in queries]


def in_datafusion(file: str | None) -> tuple[list[list[int]], int]:
    context = datafusion.SessionContext()
    context.register_parquet("t", file) if file else context.from_arrow(scores, "t")
    queries = (f"SELECT id FROM t WHERE {condition} ORDER BY id" for condition in CONDITIONS)
    counted = context.sql("SELECT count(*) FILTER (WHERE x > 10) AS n FROM t").to_pydict()["n"][0]
    return [context.sql(query).to_pydict().get("id", []) for query in queries], counted


seen = {}
for source in ("scores", *FILES):
    table = source if source == "scores" else f"'{source}'"
    counted = duckdb.execute(f"SELECT count_if(x > 10), count_if(isnan(x)) FROM {table}").fetchone()
    first = duckdb.execute(f"SELECT id FROM {table} ORDER BY x DESC LIMIT 1").fetchone()[0]
    seen[source] = in_duckdb(table), counted
    print("duckdb", source, dict(zip(CONDITIONS, seen[source][0])), "counts:", counted, "greatest:", first)
    assert first == 2
right = [[2, 4], [2], [2, 3, 4], [2]]
assert seen["scores"] == seen["duckdb.parquet"] == (right, (2, 1))
assert seen["pyarrow.parquet"] == seen["polars.parquet"] == ([[4], [], [3, 4], []], (2, 0))
assert seen["one_group.parquet"] == ([[2, 4], [], [2, 3, 4], []], (2, 0))

for file in (None, *FILES):
    found, counted = in_datafusion(file)
    print("datafusion", file or "in memory", dict(zip(CONDITIONS, found)), "count of x > 10:", counted)
    seen[file] = found, counted
assert seen[None] == (right, 2)
assert seen["pyarrow.parquet"] == seen["polars.parquet"] == ([[4], [], [3, 4], [2]], 2)
assert seen["one_group.parquet"] == ([[2, 4], [], [2, 3, 4], [2]], 2)
PYTHON
