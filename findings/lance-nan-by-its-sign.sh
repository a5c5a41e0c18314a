#!/usr/bin/env bash
# pylance 14.0.2: filters and order_by place a NaN below or above all numbers by its sign bit, and 0/0 has the other sign
# than float("nan").
#
# Scores with NaN are stored, and `score > 10` or `score < 0` selects rows. One would guess that NaN is in neither, or
# always on the same side. Lance goes by the sign bit: float("nan") and numpy.nan are above all numbers and
# found by `score > 10`; a NaN with the sign bit set is below all, found by `score < 0` and first in ascending order. On
# x86 processors that is what arithmetic makes: 0/0, inf - inf, the mean of nothing, softmax of -inf only. So rows without a
# value are at both ends of one column, and `score <= 1` keeps some of them. (ARM processors leave the bit clear.)
# With an index (BTREE, ZONEMAP, BITMAP) it is the same. isnan(score) finds both. DuckDB holds both for the largest.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pylance==14.0.2 pyarrow==26.0.1 numpy==2.4.6 duckdb==2.0.1
cd "$work"
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
import duckdb
import lance
import numpy as np
import pyarrow as pa

print("lance", lance.__version__, "duckdb", duckdb.__version__)
zero = np.zeros(1)
print("sign bit of numpy.nan:", np.signbit(np.nan), "of 0/0 on this processor:", np.signbit(zero / zero)[0])
kinds = ["1", "nan", "-nan", "-1"]
table = pa.table({"kind": kinds * 1000, "score": np.tile([1.0, np.nan, np.copysign(np.nan, -1.0), -1.0], 1000)})
scores = lance.write_dataset(table, "scores.lance")
assert np.array_equal(np.signbit(scores.to_table()["score"].to_numpy()), [False, False, True, True] * 1000)
wanted = {"score > 10": ["nan"], "score < 0": ["-nan", "-1"], "score <= 1": ["1", "-nan", "-1"], "score > 0": ["1", "nan"]}
wanted |= {"isnan(score)": ["nan", "-nan"]}
by_duckdb = {"score > 10": ["nan", "-nan"], "score < 0": ["-1"], "score <= 1": ["1", "-1"], "score > 0": ["1", "nan", "-nan"]}
by_duckdb |= {"isnan(score)": ["nan", "-nan"]}


def found(condition: str) -> list[str]:
    rows = scores.to_table(columns=["kind"], filter=condition)["kind"].to_pylist()
    assert len(rows) == 1000 * len(set(rows))
    return sorted(set(rows), key=kinds.index)


for index in (None, "BTREE", "ZONEMAP", "BITMAP"):
    if index:
        scores.create_scalar_index("score", index, replace=True)
    seen = {condition: found(condition) for condition in wanted}
    print(f"index {index}: {seen}")
    assert seen == wanted
for condition, rows in by_duckdb.items():
    duck = duckdb.sql(f"SELECT DISTINCT kind FROM \"table\" WHERE {condition}").fetchall()
    assert {kind for (kind,) in duck} == set(rows), condition
print("duckdb:", by_duckdb)
order = scores.scanner(columns=["kind", "score"], order_by=["score"]).to_table()["kind"].to_pylist()
print("ascending:", list(dict.fromkeys(order)))
assert list(dict.fromkeys(order)) == ["-nan", "-1", "1", "nan"]
PYTHON
