#!/usr/bin/env bash
# RecTools 0.19.0: recommendations whose ranks begin at 0, or have gaps, are scored without a word, and wrongly.
#
# Metrics cut a list by the column `rank`, which has to begin at 1. One would guess that ranks are checked, or that only
# their order counts. With ranks 0, 1, 2 (as enumerate or cumcount give them) Recall@2 reads THREE items and NDCG is
# infinite, since the discount at rank 0 is 1 / log2(1). With ranks 3 and 5 (what is left after bought items were
# removed from a list) every metric at 2 is 0, although both items are hits.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rectools==0.19.0
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import math
from importlib.metadata import version

import pandas as pd
from rectools import Columns
from rectools.metrics import NDCG, Recall

print("RecTools", version("rectools"), "pandas", pd.__version__)
bought = pd.DataFrame({Columns.User: [1, 1], Columns.Item: [10, 12]})


def scores(items, ranks):
    lists = pd.DataFrame({Columns.User: 1, Columns.Item: items, Columns.Rank: ranks})
    return float(Recall(k=2).calc(lists, bought)), float(NDCG(k=2).calc(lists, bought))


from_one, from_zero, gaps = scores([10, 11, 12], [1, 2, 3]), scores([10, 11, 12], [0, 1, 2]), scores([10, 12], [3, 5])
print("Recall@2 and NDCG@2; ranks 1, 2, 3:", from_one)
print("the same list, ranks 0, 1, 2:", from_zero)
print("two hits, ranks 3 and 5:", gaps)
assert from_one[0] == 0.5 and math.isfinite(from_one[1])
assert from_zero == (1.0, math.inf)
assert gaps == (0.0, 0.0)
PYTHON
