#!/usr/bin/env bash
# polars 2.1.0: sample and shuffle with a seed take the same places in every group, so a random split is not random.
#
# One item of each user is held out: group_by("user").agg(pl.col("item").sample(1, seed=0)). One would guess that the seed
# makes the draw repeatable, and that it differs from user to user, as groupby("user").sample(random_state=0) of pandas
# does. Each group starts anew from the seed: of every user with ten rows it takes the fourth, and of a user with n rows
# a place that depends on n alone. With rows in order of time, no user's newest item is ever held out; with another seed,
# all of them. shuffle(seed=3).over("user") is the same: its first place is each user's first row. So are list.sample and
# sample(fraction=...). Without a seed the places are spread evenly, and pl.set_random_seed makes that repeatable.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet polars==2.1.0 pandas==3.1.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl

print("polars", pl.__version__, "pandas", pd.__version__)
USERS, ROWS = 2000, 10
log = pl.DataFrame({"user": np.repeat(np.arange(USERS), ROWS), "place": list(range(ROWS)) * USERS})
place = pl.col("place")


def places(title: str, frame: pl.DataFrame) -> list[int]:
    """Which places were held out, after checking that it is one of each user."""
    taken = frame.select("user", place.explode()) if frame["place"].dtype == pl.List else frame
    assert taken["user"].n_unique() == USERS == taken.height
    counts = Counter(taken["place"].to_list())
    print(f"{title}: how many users each place was taken from:", dict(sorted(counts.items())))
    return sorted(counts)


def of_each(expression: pl.Expr) -> pl.DataFrame:
    return log.group_by("user", maintain_order=True).agg(expression)


def shuffled_first(seed: int | None) -> pl.DataFrame:
    return log.filter(pl.int_range(pl.len()).shuffle(seed=seed).over("user") == 0)


assert places("sample(1, seed=0)", of_each(place.sample(1, seed=0))) == [3]
assert places("shuffle(seed=3).over(user)", shuffled_first(3)) == [0]
lists = of_each(place)
assert places("list.sample(1, seed=0)", lists.with_columns(place.list.sample(1, seed=0))) == [3]
assert places("sample(fraction=0.1, seed=1)", of_each(place.sample(fraction=0.1, seed=1))) == [8]
by_seed = {seed: of_each(place.sample(1, seed=seed)).explode("place")["place"].unique().to_list() for seed in range(20)}
print("sample(1, seed=...), the one place for each of twenty seeds:", *(place[0] for place in by_seed.values()))
assert all(len(taken) == 1 for taken in by_seed.values()) and [ROWS - 1] in by_seed.values()

lengths = np.arange(USERS) % 15 + 5
uneven = pl.DataFrame({"user": np.repeat(np.arange(USERS), lengths)}).with_columns(
    place=pl.int_range(pl.len()).over("user")
)
taken = uneven.group_by("user").agg(place.sample(1, seed=0).first(), rows=pl.len())
of_length = dict(taken.group_by("rows").agg(place.unique()).sort("rows").iter_rows())
print("users with 5 to 19 rows, {rows: places taken}:", of_length)
assert all(len(found) == 1 for found in of_length.values())

everywhere = list(range(ROWS))
assert places("sample(1)", of_each(place.sample(1))) == everywhere
assert places("shuffle().over(user)", shuffled_first(None)) == everywhere
drawn = []
for _ in range(2):
    pl.set_random_seed(0)
    drawn.append(of_each(place.sample(1)))
assert places("set_random_seed(0), sample(1)", drawn[0]) == everywhere and drawn[0].equals(drawn[1])
in_pandas = pd.DataFrame(log.to_dict(as_series=False)).groupby("user").sample(1, random_state=0)
assert places("pandas, random_state=0", pl.from_dict(in_pandas.to_dict("list"))) == everywhere
PYTHON
