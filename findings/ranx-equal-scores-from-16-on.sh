#!/usr/bin/env bash
# ranx 0.3.21: equal scores keep their order in a list of up to 15, and are reordered in one of 16 or more.
#
# A run is sorted by score. Of documents with one score (a popularity baseline, quantised scores, items without
# features) one would guess that they keep the order given, or are ordered by name as trec_eval does it. In a list of
# 15, the first of equal documents stays first and its MRR is 1. With a 16th document, which has the same score and
# comes last, the first is ranked fifteenth and its MRR is 1/15: neither the order given nor that of the names. So
# NDCG@10 of a list of 10 and of a longer one differ, though both begin with the same ten documents.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ranx==0.3.21 numba==0.68.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

from ranx import Qrels, Run, evaluate

print("ranx", version("ranx"))
qrels = Qrels({"q": {"d000": 1}})
seen = {}
for length in (2, 10, 15, 16, 17, 40):
    run = Run({"q": {f"d{place:03}": 0.5 for place in range(length)}})
    metrics = evaluate(qrels, run, ["mrr", "ndcg@10"])
    order = list(run.run["q"])
    seen[length] = {name: float(value) for name, value in metrics.items()}
    print(length, "equal scores, the relevant document given first:", seen[length], "order now:", order[:4], "...")
    assert (order == sorted(order)) == (length <= 15) and order != sorted(order, reverse=True)
for length in (2, 10, 15):
    assert seen[length] == {"mrr": 1, "ndcg@10": 1}
for length in (16, 17, 40):
    assert 0 < seen[length]["mrr"] < 0.1 and seen[length]["ndcg@10"] == 0
PYTHON
