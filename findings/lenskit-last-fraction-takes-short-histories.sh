#!/usr/bin/env bash
# LensKit 2025.8.1: LastFrac takes the whole history of a user whose share of the test set rounds to none.
#
# LastFrac(0.1) holds out the latest tenth of each user's interactions. One would guess that a user with four gives none, as
# with SampleFrac(0.1), which takes as many at random. The number is rounded to 0, and the last 0 of a history are all of
# it: users with one to five interactions lose everything and are unknown to the model, those with six or more lose one.
# The size of the test set jumps accordingly, here from 5 rows to 20, and the users without any training row
# decide the averages. With LastFrac(0.2) it is the users with one and two.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lenskit==2025.8.1 torch==2.13.0 numpy==2.4.6 pandas==2.3.3
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import pandas as pd
from lenskit.data import from_interactions_df
from lenskit.splitting import LastFrac, SampleFrac, crossfold_users

print("lenskit", version("lenskit"))
SIZES = range(1, 11)  # user n has n interactions, one a day
rows = [(user, item, item) for user in SIZES for item in range(user)]
log = from_interactions_df(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))


def held_out(method) -> list[int]:
    """How many interactions of each user are in the test set; each user is tested in one of two folds."""
    taken, unknown = {}, set()
    for fold in crossfold_users(log, 2, method, rng=1):
        taken |= {int(key[0]): len(items) for key, items in fold.test.items()}
        kept = fold.train.user_stats()["count"]
        unknown |= {int(key[0]) for key, items in fold.test.items() if len(items) and kept.get(key[0], 0) == 0}
    counts = [taken[user] for user in SIZES]
    print(f"{type(method).__name__}({method.fraction}), users with 1 to 10 interactions: held out {counts};", end=" ")
    print("without a training row:", sorted(unknown))
    return counts


assert held_out(SampleFrac(0.1)) == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
assert held_out(LastFrac(0.1)) == [1, 2, 3, 4, 5, 1, 1, 1, 1, 1]
assert held_out(SampleFrac(0.2)) == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
assert held_out(LastFrac(0.2)) == [1, 2, 1, 1, 1, 1, 1, 2, 2, 2]
PYTHON
