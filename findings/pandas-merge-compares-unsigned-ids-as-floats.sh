#!/usr/bin/env bash
# pandas 3.1.1: a merge of signed with unsigned ids compares them as floats, unless both tables are sorted.
#
# Ids of 64 bits are int64 in one table and uint64 in the other, as vector indexes return them (usearch, hnswlib). Both are
# integers, so one would guess that merge compares their values, as Series.isin, Series.map, a join of two indexes, and
# the joins of polars and DuckDB do. merge casts both columns to float64, which has 53 bits: 2^53 + 1 meets 2^53. Ids
# spread over 63 bits, made by a hash or a clock, meet nearly every id that is less than 100 away. The key column is
# still int64, no warning comes, indicator=True says "both", and validate="one_to_one" passes where an id found two
# partners. But if both columns are in ascending order and one has no id twice, the same merge is exact: a test on a
# sorted catalogue shows nothing, and shuffling one table, or turning both round, brings wrong pairs.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6 polars==2.1.0 pyarrow==26.0.1 duckdb==2.0.1
"$work/venv/bin/python" -W error - <<'PYTHON'
import duckdb
import numpy as np
import pandas as pd
import polars as pl

print("pandas", pd.__version__, "NumPy", np.__version__, "polars", pl.__version__, "DuckDB", duckdb.__version__)
ids = [2**53, 2**53 + 1, 5]
items = pd.DataFrame({"item": np.array(ids, np.int64), "title": ["a", "b", "c"]})
hits = pd.DataFrame({"item": np.array(ids, np.uint64), "rank": [1, 2, 3]})
right = [("a", 1), ("b", 2), ("c", 3)]
doubled = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 3)]


def pairs(title: str, frame: pd.DataFrame) -> list[tuple[str, int]]:
    found = sorted(zip(frame["title"].tolist(), frame["rank"].tolist(), strict=True))
    print(f"{title}: {found}")
    return found


merged = items.merge(hits, on="item", how="outer", indicator=True, validate="one_to_one")
assert pairs("merge", merged) == doubled and merged["item"].dtype == np.int64 and set(merged["_merge"]) == {"both"}
for how in ("inner", "left", "right"):
    assert pairs(f"merge, how={how!r}", items.merge(hits, on="item", how=how)) == doubled
again = items.assign(day=1).merge(hits.assign(day=1), on=["item", "day"])
assert pairs("merge on two columns", again) == doubled
by_item = hits.set_index("item")
assert pairs("join(on='item')", items.join(by_item, on="item")) == doubled
same_type = items.merge(hits.astype({"item": "int64"}), on="item")
assert pairs("merge, both int64", same_type) == right
assert pairs("join of two indexes", items.set_index("item").join(by_item)) == right
assert pairs("map", items.assign(rank=items["item"].map(by_item["rank"]))) == right
assert items["item"].isin(hits["item"][:1]).tolist() == [True, False, False]
frames = pl.from_pandas(items), pl.from_pandas(hits)
assert pairs("polars", frames[0].join(frames[1], on="item").to_pandas()) == right
assert pairs("DuckDB", duckdb.sql("SELECT title, rank FROM items JOIN hits USING (item)").df()) == right

random = np.random.default_rng(0)
hashed = np.unique(random.integers(2**62, 2**63, 2000))
others = (hashed + np.arange(len(hashed)) % 100 + 1).astype(np.uint64)
assert not set(hashed.tolist()) & set(others.tolist())
wrong = {}
for order, columns in {
    "both sorted": (hashed, others),
    "one shuffled": (hashed, random.permutation(others)),
    "both descending": (hashed[::-1], others[::-1]),
    "sorted, one twice": (hashed, np.repeat(others, 2)),
    "sorted, both twice": (np.repeat(hashed, 2), np.repeat(others, 2)),
}.items():
    left, right = (pd.DataFrame({"item": column}) for column in columns)
    wrong[order] = len(left.merge(right, on="item"))
print(f"pairs of {len(hashed)} ids of 63 bits with as many others, 1 to 100 above them: {wrong}")
assert wrong["both sorted"] == wrong["sorted, one twice"] == 0
assert wrong["one shuffled"] == wrong["both descending"] > 1800 and wrong["sorted, both twice"] > 4 * 1800
PYTHON
