#!/usr/bin/env bash
# replay-rec 0.22.0: an item that stands twice, in the test log or in a list, counts once in some metrics and twice in
# others.
#
# * A user who has item 10 twice and item 12 once in the test log (a song played again) gets the list 10, 12, 13. Both
#   items are found in the first two places, so one would guess 1 for Recall, MAP and NDCG. Recall is 1; MAP is 0.67
#   and NDCG 0.77, since their ideal list has three hits, which no list of distinct items can reach.
# * A list that has a right item three times (candidates of three models put together) gets Recall 0.5 and Precision
#   0.33, each item once, but MAP 1.5 and NDCG 1.31: above 1, without a warning.
# pandas and polars frames give the same.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet replay-rec==0.22.0 numpy==1.24.4 scipy==1.10.1 pandas==2.3.3 polars==1.44.2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import pandas as pd
import polars as pl
from replay.metrics import MAP, MRR, NDCG, Precision, Recall

print("replay-rec", version("replay-rec"))


def metrics(recommended: list[int], bought: list[int]) -> dict[str, float]:
    """At 3, of one user."""
    ratings = [float(-place) for place in range(len(recommended))]
    lists = pd.DataFrame({"query_id": 1, "item_id": recommended, "rating": ratings})
    truth = pd.DataFrame({"query_id": 1, "item_id": bought})
    values = {}
    for metric in (Recall, Precision, MRR, MAP, NDCG):
        (value,) = metric(3)(lists, truth).values()
        (same,) = metric(3)(pl.from_pandas(lists), pl.from_pandas(truth)).values()
        assert abs(value - same) < 1e-12
        values[metric.__name__] = round(float(value), 3)
    print("list", recommended, "test items", bought, values)
    return values


plain = metrics([10, 12, 13], [10, 12])
assert plain == {"Recall": 1, "Precision": 0.667, "MRR": 1, "MAP": 1, "NDCG": 1}
assert metrics([10, 12, 13], [10, 10, 12]) == plain | {"MAP": 0.667, "NDCG": 0.765}
once = {"Recall": 0.5, "Precision": 0.333, "MRR": 1}
assert metrics([10, 11, 13], [10, 12]) == once | {"MAP": 0.5, "NDCG": 0.613}
assert metrics([10, 10, 11], [10, 12]) == once | {"MAP": 1, "NDCG": 1}
assert metrics([10, 10, 10], [10, 12]) == once | {"MAP": 1.5, "NDCG": 1.307}
PYTHON
