#!/usr/bin/env bash
# datarec 1.5.7: the random splits by user take the rows at the same places of every user.
#
# LeaveOneOut, LeaveNOut and UserStratifiedHoldOut draw each user's test rows at random, from a seed (42). One would guess
# that 100 users with ten rows each have their test row at all ten places, about ten times each. The generator is seeded
# anew for every user, so that all 100 have it at the same place: the ninth row for testing and the eighth for validation.
# Another seed is another place for everybody. In a log that is sorted by time the split is then a split by age: no
# user's first row is ever tested, and with some seeds every user's newest row is. Where rows are sorted by item, a
# popular item is in nobody's test set. Rows in a random order give a random split.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datarec==1.5.7
cd "$work"
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from collections import Counter
from importlib.metadata import version

import numpy as np
import pandas as pd
from datarec import DataRec
from datarec.io.rawdata import RawData
from datarec.splitters.user_stratified.hold_out import UserStratifiedHoldOut
from datarec.splitters.user_stratified.leave_out import LeaveNOut, LeaveOneOut

print("datarec", version("datarec"), "pandas", pd.__version__)
USERS, ROWS = 100, 10
log = pd.DataFrame({"user": np.repeat(np.arange(USERS), ROWS), "rating": 1.0})
log["item"] = log["timestamp"] = np.tile(np.arange(ROWS), USERS)  # the item is the row's place in its user's history


def places(title: str, splitter, rows: pd.DataFrame = log) -> dict[str, list[int]]:
    raw = RawData(rows.copy(), user="user", item="item", rating="rating", timestamp="timestamp")
    parts = splitter.run(DataRec(rawdata=raw))
    counts = {name: Counter(part.data.iloc[:, 1].tolist()) for name, part in parts.items() if name != "train"}
    for name, counted in counts.items():
        print(f"{title}, {name}: how many users each place was taken from:", dict(sorted(counted.items())))
    return {name: sorted(counted) for name, counted in counts.items()}


assert places("LeaveOneOut()", LeaveOneOut()) == {"test": [8], "val": [7]}
assert places("LeaveNOut, two", LeaveNOut(test_n=2, seed=1)) == {"test": [2, 9]}
hold_out = UserStratifiedHoldOut(test_ratio=0.2, val_ratio=0, seed=42)
assert places("UserStratifiedHoldOut, a fifth", hold_out) == {"test": [1, 8]}
by_seed = [places(f"seed {seed}", LeaveOneOut(validation=False, seed=seed))["test"] for seed in (0, 3, 5)]
assert by_seed == [[2], [5], [ROWS - 1]]
shuffled = log.sample(frac=1, random_state=0, ignore_index=True)
assert places("rows in random order", LeaveOneOut(validation=False), shuffled)["test"] == list(range(ROWS))
PYTHON
