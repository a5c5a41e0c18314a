#!/usr/bin/env bash
# vortex-data 0.93.0: filters of a file take -0.0 for less than 0.0, and NaN for more than every number.
#
# -0.0 comes from every product of a 0 and a negative number (a rectified value times a weight of -1, say), and is equal
# to 0.0. One would guess that `score >= 0` keeps it, as pyarrow and NumPy do. Vortex compares floats in IEEE's total
# order instead: `score == 0` misses -0.0, `score >= 0` drops it, and `score < 0` finds it, although no value is
# negative. In the same order NaN is the largest number and equal to itself, so that `score > 10` returns the rows
# with NaN. Scan and to_dataset().to_table(filter=...) do the same; the latter takes an expression of pyarrow, and gives
# other rows than pyarrow gives for it on the same table. All values come back bit by bit.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vortex-data==0.93.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import vortex as vx
import vortex.expr as ve

print("vortex", vx.__version__, "pyarrow", pa.__version__)
values = [-1.0, -0.0, 0.0, 1.0, float("nan")]
conditions = {"== 0": lambda c: c == 0.0, ">= 0": lambda c: c >= 0.0, "< 0": lambda c: c < 0.0, "> 10": lambda c: c > 10.0}
for copies in (1, 40000):  # a short column, and one long enough to be encoded
    table = pa.table({"row": np.arange(5 * copies), "score": np.tile(values, copies)})
    vx.io.write(table, "scores.vortex")
    file = vx.open("scores.vortex")
    back = file.to_arrow().read_all()["score"].to_numpy()
    assert back.tobytes() == table["score"].to_numpy().tobytes()
    seen = {}
    for name, condition in conditions.items():
        rows = file.scan(projection=["row"], expr=condition(ve.column("score"))).read_all().to_arrow_table()["row"].to_numpy()
        same = file.to_dataset().to_table(columns=["row"], filter=condition(pc.field("score")))["row"].to_numpy()
        arrow = table.filter(condition(pc.field("score")))["row"].to_numpy()
        assert np.array_equal(rows, same)
        seen[name] = [values[row] for row in np.unique(rows % 5)], [values[row] for row in np.unique(arrow % 5)]
        assert len(rows) == copies * len(seen[name][0]) and len(arrow) == copies * len(seen[name][1])
        print(f"{5 * copies} rows, score {name}: vortex {seen[name][0]} pyarrow {seen[name][1]}")
    assert str(seen["== 0"]) == "([0.0], [-0.0, 0.0])" and str(seen[">= 0"]) == "([0.0, 1.0, nan], [-0.0, 0.0, 1.0])"
    assert str(seen["< 0"]) == "([-1.0, -0.0], [-1.0])" and str(seen["> 10"]) == "([nan], [])"
PYTHON
