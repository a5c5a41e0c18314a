#!/usr/bin/env bash
# irspack 0.5.2: split_dataframe_partial_user_holdout leaves the ratings out of the training matrix, and only there.
#
# The function takes the name of a column with ratings and returns matrices for training, validation and test users.
# One would guess that all of them hold the ratings. The column is passed on for the validation and test users, and not
# for the training users (split_dataframe_partial_user_holdout in split/userwise.py), whose matrix holds 1 throughout. A
# model that weights by the value (implicit ALS, SLIM, any item-item product) learns from ones, and is then asked to
# recommend for users whose histories, in X_train of "val" and "test", count up to five times as much. The same matrix by
# df_to_sparse has the ratings. Splitting by time with ratings raises a KeyError.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet irspack==0.5.2 pandas==3.1.1 scipy==1.17.1 numpy==2.4.6
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from irspack.split import split_dataframe_partial_user_holdout
from irspack.utils import df_to_sparse

print("irspack", version("irspack"), "pandas", pd.__version__)
users, items = np.divmod(np.arange(2000), 20)
ratings = np.random.default_rng(0).integers(1, 6, 2000)
log = pd.DataFrame({"user": users, "item": items, "rating": ratings, "time": np.arange(2000)})
options = {"user_column": "user", "item_column": "item", "rating_column": "rating", "random_state": 0}
parts, names = split_dataframe_partial_user_holdout(log, val_user_ratio=0.2, test_user_ratio=0.2, **options)
assert sorted(names) == list(range(20)) and [parts[part].n_users for part in ("train", "val", "test")] == [60, 20, 20]
for part, held in parts.items():
    known, wanted = np.unique(held.X_train.data).tolist(), np.unique(held.X_test.data).tolist()
    print(f"{part}: values in X_train {known}, in X_test {wanted}")
    assert known == ([1] if part == "train" else [1, 2, 3, 4, 5])
    assert wanted == ([] if part == "train" else [1, 2, 3, 4, 5])

train = parts["train"]
own = log[log.user.isin(train.user_ids)]
whole, *_ = df_to_sparse(own, "user", "item", user_ids=train.user_ids, item_ids=names, rating_column="rating")
print("df_to_sparse of the same users:", np.unique(whole.data).tolist())
assert np.array_equal(whole.toarray() != 0, train.X_train.toarray() != 0) and np.unique(whole.data).tolist() == [1, 2, 3, 4, 5]

try:
    split_dataframe_partial_user_holdout(log, time_column="time", **options)
except KeyError as error:
    print("with time_column as well: KeyError", error)
else:
    raise AssertionError("split by time keeps the ratings")
PYTHON
